"""The checkpoints of a run: which one is whole, and whether it comes from the same settings, data and base model."""

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments

from ..runs.files import read_json

logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"

# Training arguments that a resumed run must share with the one that left the checkpoint: all that change its weights.
_DECISIVE = (
    *("seed", "data_seed", "num_train_epochs", "max_steps", "per_device_train_batch_size", "world_size"),
    *("gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "lr_decay"),
    *("warmup_steps", "warmup_ratio", "weight_decay", "max_grad_norm", "bf16", "fp16", "full_determinism"),
    *("optim", "optim_args", "optim_target_modules", "adafactor", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("beta_schedule", "beta_warmup", "beta_cycles", "smoothing", "neftune_noise_alpha", "label_smoothing_factor"),
    *("dataloader_drop_last", "group_by_length", "train_sampling_strategy", "length_column_name", "ignore_data_skip"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    *("adversary", "epsilon", "adversary_steps", "adversary_norm", "trades_weight", "ema_decay"),
    *("perturb", "consistency"),
)
_CONTENT = {
    "data_digest": "the data set has other rows",
    "model_digest": "the base model has other weights",
    "processor_digest": "the tokenizer or image processor of the base model is another",
}
"""Digests among the settings, and what it means that one changed."""


def decisive_arguments(args: TrainingArguments) -> dict[str, object]:
    """Return the training arguments that change the trained weights, by name, as JSON holds them."""
    values = {**args.to_dict(), "world_size": args.world_size}
    return {name: values[name] for name in _DECISIVE if name in values}


def resume_point(output: str | Path, wanted: str | None, settings: Mapping[str, object]) -> Path | None:
    """Return the checkpoint from which a run goes on, or None for a fresh start.

    Args:
        output: folder of the run.
        wanted: ``resume_from_checkpoint``: a checkpoint's folder, "True" for the newest whole one, which must exist, or
            None for the newest whole one if there is any.
        settings: of this run; those of the checkpoint must be the same.

    Raises:
        ValueError: there is no such checkpoint, it is not whole, or its run had other settings.
    """
    newest = wanted is None or wanted.lower() in ("true", "false", "")
    checkpoint = last_checkpoint(output) if newest else check_whole(wanted or "")
    if checkpoint is None:
        if str(wanted).lower() == "true":
            raise ValueError(f"resume_from_checkpoint is True, but {output} has no whole checkpoint")
        return None
    check_settings(checkpoint, settings)
    return checkpoint


def check_settings(checkpoint: Path, settings: Mapping[str, object]) -> None:
    """Raise ValueError where the run that left a checkpoint had other settings, data or base model.

    Args:
        checkpoint: of a run whose folder holds ``settings.json``.
        settings: of the run that is to go on from it.
    """
    run = checkpoint.parent
    file = run / SETTINGS_FILE
    if not file.exists():
        raise ValueError(
            f"{run} holds checkpoints but no {SETTINGS_FILE} that says how they were trained; name another output_dir, "
            "or empty this one"
        )
    before = read_json(file)
    for name, value in settings.items():
        if before.get(name) == value:
            continue
        if name in _CONTENT:
            what = f"{_CONTENT[name]} than when the checkpoints in {run} were made"
        else:
            what = f"{run} holds checkpoints of a run with {name}={before.get(name)!r}, and this one has {value!r}"
        raise ValueError(f"{what}; name another output_dir, or empty this one")


def last_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest whole checkpoint in a folder, or None; warn of every newer one that is damaged."""
    numbered = {
        int(number): path
        for path in Path(folder).glob("checkpoint-*")
        if (number := path.name.removeprefix("checkpoint-")).isdecimal()
    }
    for _, path in sorted(numbered.items(), reverse=True):
        reason = damage(path)
        if reason is None:
            return path
        logger.warning("%s is passed over: %s", path, reason)
    return None


def check_whole(checkpoint: str | Path) -> Path:
    """Return the checkpoint's path, or raise ValueError where it is no folder or not whole."""
    path = Path(checkpoint)
    reason = damage(path) if path.is_dir() else "it is not a folder"
    if reason is not None:
        raise ValueError(f"resume_from_checkpoint is {str(checkpoint)!r}, but {reason}")
    return path


def damage(checkpoint: Path) -> str | None:
    """Return why a checkpoint of a ``Trainer`` cannot be resumed from, or None if it is whole.

    A whole one has weights, optimizer, scheduler, random state and ``trainer_state.json``, each readable to its end.
    Sharded checkpoints (FSDP, DeepSpeed) keep theirs in subfolders: of these, only the files on top are checked.
    """
    try:
        state = read_json(checkpoint / "trainer_state.json")
    except (OSError, ValueError):
        return "it has no readable trainer_state.json"
    if f"checkpoint-{state.get('global_step')}" != checkpoint.name:
        return f"its trainer_state.json is of step {state.get('global_step')}"
    files = {path.name: path for path in checkpoint.iterdir() if path.is_file()}
    if not any(path.is_dir() for path in checkpoint.iterdir()):
        needed = {
            "weights": any(name.endswith((".safetensors", ".bin")) and "model" in name for name in files),
            "optimizer.pt": "optimizer.pt" in files,
            "scheduler.pt": "scheduler.pt" in files,
            "rng_state.pth": any(name.startswith("rng_state") for name in files),
        }
        missing = [name for name, there in needed.items() if not there]
        if missing:
            return f"it lacks {' and '.join(missing)}"
    return next((f"{name} is damaged" for name, path in sorted(files.items()) if not _is_readable(path)), None)


def _is_readable(path: Path) -> bool:
    """Return whether a file of weights or of state is whole, without unpickling anything."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                return True
        if path.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
        if path.name.endswith(".index.json"):
            shards = set(read_json(path)["weight_map"].values())
            return all((path.parent / shard).is_file() for shard in shards)
        if path.suffix == ".json":
            read_json(path)
        return True
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError, zipfile.BadZipFile, EOFError):
        return False
