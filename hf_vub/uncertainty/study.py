"""The calibration study: how good the probabilities of the stock model, VIB and VUB are, and what repairs them.

Heads of every beta and seed are trained on cached features of one frozen backbone and measured on all test rows. A
temperature for one half of the test rows is fitted on the other half: the backbone has seen the training rows, and what
is fitted on them would be too confident. Every result is a mean over seeds.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import log_softmax
from torch import nn

from ..data.labels import align_labels, class_names
from ..data.splits import Splits, label_names, load_splits
from ..embeddings.extraction import Features, extract
from ..metrics.classification import Floats
from ..model.information import label_entropy
from ..model.loading import TASKS, Task, load_processor
from ..model.objectives import optimal_confidence
from ..model.stock import replace_classifier
from ..model.trust import load
from ..runs.digests import digest
from ..runs.files import read_json
from ..runs.provenance import provenance, public_name
from ..runs.schema import CalibrationStudy, ConfidenceCheck, MeasuredSetting, StudiedClassifier
from ..sweep.frontier import mean_of
from ..sweep.heads import HeadRun, train_heads
from .study_aims import aims_of
from .study_detection import DRAWS, FAMILIAR_ROWS, StudyRows, distance_checks, outputs_of, score_checks
from .study_measures import (
    Labels,
    Link,
    RunScores,
    aurc_by_score,
    conformal_checks,
    drawn_log_probabilities,
    probability_metrics,
    reliability,
    risk_curve,
)
from .unfamiliar import unfamiliar_rows

CONFIDENCE_WEIGHTS = (0.1, 0.3, 1.0, 2.0)
CONFIDENCE_RUNS = 3
MISCOVERAGE = (0.05, 0.1)
_FORMAT = 1  # of the files of measurements: raise it when the code below would measure something else


@dataclass(frozen=True)
class StudySettings:
    """The settings of a study.

    Attributes:
        model: folder or Hub id of the stock classifier.
        dataset: name or path of a data set with a test split, see :func:`hf_vub.data.load_splits`.
        task: "text" or "image".
        feature_cache: folder of the features.
        checkpoints: folder of the trained heads; None keeps none.
        max_length: tokens that a text is cut to.
        pooling: features of a text, see :class:`hf_vub.VUBConfig`.
        betas: weights of the rate.
        entropy_weight: weight of VUB's min term.
        runs: seeds per setting.
        epochs, batch_size, learning_rate: of the heads.
        validation: share of the training rows left out, so that the heads train on the rows that other commands use.
        max_train, max_test: rows used, drawn by class; None for all.
        unfamiliar: names or paths of further data sets of another origin.
    """

    model: str
    dataset: str
    task: Task
    feature_cache: str
    checkpoints: str | None = None
    max_length: int | None = None
    pooling: str = "auto"
    betas: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    entropy_weight: float = 1.0
    runs: int = 10
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    validation: float = 0.1
    max_train: int | None = None
    max_test: int | None = None
    unfamiliar: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("runs", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.betas:
            raise ValueError("betas is empty; give at least one")
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}; it must be 'text' or 'image'")


class _Setting(NamedTuple):
    """The trained heads of one setting, or the stock classifier, which has no run."""

    name: str
    run: HeadRun | None
    heads: Sequence[nn.Module]


def calibration_study(settings: StudySettings) -> CalibrationStudy:
    """Train the heads of a study, measure them and the stock model, and compare with the stated aims.

    Raises:
        ValueError: the data set has no training split, or a setting is out of range.
        OSError: there is no such checkpoint or data set.
    """
    started = time.monotonic()
    splits, names = load_rows(settings)
    rows = embed(settings, splits, len(names))
    stock = _stock_classifier(settings, names)
    trained = _train(settings, rows, len(names))
    shown = [_Setting("vanilla", None, [stock])]
    shown += [
        each
        for each in trained
        if each.run is not None and (each.run.objective == "vib" or each.run.entropy_weight == settings.entropy_weight)
    ]
    measured = [_measure(settings, each, rows) for each in shown]
    classifiers = [each.classifier for each in measured]
    unfamiliar = distance_checks(rows) + [check for each in measured for check in each.unfamiliar]
    return CalibrationStudy(
        **provenance(),
        task=settings.task,
        model=public_name(settings.model),
        dataset=public_name(settings.dataset),
        num_labels=len(names),
        num_train=len(rows.train),
        num_test=len(rows.test),
        data_rows=f"heads: {splits.described()}; the temperature of each random half of the test rows is fitted on the "
        "other half; conformal sets: a quarter of the test rows for the temperature, a quarter for the threshold, the "
        "others measured",
        max_length=settings.max_length,
        runs=settings.runs,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        draws=DRAWS,
        classifiers=tuple(classifiers),
        confidence=tuple(_confidence(trained, rows, len(names))),
        unfamiliar=tuple(unfamiliar),
        aims=tuple(aims_of(classifiers)),
        seconds=time.monotonic() - started,
    )


def load_rows(settings: StudySettings) -> tuple[Splits, list[str]]:
    """Return training and test rows, and the names of the classes."""
    splits = load_splits(
        settings.dataset,
        medium=settings.task,
        max_train=settings.max_train,
        max_test=settings.max_test,
        validation=settings.validation,
    )
    splits.pop("validation", None)
    if "train" not in splits:
        raise ValueError(f"{settings.dataset} has no training split; the heads need one")
    return splits, label_names(splits)


def embed(settings: StudySettings, splits: Splits, num_labels: int, others: bool = True) -> StudyRows:
    """Return the cached features of the backbone, and with ``others`` those of rows of other origins."""
    model = TASKS[settings.task].ours.from_pretrained(
        settings.model, num_labels=num_labels, freeze_backbone=True, pooling=settings.pooling
    )
    model = model.float().eval()
    processor = load_processor(settings.model, settings.task)

    def features(dataset: object) -> Features:
        return extract(
            model, dataset, settings.feature_cache, processing_class=processor, max_length=settings.max_length
        )

    further = unfamiliar_rows(settings.task, splits["test"], settings.unfamiliar) if others else {}
    train = features(splits["train"])
    return StudyRows(
        train,
        features(splits["test"]),
        {name: features(dataset).features for name, dataset in further.items()},
        label_entropy(train.labels, num_labels),
    )


def _stock_classifier(settings: StudySettings, names: Sequence[str]) -> nn.Module:
    """Return the last layer of the stock classifier, its classes in the order of the data set."""
    stock = load(TASKS[settings.task].stock, settings.model)
    layer = replace_classifier(stock).float()
    places = torch.as_tensor(align_labels(range(len(names)), names, class_names(stock.config, layer.out_features)))
    aligned = nn.Linear(layer.in_features, len(names), bias=layer.bias is not None)
    aligned.load_state_dict({name: values[places] for name, values in layer.state_dict().items()})
    return aligned.requires_grad_(False).eval()


def _train(settings: StudySettings, rows: StudyRows, num_labels: int) -> list[_Setting]:
    """Train every setting, and VUB at other entropy weights for the predicted confidence."""
    weight, seeds = settings.entropy_weight, range(settings.runs)
    grid = {
        (objective, beta, weight if objective == "vub" else 1.0): list(seeds)
        for beta in settings.betas
        for objective in ("vib", "vub")
    }
    for other in CONFIDENCE_WEIGHTS:
        grid.setdefault(("vub", settings.betas[0], other), list(seeds)[:CONFIDENCE_RUNS])
    runs = [
        HeadRun(objective, beta, entropy_weight, seed)
        for (objective, beta, entropy_weight), chosen in grid.items()
        for seed in chosen
    ]
    results = train_heads(
        rows.train.features,
        rows.train.labels,
        runs,
        num_labels=num_labels,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        checkpoint_dir=settings.checkpoints,
    )
    heads: dict[tuple[str, float, float], list[nn.Module]] = {}
    for result in results:
        run = result.run
        heads.setdefault((run.objective, run.beta, run.entropy_weight), []).append(result.head)
    return [_Setting(key[0], HeadRun(*key), found) for key, found in heads.items()]


def _measure(settings: StudySettings, setting: _Setting, rows: StudyRows) -> MeasuredSetting:
    """Return the measurements of one setting, from the file that an earlier run left with the heads if there is one."""
    name, run, heads = setting
    path: Path | None = None
    if settings.checkpoints is not None:
        fields = ("epochs", "batch_size", "learning_rate", "runs", "max_length", "pooling")
        inputs = {field: getattr(settings, field) for field in fields} | {"run": run and asdict(run), "name": name}
        origins = {other: len(features) for other, features in rows.unfamiliar.items()}
        key = digest(_FORMAT, inputs, rows.train.key, rows.test.key, origins, DRAWS, FAMILIAR_ROWS)
        path = Path(settings.checkpoints) / f"measured-{key[:32]}.json"
        if path.exists():
            return MeasuredSetting.from_json(read_json(path), str(path))
    outputs = [outputs_of(head, rows.test.features, seed) for seed, head in enumerate(heads)]
    found = MeasuredSetting(
        classifier=_studied(name, run, outputs, rows),
        unfamiliar=tuple(score_checks(name, None if run is None else run.beta, heads, rows)),
    )
    if path is not None:
        found.save(path)
    return found


def _studied(name: str, run: HeadRun | None, runs: Sequence[RunScores], rows: StudyRows) -> StudiedClassifier:
    """Return every measurement of one setting on the test rows."""
    labels = rows.test.labels.numpy()
    plain = [log_softmax(each.logits, axis=1) for each in runs]
    link = Link(run.entropy_weight, rows.label_entropy) if run is not None and run.objective == "vub" else None
    linked = None if link is None else [link.log_probabilities(each.logits) for each in runs]
    metrics = [probability_metrics(plain, labels, "softmax", scaled=scaled) for scaled in (False, True)]
    if run is not None:
        drawn = [_drawn(each, None, False) for each in runs]
        metrics += [
            probability_metrics(drawn, labels, "softmax", draws="averaged", scaled=scaled) for scaled in (False, True)
        ]
    if link is not None and linked is not None:
        metrics += [probability_metrics(linked, labels, "posterior", scaled=scaled) for scaled in (False, True)]
        for per_draw in (False, True):
            drawn = [_drawn(each, link, per_draw) for each in runs]
            metrics += [
                probability_metrics(
                    drawn, labels, "posterior", draws="per draw" if per_draw else "averaged", scaled=scaled
                )
                for scaled in (False, True)
            ]
    reported = plain if linked is None else linked
    return StudiedClassifier(
        name=name,
        beta=None if run is None else run.beta,
        entropy_weight=None if link is None else link.entropy_weight,
        runs=len(runs),
        rate=None if run is None else mean_of([float(each.rate.mean()) for each in runs if each.rate is not None]),
        changed_classes=None if linked is None else _changed(runs, linked),
        metrics=tuple(metrics),
        conformal=conformal_checks(reported, labels, MISCOVERAGE),
        aurc=aurc_by_score(runs, reported, labels),
        curve=risk_curve(reported, labels),
        reliability={"softmax": reliability(plain, labels)}
        | ({} if linked is None else {"posterior": reliability(linked, labels)}),
    )


def _drawn(scores: RunScores, link: Link | None, per_draw: bool) -> Floats:
    assert scores.draws is not None
    return drawn_log_probabilities(scores.draws, link, per_draw)


def _changed(runs: Sequence[RunScores], linked: Sequence[Floats]) -> int:
    """Return how many rows of all runs have another predicted class through the link."""
    pairs = zip(runs, linked, strict=True)
    return sum(int((run.logits.argmax(axis=1) != log_p.argmax(axis=1)).sum()) for run, log_p in pairs)


def _confidence(trained: Sequence[_Setting], rows: StudyRows, num_labels: int) -> list[ConfidenceCheck]:
    """Compare p* with the median confidence on training rows, at the smallest rate."""
    labels = rows.train.labels.numpy()
    of_vub = [(run, heads) for _, run, heads in trained if run is not None and run.objective == "vub"]
    smallest = min(run.beta for run, _ in of_vub)
    found = []
    for run, heads in sorted(of_vub, key=lambda each: each[0].entropy_weight):
        if run.beta != smallest:
            continue
        medians = [_median_confidence(outputs_of(head, rows.train.features, 0, draws=1), labels) for head in heads]
        found.append(
            ConfidenceCheck(
                entropy_weight=run.entropy_weight,
                beta=run.beta,
                predicted=optimal_confidence(num_labels, run.entropy_weight),
                measured=mean_of(medians),
            )
        )
    return found


def _median_confidence(scores: RunScores, labels: Labels) -> float:
    log_p = log_softmax(scores.logits, axis=1)
    return float(np.exp(np.median(log_p.max(axis=1)[log_p.argmax(axis=1) == labels])))
