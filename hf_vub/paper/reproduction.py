"""The paper's section 4, or a comparison on one's own data, from one call.

```python
from hf_vub.paper import compare, experiment, reproduce

results = reproduce(experiment("imdb", model="runs/minilm", runs=5, epochs=20), "runs/imdb")
results = compare("runs/minilm", "reviews.csv", "runs/reviews")
print(results.recommendation)
```

The stages (embed, baselines, sweep, evaluate, attack) are resumable, see `hf_vub.paper.stages`. A killed run that is
started again ends with the same ``results.json``, apart from the times.
"""

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..runs.files import lock_folder
from ..runs.processes import processes
from ..runs.provenance import provenance, public_name
from ..runs.schema import BaselineResult, Reproduction, TrainingCurve, read_result
from .claims import with_statistics
from .comparison import with_recommendation
from .experiments import Experiment, comparison
from .grid_attacks import Attacked
from .pipeline import LOGISTIC, VANILLA, Evaluated, Pipeline, attacks_on
from .report import write_report

logger = logging.getLogger(__name__)


def reproduce(settings: Experiment, output_dir: str | Path, device: str | torch.device | None = None) -> Reproduction:
    """Run an experiment up to its report, or what is missing of it.

    Args:
        settings: from `hf_vub.paper.experiment` or `hf_vub.paper.experiments.comparison`.
        output_dir: folder for everything; stages in it that are still valid are used.
        device: of the backbone and the heads; by default the accelerator, if there is one.

    Returns:
        The results as saved in ``results.json``: ``vanilla``, ``baselines`` and ``runs`` with their metrics and
        attacks, ``curves`` per epoch and the ``chosen`` settings. A preset of the paper has ``statistics`` and
        ``claims`` too, a comparison a ``recommendation``.

    Raises:
        ValueError: a setting is out of range, data and backbone do not fit, there are several processes, or another
            one writes to the folder.
        ImportError: a package is missing; the message has the command that installs it.

    Source: section 4 of the paper.
    """
    state = processes()
    if state.num_processes > 1:
        raise ValueError(f"a reproduction runs in one process, but there are {state.num_processes}")
    settings.check_attacks()
    with lock_folder(output_dir):
        pipeline = Pipeline(settings, Path(output_dir), torch.device(device or state.device))
        results = _results(pipeline, pipeline.evaluated, pipeline.attacked)
        results = with_recommendation(results) if settings.is_comparison else with_statistics(results)
        saved = read_result(results.save(pipeline.folder / "results.json"))
        assert isinstance(saved, Reproduction)
        began = time.perf_counter()
        write_report(saved, pipeline.folder)
        logger.info("report: %.1f s", time.perf_counter() - began)
        return saved


def compare(
    model: str,
    dataset: str,
    output_dir: str | Path,
    *,
    device: str | torch.device | None = None,
    **options: Any,
) -> Reproduction:
    """Compare VIB and VUB with simple baselines on one's own data, and recommend one setting.

    The heads are trained on the frozen features of ``model``. The setting of each objective with the lowest mean
    negative log-likelihood on validation rows is attacked, next to the stock classifier, a tuned logistic regression
    and an early-stopped MLP. The test rows decide nothing.

    Args:
        model: folder or Hub id of the backbone, with or without a trained classifier.
        dataset: name or path for ``hf_vub.data.splits.load_splits``.
        output_dir: folder for everything; started again, the comparison goes on from there.
        device: of the backbone and the heads; by default the accelerator, if there is one.
        **options: any other attribute of `hf_vub.paper.experiments.Experiment`.

    Returns:
        The results; ``recommendation`` is the setting in one sentence.

    Raises:
        ValueError: an option is out of range, or data and backbone do not fit.
        FileNotFoundError: there is no such data set.
        ImportError: a package is missing; the message has the command that installs it.

    Example:
        >>> compare("runs/my-model", "reviews.csv", "runs/reviews").recommendation  # doctest: +SKIP
        'Use vub at beta=0.01 ...'
    """
    return reproduce(comparison(model, dataset, **options), output_dir, device)


def _results(pipeline: Pipeline, evaluated: Evaluated, attacked: Attacked) -> Reproduction:
    """Return everything but the chosen settings and what follows from them."""
    own = pipeline.settings
    baselines = {
        name: BaselineResult(
            origin="checkpoint" if name == VANILLA else name,
            hyperparameters=dict(pipeline.fitted.hyperparameters[name]) if name != VANILLA else None,
            **evaluated.heads[name],
            **attacks_on(name, attacked),
        )
        for name in pipeline.heads
        if name not in pipeline.grid
    }
    curves = [
        TrainingCurve.from_json({**asdict(run), **pipeline.swept.histories[name]})
        for name, run in pipeline.grid.items()
        if run.seed == own.seed
    ]
    model, dataset = public_name(own.model), public_name(own.dataset)
    stock = baselines.pop(VANILLA, baselines[LOGISTIC])
    return Reproduction(
        **provenance(),
        kind="comparison" if own.is_comparison else "reproduction",
        experiment=own.name,
        task=own.task,
        model=model,
        dataset=dataset,
        settings={**asdict(own), "model": model, "dataset": dataset},
        data=pipeline.embedded.data,
        vanilla=stock,
        baselines=baselines,
        runs=tuple(pipeline.runs(attacked)),
        curves=tuple(curves),
        stress=attacked.stress,
        examples=attacked.examples,
        chosen={},
        statistics={},
        claims=(),
        seconds=pipeline.stages.seconds,
    )
