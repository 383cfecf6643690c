"""Calibrate a checkpoint on held-out rows: a temperature, thresholds of conformal sets, and what they change."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn

from ..compute.contexts import seeded
from ..data.columns import Columns
from ..data.labels import align_labels, class_names
from ..data.record import TrainingRecord
from ..data.splits import label_names, read_labels
from ..embeddings.extraction import extract
from ..metrics.classification import Floats, negative_log_likelihood
from ..metrics.temperature import fit_temperature as fit_temperature
from ..model.configuration_vub import PROBABILITIES
from ..model.loading import LoadedClassifier, Task, load_classifier
from ..model.objectives import class_log_probabilities, objective_weights
from ..reports.model_cards import refresh_model_card
from ..reports.plots import reliability_diagram, save
from ..runs.processes import processes
from ..runs.provenance import provenance
from ..runs.schema import Calibration, CalibrationMeasurement
from .checkpoint import find_task, is_vub, read_calibration, storing, target_folder
from .conformal import ConformalThreshold
from .held_out import HeldOut, RowSource, held_out_rows, test_rows
from .measurement import fit_thresholds, measure

logger = logging.getLogger(__name__)

Kind = Literal["softmax", "posterior"]


def calibrate(
    model: str | Path,
    dataset: str | Path | Dataset,
    *,
    split: str | None = None,
    output_dir: str | Path | None = None,
    probabilities: str = "auto",
    miscoverage: Sequence[float] = (0.05, 0.1),
    refit: bool = False,
    report_test: bool = False,
    task: Task | None = None,
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    column_names: str | Sequence[str] | None = None,
    match_labels: str = "name",
    max_length: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Calibration:
    """Fit a temperature and thresholds of conformal sets on held-out rows, and store them with the checkpoint.

    The rows are those that the checkpoint was selected on, as its training record says, or a split that the user names,
    without rows that it was trained on. A random half of them fits the temperature. The other half fits the thresholds,
    so that their guarantee holds, and measures the calibration before and after. Test rows stay untouched without
    ``report_test``.

    A VUB checkpoint gets ``probabilities``, ``calibration_temperature`` and ``conformal_thresholds`` in its
    ``config.json``: its ``output.probabilities`` follow them, its logits stay. Any checkpoint gets
    ``calibration.json``, a reliability diagram, and a new model card where it has a training result; the last two need
    the extra "report". :func:`~hf_vub.uncertainty.classifier_pipeline` gives scores that follow the calibration.

    Args:
        model: folder or Hub id of a VUB or stock classifier.
        dataset: name or path of a data set, see :func:`hf_vub.data.load_splits`, or rows in memory that the model was
            not trained on.
        split: split to calibrate on.
        output_dir: new folder for a calibrated copy of the checkpoint; None writes into the folder ``model``.
        probabilities: "softmax"; "posterior" for the posterior link of VUB; or "auto", of the two the one with the
            lower NLL on the rows of the temperature, after it is fitted, and "softmax" where there is no min term.
        miscoverage: shares of rows whose conformal set may miss the label.
        refit: replace the calibration of a checkpoint that has one.
        report_test: measure the calibration on the test rows too.
        task: "text" or "image"; by default what the model's class says.
        text_column, label_column, image_column: columns, if they have unusual names.
        column_names: names of all columns of a CSV or TSV file without a header, as a list or with commas.
        match_labels: match the classes of data and model by "name" or by "number".
        max_length: tokens that a text is cut to, as in training; by default what tokenizer and model can take.
        batch_size: rows per forward pass.
        seed: of the division of the rows in two, and of draws of z where the checkpoint predicts by draws.
        revision: branch, tag or commit of the model on the Hub.
        trust_remote_code: run the code that comes with a stock model.

    Returns:
        The content of ``calibration.json``.

    Raises:
        ValueError: there are no held-out rows, or rows of one class only; the checkpoint has a calibration already and
            ``refit`` is not set; ``probabilities="posterior"`` for a stock classifier; classes that do not match; or a
            checkpoint that nothing can be stored in.
        OSError: there is no such checkpoint or data set.

    Example:
        >>> calibrate("outputs/vub-bert-imdb", "stanfordnlp/imdb").calibration_temperature  # doctest: +SKIP
        1.12
    """
    started = time.monotonic()
    _check_options(probabilities, miscoverage, seed)
    target, name = target_folder(model, output_dir), str(model)
    task = task or find_task(name, revision, trust_remote_code)
    loaded = load_classifier(name, task, revision=revision, trust_remote_code=trust_remote_code)
    _check_network(loaded.network, name, probabilities, refit, revision)
    record = TrainingRecord.load(name, revision)
    source = RowSource(dataset, task, Columns(text_column, label_column, image_column, task), column_names)
    reader = _Reader(loaded, match_labels, max_length, batch_size, seed)
    rows = held_out_rows(source, split, record, name)
    logger.info("calibrating %s on %s", name, rows.description)
    fitted = _fit_and_measure(
        reader, rows, test_rows(source, record) if report_test else None, probabilities, miscoverage
    )
    calibration = Calibration(
        **provenance(),
        task=task,
        model=name,
        dataset=rows.name,
        split=rows.split,
        data_rows=rows.description,
        num_temperature=fitted.num_temperature,
        num_thresholds=fitted.num_thresholds,
        num_left_out=rows.left_out,
        has_training_record=record is not None,
        probabilities=fitted.kind,
        calibration_temperature=fitted.temperature,
        conformal_thresholds={f"{each.miscoverage:g}": each.threshold for each in fitted.thresholds},
        seed=seed,
        measurements=fitted.measurements,
        seconds=time.monotonic() - started,
    )
    with storing(loaded.network, name, target, calibration, revision):
        _show(target, calibration)
    return calibration


class _Fitted(NamedTuple):
    """What was fitted on the held-out rows, and the measurements before and after."""

    kind: Kind
    temperature: float
    thresholds: tuple[ConformalThreshold, ...]
    num_temperature: int
    num_thresholds: int
    measurements: tuple[CalibrationMeasurement, ...]


def _fit_and_measure(
    reader: "_Reader", rows: HeldOut, test: HeldOut | None, probabilities: str, miscoverage: Sequence[float]
) -> _Fitted:
    """Fit the temperature on one half of the rows and the thresholds on the other; measure there and on test rows."""
    network = reader.loaded.network
    logits, labels = reader.read(rows)
    first, second = _halves(len(labels), reader.seed)
    kind, temperature = _fit(network, logits[first], labels[first], probabilities)
    logits, labels = logits[second], labels[second]
    scores = _log_scores(network, logits, kind) / temperature
    thresholds = fit_thresholds(scores, labels, miscoverage)
    described = f"{len(labels):,} of {rows.description}; the temperature was fitted on the others"
    measurements = [measure(rows.split, described, logits, scores, labels)]
    if test is not None:
        logits, labels = reader.read(test)
        scores = _log_scores(network, logits, kind) / temperature
        measurements.append(measure(test.split, test.description, logits, scores, labels, thresholds))
    return _Fitted(kind, temperature, thresholds, len(first), len(second), tuple(measurements))


class _Reader:
    """Computes the training logits of rows, with labels as the model numbers them."""

    def __init__(
        self, loaded: LoadedClassifier, match_labels: str, max_length: int | None, batch_size: int | None, seed: int
    ):
        self.loaded, self.match_labels, self.seed = loaded, match_labels, seed
        self.options: dict[str, Any] = {"max_length": max_length, "batch_size": batch_size}

    def read(self, rows: HeldOut) -> tuple[Floats, NDArray[np.int64]]:
        """Return logits (rows, classes) and labels (rows,)."""
        config: Any = self.loaded.network.config
        names = class_names(config, config.num_labels)
        labels = align_labels(read_labels(rows.dataset), label_names(rows.dataset), names, by=self.match_labels)
        if labels.min() < 0:
            raise ValueError(f"row {int(labels.argmin())} of {rows.description} has no label")
        processor = self.loaded.processor
        with TemporaryDirectory() as folder, seeded(self.seed):
            network = _LogitsAsFeatures(self.loaded.network).to(processes().device)
            found = extract(
                network, rows.dataset, folder, processing_class=processor, dtype="float32", **self.options
            ).features
            logits: Floats = found.double().numpy()  # a copy: the file is about to be removed
        return logits, labels


class _LogitsAsFeatures(nn.Module):
    """A classifier whose features are its logits, for `extract`."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        config: Any = network.config
        if is_vub(network):
            config.calibrated_logits = False
        self.config = config

    def features(self, **inputs: Any) -> Tensor:
        """Return the training logits (batch, classes)."""
        logits: Tensor = self.network(**inputs).logits
        return logits


def _check_options(probabilities: str, miscoverage: Sequence[float], seed: int) -> None:
    if probabilities not in ("auto", *PROBABILITIES):
        raise ValueError(f"probabilities must be 'auto', 'softmax' or 'posterior', but is {probabilities!r}")
    if isinstance(miscoverage, str) or not isinstance(miscoverage, Sequence):
        raise ValueError(f"miscoverage must be a list of shares, but is {miscoverage!r}")
    for share in miscoverage:
        if not 0 < share < 1:
            raise ValueError(f"miscoverage must be above 0 and below 1, but is {share}")
    if len({f"{share:g}" for share in miscoverage}) < len(set(miscoverage)):
        raise ValueError(f"miscoverage must be different shares of 6 digits at most, but is {miscoverage}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, but is {seed}")


def _check_network(network: nn.Module, name: str, probabilities: str, refit: bool, revision: str | None) -> None:
    ours = is_vub(network)
    if not ours and probabilities == "posterior":
        raise ValueError(
            f"probabilities is 'posterior', but {name} is a stock {type(network).__name__}, trained without the min "
            "term of VUB: use 'softmax'"
        )
    if refit:
        return
    config: Any = network.config
    # Of ours the configuration decides, which is written last: a run that was killed before can be repeated.
    there = config if ours else read_calibration(name, revision)
    if there is not None and (not ours or there.conformal_thresholds is not None or there.calibration_temperature != 1):
        raise ValueError(
            f"{name} is calibrated already, with the temperature {there.calibration_temperature:.4g}: set refit to "
            "replace its calibration"
        )


def _halves(rows: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return two random halves of the rows, in order."""
    if rows < 4:
        raise ValueError(f"there are {rows} held-out rows; a temperature and thresholds need at least 4")
    order = np.random.default_rng(seed).permutation(rows)
    return np.sort(order[: rows // 2]), np.sort(order[rows // 2 :])


def _fit(network: nn.Module, logits: Floats, labels: NDArray[np.int64], wanted: str) -> tuple[Kind, float]:
    """Return the kind of probabilities and their temperature."""
    choices: list[Kind] = ["softmax", "posterior"] if is_vub(network) else ["softmax"]
    if wanted != "auto":
        choices = [kind for kind in choices if kind == wanted]
    elif _entropy_weight(network) == 0:
        choices = ["softmax"]
    fitted: dict[Kind, tuple[float, float]] = {}
    for kind in choices:
        scores = _log_scores(network, logits, kind)
        temperature = fit_temperature(scores, labels)
        fitted[kind] = negative_log_likelihood(scores / temperature, labels), temperature
    best = min(fitted, key=lambda kind: fitted[kind][0])  # "softmax" of two equals
    return best, fitted[best][1]


def _entropy_weight(network: nn.Module) -> float:
    config: Any = network.config
    return objective_weights(config.objective, config.beta, config.entropy_weight)[1] if is_vub(network) else 0.0


def _log_scores(network: nn.Module, logits: Floats, kind: Kind) -> Floats:
    """Return log-probabilities before the temperature, shape (rows, classes)."""
    config: Any = network.config
    found = class_log_probabilities(
        torch.from_numpy(logits),
        probabilities=kind,
        entropy_weight=_entropy_weight(network),
        label_entropy=getattr(config, "entropy_cap", None),
    )
    scores: Floats = found.numpy()
    return scores


def _show(folder: Path, calibration: Calibration) -> None:
    """Write the reliability diagram and the card, as far as their packages are installed."""
    try:
        save(reliability_diagram(calibration.measurements[-1]), folder / "calibration")
        refresh_model_card(folder)
    except ImportError as error:
        logger.warning("%s is calibrated, but has no new diagram and card: %s", folder, error)
