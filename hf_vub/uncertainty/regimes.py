"""Where a bottleneck pays: rivals at equal tuning budgets on random training sets of several sizes.

Every rival tries six settings, keeps the one with the lowest NLL on validation rows after a temperature, and is
measured on other rows with that temperature. Runs draw training rows, weights and noise anew; VUB is compared with each
rival run by run.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wilcoxon
from torch import Tensor, nn

from ..metrics.classification import Floats, classification_metrics, negative_log_likelihood
from ..metrics.paired import holm
from ..metrics.temperature import fit_temperature
from ..model.head import VUBHead
from ..model.information import label_entropy
from ..runs.provenance import provenance, public_name
from ..runs.schema import BottleneckMap, Regime, RivalDifference, RivalResult
from ..sweep.baselines import early_stopped_mlp, logistic_regression
from ..sweep.frontier import mean_of
from ..sweep.heads import HeadRun, train_heads
from .study import StudySettings, embed, load_rows
from .study_measures import Link

METRICS = ("accuracy", "nll", "ece")
SETTINGS = 6
_C = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 1.0)
_BETAS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_VUB = tuple(product((1e-3, 1e-2, 1e-1), (0.3, 1.0)))
_MLPS: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]] = {
    "MLP": ((1e-2, 1e-1, 1.0), (0.0,), (0.0,)),
    "MLP, label smoothing": ((0.1,), (0.05, 0.1, 0.2), (0.0,)),
    "MLP, confidence penalty": ((0.1,), (0.0,), (0.1, 0.3, 1.0)),
}  # weight decays, label smoothing, confidence penalties; with two dropouts each
_STEPS, _BATCH = 600, 32  # fewest steps of a head, so that a small training set is learnt too


class Labelled(NamedTuple):
    """Rows of features (rows, feature_size) with their labels (rows,)."""

    features: Tensor
    labels: Tensor

    def draw(self, rows: int, seed: int, classes: int) -> "Labelled":
        """Return random rows, every class at least once where there is room.

        Raises:
            ValueError: there are fewer rows.
        """
        if rows > len(self.labels):
            raise ValueError(f"{rows} training rows are asked for, but there are {len(self.labels)}")
        order = np.random.default_rng(seed).permutation(len(self.labels))
        numbers = self.labels.numpy()[order]
        first = [int(np.flatnonzero(numbers == label)[0]) for label in range(classes) if (numbers == label).any()]
        places = np.array(list(dict.fromkeys([*first, *range(len(order))]))[:rows])
        chosen = torch.from_numpy(np.sort(order[places]))
        return Labelled(self.features[chosen], self.labels[chosen])


class _Candidate(NamedTuple):
    """A trained classifier with the functions from its logits to the log-probabilities that it may report."""

    module: nn.Module
    readings: Sequence[Callable[[Floats], Floats]]


def measure_regimes(
    pool: Labelled, validation: Labelled, test: Labelled, num_labels: int, rows: Sequence[int], runs: int
) -> tuple[Regime, ...]:
    """Return every rival's metrics on training sets of every size, with VUB's differences and their p-values.

    Args:
        pool: rows that training sets are drawn from.
        validation: rows that tune and calibrate.
        test: rows that measure.
        num_labels: classes.
        rows: sizes of the training sets.
        runs: draws of a training set of each size.

    Raises:
        ValueError: a size below the number of classes or above the pool, or no runs.
    """
    if runs < 1:
        raise ValueError(f"runs is {runs}; it must be at least 1")
    for size in rows:
        if not num_labels <= size <= len(pool.labels):
            raise ValueError(
                f"rows has {size}; a training set needs at least one row per class ({num_labels}) and at most all "
                f"{len(pool.labels)}"
            )
    measured: dict[int, dict[str, list[dict[str, float]]]] = {}
    for size in rows:
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(runs):
            train = pool.draw(size, seed, num_labels)
            for name, candidates in _rivals(train, validation, num_labels, seed).items():
                found.setdefault(name, []).append(_best(candidates, validation, test))
        measured[size] = found
    tests = [
        (size, rival, metric, *_difference(found["VUB"], found[rival], metric))
        for size, found in measured.items()
        for rival in found
        if rival != "VUB"
        for metric in METRICS
    ]
    adjusted = holm([each[-1] for each in tests])
    differences = [
        (
            size,
            RivalDifference(rival=rival, metric=metric, difference=difference, p_value=p, p_holm=p_holm),
        )
        for (size, rival, metric, difference, p), p_holm in zip(tests, adjusted, strict=True)
    ]
    return tuple(
        Regime(
            rows=size,
            runs=runs,
            rivals=tuple(_summary(name, each) for name, each in found.items()),
            differences=tuple(each for of, each in differences if of == size),
        )
        for size, found in measured.items()
    )


def _rivals(train: Labelled, validation: Labelled, num_labels: int, seed: int) -> Mapping[str, Sequence[_Candidate]]:
    """Train every rival in all its settings; those that stop early are chosen among by their own search."""
    regression = logistic_regression(
        *train,
        num_labels=num_labels,
        validation_features=validation.features,
        validation_labels=validation.labels,
        regularization=_C,
        seed=seed,
    )
    found = {"logistic regression": [_Candidate(regression.module, [_plain])]}
    for name, (decays, smoothing, penalty) in _MLPS.items():
        mlp = early_stopped_mlp(
            *train,
            num_labels=num_labels,
            validation_features=validation.features,
            validation_labels=validation.labels,
            dropout=(0.2, 0.5),
            weight_decay=decays,
            label_smoothing=smoothing,
            confidence_penalty=penalty,
            learning_rate=1e-3,
            batch_size=64,
            max_epochs=100,
            seed=seed,
        )
        found[name] = [_Candidate(mlp.module, [_plain])]
    heads = [HeadRun("vib", beta, seed=seed) for beta in _BETAS]
    heads += [HeadRun("vub", beta, weight, seed) for beta, weight in _VUB]
    entropy = label_entropy(train.labels, num_labels)
    trained = train_heads(
        *train,
        heads,
        num_labels=num_labels,
        epochs=max(20, math.ceil(_STEPS * _BATCH / len(train.labels))),
        batch_size=_BATCH,
        learning_rate=1e-3,
        label_entropy=entropy,
    )
    for result in trained:
        link = Link(result.run.entropy_weight, entropy)
        readings = [_plain] if result.run.objective == "vib" else [_plain, link.log_probabilities]
        found.setdefault(result.run.objective.upper(), []).append(_Candidate(result.head, readings))
    return found


def _plain(logits: Floats) -> Floats:
    return logits


def _best(candidates: Sequence[_Candidate], validation: Labelled, test: Labelled) -> dict[str, float]:
    """Return test metrics of the candidate, reading and temperature with the lowest NLL on the validation rows."""
    labels = validation.labels.numpy()
    best: tuple[float, dict[str, float]] = (math.inf, {})
    for candidate in candidates:
        logits, others = (_logits(candidate.module, rows.features) for rows in (validation, test))
        for reading in candidate.readings:
            scores = reading(logits)
            temperature = fit_temperature(scores, labels)
            nll = negative_log_likelihood(scores / temperature, labels)
            if nll < best[0]:
                best = nll, classification_metrics(reading(others) / temperature, test.labels)
    return best[1]


@torch.inference_mode()
def _logits(module: nn.Module, features: Tensor) -> Floats:
    outputs = module(features, num_samples=0).logits if isinstance(module, VUBHead) else module(features)
    logits: Floats = outputs.double().numpy()
    return logits


def _summary(name: str, runs: Sequence[Mapping[str, float]]) -> RivalResult:
    means = {metric: mean_of([run[metric] for run in runs]) for metric in METRICS}
    return RivalResult(name=name, settings=SETTINGS, **means)


def _difference(
    ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], metric: str
) -> tuple[float, float]:
    """Return the mean difference and the p-value of the signed-rank test; 1 where all runs are equal."""
    differences: NDArray[np.float64] = np.array(
        [mine[metric] - other[metric] for mine, other in zip(ours, theirs, strict=True)]
    )
    p = 1.0 if not differences.any() else float(wilcoxon(differences).pvalue)
    return float(differences.mean()), p


def bottleneck_map(
    settings: StudySettings, rows: Sequence[int], runs: int, about: str, num_validation: int = 500
) -> BottleneckMap:
    """Measure all rivals on the features of a frozen backbone.

    A random half of the test rows tunes and calibrates, at most ``num_validation`` of them; the other half measures.

    Args:
        settings: model, data and features; its grid is not used.
        rows: sizes of the training sets.
        runs: draws of a training set of each size.
        about: what the features are, in words.
        num_validation: most rows that tune and calibrate.

    Raises:
        ValueError: a size that the data cannot give, or as :func:`measure_regimes`.
        OSError: there is no such checkpoint or data set.
    """
    started = time.monotonic()
    splits, names = load_rows(settings)
    found = embed(settings, splits, len(names), others=False)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(found.test)))
    first, second = order[: len(order) // 2][:num_validation], order[len(order) // 2 :]
    validation, test = (Labelled(found.test.features[part], found.test.labels[part]) for part in (first, second))
    pool = Labelled(found.train.features, found.train.labels)
    regimes = measure_regimes(pool, validation, test, len(names), rows, runs)
    return BottleneckMap(
        **provenance(),
        task=settings.task,
        model=public_name(settings.model),
        dataset=public_name(settings.dataset),
        features=about,
        num_labels=len(names),
        feature_size=found.train.features.shape[1],
        num_validation=len(first),
        num_test=len(second),
        data_rows=f"training sets drawn from {splits.described()}; one half of the test rows tunes and calibrates, the "
        "other measures",
        regimes=regimes,
        seconds=time.monotonic() - started,
    )
