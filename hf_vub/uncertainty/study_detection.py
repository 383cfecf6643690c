"""How well scores of a classifier, or distances of its features, tell rows of another origin from test rows."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..compute.contexts import seeded
from ..embeddings.extraction import Features
from ..metrics.classification import Floats
from ..model.head import VUBHead
from ..model.information import gaussian_rate
from ..runs.schema import UnfamiliarCheck
from ..sweep.frontier import mean_of
from .ood import detection_metrics, feature_distances, ood_scores
from .study_measures import RunScores

DRAWS = 16
FAMILIAR_ROWS = 1000


class StudyRows(NamedTuple):
    """Features and labels of the splits, features of rows of other origins by name, and H(Y) in nats."""

    train: Features
    test: Features
    unfamiliar: dict[str, Tensor]
    label_entropy: float


@torch.inference_mode()
def outputs_of(head: nn.Module, features: Tensor, seed: int, draws: int = DRAWS) -> RunScores:
    """Return logits, rates and logits of draws of rows of features."""
    if not isinstance(head, VUBHead):
        return RunScores(torch.cat([head(block) for block in features.split(4096)]).double().numpy())
    logits, rates, drawn = [], [], []
    with seeded(seed):
        for block in features.split(4096):
            passed = head(block, num_samples=draws)
            logits.append(head.classify(passed.mean))
            rates.append(gaussian_rate(passed.mean, passed.scale))
            drawn.append(passed.draws)
    return RunScores(
        torch.cat(logits).double().numpy(), torch.cat(rates).double().numpy(), torch.cat(drawn, 1).double().numpy()
    )


def _familiar(rows: StudyRows) -> Tensor:
    """Return the features of some test rows, drawn at random."""
    chosen = np.random.default_rng(0).permutation(len(rows.test))[:FAMILIAR_ROWS]
    return rows.test.features[torch.from_numpy(np.sort(chosen))]


def distance_checks(rows: StudyRows) -> list[UnfamiliarCheck]:
    """Return how well distances of the features tell rows of other origins apart."""
    train, labels = rows.train.features.numpy(), rows.train.labels.numpy()
    familiar = feature_distances(train, labels, _familiar(rows).numpy())
    checks = []
    for name, features in rows.unfamiliar.items():
        found = feature_distances(train, labels, features.numpy())
        scores = {score: [(familiar[score], values)] for score, values in found.items()}
        checks += _checks(name, len(features), "features", None, scores)
    return checks


def score_checks(name: str, beta: float | None, heads: Sequence[nn.Module], rows: StudyRows) -> list[UnfamiliarCheck]:
    """Return how well the scores of one pass, or of some draws, tell rows of other origins apart."""
    familiar, checks = _familiar(rows), []
    inside = [_named_scores(outputs_of(head, familiar, seed)) for seed, head in enumerate(heads)]
    for other, features in rows.unfamiliar.items():
        outside = [_named_scores(outputs_of(head, features, seed)) for seed, head in enumerate(heads)]
        scores = {score: [(a[score], b[score]) for a, b in zip(inside, outside, strict=True)] for score in inside[0]}
        checks += _checks(other, len(features), name, beta, scores)
    return checks


def _named_scores(scores: RunScores) -> dict[str, Floats]:
    return ood_scores(scores.logits, scores.rate, scores.draws)


def _checks(
    unfamiliar: str, rows: int, name: str, beta: float | None, scores: Mapping[str, Sequence[tuple[Floats, Floats]]]
) -> list[UnfamiliarCheck]:
    """Return one check per score, from its values (familiar, unfamiliar) of each run."""
    checks = []
    for score, runs in scores.items():
        found = [detection_metrics(*values) for values in runs]
        auroc, fpr95 = mean_of([each.auroc for each in found]), mean_of([each.fpr95 for each in found])
        checks.append(
            UnfamiliarCheck(
                unfamiliar=unfamiliar, rows=rows, name=name, beta=beta, score=score, auroc=auroc, fpr95=fpr95
            )
        )
    return checks
