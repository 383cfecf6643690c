"""Attacks on image classifiers: hyperparameters in the constructor, model and data in the call.

| name | adversary | library | norm | targeted |
|---|---|---|---|---|
| ``fgs`` | fast gradient sign, one step (Goodfellow et al. 2015) | foolbox | Linf | no |
| ``cw`` | Carlini-Wagner with binary search (2017) | foolbox | L2, minimised | both |
| ``pgd_linf``, ``pgd_l2`` | projected gradient descent (Madry et al. 2018) | foolbox | Linf, L2 | both |
| ``apgd_ce``, ``apgd_dlr`` | auto-PGD on two losses (Croce and Hein 2020) | ART | Linf | no |
| ``square`` | random search without gradients (Andriushchenko et al. 2020) | ART | Linf | no |

ART is the Adversarial Robustness Toolbox.

A library only proposes an image. The budget is enforced here, and success is scored here, by a fresh forward pass of
the declared predictor over the image that is returned.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...compute.convolutions import fast_convolutions
from ...compute.memory import halving
from ...embeddings.pixels import PixelModel
from .libraries import foolbox, run_foolbox, run_toolbox, to_tensor, toolbox, toolbox_classifier

_ROUNDING = 1e-5  # float32 pixels near 1 are 6e-8 apart; an L2 norm sums 1e5 of them


class Perturbed(NamedTuple):
    """The result of an attack at one budget, row by row.

    Attributes:
        adversarial: pixels (batch, channels, height, width) in [0, 1]; the original where the attack failed.
        prediction: classes (batch,) of ``adversarial`` by a fresh forward pass of the declared predictor.
        success: bool (batch,), true where ``prediction`` is the target or, without a target, is not the label.
        distance: (batch,) in the attack's own norm, in [0, 1] pixels.
    """

    adversarial: Tensor
    prediction: Tensor
    success: Tensor
    distance: Tensor


class _Batch(NamedTuple):
    """Images for a library to attack."""

    model: PixelModel
    images: Tensor
    labels: Tensor
    epsilons: Sequence[float | None]
    targets: Tensor | None


@dataclass(frozen=True)
class Attack(ABC):
    """One adversary; subclasses propose images, this class holds them to the budget and scores them."""

    norm: ClassVar[float] = math.inf
    targeted: ClassVar[bool] = False
    default_epsilons: ClassVar[tuple[float | None, ...]] = (8 / 255,)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("steps", "restarts", "binary_search_steps") and (int(value) != value or value < 1):
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
            return self._attack(_Batch(model, images[rows], labels[rows], epsilons, goals))

        parts = halving(attack, len(images), "images")
        if len(parts) == 1:
            return parts[0]
        return [Perturbed(*map(torch.cat, zip(*same, strict=True))) for same in zip(*parts, strict=True)]

    def _attack(self, batch: _Batch) -> list[Perturbed]:
        model, images, epsilons = batch.model, batch.images, batch.epsilons
        with fast_convolutions(model, images):
            proposals = self._propose(batch)
        return [
            self._score(batch, self._within(images, proposal.detach(), epsilon))
            for epsilon, proposal in zip(epsilons, proposals, strict=True)
        ]

    def check_targeted(self) -> None:
        """Raise ValueError unless this attack can be given targets."""
        if not self.targeted:
            raise ValueError(f"{type(self).__name__} has no targeted form; those that have: {', '.join(targetable())}")

    @abstractmethod
    def _propose(self, batch: _Batch) -> list[Tensor]:
        """Return candidate images (batch, channels, height, width), one tensor per budget, as a library has them."""

    def distances(self, images: Tensor, adversarial: Tensor, norm: float | None = None) -> Tensor:
        """Return the norms (batch,) of the perturbations in [0, 1] pixels; the attack's own norm by default."""
        change = (adversarial - images).flatten(1)
        sizes: Tensor = torch.linalg.vector_norm(change, ord=self.norm if norm is None else norm, dim=1)
        return sizes

    def _within(self, images: Tensor, proposal: Tensor, epsilon: float | None) -> Tensor:
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

    def _score(self, batch: _Batch, adversarial: Tensor) -> Perturbed:
        prediction = batch.model.predict(adversarial)
        success = prediction != batch.labels if batch.targets is None else prediction == batch.targets
        # A random predictor may misread an untouched image too, which is no success of the attack.
        success = success & (adversarial != batch.images).flatten(1).any(dim=1)
        return Perturbed(adversarial, prediction, success, self.distances(batch.images, adversarial))


@dataclass(frozen=True)
class FastGradient(Attack):
    r"""Untargeted fast gradient sign: :math:`x + \epsilon\,\mathrm{sign}\,\nabla_x \mathrm{CE}(x, y)`, clipped.

    One gradient serves all budgets of a call.
    """

    default_epsilons: ClassVar[tuple[float | None, ...]] = (0.1, 0.5)

    def _propose(self, batch: _Batch) -> list[Tensor]:
        attacks = foolbox().attacks
        cached: list[Any] = []

        class SharedGradient(attacks.LinfFastGradientAttack):  # type: ignore[misc, name-defined]
            def value_and_grad(self, loss_fn: Any, x: Any) -> Any:
                if not cached:  # every budget starts from the same image
                    cached.append(super().value_and_grad(loss_fn, x))
                return cached[0]

        return run_foolbox(SharedGradient(), *batch)


@dataclass(frozen=True)
class ProjectedGradient(Attack):
    """Projected gradient steps on the cross-entropy from a random start, under the Linf norm.

    Args:
        steps: gradient steps.
        relative_stepsize: step over budget; 2.5 / steps where None, as Madry et al. chose.
        restarts: random starts; the first success of an example is kept.
    """

    steps: int = 40
    relative_stepsize: float | None = None
    restarts: int = 1

    targeted: ClassVar[bool] = True
    library_name: ClassVar[str] = "LinfProjectedGradientDescentAttack"

    def _propose(self, batch: _Batch) -> list[Tensor]:
        attack = getattr(foolbox().attacks, self.library_name)(
            rel_stepsize=self.relative_stepsize or 2.5 / self.steps, steps=self.steps, random_start=True
        )
        if self.restarts > 1:
            attack = attack.repeat(self.restarts)
        return run_foolbox(attack, *batch)


@dataclass(frozen=True)
class ProjectedGradientL2(ProjectedGradient):
    """Projected gradient steps under the L2 norm."""

    norm: ClassVar[float] = 2.0
    default_epsilons: ClassVar[tuple[float | None, ...]] = (0.5,)
    library_name: ClassVar[str] = "L2ProjectedGradientDescentAttack"


@dataclass(frozen=True)
class CarliniWagner(Attack):
    """The smallest L2 perturbation, by Adam in tanh space and a binary search over the weight of the loss.

    Args:
        steps: Adam steps per search step.
        binary_search_steps: values of the weight tried.
        stepsize: learning rate.
        confidence: margin of the logits that a success must have; more than 0 helps against random predictors.
        initial_const: first weight.
        abort_early: end a search step when the batch's loss no longer falls, looked at every tenth of ``steps``.
    """

    steps: int = 1000
    binary_search_steps: int = 9
    stepsize: float = 0.01
    confidence: float = 0.0
    initial_const: float = 1e-3
    abort_early: bool = True

    norm: ClassVar[float] = 2.0
    targeted: ClassVar[bool] = True
    default_epsilons: ClassVar[tuple[float | None, ...]] = (None,)

    def _propose(self, batch: _Batch) -> list[Tensor]:
        attack = foolbox().attacks.L2CarliniWagnerAttack(
            **{field.name: getattr(self, field.name) for field in fields(self)}
        )
        (best,) = run_foolbox(attack, *batch._replace(epsilons=(None,)))
        # Foolbox leaves an all-zero image where it found nothing; no optimum of this attack is exactly black.
        found = best.flatten(1).any(dim=1).view(-1, *[1] * (best.ndim - 1))
        return [torch.where(found, best, batch.images)]


@dataclass(frozen=True)
class AutoProjectedGradient(Attack):
    """Auto-PGD under the Linf norm: steps that halve themselves, on the cross-entropy.

    Args:
        steps: gradient steps per restart.
        restarts: random starts; an example that was misclassified is not attacked again.
    """

    steps: int = 100
    restarts: int = 1

    loss: ClassVar[str] = "cross_entropy"

    def _propose(self, batch: _Batch) -> list[Tensor]:
        evasion = toolbox()
        model, images, labels, epsilons, _ = batch
        classifier, classes = toolbox_classifier(model, images)
        if self.loss == "difference_logits_ratio" and classes < 3:
            raise ValueError(
                f"apgd_dlr compares the three highest logits, and this model has {classes} classes: use apgd_ce"
            )
        proposals = []
        for epsilon in epsilons:
            assert epsilon is not None  # only attacks that minimise a distance have no budget
            best = images.clone()
            misclassified = torch.zeros(len(images), dtype=torch.bool, device=images.device)
            for _ in range(self.restarts):
                left = (~misclassified).nonzero().squeeze(1)
                if not len(left):
                    break
                adversary = evasion.AutoProjectedGradientDescent(
                    classifier,
                    eps=epsilon,
                    eps_step=2 * epsilon,
                    max_iter=self.steps,
                    nb_random_init=1,
                    batch_size=len(images),
                    loss_type=self.loss,
                    verbose=False,
                )
                best[left], misclassified[left] = self._restart(adversary, model, images[left], labels[left], epsilon)
            proposals.append(best)
        return proposals

    def _restart(
        self, adversary: Any, model: PixelModel, images: Tensor, labels: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Return the images of one random start, and which of them are misclassified."""
        last = run_toolbox(adversary, images, labels)
        best, misclassified = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
        # The toolbox returns the last iterate; the one of highest loss is the attack's own result.
        for candidate in (last, getattr(adversary, "x_max", last)):
            if len(candidate) != len(images):
                continue
            pixels = self._within(images, to_tensor(candidate, images), epsilon)
            better = (model.predict(pixels) != labels) & ~misclassified
            best[~misclassified] = pixels[~misclassified]
            misclassified |= better
        return best, misclassified


@dataclass(frozen=True)
class AutoProjectedGradientDLR(AutoProjectedGradient):
    """Auto-PGD on the difference-of-logits ratio, which no rescaling of the logits can flatten; 3 classes or more."""

    loss: ClassVar[str] = "difference_logits_ratio"


@dataclass(frozen=True)
class Square(Attack):
    """Random squares of colour, kept when they lower the margin: it needs scores alone, so no gradient can mislead it.

    Args:
        steps: queries per example.
        initial_share: share of the pixels in the first squares.
    """

    steps: int = 1000
    initial_share: float = 0.8

    def _propose(self, batch: _Batch) -> list[Tensor]:
        evasion = toolbox()
        model, images, labels, epsilons, _ = batch
        side = math.sqrt(self.initial_share * images.shape[-1] * images.shape[-2])
        if round(side) >= min(images.shape[-2:]):
            raise ValueError(
                f"square needs images larger than {images.shape[-2]}x{images.shape[-1]} pixels "
                f"for squares of {self.initial_share:.0%} of them"
            )
        classifier, _ = toolbox_classifier(model, images)
        proposals = []
        for epsilon in epsilons:
            adversary = evasion.SquareAttack(
                classifier,
                eps=epsilon,
                max_iter=self.steps,
                p_init=self.initial_share,
                batch_size=len(images),
                verbose=False,
            )
            proposals.append(run_toolbox(adversary, images, labels))
        return proposals


ATTACKS: dict[str, Callable[..., Attack]] = {
    "fgs": FastGradient,
    "cw": CarliniWagner,
    "pgd_linf": ProjectedGradient,
    "pgd_l2": ProjectedGradientL2,
    "apgd_ce": AutoProjectedGradient,
    "apgd_dlr": AutoProjectedGradientDLR,
    "square": Square,
}


def make(attack: str | Attack, steps: int | None = None) -> tuple[str, Attack]:
    """Return the name and the adversary of an attack that is given by either.

    Args:
        attack: a name of ``ATTACKS`` (``-`` and capitals do not matter) or an adversary with its own hyperparameters.
        steps: replaces the number of steps that a name stands for.

    Raises:
        ValueError: for an unknown name, or ``steps`` for an attack of one step or one that is already built.

    Example:
        >>> make("pgd-linf", steps=10)
        ('pgd_linf', ProjectedGradient(steps=10, relative_stepsize=None, restarts=1))
    """
    if isinstance(attack, Attack):
        if steps is not None:
            raise ValueError(f"steps={steps} cannot change an attack that is already built: set it there")
        names = [name for name, kind in ATTACKS.items() if kind is type(attack)]
        return (names or [type(attack).__name__])[0], attack
    name = str(attack).lower().replace("-", "_")
    if name not in ATTACKS:
        raise ValueError(f"attack must be one of {', '.join(ATTACKS)}, but is {attack!r}")
    if steps is None:
        return name, ATTACKS[name]()
    if name == "fgs":
        raise ValueError(f"steps={steps} does not fit fgs, which takes one step")
    return name, ATTACKS[name](steps=steps)


def targetable() -> list[str]:
    """Return the names of the attacks that have a targeted form."""
    return [name for name, kind in ATTACKS.items() if getattr(kind, "targeted", False)]


def parse_epsilons(adversary: Attack, epsilons: float | str | Sequence[float | str] | None) -> tuple[float | None, ...]:
    """Return budgets in ascending order, from numbers or texts such as ``"8/255"``; the attack's own for None.

    Raises:
        ValueError: for a budget that is not a positive number, is over 1 in the Linf norm, or does not apply.
    """
    if epsilons is None:
        return adversary.default_epsilons
    if adversary.default_epsilons == (None,):
        raise ValueError(f"{type(adversary).__name__} minimises the distance and takes no epsilon, but got {epsilons}")
    given = [epsilons] if isinstance(epsilons, (str, int, float)) else list(epsilons)
    numbers = set()
    for value in given:
        try:
            above, _, below = str(value).partition("/")
            number = float(above) / float(below or 1)  # a Fraction of 1e-99999999 would never end
        except (ValueError, ZeroDivisionError, TypeError) as error:
            raise ValueError(f"epsilon must be a number or a fraction such as 8/255, but is {value!r}") from error
        if not 0 < number <= (1.0 if adversary.norm == math.inf else math.inf) or math.isinf(number):
            raise ValueError(f"epsilon must be above 0 and, in the Linf norm, at most 1 pixel value, but is {value!r}")
        numbers.add(number)
    if not numbers:
        raise ValueError("epsilon is an empty list: give at least one budget, or None for the attack's own")
    return tuple(sorted(numbers))
