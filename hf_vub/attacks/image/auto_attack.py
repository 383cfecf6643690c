"""AutoAttack: the standard ensemble of attacks, each on the images that the earlier ones left (Croce and Hein 2020).

| member | attack | needs |
|---|---|---|
| ``apgd_ce`` | auto-PGD on the cross-entropy | |
| ``apgd_t`` | auto-PGD on the targeted difference-of-logits ratio, 9 most likely wrong classes | 4 classes |
| ``fab_t`` | fast adaptive boundary attack, the same classes (Croce and Hein 2020) | |
| ``square`` | 5,000 queries of random squares (Andriushchenko et al. 2020) | |
| ``apgd_dlr`` | auto-PGD on the untargeted ratio, in the place of ``apgd_t`` where that cannot be | 3 classes |

A model of 3 classes is attacked by ``apgd_ce``, ``apgd_dlr``, ``fab_t`` and ``square``, one of 2 classes by
``apgd_ce``, ``fab_t`` and ``square``: the ratios need a third and a fourth logit. A declared random predictor is
attacked by the authors' version for random defences, ``apgd_ce`` and ``apgd_dlr`` through gradients averaged over 20
draws. The members are the authors' own code, the package pyautoattack.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...compute.convolutions import fast_convolutions
from .adversary import Attack, Batch, Perturbed
from .libraries import Member, reference_attacks

logger = logging.getLogger(__name__)

_EOT_DRAWS = 20


@dataclass(frozen=True)
class AutoAttack(Attack):
    """The standard ensemble under the Linf norm; an image that one member misclassified is not attacked again.

    At several budgets an image that was misclassified at a smaller one counts, as it is, at the larger ones too.

    Args:
        steps: of auto-PGD and of the boundary attack.
        queries: of Square, per image.
        targets: wrong classes that the targeted members try, at most; the most likely ones.
    """

    steps: int = 100
    queries: int = 5000
    targets: int = 9

    members: ClassVar[tuple[str, ...]] = ("apgd_ce", "apgd_t", "apgd_dlr", "fab_t", "square")
    norm_name: ClassVar[str] = "Linf"

    def members_for(self, classes: int, random: bool) -> tuple[str, ...]:
        """Return the names of the members that a predictor is attacked by, in order.

        Raises:
            ValueError: for a single class.
        """
        if classes < 2:
            raise ValueError(f"autoattack needs at least 2 classes, but the model has {classes}")
        if random:
            return ("apgd_ce",) if classes < 3 else ("apgd_ce", "apgd_dlr")
        ratio = {2: (), 3: ("apgd_dlr",)}.get(classes, ("apgd_t",))
        return ("apgd_ce", *ratio, "fab_t", "square")

    def _attack(self, batch: Batch) -> list[Perturbed]:
        with torch.no_grad():
            first, second = batch.model(batch.images), batch.model(batch.images)
        if not batch.model.random and not torch.allclose(first, second, rtol=1e-3, atol=1e-4):
            raise ValueError(
                "autoattack needs a model that gives the same logits twice, and this one does not: "
                "declare its noise where it has a stochastic head, or turn its randomness off"
            )
        best = self.score(batch, batch.images.clone())  # no success yet
        found = []
        for epsilon in batch.epsilons:
            assert epsilon is not None  # only attacks that minimise a distance have no budget
            best = self._ensemble(batch, epsilon, first.shape[1], best)
            found.append(best)
        return found

    def _ensemble(self, batch: Batch, epsilon: float, classes: int, before: Perturbed) -> Perturbed:
        """Return the images after every member attacked those that are left."""
        best = Perturbed(*(column.clone() for column in before))
        for name in self.members_for(classes, batch.model.random):
            left = (~best.success).nonzero().squeeze(1)
            if not len(left):
                break
            part = batch.only(left)
            with fast_convolutions(part.model, part.images):
                proposal = self._run(name, part, epsilon, classes)
            scored = self.score(part, self.within(part.images, proposal.detach(), epsilon))
            scored = scored._replace(member=torch.where(scored.success, self.members.index(name), -1))
            fooled = left[scored.success]
            for column, values in zip(best, scored, strict=True):
                column[fooled] = values[scored.success]
        return best

    def _run(self, name: str, batch: Batch, epsilon: float, classes: int) -> Tensor:
        """Return what a member proposes (batch, channels, height, width)."""
        attacks = reference_attacks()
        common: dict[str, object] = {
            "eps": epsilon,
            "norm": self.norm_name,
            "n_restarts": 1,
            "seed": int(torch.randint(2**31 - 1, ()).item()),  # from the state of this batch
            "device": batch.images.device,
            "verbose": False,
        }
        draws = _EOT_DRAWS if batch.model.random else 1
        apgd = {**common, "n_iter": self.steps, "eot_iter": draws, "rho": 0.75, "logger": logger}
        targets = min(self.targets, classes - 1)
        kinds: dict[str, Callable[[], Member]] = {
            "apgd_ce": lambda: attacks.APGDAttack(batch.model, loss="ce", **apgd),
            "apgd_dlr": lambda: attacks.APGDAttack(batch.model, loss="dlr", **apgd),
            "apgd_t": lambda: attacks.APGDAttack_targeted(batch.model, n_target_classes=targets, **apgd),
            "fab_t": lambda: attacks.FABAttack_PT(
                batch.model, n_iter=self.steps, targeted=True, n_target_classes=targets, **common
            ),
            "square": lambda: attacks.SquareAttack(
                batch.model, n_queries=self.queries, p_init=0.8, resc_schedule=False, **common
            ),
        }
        with torch.no_grad():  # each member turns gradients on where it needs them
            return kinds[name]().perturb(batch.images.clone(), batch.labels)

    def _propose(self, batch: Batch) -> list[Tensor]:
        return [found.adversarial for found in self._attack(batch)]


@dataclass(frozen=True)
class AutoAttackL2(AutoAttack):
    """The standard ensemble under the L2 norm."""

    norm: ClassVar[float] = 2.0
    norm_name: ClassVar[str] = "L2"
    default_epsilons: ClassVar[tuple[float | None, ...]] = (0.5,)
