"""Check a suggestion: is the chosen setting within one standard error of the best one on rows that decided nothing."""

import time
from dataclasses import replace

import numpy as np
import torch

from ..runs.provenance import provenance, public_name
from ..runs.schema import SuggestionCheck
from ..sweep.frontier import Validated, choose, point_of, validate
from ..sweep.runs import HeadRun
from ..sweep.suggestion import suggest
from .study import StudySettings, embed, load_rows


def check_suggestion(settings: StudySettings, seeds: int = 3) -> SuggestionCheck:
    """Suggest a setting on one random half of the test rows, and measure the whole grid on the other half.

    The training rows cannot decide: the backbone was fine-tuned on them.

    Raises:
        ValueError: the data set has no training split, or a setting is out of range.
        OSError: there is no such checkpoint or data set.
    """
    started = time.monotonic()
    splits, names = load_rows(settings)
    rows = embed(settings, splits, len(names), others=False)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(rows.test)))
    first, second = order[: len(order) // 2].sort().values, order[len(order) // 2 :].sort().values
    found = suggest(
        rows.train.features,
        rows.train.labels,
        num_labels=len(names),
        validation_features=rows.test.features[first],
        validation_labels=rows.test.labels[first],
        seeds=seeds,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        label_entropy=rows.label_entropy,
        checkpoint_dir=settings.checkpoints,
    )
    suggested = found.result
    features, labels = rows.test.features[second], rows.test.labels[second]
    groups: dict[HeadRun, list[Validated]] = {}
    for head in found.trained:
        groups.setdefault(replace(head.run, seed=0), []).append(validate(head, features, labels))
    points = {run: point_of(run, group, labels.numpy()) for run, group in groups.items()}
    frontier, _ = choose(points, suggested.criterion)
    chosen = points[HeadRun(suggested.objective, suggested.beta, suggested.entropy_weight)]
    best = min(frontier, key=lambda point: point.nll)
    return SuggestionCheck(
        **provenance(),
        suggestion=replace(
            suggested,
            task=settings.task,
            model=public_name(settings.model),
            dataset=public_name(settings.dataset),
            data_rows=f"heads: {splits.described()}; a random half of the test rows decides, the other half checks",
        ),
        num_check=len(labels),
        check=frontier,
        chosen_nll=chosen.nll,
        best_nll=best.nll,
        best_standard_error=best.nll_standard_error,
        within=chosen.nll <= best.nll + best.nll_standard_error,
        seconds=time.monotonic() - started,
    )
