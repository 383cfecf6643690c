"""Model cards from result JSON: the text that people read, above it the metadata that the Hub reads."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..runs.files import read_records, write_text
from ..runs.provenance import public_name
from ..runs.schema import (
    Calibration,
    Certificate,
    ImageAttackResult,
    Interval,
    Quickstart,
    Result,
    TextAttackResult,
    TrainResult,
    read_result,
)
from .card_metadata import metadata
from .card_rows import METRICS, PIPELINES, CardAttack, Metric, attack_rows
from .rendering import environment, number, public_command, share

logger = logging.getLogger(__name__)

_CLASSIFIERS = {
    "text": ("AutoModelForSequenceClassification", "VUBForSequenceClassification"),
    "image": ("AutoModelForImageClassification", "VUBForImageClassification"),
}
_OBJECTIVES = {
    "vanilla": "the stock classifier, trained with cross-entropy",
    "ce": "cross-entropy through a stochastic bottleneck",
    "vib": "the variational information bottleneck (VIB)",
    "vub": "the variational upper bound (VUB)",
}
_SETTINGS = (
    ("base_model", "Backbone"),
    ("dataset", "Data set"),
    ("num_train", "Training rows"),
    ("num_validation", "Validation rows"),
    ("num_test", "Test rows"),
    ("num_labels", "Classes"),
    ("labels", "Class names"),
    ("max_length", "Most tokens per text"),
    ("objective", "Objective"),
    ("beta", "beta"),
    ("entropy_weight", "Weight of the min term"),
    ("beta_schedule", "Schedule of beta"),
    ("latent_size", "Size of z"),
    ("num_train_samples", "Draws of z in training"),
    ("num_eval_samples", "Draws of z in evaluation (0: the mean)"),
    ("pooling", "Pooling"),
    ("freeze_backbone", "Backbone frozen"),
    ("epochs", "Epochs"),
    ("best_step", "Step of the saved weights"),
    ("batch_size", "Batch size"),
    ("optimizer", "Optimizer"),
    ("learning_rate", "Learning rate"),
    ("lr_schedule", "Schedule of the learning rate"),
    ("warmup", "Warm-up (steps, or a share of them)"),
    ("weight_decay", "Weight decay"),
    ("max_grad_norm", "Largest norm of the gradient"),
    ("precision", "Precision"),
    ("ema_decay", "Decay of the averaged weights"),
    ("adversary", "Trained against"),
    ("epsilon", "Radius of the adversary"),
    ("adversary_steps", "Steps of the adversary"),
    ("adversary_norm", "Norm of the adversary"),
    ("trades_weight", "Weight of the TRADES term"),
    ("perturb", "Random edits of training texts"),
    ("consistency", "Weight of the consistency term"),
    ("num_runs", "Runs"),
    ("seed", "Seed"),
    ("seconds", "Seconds"),
    ("commit", "Commit"),
    ("command", "Command"),
)
_OF_BOTTLENECKS = {
    *("beta", "entropy_weight", "beta_schedule", "latent_size", "num_train_samples", "num_eval_samples"),
}
_CALIBRATION = {
    **{metric.key: metric.title for metric in METRICS if metric.key in ("nll", "brier", "ece")},
    "classwise_ece": "Classwise calibration error",
}
_SHOWN_LABELS, _SHOWN_EPOCHS, _SHOWN_RADII = 20, 12, 12


def model_card(
    result: TrainResult,
    attacks: Sequence[CardAttack] = (),
    epochs: Sequence[Mapping[str, object]] = (),
    calibration: Calibration | None = None,
    certificates: Sequence[Certificate] = (),
) -> str:
    """Return the model card of a training result: metadata, use, limits, how to load it, results and settings.

    Args:
        result: the training result. Its ``card`` may hold ``language``, ``license`` and ``tags`` for the metadata.
        attacks: results of attacks on the model.
        epochs: lines of the training's ``information_plane.jsonl``; at most 12 are shown.
        calibration: of the checkpoint, if it has one.
        certificates: of the checkpoint as a smoothed classifier.

    Returns:
        Markdown with a YAML header that ``huggingface_hub.ModelCard`` reads, ``model-index`` included.

    Raises:
        ImportError: a package is missing; the message has the command that installs it.

    Example:
        >>> card = model_card(read_result("runs/vub/result.json"))  # doctest: +SKIP
    """
    spread = result.metrics_std or {}
    auto_class, vub_class = _CLASSIFIERS[result.task]
    card: str = (
        environment()
        .get_template("model_card.md.jinja")
        .render(
            metadata=metadata(result, attacks),
            name=public_name(result.model),
            task=result.task,
            pipeline=PIPELINES[result.task][0],
            auto_class=auto_class,
            vub_class=vub_class,
            described=_OBJECTIVES.get(result.objective, result.objective),
            bottleneck=result.objective != "vanilla",
            base=public_name(result.base_model),
            dataset=public_name(result.dataset),
            rows=_rows(result),
            settings=_settings(result),
            results=[
                (metric.title, _metric(value, metric, spread.get(metric.key)), metric.meaning)
                for metric in METRICS
                if (value := result.metrics.get(metric.key)) is not None
            ],
            attacks=[row for attack in attacks for row in attack_rows(attack)],
            attacked=[sentence for attack in attacks if (sentence := _attacked_rows(attack))],
            epochs=_epoch_rows(epochs),
            calibration=calibration,
            certificates=[_certificate_row(certificate) for certificate in certificates],
            calibrated=_calibration_rows(calibration),
            versions=result.versions,
        )
    )
    return card


def write_model_card(
    folder: str | Path,
    result: TrainResult,
    attacks: Sequence[CardAttack] = (),
    epochs: Sequence[Mapping[str, object]] = (),
    calibration: Calibration | None = None,
    certificates: Sequence[Certificate] = (),
) -> Path:
    """Write `model_card` as ``README.md`` in a checkpoint's folder and return its path."""
    return write_text(Path(folder) / "README.md", model_card(result, attacks, epochs, calibration, certificates))


def refresh_model_card(folder: str | Path) -> Path | None:
    """Write the card of a trained checkpoint anew, from the result files that its folder holds now.

    These are its own ``result.json``, ``information_plane.jsonl`` and ``calibration.json``, and ``*/result.json`` of
    attacks on it and of its certificates.

    Returns:
        The path of the card; None if the folder holds no training result, and so needs no card.
    """
    folder = Path(folder)
    result = _read(folder / "result.json")
    if not isinstance(result, TrainResult):
        return None
    found = [
        each
        for path in sorted(folder.glob("*/result.json"))
        if isinstance(each := _read(path), (TextAttackResult, ImageAttackResult, Certificate))
        and Path(each.model).resolve().name == folder.resolve().name
    ]
    calibration = _read(folder / "calibration.json")
    return write_model_card(
        folder,
        result,
        [each for each in found if not isinstance(each, Certificate)],
        list(read_records(folder / "information_plane.jsonl")),
        calibration if isinstance(calibration, Calibration) else None,
        [each for each in found if isinstance(each, Certificate)],
    )


def _read(path: Path) -> Result | Quickstart | None:
    """Return a result; None if there is no such file, or, with a warning, if it is not a result."""
    try:
        return read_result(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("the model card leaves out a file: %s", error)
        return None


def _rows(result: TrainResult) -> str:
    """Return a sentence on the rows that the model was trained, selected and tested on."""
    if result.data_rows:
        return f"{result.data_rows[0].upper()}{result.data_rows[1:].rstrip('.')}."
    counts = ((result.num_train, "training"), (result.num_validation, "validation"), (result.num_test, "test"))
    named = " and ".join(f"{rows:,} {name}" for rows, name in counts if rows is not None)
    return f"{named or 'An unknown number of'} rows. How they were drawn was not recorded."


def _attacked_rows(attack: CardAttack) -> str | None:
    """Return a sentence on the rows that were attacked, and on how many of them the model was trained on."""
    if attack.data_rows is None:
        return None
    if attack.rows_seen_in_training is None:
        known = "It is not known whether the model was trained on any of them."
    elif attack.rows_seen_in_training:
        known = f"The model was trained or selected on {attack.rows_seen_in_training:,} of them: this is no test."
    else:
        known = "The model was trained and selected on none of them."
    return f"{attack.attack}: {attack.data_rows}. {known}"


def _calibration_rows(calibration: Calibration | None) -> list[tuple[str, str, str]]:
    """Return the metrics of the last measurement before and after a calibration, with their intervals."""
    if calibration is None:
        return []
    measured = calibration.measurements[-1]

    def shown(interval: Interval) -> str:
        return f"{number(interval.value)} ({number(interval.low)} to {number(interval.high)})"

    return [(title, shown(measured.before[key]), shown(measured.after[key])) for key, title in _CALIBRATION.items()]


def _certificate_row(certificate: Certificate) -> dict[str, object]:
    """Return what the card says about a certificate: its smoothing, and the certified accuracy at some radii."""
    step = max(1, -(-len(certificate.curve) // _SHOWN_RADII))
    radii = [each for place, each in enumerate(certificate.curve) if place % step == 0 or place < 2]
    unit = "word edits" if certificate.noise.startswith("delete") else "substituted words"
    return {
        "noise": certificate.noise,
        "copies": f"{certificate.n:,}",
        "alpha": f"{certificate.alpha:g}",
        "rows": certificate.data_rows,
        "smoothed": share(certificate.smoothed_accuracy),
        "abstained": share(certificate.num_abstained / certificate.num_examples),
        "unit": unit if certificate.task == "text" else "L2 norm of [0, 1] pixels",
        "curve": [
            (f"{each.radius:g}", share(each.accuracy), " to ".join(share(end) for end in each.interval))
            for each in radii
        ],
    }


def _metric(value: float, metric: Metric, spread: float | None) -> str:
    """Return a value with its standard deviation; a share gets a second decimal where the deviation needs one."""
    if spread is None:
        return share(value) if metric.is_share else number(value)
    form = (".2%" if spread < 5e-4 else ".1%") if metric.is_share else ".4g"
    return f"{value:{form}} ± {spread:{form if metric.is_share else '.2g'}}"


def _settings(result: TrainResult) -> list[tuple[str, str]]:
    hidden = _OF_BOTTLENECKS if result.objective == "vanilla" else set()
    return [
        (title, _setting(key, result[key]))
        for key, title in _SETTINGS
        if result.get(key) is not None and key not in hidden
    ]


def _setting(key: str, value: object) -> str:
    if key == "command":
        return public_command(str(value))
    if key in ("base_model", "dataset"):
        return public_name(value)
    if isinstance(value, tuple):
        more = f" and {len(value) - _SHOWN_LABELS} more" if len(value) > _SHOWN_LABELS else ""
        return ", ".join(map(str, value[:_SHOWN_LABELS])) + more
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:.0f}" if key == "seconds" else number(value, digits=8)
    return str(value)


def _epoch_rows(epochs: Sequence[Mapping[str, object]]) -> list[list[str]]:
    """Return rows of a table with at most 12 evenly spread epochs, the last among them."""
    every = max(1, -(-len(epochs) // _SHOWN_EPOCHS))
    rows = []
    for line in reversed(epochs[::-1][::every]):
        held_out = line.get("held_out")
        points = (line, held_out if isinstance(held_out, Mapping) else {})
        terms = [_shown(point.get(name)) for name in ("rate", "cross_entropy") for point in points]
        rows.append([_shown(line.get("epoch")), *terms])
    return rows


def _shown(value: object) -> str:
    return number(value) if value is None or isinstance(value, (int, float)) else str(value)
