"""Attacks on image classifiers: hyperparameters in the constructor, model and data in the call.

| name | adversary | library | norm | targeted |
|---|---|---|---|---|
| ``fgs`` | fast gradient sign, one step (Goodfellow et al. 2015) | own | Linf | no |
| ``cw`` | Carlini-Wagner with binary search (2017) | foolbox | L2, minimised | both |
| ``pgd_linf``, ``pgd_l2`` | projected gradient descent (Madry et al. 2018) | own | Linf, L2 | both |
| ``apgd_ce``, ``apgd_dlr`` | auto-PGD on two losses (Croce and Hein 2020) | ART | Linf | no |
| ``square`` | random search without gradients (Andriushchenko et al. 2020) | ART | Linf | no |
| ``autoattack``, ``autoattack_l2`` | the standard ensemble, see ``auto_attack`` | pyautoattack | Linf, L2 | no |

ART is the Adversarial Robustness Toolbox. The steps of PGD are those of adversarial training, ``compute.perturbation``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...compute.perturbation import direction, perturb, random_start
from ...embeddings.pixels import PixelModel
from .adversary import Attack, Batch
from .auto_attack import AutoAttack, AutoAttackL2
from .libraries import Evasion, foolbox, run_foolbox, run_toolbox, to_tensor, toolbox, toolbox_classifier


@dataclass(frozen=True)
class FastGradient(Attack):
    r"""Untargeted fast gradient sign: :math:`x + \epsilon\,\mathrm{sign}\,\nabla_x \mathrm{CE}(x, y)`, clipped.

    One gradient serves all budgets of a call.
    """

    default_epsilons: ClassVar[tuple[float | None, ...]] = (0.1, 0.5)

    def _propose(self, batch: Batch) -> list[Tensor]:
        pixels = batch.images.clone().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(batch.model(pixels), batch.labels, reduction="sum")
        step = direction(torch.autograd.grad(loss, pixels)[0], "linf")
        return [batch.images + float(epsilon or 0.0) * step for epsilon in batch.epsilons]


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

    def _propose(self, batch: Batch) -> list[Tensor]:
        proposals = []
        for epsilon in batch.epsilons:
            assert epsilon is not None  # only attacks that minimise a distance have no budget
            best = self._start(batch, batch.images, epsilon)
            for _ in range(self.restarts - 1):
                left = (~self.score(batch, best).success).nonzero().squeeze(1)
                if not len(left):
                    break
                best[left] = self._start(batch.only(left), batch.images[left], epsilon)
            proposals.append(best)
        return proposals

    def _start(self, batch: Batch, images: Tensor, epsilon: float) -> Tensor:
        """Return the images at the end of one random start."""
        aim, sign = (batch.labels, 1) if batch.targets is None else (batch.targets, -1)
        norm = "linf" if self.norm == math.inf else "l2"
        return perturb(
            lambda pixels: sign * F.cross_entropy(batch.model(pixels), aim, reduction="sum"),
            images,
            epsilon=epsilon,
            step=(self.relative_stepsize or 2.5 / self.steps) * epsilon,
            steps=self.steps,
            norm=norm,
            start=random_start(images, epsilon, norm),
        )


@dataclass(frozen=True)
class ProjectedGradientL2(ProjectedGradient):
    """Projected gradient steps under the L2 norm."""

    norm: ClassVar[float] = 2.0
    default_epsilons: ClassVar[tuple[float | None, ...]] = (0.5,)


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

    def _propose(self, batch: Batch) -> list[Tensor]:
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

    def _propose(self, batch: Batch) -> list[Tensor]:
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
        self, adversary: Evasion, model: PixelModel, images: Tensor, labels: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Return the images of one random start, and which of them are misclassified."""
        candidates = [run_toolbox(adversary, images, labels)]
        best, misclassified = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
        # The toolbox returns the last iterate; the one of highest loss is the attack's own result.
        highest = getattr(adversary, "x_max", None)
        if highest is not None and len(highest) == len(images):
            candidates.append(to_tensor(highest, images))
        for candidate in candidates:
            pixels = self.within(images, candidate, epsilon)
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

    def _propose(self, batch: Batch) -> list[Tensor]:
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
    "autoattack": AutoAttack,
    "autoattack_l2": AutoAttackL2,
}


def make(attack: str | Attack, steps: int | None = None, queries: int | None = None) -> tuple[str, Attack]:
    """Return the name and the adversary of an attack that is given by either.

    Args:
        attack: a name of ``ATTACKS`` (``-`` and capitals do not matter) or an adversary with its own hyperparameters.
        steps: replaces the number of steps that a name stands for.
        queries: replaces the queries of Square that ``autoattack`` makes.

    Raises:
        ValueError: for an unknown name, or a number for an attack that does not have it or that is already built.

    Example:
        >>> make("pgd-linf", steps=10)
        ('pgd_linf', ProjectedGradient(steps=10, relative_stepsize=None, restarts=1))
    """
    given = {name: count for name, count in (("steps", steps), ("queries", queries)) if count is not None}
    if isinstance(attack, Attack):
        for name, count in given.items():
            raise ValueError(f"{name}={count} cannot change an attack that is already built: set it there")
        names = [name for name, kind in ATTACKS.items() if kind is type(attack)]
        return (names or [type(attack).__name__])[0], attack
    name = str(attack).lower().replace("-", "_")
    if name not in ATTACKS:
        raise ValueError(f"attack must be one of {', '.join(ATTACKS)}, but is {attack!r}")
    known = {field.name for field in fields(ATTACKS[name]())}
    for option, count in given.items():
        if option not in known:
            raise ValueError(f"{option}={count} does not fit {name}, which has no {option}")
    return name, ATTACKS[name](**given)


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
