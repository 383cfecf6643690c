"""Choose objective, beta and entropy weight from data: the strongest compression that costs no measurable NLL."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..metrics.temperature import fit_temperature
from ..model.configuration_vub import Objective
from ..runs.provenance import provenance
from ..runs.schema import SuggestionResult
from .frontier import Criterion, Validated, choose, limit_of, link_weight, point_of, validate, validation_nll
from .heads import SweepResult, train_heads
from .rows import Rows, check_held_out, check_rows
from .runs import HeadRun

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase

    from ..model.modeling_vub import VUBForImageClassification, VUBForSequenceClassification

BETAS = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
ENTROPY_WEIGHTS = (0.3, 1.0)


@dataclass(frozen=True)
class Suggestion:
    """The suggested setting.

    Attributes:
        result: the chosen setting and the frontier, ready to be saved as JSON.
        heads: of the chosen setting, the lowest validation NLL first.
        trained: every head of the grid.
    """

    result: SuggestionResult
    heads: tuple[SweepResult, ...]
    trained: tuple[SweepResult, ...]

    def export(
        self,
        model: "VUBForSequenceClassification | VUBForImageClassification",
        folder: str | Path,
        processor: "PreTrainedTokenizerBase | BaseImageProcessor | None" = None,
    ) -> None:
        """Save ``model`` with the best head as a checkpoint, and the result as ``suggestion.json`` next to it.

        The checkpoint reports probabilities through the posterior link, with the temperature of the validation rows.

        Args:
            model: a VUB model with the backbone that the features came from.
            folder: to write to.
            processor: tokenizer or image processor, see :meth:`SweepResult.export`.
        """
        self.heads[0].export(
            model,
            folder,
            processor,
            probabilities=self.result.probabilities,
            calibration_temperature=self.result.calibration_temperature,
        )
        self.result.save(Path(folder) / "suggestion.json")


def suggest(
    features: Rows,
    labels: Rows,
    *,
    num_labels: int,
    validation_features: Rows | None = None,
    validation_labels: Rows | None = None,
    validation: float = 0.2,
    objectives: Sequence[str] = ("vib", "vub"),
    betas: Sequence[float] = BETAS,
    entropy_weights: Sequence[float] = ENTROPY_WEIGHTS,
    seeds: int = 3,
    criterion: Criterion = "link",
    epochs: int = 20,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    latent_size: int | None = None,
    label_entropy: float | None = None,
    checkpoint_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Suggestion:
    r"""Return the setting that compresses most among those that predict as well as the best one.

    Every setting of the grid is trained with several seeds. With :math:`\ell_s` the validation NLL of setting s through
    the posterior link (plain softmax for vib and ce), the mean over rows and seeds, the choice is

    .. math:: \arg\min_s R_s \quad\text{subject to}\quad \ell_s \le \ell_{s^*} + \mathrm{SE}(\ell_{s^*}),
              \quad s^* = \arg\min_s \ell_s

    where R is the mean rate. The variance behind the standard error is that over rows, of the mean over seeds, plus
    that over seeds. Give validation rows that the backbone was not trained on: rows that it has seen look easier than
    new ones, and the choice would be too bold.

    Args:
        features: training rows, shape (rows, feature_size).
        labels: whole numbers in [0, num_labels), shape (rows,).
        num_labels: classes.
        validation_features: rows that decide; without them a stratified share of the training rows is held out.
        validation_labels: their labels.
        validation: that share.
        objectives: any of "ce", "vib" and "vub".
        betas: weights of the rate to try.
        entropy_weights: weights of vub's min term to try.
        seeds: trainings of every setting, with the seeds 0, 1, ...
        criterion: "link" decides by the NLL through the link; "temperature" by the NLL with a temperature as well,
            fitted on the other half of the validation rows.
        epochs, batch_size, learning_rate, latent_size, label_entropy, checkpoint_dir, device: see
            :func:`~hf_vub.sweep.train_heads`.

    Raises:
        ValueError: an empty grid, no validation rows, validation rows of one class, or rows that do not fit.

    Source: the one-standard-error rule is that of Breiman et al., "Classification and Regression Trees" (1984).

    Example:
        >>> features, labels = torch.randn(80, 4), torch.arange(80) % 2
        >>> found = suggest(features, labels, num_labels=2, betas=[0.01, 0.1], seeds=1, epochs=1)
        >>> len(found.result.frontier)
        6
    """
    started = time.monotonic()
    grid = _grid(objectives, betas, entropy_weights)
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; it must be at least 1")
    if criterion not in ("link", "temperature"):
        raise ValueError(f"criterion is {criterion!r}; it must be 'link' or 'temperature'")
    rows, classes = check_rows(features, labels, num_labels)
    held_out = check_held_out(rows, validation_features, validation_labels, num_labels, "validation_")
    if held_out is None:
        rows, classes, *parts = _hold_out(rows, classes, validation)
        held_out = (parts[0], parts[1])
    if len(held_out[1].unique()) < 2:
        raise ValueError(
            f"all {len(held_out[1])} validation labels are {int(held_out[1][0])}; give validation rows of two classes"
        )
    trained = train_heads(
        rows,
        classes,
        [replace(setting, seed=seed) for setting in grid for seed in range(seeds)],
        num_labels=num_labels,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        latent_size=latent_size,
        label_entropy=label_entropy,
        checkpoint_dir=checkpoint_dir,
        device=device,
    )
    return _best(trained, held_out, criterion, len(classes), epochs, started)


def _best(
    trained: Sequence[SweepResult],
    held_out: tuple[Tensor, Tensor],
    criterion: Criterion,
    num_train: int,
    epochs: int,
    started: float,
) -> Suggestion:
    """Measure trained heads on the held-out rows and choose among their settings."""
    groups: dict[HeadRun, list[Validated]] = {}
    for head in trained:
        groups.setdefault(replace(head.run, seed=0), []).append(validate(head, *held_out))
    labels, settings = held_out[1].numpy(), trained[0].settings
    frontier, chosen = choose({run: point_of(run, group, labels) for run, group in groups.items()}, criterion)
    ranked = sorted(groups[chosen], key=lambda each: validation_nll(each.log_p, labels))
    result = SuggestionResult(
        **provenance(),
        num_train=num_train,
        num_validation=len(labels),
        num_labels=settings.num_labels,
        feature_size=ranked[0].trained.head.feature_size,
        seeds=len(ranked),
        epochs=epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        criterion=criterion,
        limit=limit_of(frontier, criterion),
        objective=chosen.objective,
        beta=chosen.beta,
        entropy_weight=chosen.entropy_weight,
        probabilities="posterior" if link_weight(chosen) > 0 else "softmax",
        calibration_temperature=fit_temperature(ranked[0].log_p, labels),
        frontier=frontier,
        seconds=time.monotonic() - started,
    )
    return Suggestion(result, tuple(each.trained for each in ranked), tuple(trained))


def _grid(objectives: Sequence[str], betas: Sequence[float], entropy_weights: Sequence[float]) -> list[HeadRun]:
    """Return the settings; a weight that an objective lacks counts once."""
    settings: dict[HeadRun, None] = {}
    for name, beta, weight in product(objectives, betas, entropy_weights):
        objective = Objective.parse(name)
        beta = 0.0 if objective is Objective.CE else beta
        settings[HeadRun(objective.value, beta, weight if objective is Objective.VUB else 1.0)] = None
    if not settings:
        raise ValueError("the grid is empty; give at least one of objectives, betas and entropy_weights each")
    return list(settings)


def _hold_out(features: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training and validation rows; the latter are a share of every class."""
    if not 0 < share < 1:
        raise ValueError(f"validation is {share}; it must be a share of the rows above 0 and below 1")
    rng, numbers = np.random.default_rng(0), labels.numpy()
    chosen = np.zeros(len(numbers), dtype=bool)
    for label in np.unique(numbers):
        members = rng.permutation(np.flatnonzero(numbers == label))
        chosen[members[: round(share * len(members))]] = True
    if not chosen.any() or chosen.all():
        raise ValueError(f"validation={share} of {len(numbers)} rows leaves no rows to validate or to train on")
    held_out = torch.from_numpy(chosen)
    return features[~held_out], labels[~held_out], features[held_out], labels[held_out]
