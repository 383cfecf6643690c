"""The report card of an image classifier: whether it resists attacks, or only blinds them.

A defence that hides its gradients fails gradient attacks without being robust (Athalye et al. 2018); information
bottleneck models were found to do so ("A Closer Look at the Adversarial Robustness of Information Bottleneck Models",
2021). Each check compares attacks whose order is known for a model that hides nothing.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ...compute.contexts import frozen
from ...data.record import TrainingRecord
from ...data.sample import Sample, open_sample
from ...embeddings.pixels import PixelModel
from ...runs.digests import tensor_digest, weights_digest
from ...runs.processes import processes
from ...runs.provenance import provenance
from ...runs.run_log import RunLog
from ...runs.schema import ReportCard, ReportCurves, overall
from ..runner import describe, warn_if_seen
from ..victim import Victim, check_counts
from .adversaries import Attack, FastGradient, ProjectedGradient, Square, parse_epsilons
from .checks import (
    LEAST_AGREEMENT,
    Finding,
    beats_noise,
    compare,
    deterministic,
    expectation,
    gradients,
    judge,
    monotone,
    slopes,
    unbounded,
    unknown,
)  # fmt: skip
from .options import Job, read_job
from .surrogates import make_surrogates, other_images
from .trial import Trial, make_trial

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import ImageOptions

_EOT_DRAWS = (1, 5, 10, 20, 40)
_FITTING = 8
"""Images that surrogates learn from, for every image drawn."""


def make_image_card(
    model: nn.Module | str | Path,
    dataset: object,
    *,
    transfer_from: Sequence[nn.Module | str | Path] = (),
    epsilon: float | str = 8 / 255,
    steps: int = 40,
    square_steps: int = 300,
    alpha: float = 0.05,
    **options: "Unpack[ImageOptions]",
) -> ReportCard:
    """Check an image classifier for masked gradients, on the images that it gets right, in the Linf norm.

    | check | passes when |
    |---|---|
    | ``deterministic`` | two passes over the same pixels agree, unless the predictor is declared to be random |
    | ``gradients`` | at most 10 % of the gradient's entries are zero; pixels zero in every image must not matter |
    | ``slope`` | a small step along the gradient raises the margin about as much as the gradient promises |
    | ``unbounded`` | PGD with a budget of 1, which reaches every image, leaves at most 5 % accuracy |
    | ``monotone`` | accuracy under PGD never rises with the budget |
    | ``steps`` | PGD leaves no more accuracy than a single step (FGS) |
    | ``white_box`` | PGD leaves no more accuracy than Square, which sees no gradients |
    | ``transfer`` | PGD on the model leaves no more accuracy than images made on each other model |
    | ``single_step`` | FGS on the model leaves no more accuracy than FGS on each other model |
    | ``noise`` | PGD leaves less accuracy than the worst of 10 random signs |
    | ``eot`` | for a random predictor, averaging 40 draws gains the attack no more than averaging 20 |

    ``steps`` and ``noise`` compare how many budgets, from a quarter of ``epsilon`` to 4 times it and 1, each image
    survives; ``white_box`` and ``transfer`` those of ``epsilon`` and 4 times it, and ``single_step`` those of
    ``epsilon`` and twice it; the step of ``slope`` is an eighth of ``epsilon``.
    Pixels whose gradient is zero in every image, as in a model that crops, do not count for ``gradients``, unless
    moving them changes a logit. The other models are those of ``transfer_from``, or
    without any two surrogates made on the spot, see `hf_vub.attacks.image.surrogates`. A random predictor is attacked
    through an average of at least 20 draws and scored over ``redraws`` fresh ones.

    A check fails where an exact test over the images says so, at level ``alpha`` over all checks together. Where so few
    images could say nothing, or no surrogate is good enough, it is open, and a card with an open check does not pass.

    Args:
        model: a classifier, or the folder or Hub id of one, as for `attack_image`.
        dataset: the data set, as for `attack_image`.
        transfer_from: stock and sibling checkpoints of the same classes (modules take ``processor``; paths have
            their own and must see images of the same size).
        epsilon: the budget around which the checks are made.
        steps: steps of PGD.
        square_steps: queries of Square.
        alpha: level of the tests over all checks together.
        options: as for `attack_image`, where ``num_examples`` is 64 by default. ``output_dir`` receives
            ``report_card.json`` and, in ``report_card/``, every finished batch, with which the same call goes on after
            a kill. Several processes share the batches.

    Returns:
        ``passed`` (False if a check failed, None if none did but one is open, else True) and ``checks``: name,
        ``passed``, ``applies``, ``why`` in one sentence, and its numbers.

    Raises:
        ValueError: an argument is out of range, or the model gets no example right.

    Example:
        >>> card = make_image_card("user/vub-resnet18-cifar10", "cifar10")  # doctest: +SKIP
        >>> [check.name for check in card.checks if check.passed is False]  # doctest: +SKIP
    """
    began = time.perf_counter()
    check_counts(steps=steps, square_steps=square_steps)
    (budget,) = parse_epsilons(FastGradient(), epsilon)
    assert budget is not None
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, but is {alpha}")
    job = read_job(model, dataset, options, num_examples=64)
    attacks = _Attacks(ProjectedGradient(steps=steps), Square(steps=square_steps), budget)
    card = _make_card(job, attacks, transfer_from, alpha)
    seconds = card.seconds + time.perf_counter() - began
    card = replace(card, steps={"pgd": steps, "square": square_steps}, seconds=seconds)
    if job.folder is not None and processes().is_main_process:
        card.save(job.folder / "report_card.json")
    return card


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


class _Source(NamedTuple):
    """A model to transfer from, and the share of images on which it decides as the model under test."""

    name: str
    model: PixelModel
    agreement: float = 1.0


class _Outcomes(NamedTuple):
    """What is left of every image (budgets, images) under the attacks that are made first."""

    pgd: Tensor
    fgs: Tensor
    square: Tensor
    noise: Tensor

    def curves(self, attacks: _Attacks) -> ReportCurves:
        """Return the means over the images."""
        return ReportCurves(
            epsilon=tuple(attacks.budgets),
            epsilon_square=tuple(attacks.few),
            **{name: tuple(kept.mean(dim=1).tolist()) for name, kept in self._asdict().items()},
        )


def _make_card(
    job: Job, attacks: _Attacks, transfer_from: Sequence[nn.Module | str | Path], alpha: float
) -> ReportCard:
    """Attack the images that a classifier gets right; the card lacks its steps, and the time since this start."""
    victim, options, state = job.victim, job.rows, processes()
    record = TrainingRecord.load(victim.model, victim.revision)
    sample = open_sample(options, "image", [record] if record is not None else [])
    network, processor, name = victim.load("image")
    # Loaded before anything is attacked, so that a wrong name is reported at once.
    siblings = [
        replace(victim, model=one, processor=_processor(one, processor), revision=None).load("image")
        for one in transfer_from
    ]
    seen = sample.seen_in_training(record)
    if state.is_main_process:
        describe(sample, job.progress)
        warn_if_seen(seen, sample, name)
    with ExitStack() as stack:
        networks = [network, *(sibling.network for sibling in siblings)]
        for each in networks:
            stack.enter_context(frozen(each))
        scorer = PixelModel(network, processor, victim.noise)
        trial, clean_accuracy = make_trial(sample, scorer, victim)
        if job.folder is not None:
            settings = _settings(trial, victim, attacks, networks)
            settings |= {"model": name, "rows": sample.digest(), "seed": options.seed}
            trial.log = stack.enter_context(RunLog(job.folder / "report_card", settings, state))
        sources = [_Source(each.name, PixelModel(each.network, each.processor)) for each in siblings]
        sources = sources or _surrogates(trial, sample, attacks.budget)
        outcomes, findings = _examine(trial, attacks, sources, alpha)
        trial.finish()
    checks = judge(findings, alpha)
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
        alpha=alpha,
        passed=overall(checks),
        checks=checks,
        curves=outcomes.curves(attacks),
        transfer_from=tuple(source.name for source in sources),
        seconds=trial.seconds_before,
        split=sample.split,
        data_rows=sample.description,
        rows_seen_in_training=seen,
        has_training_record=seen is not None,
        match_labels=options.match_labels,
    )


def _settings(trial: Trial, victim: Victim, attacks: _Attacks, networks: Sequence[nn.Module]) -> dict[str, object]:
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


def _processor(model: nn.Module | str | Path, processor: object) -> object:
    """Return the image processor of a model to transfer from: a module shares that of the model under test."""
    return processor if isinstance(model, nn.Module) else None


def _surrogates(trial: Trial, sample: Sample, epsilon: float) -> list[_Source]:
    """Return models that imitate the one under test."""
    images = other_images(sample, trial.scorer, _FITTING * len(sample), trial.images.shape[1:])
    found = make_surrogates(trial.scorer, trial.images, images, epsilon, sample.options.seed)
    return [_Source(each.name, PixelModel(each.model), each.agreement) for each in found]


def _examine(
    trial: Trial, attacks: _Attacks, sources: Sequence[_Source], alpha: float
) -> tuple[_Outcomes, list[Finding]]:
    """Run the attacks and make every check."""
    scorer, budgets, few, pgd = trial.scorer, attacks.budgets, attacks.few, attacks.pgd
    attacker = scorer
    if scorer.random:
        attacker = PixelModel(scorer.model, scorer.processor, f"averaged:{max(20, scorer.num_draws)}")
    outcomes = _Outcomes(
        pgd=trial.survival(attacker, pgd, budgets),
        fgs=trial.survival(attacker, FastGradient(), budgets),
        square=trial.survival(scorer, attacks.square, few),
        noise=trial.under_noise(budgets),
    )
    at_few = outcomes.pgd[[budgets.index(budget) for budget in few]]
    size = attacks.budget / 8
    findings = [
        deterministic(trial.changes_its_mind(), declared=scorer.random),
        _gradients(trial, attacker, attacks.budget),
        slopes(trial.slopes(attacker, size), size),
        unbounded(outcomes.pgd[-1]),
        monotone(budgets, outcomes.pgd),
        compare("steps", outcomes.pgd, {"FGS": outcomes.fgs}, "pgd", _averaged("FGS")),
        compare("white_box", at_few, {"Square": outcomes.square}, "pgd", _averaged("Square")),
        *_transfers(trial, attacks, sources, outcomes),
        beats_noise(outcomes.pgd, outcomes.noise, alpha),
        _expectation(trial, attacks),
    ]
    return outcomes, findings


def _averaged(rival: str) -> str:
    return f"averaged over the budgets PGD leaves {{ours:.1%}} accuracy and {rival} {{rival:.1%}}"


def _gradients(trial: Trial, attacker: PixelModel, epsilon: float) -> Finding:
    zero = trial.zero_gradients(attacker)
    ignored = zero.all(dim=0)
    some = bool(ignored.any()) and not bool(ignored.all())
    matter = trial.matters(attacker, ignored, epsilon) if some else torch.zeros(len(zero), dtype=torch.bool)
    return gradients(zero, ignored, matter)


def _transfers(trial: Trial, attacks: _Attacks, sources: Sequence[_Source], outcomes: _Outcomes) -> list[Finding]:
    """Compare PGD and single steps on the model with the same attacks made on other models."""
    close = [source for source in sources if source.agreement >= LEAST_AGREEMENT]
    if not close:
        shares = " and ".join(f"{source.agreement:.0%}" for source in sources)
        why = f"surrogates decide like the model on {shares} of the images, too few" if shares else (
            "no surrogate could be made, as the model gives every other image the same class"
        )  # fmt: skip
        return [unknown(name, f"{why}: give a model to transfer from") for name in ("transfer", "single_step")]
    double = sorted({attacks.budget, min(1.0, 2 * attacks.budget)})
    findings = []
    for name, attack, budgets, own, first, title in (
        ("transfer", attacks.pgd, attacks.few, outcomes.pgd, "white_box", "the white-box attack"),
        ("single_step", FastGradient(), double, outcomes.fgs, "own", "a single step on the model itself"),
    ):
        rivals = {source.name: trial.survival(source.model, attack, budgets) for source in close}
        sentence = f"images made on {{name}} leave {{rival:.1%}} accuracy, and {title} {{ours:.1%}}"
        ours = own[[attacks.budgets.index(budget) for budget in budgets]]
        found = compare(name, ours, rivals, first, sentence)
        means = {other: float(kept.mean()) for other, kept in rivals.items()}
        agreement = {source.name: source.agreement for source in close}
        findings.append(replace(found, figures={**found.figures, "rival": means, "agreement": agreement}))
    return findings


def _expectation(trial: Trial, attacks: _Attacks) -> Finding:
    scorer = trial.scorer
    if not scorer.random:
        return unknown("eot", "the predictor is not random", applies=False)
    curve = [
        trial.survival(PixelModel(scorer.model, scorer.processor, f"averaged:{draws}"), attacks.pgd, [attacks.budget])
        for draws in _EOT_DRAWS
    ]
    return expectation(_EOT_DRAWS, torch.cat(curve))
