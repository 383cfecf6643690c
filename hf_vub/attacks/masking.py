"""The gradient-masking report card: whether a model resists attacks, or only blinds them.

A defence that hides its gradients fails gradient attacks without being robust (Athalye et al. 2018); information
bottleneck models were found to do so ("A Closer Look at the Adversarial Robustness of Information Bottleneck Models",
2021). Each check compares attacks whose order is known for a model that hides nothing.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compute.contexts import frozen, seeded
from ..runs.files import write_json
from ..runs.processes import processes
from ..runs.provenance import provenance
from .image.adversaries import Attack, FastGradient, ProjectedGradient, Square, parse_epsilons
from .image.classifier import PixelModel
from .image.examples import ImageExamples, load_classifier

logger = logging.getLogger(__name__)

_EOT_DRAWS = (1, 5, 10, 20, 40)
_NOISE_DRAWS = 10


def report_card(
    model: nn.Module | str | Path,
    processor: Any,
    dataset: Any,
    *,
    epsilon: float | str = 8 / 255,
    num_examples: int | None = 64,
    how: str = "stratified",
    seed: int = 0,
    noise: str = "mean",
    transfer_from: Sequence[nn.Module | str | Path] = (),
    steps: int = 40,
    square_steps: int = 300,
    tolerance: float = 0.02,
    redraws: int = 20,
    batch_size: int = 32,
    output_dir: str | Path | None = None,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
) -> dict[str, Any]:
    """Check a classifier for masked gradients, on the examples that it gets right, in the Linf norm.

    | check | passes when |
    |---|---|
    | ``gradients`` | at most 10 % of the input gradient's entries are exactly zero |
    | ``unbounded`` | PGD with a budget of 1, which reaches every image, leaves at most 5 % accuracy |
    | ``monotone`` | accuracy under PGD never rises with the budget |
    | ``steps`` | PGD leaves no more accuracy than a single step (FGS) |
    | ``white_box`` | PGD leaves no more accuracy than Square, which sees no gradients |
    | ``transfer`` | PGD on the model leaves no more accuracy than images made on each of ``transfer_from`` |
    | ``noise`` | PGD leaves less accuracy than the worst of 10 random signs |
    | ``eot`` | for a random predictor, averaging 40 draws gains the attack no more than averaging 20 |

    ``steps`` and ``noise`` compare means over budgets from a quarter of ``epsilon`` to 4 times it, and 1; ``white_box``
    over ``epsilon`` and 4 times it.
    A random predictor is attacked through an average of at least 20 draws and scored over ``redraws`` fresh ones.

    Args:
        model: a classifier, or the folder or Hub id of one; as for ``hf_vub.attacks.image.attack.attack``.
        processor: its image processor; as there.
        dataset: as there.
        epsilon: the budget around which the checks are made.
        num_examples: drawn from ``dataset``; the checks use those of them that the model gets right.
        how: as for ``attack``.
        seed: of the draw, the attacks and the noise.
        noise: the declared predictor, "mean", "sampled" or "averaged:k".
        transfer_from: vanilla and sibling checkpoints of the same classes (modules take ``processor``; paths have
            their own and must see images of the same size).
        steps: of PGD.
        square_steps: queries of Square.
        tolerance: differences in accuracy up to this, up to one example, or up to what scoring a random predictor on
            ``redraws`` draws leaves to chance, are not held against the model.
        redraws: fresh draws over which a random predictor is scored.
        batch_size: examples attacked together.
        output_dir: where ``report_card.json`` goes; None saves nothing.
        split: as for ``attack``.
        image_column: as for ``attack``.
        label_column: as for ``attack``.
        revision: of ``model`` on the Hub.
        trust_remote_code: whether code that comes with a checkpoint may run.
        device: where to compute.

    Returns:
        ``passed`` (no check failed) and ``checks``: name, ``passed`` (None where a check does not apply), ``why`` in
        one sentence, and ``figures``; with provenance, as every result JSON.

    Raises:
        ValueError: for an argument out of range, or when the model gets no example right.

    Example:
        >>> card = report_card("user/vub-resnet18-cifar10", None, "cifar10")  # doctest: +SKIP
        >>> [check["name"] for check in card["checks"] if check["passed"] is False]  # doctest: +SKIP
    """
    began = time.perf_counter()
    (budget,) = parse_epsilons(FastGradient(), epsilon)
    assert budget is not None
    for argument, value, least in (("tolerance", tolerance, 0), ("redraws", redraws, 1), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"{argument} must be at least {least}, but is {value}")
    examples = ImageExamples(
        dataset, num_examples, how=how, seed=seed, split=split, image_column=image_column, label_column=label_column
    )
    place: dict[str, Any] = {"device": device, "default_device": processes().device}
    place["trust_remote_code"] = trust_remote_code
    network, processor, name = load_classifier(model, processor, revision=revision, **place)
    with frozen(network):
        scorer = PixelModel(network, processor, noise)
        images, labels, clean_accuracy = _right_ones(examples, scorer, batch_size, seed)
        attacker = scorer
        if scorer.random:
            attacker = PixelModel(network, processor, f"averaged:{max(20, scorer.num_draws)}")
        trial = _Trial(scorer, images, labels, batch_size, seed, redraws)
        slack = max(tolerance, 1 / len(images))
        if scorer.random:
            # Two standard errors, at the most, of a difference between accuracies that are each a mean of draws.
            slack = max(slack, math.sqrt(2 / (len(images) * redraws)))
        budgets = sorted({min(1.0, budget * factor) for factor in (0.25, 0.5, 1, 2, 4)} | {1.0})
        few = sorted({budget, min(1.0, 4 * budget)})  # Square needs hundreds of passes for each
        pgd = ProjectedGradient(steps=steps)
        under_pgd = trial.accuracies(attacker, pgd, budgets)
        curves = {
            "pgd": under_pgd,
            "fgs": trial.accuracies(attacker, FastGradient(), budgets),
            "square": trial.accuracies(scorer, Square(steps=square_steps), few),
            "noise": trial.under_noise(budgets),
        }
        checks = [
            _gradients(trial.zero_shares(attacker)),
            _check(
                "unbounded",
                under_pgd[-1] <= 0.05 + slack,
                f"PGD without a bound leaves {under_pgd[-1]:.1%} accuracy; at most about 5 % is expected",
                accuracy=under_pgd[-1],
            ),
            _monotone(budgets, under_pgd, slack),
            _weaker("steps", "FGS", curves["pgd"], curves["fgs"], slack),
            _weaker("white_box", "Square", [under_pgd[budgets.index(value)] for value in few], curves["square"], slack),
            _transfer(trial, transfer_from, processor, pgd, budget, under_pgd[budgets.index(budget)], slack, place),
            _weaker("noise", "random noise", curves["pgd"], curves["noise"], 0.0, strictly=True),
            _expectation(trial, network, processor, pgd, budget, slack),
        ]
    result = {
        **provenance(),
        "kind": "masking_report_card",
        "model": name,
        "dataset": examples.name,
        "noise": noise,
        "seed": seed,
        "how": how,
        "epsilon": budget,
        "num_examples": len(examples),
        "num_attacked": len(images),
        "clean_accuracy": clean_accuracy,
        "steps": {"pgd": steps, "square": square_steps},
        "tolerance": slack,
        "passed": all(check["passed"] is not False for check in checks),
        "checks": checks,
        "curves": {"epsilon": budgets, "epsilon_square": few, **curves},
        "seconds": time.perf_counter() - began,
    }
    if output_dir is not None:
        write_json(Path(output_dir) / "report_card.json", result)
    return result


class _Trial:
    """The rightly classified examples, and what attacks leave of them."""

    def __init__(self, scorer: PixelModel, images: Tensor, labels: Tensor, batch_size: int, seed: int, redraws: int):
        self.scorer, self.images, self.labels = scorer, images, labels
        self.batch_size, self.seed = batch_size, seed
        self.redraws = redraws if scorer.random else 0

    def accuracies(self, attacker: PixelModel, adversary: Attack, budgets: Sequence[float]) -> list[float]:
        """Accuracy of the declared predictor per budget, on images that ``adversary`` makes against ``attacker``."""
        return self._means(
            lambda images, labels: torch.stack(
                [self._rights(found.adversarial, labels) for found in adversary(attacker, images, labels, budgets)]
            )
        )

    def under_noise(self, budgets: Sequence[float]) -> list[float]:
        """Accuracy per budget under the worst of several draws of random signs."""

        def measure(images: Tensor, labels: Tensor) -> Tensor:
            rows = []
            for epsilon in budgets:
                signs = [torch.randint_like(images, 0, 2) * 2 - 1 for _ in range(_NOISE_DRAWS)]
                rights = [self._rights((images + epsilon * sign).clamp(0, 1), labels) for sign in signs]
                rows.append(torch.stack(rights).amin(dim=0))
            return torch.stack(rows)

        return self._means(measure)

    def zero_shares(self, attacker: PixelModel) -> list[float]:
        """Shares of entries of the input gradient, and of whole gradients, that are exactly zero."""

        def measure(images: Tensor, labels: Tensor) -> Tensor:
            pixels = images.clone().requires_grad_()
            loss = F.cross_entropy(attacker(pixels), labels, reduction="sum")
            zero = (torch.autograd.grad(loss, pixels)[0] == 0).flatten(1).float()
            return torch.stack([zero.mean(dim=1), zero.amin(dim=1)])

        return self._means(measure)

    def _rights(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Per example 1 for right and 0 for wrong, or the share of fresh draws that are right."""
        if not self.redraws:
            return (self.scorer.predict(pixels) == labels).float()
        return (self.scorer.redraw(pixels, self.redraws) == labels).float().mean(dim=0)

    def _means(self, measure: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
        """Means over all examples of figures (figures, batch), measured batch by batch from fixed seeds."""
        parts = []
        for start in range(0, len(self.images), self.batch_size):
            rows = slice(start, start + self.batch_size)
            with seeded(self.seed, start):
                parts.append(measure(self.images[rows], self.labels[rows]))
        means: list[float] = torch.cat(parts, dim=1).double().mean(dim=1).tolist()
        return means


def _right_ones(
    examples: ImageExamples, scorer: PixelModel, batch_size: int, seed: int
) -> tuple[Tensor, Tensor, float]:
    """Pixels and labels of the examples that the model gets right, and its accuracy over all that can be read."""
    shape, _ = examples.fit(scorer)
    pixels, labels = [], []
    for position in range(len(examples)):
        try:
            image = examples.read(position, scorer)
        except ValueError as error:
            logger.warning("row %d skipped: %s", examples.rows[position], error)
            continue
        if image.shape == shape:
            pixels.append(image)
            labels.append(examples.labels[position])
    device = scorer.mean.device
    x, y = torch.stack(pixels).to(device), torch.tensor(labels, device=device)
    with seeded(seed):
        right = torch.cat([scorer.predict(part) for part in x.split(batch_size)]) == y
    if not bool(right.any()):
        raise ValueError(f"the model gets none of {len(y)} examples right: there is nothing to attack")
    return x[right], y[right], float(right.double().mean())


def _check(name: str, passed: bool | None, why: str, **figures: Any) -> dict[str, Any]:
    return {"name": name, "passed": passed, "why": why, "figures": figures}


def _gradients(shares: list[float]) -> dict[str, Any]:
    entries, whole = shares
    why = f"{entries:.1%} of the entries of the input gradient are zero, and {whole:.1%} of the gradients wholly"
    return _check("gradients", entries <= 0.1, why, zero_entries=entries, zero_gradients=whole)


def _monotone(budgets: Sequence[float], accuracies: Sequence[float], slack: float) -> dict[str, Any]:
    rise = max(after - before for before, after in pairwise(accuracies))
    why = f"the largest rise of accuracy under PGD from one budget to the next is {max(0.0, rise):.1%}"
    return _check("monotone", rise <= slack, why, epsilon=list(budgets), accuracy=list(accuracies))


def _weaker(
    name: str, rival: str, pgd: Sequence[float], other: Sequence[float], slack: float, strictly: bool = False
) -> dict[str, Any]:
    """Whether PGD leaves less accuracy than a rival that knows less, on average over the budgets."""
    ours, theirs = sum(pgd) / len(pgd), sum(other) / len(other)
    passed = ours < theirs or ours == 0 if strictly else ours <= theirs + slack
    why = f"averaged over the budgets PGD leaves {ours:.1%} accuracy and {rival} {theirs:.1%}"
    return _check(name, passed, why, pgd=ours, rival=theirs)


def _transfer(
    trial: _Trial,
    siblings: Sequence[nn.Module | str | Path],
    processor: Any,
    pgd: Attack,
    budget: float,
    white_box: float,
    slack: float,
    place: dict[str, Any],
) -> dict[str, Any]:
    if not siblings:
        return _check("transfer", None, "no other checkpoint was given to transfer from")
    found: dict[str, float] = {}
    for sibling in siblings:
        network, its_processor, name = load_classifier(
            sibling, None if isinstance(sibling, (str, Path)) else processor, **place
        )
        with frozen(network):
            (found[name],) = trial.accuracies(PixelModel(network, its_processor), pgd, [budget])
    least = min(found.values())
    why = f"images made on other models leave at least {least:.1%} accuracy, and the white-box attack {white_box:.1%}"
    return _check("transfer", white_box <= least + slack, why, white_box=white_box, transferred=found)


def _expectation(
    trial: _Trial, network: nn.Module, processor: Any, pgd: Attack, budget: float, slack: float
) -> dict[str, Any]:
    if not trial.scorer.random:
        return _check("eot", None, "the predictor is not random")
    curve = [
        trial.accuracies(PixelModel(network, processor, f"averaged:{draws}"), pgd, [budget])[0] for draws in _EOT_DRAWS
    ]
    gain = curve[_EOT_DRAWS.index(20)] - curve[-1]
    why = f"averaging {_EOT_DRAWS[-1]} draws instead of 20 lowers the accuracy under attack by {max(0.0, gain):.1%}"
    return _check("eot", gain <= slack, why, draws=list(_EOT_DRAWS), accuracy=curve)
