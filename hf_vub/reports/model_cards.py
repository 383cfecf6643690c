"""Model cards from result JSON: metadata that the Hub reads, and the text around it.

Names come from data sets and models that others made, so nothing of them is trusted: Markdown and HTML in them is
escaped, a path on this machine becomes its last component, and an access token never gets in.
"""

import html
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runs.files import read_json, read_records, write_text
from ..runs.provenance import mask, mask_options

_TASKS = {
    "text": ("text-classification", "Text classification"),
    "image": ("image-classification", "Image classification"),
}
_CLASSES = {"text": "AutoModelForSequenceClassification", "image": "AutoModelForImageClassification"}
_OBJECTIVES = {
    "vanilla": "the stock classifier, trained with cross-entropy",
    "ce": "cross-entropy through a stochastic bottleneck",
    "vib": "the variational information bottleneck (VIB)",
    "vub": "the variational upper bound (VUB)",
}
# What a card shows of the metrics, in this order: key, title, whether it is a share, and what it means.
_METRICS = (
    ("accuracy", "Accuracy", True, "share of rows classified rightly"),
    ("nll", "Negative log-likelihood", False, "nats, through the mean of the posterior"),
    ("brier", "Brier score", False, "0 to 2"),
    ("ece", "Expected calibration error", False, "15 bins of equal width"),
    ("cross_entropy", "Cross-entropy", False, "nats, as in the objective"),
    ("entropy", "Entropy of the prediction", False, "nats"),
    ("rate", "Rate", False, "nats, KL of the posterior from the prior: the bound on I(Z;X)"),
    ("bound_vib", "VIB objective", False, "nats: beta rate + cross-entropy"),
    ("bound_vub", "VUB objective", False, "nats: that, less min{H(Y), entropy of the prediction}"),
    ("bound_ib", "Bound on the IB functional", False, "nats: beta rate + cross-entropy - H(Y)"),
)
_SETTINGS = (
    ("base_model", "Backbone"),
    ("dataset", "Data set"),
    ("num_train", "Training rows"),
    ("num_test", "Test rows"),
    ("num_labels", "Classes"),
    ("labels", "Their names"),
    ("max_length", "Tokens per text, at most"),
    ("objective", "Objective"),
    ("beta", "beta"),
    ("entropy_weight", "Weight of the min term"),
    ("beta_schedule", "Course of beta"),
    ("latent_size", "Size of z"),
    ("num_train_samples", "Draws of z in training"),
    ("num_eval_samples", "Draws of z in evaluation (0: the mean)"),
    ("freeze_backbone", "Backbone frozen"),
    ("epochs", "Epochs"),
    ("batch_size", "Batch size"),
    ("optimizer", "Optimizer"),
    ("learning_rate", "Learning rate"),
    ("lr_schedule", "Course of the learning rate"),
    ("warmup", "Warm-up (steps, or their share)"),
    ("weight_decay", "Weight decay"),
    ("max_grad_norm", "Largest norm of the gradient"),
    ("precision", "Precision"),
    ("num_runs", "Runs"),
    ("seed", "Seed"),
    ("seconds", "Seconds"),
    ("commit", "Commit"),
    ("command", "Command"),
)
_NOT_ON_HUB = ("synthetic-reviews", "digits", "sample")
_OF_BOTTLENECKS = {
    *("beta", "entropy_weight", "beta_schedule", "latent_size", "num_train_samples", "num_eval_samples"),
    "freeze_backbone",
}
_SHOWN_LABELS, _SHOWN_EPOCHS = 20, 12
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def model_card(
    result: Mapping[str, Any],
    attacks: Sequence[Mapping[str, Any]] = (),
    epochs: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The model card of one training result: metadata for the Hub, use, limits, settings, results and how to load it.

    Args:
        result: a training result JSON (``kind: "train"``). Under ``card`` it may hold ``language``, ``license`` and
            ``tags`` for the metadata.
        attacks: result JSON of attacks on that model.
        epochs: lines of the training's ``information_plane.jsonl``, of which at most 12 are shown.

    Returns:
        Markdown with a YAML header that ``huggingface_hub.ModelCard`` reads, ``model-index`` included.

    Raises:
        ValueError: for a result of another kind, or without a task.
        ImportError: with the command to install what is missing.

    Example:
        >>> card = model_card(read_json("runs/vub/result.json"))  # doctest: +SKIP
    """
    if result.get("kind") != "train":
        raise ValueError(f"result is of kind {result.get('kind')!r}; a card is made from one of kind 'train'")
    if result.get("task") not in _TASKS:
        raise ValueError(f"task is {result.get('task')!r}; it must be 'text' or 'image'")
    metrics = result.get("metrics") or {}
    objective = str(result.get("objective", "vanilla"))
    spread = result.get("metrics_std") or {}
    rendered: str = (
        environment()
        .get_template("model_card.md.jinja")
        .render(
            metadata=_metadata(result, attacks),
            name=public_name(result.get("model")),
            task=result["task"],
            pipeline=_TASKS[result["task"]][0],
            auto_class=_CLASSES[result["task"]],
            own_class={"text": "VUBForSequenceClassification", "image": "VUBForImageClassification"}[result["task"]],
            objective=objective,
            described=_OBJECTIVES.get(objective, objective),
            bottleneck=objective != "vanilla",
            base=public_name(result.get("base_model")),
            dataset=public_name(result.get("dataset")),
            settings=[
                (title, _setting(key, result[key]))
                for key, title in _SETTINGS
                if result.get(key) is not None and not (objective == "vanilla" and key in _OF_BOTTLENECKS)
            ],
            results=[
                (
                    title,
                    figure(metrics[key], share) + (f" ± {figure(spread[key], share)}" if key in spread else ""),
                    meaning,
                )
                for key, title, share, meaning in _METRICS
                if metrics.get(key) is not None
            ],
            attacks=[row for attack in attacks for row in attack_rows(attack)],
            course=_course(epochs),
            versions=result.get("versions") or {},
        )
    )
    return rendered


def write_model_card(
    folder: str | Path,
    result: Mapping[str, Any],
    attacks: Sequence[Mapping[str, Any]] = (),
    epochs: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write `model_card` as ``README.md`` of a checkpoint's folder; returns its path."""
    return write_text(Path(folder) / "README.md", model_card(result, attacks, epochs))


def refresh_model_card(folder: str | Path) -> Path | None:
    """Write the card of a trained checkpoint's folder anew, from the result files that are there now.

    These are its own ``result.json``, ``information_plane.jsonl`` and ``*/result.json`` of the attacks on it.

    Returns:
        The path of the card; None where the folder holds no training result, and so needs no card.
    """
    folder = Path(folder)
    result = _result(folder / "result.json")
    if result.get("kind") != "train":
        return None
    attacks = [
        found
        for path in sorted(folder.glob("*/result.json"))
        if (found := _result(path)).get("kind") in ("text_attack", "image_attack")
        and Path(str(found.get("model"))).resolve().name == folder.resolve().name
    ]
    return write_model_card(folder, result, attacks, list(read_records(folder / "information_plane.jsonl")))


def _result(path: Path) -> dict[str, Any]:
    """A result file; nothing where there is none, or another file of that name."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def environment() -> Any:
    """The Jinja2 environment of this package's templates, with the filters ``md`` and ``literal``; HTML is escaped."""
    try:
        import jinja2
    except ImportError as error:
        raise ImportError('cards and reports need Jinja2: pip install "hf_vub[report]"') from error
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("hf_vub.reports"),
        autoescape=jinja2.select_autoescape(["html", "html.jinja"], default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., str]] = {"md": escape_markdown, "literal": _literal}
    made.filters.update(filters)
    return made


def escape_markdown(text: Any) -> str:
    """A text on one line that Markdown, and the HTML in it, shows as it is, in a table too."""
    words = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|~$!#])", r"\\\1", html.escape(words, quote=False))


def public_name(name: Any) -> str:
    """A name that may be published: a Hub id as it is, of a path on this machine the last component alone."""
    text = mask(str(name or "unnamed"))
    normal = text.replace("\\", "/").rstrip("/")
    local = normal.startswith((".", "/", "~")) or normal.count("/") > 1 or ":" in normal or Path(text).exists()
    return (normal.rsplit("/", 1)[-1] or "unnamed") if local else normal


def is_hub_id(name: Any) -> bool:
    """Whether a name can be the id of something on the Hub, and is not something on this machine."""
    text = str(name or "")
    return text not in _NOT_ON_HUB and _HUB_ID.fullmatch(text) is not None and not Path(text).exists()


def figure(value: Any, share: bool = False, digits: int = 4) -> str:
    """A number as it is printed: a share in percent, anything else with ``digits`` significant digits; None as "-"."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:.1%}" if share else f"{value:.{digits}g}"


def attack_rows(attack: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table that one attack result makes: one per budget, or one."""
    rows = []
    for budget in attack.get("budgets") or [attack]:
        at = {**attack, **budget}
        size = at.get("l2_mean") if attack.get("kind") == "image_attack" else at.get("words_perturbed_mean")
        unit = "L2" if attack.get("kind") == "image_attack" else "words"
        rows.append(
            {
                "attack": str(attack.get("attack")),
                "epsilon": at.get("epsilon"),
                "budget": "-" if at.get("epsilon") is None else figure(at["epsilon"]),
                "num_examples": at.get("num_examples"),
                "clean": figure(at.get("clean_accuracy"), True),
                "under": figure(at.get("accuracy_under_attack"), True),
                "success": figure(at.get("attack_success_rate"), True) + _interval(at.get("attack_success_interval")),
                "size": "-" if size is None else f"{figure(size, digits=3)} {unit}",
                "noise": str(at.get("noise", "mean")),
                "figures": at,
            }
        )
    return rows


def _metadata(result: Mapping[str, Any], attacks: Sequence[Mapping[str, Any]]) -> str:
    """The YAML between the lines of dashes."""
    from huggingface_hub import EvalResult, ModelCardData

    task, task_name = _TASKS[result["task"]]
    objective = str(result.get("objective", "vanilla"))
    place: dict[str, Any] = {"task_type": task, "task_name": task_name, "dataset_split": "test"}
    found = []
    titles = {key: title for key, title, *_ in _METRICS}
    own = _dataset(result.get("dataset"))
    for key in ("accuracy", "nll", "brier", "ece"):
        value = (result.get("metrics") or {}).get(key)
        if value is not None:
            found.append(EvalResult(metric_type=key, metric_value=value, metric_name=titles[key], **place, **own))
    for attack in attacks:
        against = _dataset(attack.get("dataset", result.get("dataset")))
        for row in attack_rows(attack):
            at = row["figures"]
            label = row["attack"] + ("" if row["epsilon"] is None else f", epsilon {row['budget']}")
            arguments = {
                key: at[key] for key in ("num_examples", "epsilon", "noise", "seed", "how") if at.get(key) is not None
            }
            for key, kind, title in (
                ("accuracy_under_attack", "accuracy", "Accuracy under attack"),
                ("attack_success_rate", "attack_success_rate", "Attack success rate"),
            ):
                if at.get(key) is not None:
                    named = {
                        "metric_type": kind,
                        "metric_value": at[key],
                        "metric_name": f"{title} ({label})",
                    }
                    found.append(EvalResult(**named, metric_args=arguments, **place, **against))
    base, dataset = result.get("base_model"), result.get("dataset")
    card = dict(result.get("card") or {})
    tags = card.pop("tags", [])
    tags = [tags] if isinstance(tags, str) else tags
    data = ModelCardData(
        base_model=str(base) if is_hub_id(base) else None,
        datasets=[str(dataset)] if is_hub_id(dataset) else None,
        library_name="transformers",
        pipeline_tag=task,
        metrics=["accuracy"],
        tags=list(dict.fromkeys(["hf_vub", "information-bottleneck", "adversarial-robustness", objective, *tags])),
        model_name=public_name(result.get("model")),
        eval_results=found or None,
        **card,
    )
    return str(data.to_yaml())


def _dataset(name: Any) -> dict[str, Any]:
    shown = public_name(name)
    return {"dataset_type": shown, "dataset_name": shown}


def _course(epochs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of a table with the epochs spread evenly, the last among them."""
    every = max(1, -(-len(epochs) // _SHOWN_EPOCHS))
    rows = []
    for line in reversed(epochs[::-1][::every]):
        points = (line, line.get("held_out") or {})
        terms = [figure(point.get(name)) for name in ("rate", "cross_entropy") for point in points]
        rows.append([figure(line.get("epoch")), *terms])
    return rows


def _interval(ends: Sequence[float] | None) -> str:
    return f" ({ends[0]:.1%} to {ends[1]:.1%})" if ends else ""


def _setting(key: str, value: Any) -> str:
    if key == "command":
        return _safe_command(str(value))
    if key in ("base_model", "dataset"):
        return public_name(value)
    if key == "seconds":
        return f"{value:.0f}"
    if key == "labels":
        more = f" and {len(value) - _SHOWN_LABELS} more" if len(value) > _SHOWN_LABELS else ""
        return ", ".join(map(str, value[:_SHOWN_LABELS])) + more
    if isinstance(value, bool):
        return "yes" if value else "no"
    return figure(value, digits=8)


def _safe_command(command: str) -> str:
    """A command without secrets and without this machine's paths."""
    try:
        words = shlex.split(command)
    except ValueError:
        return "not shown"
    return shlex.join(map(_safe_word, mask_options(words)))


def _safe_word(word: str) -> str:
    """A word of a command, of a path on this machine the last component alone."""
    option, equals, value = word.partition("=")
    if equals and option.startswith("-"):
        return f"{option}={_safe_word(value)}"
    return (word.rstrip("/").rsplit("/", 1)[-1] or "/") if word.startswith(("/", "~")) else word


def _literal(value: Any) -> str:
    """A Python string literal that cannot end the code block it stands in."""
    return json.dumps(str(value)).replace("`", "\\u0060")
