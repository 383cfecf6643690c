"""What every attack on images has: budgets, scoring, and batches that do not fit into memory.

A library only proposes an image. The budget is enforced here, and success is scored here, by a fresh forward pass of
the declared predictor over the image that is returned.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ...compute.convolutions import fast_convolutions
from ...compute.memory import halving
from ...embeddings.pixels import PixelModel

TARGETABLE = ("cw", "pgd_linf", "pgd_l2")
"""Names of the attacks that have a targeted form."""

_COUNTS = ("steps", "restarts", "binary_search_steps", "queries", "targets")
_ROUNDING = 1e-5  # float32 pixels near 1 are 6e-8 apart; an L2 norm sums 1e5 of them


class Perturbed(NamedTuple):
    """The result of an attack at one budget, row by row.

    Attributes:
        adversarial: pixels (batch, channels, height, width) in [0, 1]; the original where the attack failed.
        prediction: classes (batch,) of ``adversarial`` by a fresh forward pass of the declared predictor.
        success: bool (batch,), true where ``prediction`` is the target or, without a target, is not the label.
        distance: (batch,) in the attack's own norm, in [0, 1] pixels.
        member: (batch,), of an ensemble the place in its ``members`` of the attack that succeeded; -1 where none did.
    """

    adversarial: Tensor
    prediction: Tensor
    success: Tensor
    distance: Tensor
    member: Tensor


class Batch(NamedTuple):
    """Images for a library to attack."""

    model: PixelModel
    images: Tensor
    labels: Tensor
    epsilons: Sequence[float | None]
    targets: Tensor | None

    def only(self, rows: Tensor) -> "Batch":
        """Return some of the images, by their places (rows,)."""
        targets = None if self.targets is None else self.targets[rows]
        return self._replace(images=self.images[rows], labels=self.labels[rows], targets=targets)


@dataclass(frozen=True)
class Attack(ABC):
    """One adversary; subclasses propose images, this class holds them to the budget and scores them."""

    norm: ClassVar[float] = math.inf
    targeted: ClassVar[bool] = False
    default_epsilons: ClassVar[tuple[float | None, ...]] = (8 / 255,)
    members: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _COUNTS and (int(value) != value or value < 1):
                raise ValueError(f"{field.name} must be a whole number of at least 1, but is {value!r}")

    def __call__(
        self,
        model: PixelModel,
        images: Tensor,
        labels: Tensor,
        epsilons: Sequence[float | None] = (),
        targets: Tensor | None = None,
    ) -> list[Perturbed]:
        """Attack a batch, in halves where it does not fit into memory.

        Args:
            model: takes [0, 1] pixels; see `hf_vub.compute.contexts` for evaluation mode and seeds.
            images: (batch, channels, height, width) in [0, 1], classified correctly.
            labels: (batch,), their classes.
            epsilons: budgets in [0, 1] pixels of the attack's norm; if empty, the attack's own. ``cw`` has none.
            targets: (batch,), the classes to reach; None for any wrong class.

        Returns:
            One ``Perturbed`` per budget, in order.

        Raises:
            ValueError: for a targeted call of an attack that has no targeted form.
        """
        if targets is not None:
            self.check_targeted()
        epsilons = epsilons or self.default_epsilons

        def attack(rows: slice) -> list[Perturbed]:
            goals = None if targets is None else targets[rows]
            return self._attack(Batch(model, images[rows], labels[rows], epsilons, goals))

        parts = halving(attack, len(images), "images")
        if len(parts) == 1:
            return parts[0]
        return [Perturbed(*map(torch.cat, zip(*same, strict=True))) for same in zip(*parts, strict=True)]

    def _attack(self, batch: Batch) -> list[Perturbed]:
        model, images, epsilons = batch.model, batch.images, batch.epsilons
        with fast_convolutions(model, images):
            proposals = self._propose(batch)
        return [
            self.score(batch, self.within(images, proposal.detach(), epsilon))
            for epsilon, proposal in zip(epsilons, proposals, strict=True)
        ]

    def members_for(self, classes: int, random: bool) -> tuple[str, ...]:
        """Return the attacks of an ensemble that run on a predictor, in their order; none for a single attack."""
        return ()

    def check_targeted(self) -> None:
        """Raise ValueError unless this attack can be given targets."""
        if not self.targeted:
            raise ValueError(f"{type(self).__name__} has no targeted form; those that have: {', '.join(TARGETABLE)}")

    @abstractmethod
    def _propose(self, batch: Batch) -> list[Tensor]:
        """Return candidate images (batch, channels, height, width), one tensor per budget, as a library has them."""

    def distances(self, images: Tensor, adversarial: Tensor, norm: float | None = None) -> Tensor:
        """Return the norms (batch,) of the perturbations in [0, 1] pixels; the attack's own norm by default."""
        change = (adversarial - images).flatten(1)
        sizes: Tensor = torch.linalg.vector_norm(change, ord=self.norm if norm is None else norm, dim=1)
        return sizes

    def within(self, images: Tensor, proposal: Tensor, epsilon: float | None) -> Tensor:
        """Return the proposal moved inside [0, 1] and the budget; the original where the proposal is not a number."""
        sane = torch.isfinite(proposal).flatten(1).all(dim=1).view(-1, *[1] * (images.ndim - 1))
        change = torch.where(sane, proposal, images) - images
        if epsilon is not None:
            if self.norm == math.inf:
                change = change.clamp(-epsilon, epsilon)
            else:
                size = torch.linalg.vector_norm(change.flatten(1), dim=1).clamp_min(1e-12)
                change = change * (epsilon / size).clamp_max(1.0).view(sane.shape)
        adversarial = (images + change).clamp(0.0, 1.0)
        if epsilon is not None:
            largest = float(self.distances(images, adversarial).max()) if len(images) else 0.0
            if largest > epsilon + _ROUNDING:
                raise AssertionError(f"a perturbation of {largest} breaks the budget of {epsilon}")
        return adversarial

    def score(self, batch: Batch, adversarial: Tensor) -> Perturbed:
        """Return what the declared predictor says of images that are inside the budget."""
        prediction = batch.model.predict(adversarial)
        success = prediction != batch.labels if batch.targets is None else prediction == batch.targets
        # A random predictor may misread an untouched image too, which is no success of the attack.
        success = success & (adversarial != batch.images).flatten(1).any(dim=1)
        nobody = torch.full_like(batch.labels, -1)
        return Perturbed(adversarial, prediction, success, self.distances(batch.images, adversarial), nobody)
