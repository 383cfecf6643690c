"""The probabilities that a checkpoint reports: where they are stored, and how they are computed and written."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError
from torch import Tensor, nn
from transformers.dynamic_module_utils import custom_object_save

from ..model.configuration_vub import VUBConfig
from ..model.loading import Task
from ..model.modeling_vub import VUBPreTrainedModel
from ..model.trust import read_config
from ..runs.files import lock_folder, read_json, write_json
from ..runs.schema import Calibration

CALIBRATION_FILE = "calibration.json"

_TASKS: dict[str, Task] = {"ForSequenceClassification": "text", "ForImageClassification": "image"}


def find_task(model: nn.Module | str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Task:
    """Return "text" or "image", which the name of a classifier's class says.

    Raises:
        ValueError: the class is that of neither.
        OSError: there is no such checkpoint.
    """
    if isinstance(model, nn.Module):
        names = [type(model).__name__]
    else:
        content = read_config(str(model), revision=revision, trust_remote_code=trust_remote_code)
        names = [str(name) for name in content.get("architectures") or ()]
    for name in names:
        for ending, task in _TASKS.items():
            if name.endswith(ending):
                return task
    shown = ", ".join(names) or "a model of unknown class"
    raise ValueError(
        f"{model if isinstance(model, (str, Path)) else 'model'} is {shown}: set task to 'text' or 'image'"
    )


def is_vub(network: nn.Module) -> bool:
    """Return whether a network is a VUB model; its configuration then stores the calibration.

    Raises:
        ValueError: a VUB checkpoint was loaded with the code that it carries instead of this package.
    """
    if isinstance(network, VUBPreTrainedModel):
        return True
    if getattr(getattr(network, "config", None), "model_type", None) == VUBConfig.model_type:
        raise ValueError("this VUB model runs the code of its checkpoint: load it without trust_remote_code")
    return False


def read_calibration(name: str | Path, revision: str | None = None) -> Calibration | None:
    """Return the calibration stored next to a checkpoint's weights, or None.

    Args:
        name: a folder or a Hub id.
        revision: on the Hub.

    Raises:
        ValueError: the file is there and cannot be read, or has a number that no calibration has.
    """
    path = Path(name) / CALIBRATION_FILE
    if Path(name).is_dir():
        if not path.is_file():
            return None
    else:
        try:
            path = Path(hf_hub_download(str(name), CALIBRATION_FILE, revision=revision))
        except (EntryNotFoundError, RepositoryNotFoundError, HFValidationError):
            return None
    found = Calibration.from_json(read_json(path), str(path))
    try:
        VUBConfig(num_labels=2).set_calibration(
            found.probabilities, found.calibration_temperature, found.conformal_thresholds
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return found


def log_probabilities(network: nn.Module, logits: Tensor, calibration: Calibration | None = None) -> Tensor:
    """Return the logarithms of the probabilities that a checkpoint reports, shape (..., classes).

    Args:
        network: a VUB model, whose configuration decides, or a stock classifier.
        logits: its output, shape (..., classes).
        calibration: of the stock classifier; None for the softmax.
    """
    if isinstance(network, VUBPreTrainedModel):
        calibrated = network.config.calibrated_logits
        return F.log_softmax(logits.float(), dim=-1) if calibrated else network.class_log_probabilities(logits)
    temperature = 1.0 if calibration is None else calibration.calibration_temperature
    return F.log_softmax(logits.float() / temperature, dim=-1)


def thresholds(network: nn.Module, calibration: Calibration | None = None) -> dict[float, float]:
    """Return the stored thresholds of conformal sets by miscoverage."""
    if isinstance(network, VUBPreTrainedModel):
        stored = network.config.conformal_thresholds
    else:
        stored = None if calibration is None else calibration.conformal_thresholds
    return {float(miscoverage): threshold for miscoverage, threshold in (stored or {}).items()}


def target_folder(model: str | Path, output_dir: str | Path | None) -> Path:
    """Return the folder that a calibration is written to.

    Raises:
        ValueError: ``model`` is no name, or is on the Hub and no folder is named, the folder holds another checkpoint,
            or ``model`` has no ``config.json`` to store anything in.
    """
    if not isinstance(model, (str, Path)) or not str(model):
        shown = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
        raise ValueError(f"model must be the folder or Hub id of a classifier, but is {shown}")
    source = Path(model)
    if output_dir is None:
        if not source.is_dir():
            raise ValueError(
                f"model {model} is not a folder, so its calibration cannot be stored in it: set output_dir"
            )
        target = source
    else:
        target = Path(output_dir)
        same = source.is_dir() and target.exists() and target.samefile(source)
        if not same and (target / "config.json").exists():
            raise ValueError(f"output_dir {target} holds a checkpoint already: name a new folder")
    if source.is_dir() and not (source / "config.json").is_file():
        raise ValueError(f"{source} has no config.json, as adapters have none: merge the adapter and save the model")
    return target


@contextmanager
def storing(
    network: nn.Module, source: str | Path, target: Path, calibration: Calibration, revision: str | None
) -> Iterator[None]:
    """Write a calibration into ``target``, which becomes a copy of the checkpoint ``source`` first where it is another.

    A VUB checkpoint gets it in ``config.json``, with the present code of its model, which reads these fields. A stock
    checkpoint keeps its configuration: its own class would not read them. ``config.json`` is written last, after the
    block, so that a run that was killed before can be repeated.
    """
    with lock_folder(target):
        folder = Path(source)
        if not folder.is_dir() or not target.samefile(folder):
            folder = _copy(source, target, revision)
        calibration.save(target / CALIBRATION_FILE)
        content = read_json(folder / "config.json")
        if isinstance(network, VUBPreTrainedModel):
            config: Any = network.config
            config.set_calibration(
                calibration.probabilities, calibration.calibration_temperature, calibration.conformal_thresholds
            )
            fields = ("probabilities", "calibration_temperature", "conformal_thresholds")
            content |= {name: getattr(config, name) for name in fields}
            custom_object_save(network, str(target), config=config)
        yield
        if isinstance(network, VUBPreTrainedModel) or folder != target:
            write_json(target / "config.json", content)


def _copy(source: str | Path, target: Path, revision: str | None) -> Path:
    """Copy the files of a checkpoint but ``config.json``, and return its folder.

    Folders inside it and what a training left for resuming stay where they are.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = Path(snapshot_download(str(source), revision=revision, ignore_patterns=["*/*"]))
    passing = {"config.json", CALIBRATION_FILE}
    passing |= {"optimizer.pt", "scheduler.pt", "training_args.bin", "trainer_state.json"}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in passing and not path.name.startswith(("_", ".", "rng_state")):
            shutil.copy2(path, target / path.name)
    return folder
