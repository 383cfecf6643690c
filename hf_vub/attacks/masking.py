"""The gradient-masking report card: whether a model resists attacks, or only blinds them.

A defence that hides its gradients fails gradient attacks without being robust (Athalye et al. 2018); information
bottleneck models were found to do so ("A Closer Look at the Adversarial Robustness of Information Bottleneck Models",
2021). Each check compares attacks whose order is known for a model that hides nothing.
"""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..compute.contexts import frozen
from ..data.record import TrainingRecord
from ..data.sample import SampleOptions, check_counts, open_sample
from ..embeddings.pixels import PixelModel
from ..model.loading import LoadedClassifier
from ..runs.digests import tensor_digest, weights_digest
from ..runs.processes import processes
from ..runs.provenance import provenance
from ..runs.run_log import RunLog
from ..runs.schema import Check, ReportCard, ReportCurves
from .image.adversaries import Attack, FastGradient, ProjectedGradient, Square, parse_epsilons
from .runner import describe, warn_if_seen
from .trial import Trial, make_trial
from .victim import Victim

logger = logging.getLogger(__name__)

_EOT_DRAWS = (1, 5, 10, 20, 40)


def report_card(
    model: nn.Module | str | Path,
    dataset: Any,
    *,
    processor: Any = None,
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
    match_labels: str = "name",
    column_names: str | Sequence[str] | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> ReportCard:
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
        model: a classifier, or the folder or Hub id of one, as for `attack_image`.
        dataset: the data set, as for `attack_image`.
        processor: its image processor, as for `attack_image`.
        epsilon: the budget around which the checks are made.
        num_examples: how many examples are drawn; the checks use those that the model gets right.
        how: ``"stratified"`` or ``"first"``.
        seed: seed of the draw, the attacks and the noise.
        noise: the declared predictor, "mean", "sampled" or "averaged:k".
        transfer_from: stock and sibling checkpoints of the same classes (modules take ``processor``; paths have
            their own and must see images of the same size).
        steps: steps of PGD.
        square_steps: queries of Square.
        tolerance: differences in accuracy up to this, up to one example, or up to what scoring a random predictor on
            ``redraws`` draws leaves to chance, are not held against the model.
        redraws: fresh draws over which a random predictor is scored.
        batch_size: examples attacked together.
        output_dir: folder for ``report_card.json`` and, in ``report_card/``, for every finished batch, with which the
            same call goes on after a kill; None saves nothing.
        split: split of a named data set; its test split by default.
        image_column: column of images; the usual names are recognised.
        label_column: column of labels; the usual names are recognised.
        match_labels: match the classes of data and model by ``"name"`` or by ``"number"``.
        column_names: names of the columns of a CSV file without a header, in order or between commas.
        config_name: configuration of a data set on the Hub.
        revision: revision of ``model`` on the Hub.
        trust_remote_code: run code that comes with a checkpoint.
        device: where to compute.
        progress: say which rows are attacked.

    Returns:
        ``passed`` (no check failed) and ``checks``: name, ``passed`` (None for a check that does not apply), ``why`` in
        one sentence, and its numbers.

    Raises:
        ValueError: an argument is out of range, or the model gets no example right.

    Example:
        >>> card = report_card("user/vub-resnet18-cifar10", "cifar10")  # doctest: +SKIP
        >>> [check.name for check in card.checks if check.passed is False]  # doctest: +SKIP
    """
    began = time.perf_counter()
    check_counts(batch_size=batch_size, steps=steps, square_steps=square_steps)
    (budget,) = parse_epsilons(FastGradient(), epsilon)
    assert budget is not None
    if tolerance < 0:
        raise ValueError(f"tolerance must be at least 0, but is {tolerance}")
    victim = Victim(
        model, processor, noise=noise, redraws=redraws, batch_size=batch_size, device=device, revision=revision,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    options = SampleOptions(
        dataset, num_examples, how, seed, split, image_column, label_column, match_labels, column_names, config_name
    )
    attacks = _Attacks(ProjectedGradient(steps=steps), Square(steps=square_steps), budget)
    folder = None if output_dir is None else Path(output_dir)
    card = _make_card(victim, options, attacks, transfer_from, tolerance, progress, folder)
    seconds = card.seconds + time.perf_counter() - began
    card = replace(card, steps={"pgd": steps, "square": square_steps}, seconds=seconds)
    if folder is not None:
        card.save(folder / "report_card.json")
    return card


def _make_card(
    victim: Victim,
    options: SampleOptions,
    attacks: "_Attacks",
    transfer_from: Sequence[nn.Module | str | Path],
    tolerance: float,
    progress: bool,
    folder: Path | None,
) -> ReportCard:
    """Attack the examples that a classifier gets right; the card lacks its steps, and the time since this start."""
    record = TrainingRecord.load(victim.model, victim.revision)
    sample = open_sample(options, "image", [record] if record is not None else [])
    network, processor, name = victim.load("image")
    # Loaded before anything is attacked, so that a wrong name is reported at once.
    siblings = [
        replace(victim, model=one, processor=_own(one, processor), revision=None).load("image") for one in transfer_from
    ]
    seen = sample.seen_in_training(record)
    describe(sample, progress)
    warn_if_seen(seen, sample, name)
    with frozen(network), ExitStack() as stack:
        scorer = PixelModel(network, processor, victim.noise)
        trial, clean_accuracy = make_trial(sample, scorer, victim)
        slack = max(tolerance, 1 / len(trial.images))
        if scorer.random:
            # Two standard errors, at the most, of a difference between accuracies that are each a mean of draws.
            slack = max(slack, math.sqrt(2 / (len(trial.images) * victim.redraws)))
        if folder is not None:
            settings = _settings(trial, victim, attacks, [network, *(sibling.network for sibling in siblings)])
            settings |= {"model": name, "rows": sample.digest(), "seed": options.seed}
            trial.log = stack.enter_context(RunLog(folder / "report_card", settings, processes()))
        curves, checks = _examine(trial, attacks, siblings, slack)
    return ReportCard(
        **provenance(),
        model=name,
        dataset=sample.name,
        noise=victim.noise,
        seed=options.seed,
        how=options.how,
        epsilon=attacks.budget,
        num_examples=len(sample),
        num_attacked=len(trial.images),
        clean_accuracy=clean_accuracy,
        steps={},
        tolerance=slack,
        passed=all(check.passed is not False for check in checks),
        checks=tuple(checks),
        curves=curves,
        seconds=trial.seconds_before,
        split=sample.split,
        data_rows=sample.description,
        rows_seen_in_training=seen,
        has_training_record=seen is not None,
        match_labels=options.match_labels,
    )


def _settings(trial: Trial, victim: Victim, attacks: "_Attacks", networks: Sequence[nn.Module]) -> dict[str, Any]:
    """Return what decides the numbers of every batch."""
    return {
        "kind": "report_card_batches",
        "weights": [weights_digest(network) for network in networks],
        "images": tensor_digest(trial.images, trial.labels),
        "attacks": [asdict(attacks.pgd), asdict(attacks.square)],
        "epsilon": attacks.budget,
        "noise": victim.noise,
        "redraws": victim.redraws,
        "batch_size": victim.batch_size,
    }


@dataclass(frozen=True)
class _Attacks:
    """The attacks that are compared, and the budget around which they are."""

    pgd: Attack
    square: Attack
    budget: float

    @property
    def budgets(self) -> list[float]:
        """Budgets from a quarter of the main one to 4 times it, and 1."""
        return sorted({min(1.0, self.budget * factor) for factor in (0.25, 0.5, 1, 2, 4)} | {1.0})

    @property
    def few(self) -> list[float]:
        """Budgets of Square, which needs hundreds of passes for each."""
        return sorted({self.budget, min(1.0, 4 * self.budget)})


def _examine(
    trial: Trial, attacks: _Attacks, siblings: Sequence[LoadedClassifier], slack: float
) -> tuple[ReportCurves, list[Check]]:
    """Run the attacks and make every check."""
    scorer, budgets, few, pgd = trial.scorer, attacks.budgets, attacks.few, attacks.pgd
    attacker = scorer
    if scorer.random:
        attacker = PixelModel(scorer.model, scorer.processor, f"averaged:{max(20, scorer.num_draws)}")
    under_pgd = trial.accuracies(attacker, pgd, budgets)
    under_fgs = trial.accuracies(attacker, FastGradient(), budgets)
    under_square = trial.accuracies(scorer, attacks.square, few)
    under_noise = trial.under_noise(budgets)
    at_few = [under_pgd[budgets.index(budget)] for budget in few]
    unbounded = under_pgd[-1]
    checks = [
        _gradients(trial.zero_shares(attacker)),
        Check(
            name="unbounded",
            passed=unbounded <= 0.05 + slack,
            why=f"PGD without a bound leaves {unbounded:.1%} accuracy; at most about 5 % is expected",
            figures={"accuracy": unbounded},
        ),
        _monotone(budgets, under_pgd, slack),
        _weaker("steps", "FGS", under_pgd, under_fgs, slack),
        _weaker("white_box", "Square", at_few, under_square, slack),
        _transfer(trial, siblings, attacks, under_pgd[budgets.index(attacks.budget)], slack),
        _weaker("noise", "random noise", under_pgd, under_noise, 0.0, strictly=True),
        _expectation(trial, attacks, slack),
    ]
    curves = ReportCurves(
        epsilon=tuple(budgets),
        epsilon_square=tuple(few),
        pgd=tuple(under_pgd),
        fgs=tuple(under_fgs),
        square=tuple(under_square),
        noise=tuple(under_noise),
    )
    return curves, checks


def _own(model: nn.Module | str | Path, processor: Any) -> Any:
    """Return the image processor of a model to transfer from: a module shares that of the model under test."""
    return processor if isinstance(model, nn.Module) else None


def _gradients(shares: list[float]) -> Check:
    entries, whole = shares
    why = f"{entries:.1%} of the entries of the input gradient are zero, and {whole:.1%} of the gradients as a whole"
    return Check(
        name="gradients",
        passed=entries <= 0.1,
        why=why,
        figures={"zero_entries": entries, "zero_gradients": whole},
    )


def _monotone(budgets: Sequence[float], accuracies: Sequence[float], slack: float) -> Check:
    rise = max(after - before for before, after in pairwise(accuracies))
    why = f"the largest rise of accuracy under PGD from one budget to the next is {max(0.0, rise):.1%}"
    return Check(
        name="monotone",
        passed=rise <= slack,
        why=why,
        figures={"epsilon": tuple(budgets), "accuracy": tuple(accuracies)},
    )


def _weaker(
    name: str, rival: str, pgd: Sequence[float], other: Sequence[float], slack: float, strictly: bool = False
) -> Check:
    """Check that PGD leaves less accuracy than a rival that knows less, on average over the budgets."""
    ours, theirs = sum(pgd) / len(pgd), sum(other) / len(other)
    passed = ours < theirs or ours == 0 if strictly else ours <= theirs + slack
    why = f"averaged over the budgets PGD leaves {ours:.1%} accuracy and {rival} {theirs:.1%}"
    return Check(name=name, passed=passed, why=why, figures={"pgd": ours, "rival": theirs})


def _transfer(
    trial: Trial, siblings: Sequence[LoadedClassifier], attacks: _Attacks, white_box: float, slack: float
) -> Check:
    if not siblings:
        return Check(name="transfer", passed=None, why="no other checkpoint was given to transfer from", figures={})
    transferred: dict[str, float] = {}
    for network, processor, name in siblings:
        with frozen(network):
            (transferred[name],) = trial.accuracies(PixelModel(network, processor), attacks.pgd, [attacks.budget])
    least = min(transferred.values())
    why = f"images made on other models leave at least {least:.1%} accuracy, and the white-box attack {white_box:.1%}"
    return Check(
        name="transfer",
        passed=white_box <= least + slack,
        why=why,
        figures={"white_box": white_box, "transferred": transferred},
    )


def _expectation(trial: Trial, attacks: _Attacks, slack: float) -> Check:
    scorer = trial.scorer
    if not scorer.random:
        return Check(name="eot", passed=None, why="the predictor is not random", figures={})
    curve = []
    for draws in _EOT_DRAWS:
        averaged = PixelModel(scorer.model, scorer.processor, f"averaged:{draws}")
        curve += trial.accuracies(averaged, attacks.pgd, [attacks.budget])
    gain = curve[_EOT_DRAWS.index(20)] - curve[-1]
    why = f"averaging {_EOT_DRAWS[-1]} draws instead of 20 lowers the accuracy under attack by {max(0.0, gain):.1%}"
    return Check(name="eot", passed=gain <= slack, why=why, figures={"draws": _EOT_DRAWS, "accuracy": tuple(curve)})
