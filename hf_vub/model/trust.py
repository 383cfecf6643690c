"""Checks that keep a stranger's checkpoint from running code and from reaching files outside its folder.

transformers demands ``trust_remote_code=True`` before it runs a checkpoint's code. Keys of ``config.json`` get past
that on some of the versions that hf_vub works with, so every checkpoint is checked before it is loaded by name; and
tokenizers of some versions write and copy the files that a checkpoint names, so a trainer checks its own.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file, is_peft_available

AutoClass = type[Any]
"""One of transformers' Auto classes."""
Name = str | PathLike[str]
"""A folder or a Hub id."""
Options = dict[str, Any]
"""Keywords that are passed on to transformers."""

# The value may name a repository whose code then runs as a kernel (CVE-2026-4372).
_IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation(_internal)?")
_LAYERS = re.compile(r"(num_(hidden_|encoder_|decoder_)?|n_?|encoder_|decoder_)layers?|depths?")
_MOST_LAYERS = 1000
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def load(auto: AutoClass, name: Name, **options: Any) -> Any:
    """Return ``auto.from_pretrained(name, **options)`` after checking the configurations that it reads.

    ``trust_remote_code=True`` skips the checks; without it nothing asks on the terminal: what needs code is refused.

    Raises:
        ValueError: a configuration asks for code, see :func:`refuse_code`, or a file is damaged.
        OSError: if there is no such checkpoint.

    Example:
        >>> tokenizer = load(AutoTokenizer, "user/vub-bert-imdb", revision="main")  # doctest: +SKIP
    """
    options.setdefault("trust_remote_code", False)
    with suppress(OSError):  # a tokenizer without a model, or a missing folder, for which the library has its own error
        require_checkpoint(auto, name, **options)
    with clear_errors(name, auto.__name__.removeprefix("Auto")):
        loaded = auto.from_pretrained(name, **options)
    if isinstance(loaded, PreTrainedTokenizerBase) and _knows_no_word(loaded):
        raise OSError(f"{name} holds no Tokenizer: name the folder or Hub id of one")
    return loaded


@contextmanager
def clear_errors(name: Name, kind: str = "model") -> Iterator[None]:
    """Turn the errors of libraries that a checkpoint's files break into one ValueError with the name of the file.

    A damaged file, or a value that no library knows, shows as an error of any type from deep inside transformers,
    tokenizers or torch. OSError, ImportError, other ValueErrors and running out of memory pass: they are clear.
    ``kind`` says what is read, for the message.
    """
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{_damaged_file(name)} is not valid JSON: {error}") from error
    except (OSError, ImportError, ValueError, MemoryError, torch.OutOfMemoryError) as error:
        if str(error).startswith("Unrecognized "):  # a list of all kinds that transformers knows follows
            raise ValueError(f"{name} holds no {kind}: its configuration names no kind that is known") from error
        raise
    except Exception as error:
        if isinstance(error, TypeError) and "unexpected keyword" in str(error):
            raise  # of the caller's
        if type(error) is Exception:  # the only type that the tokenizers library raises
            raise ValueError(f"tokenizer.json of {name} cannot be read: {error}") from error
        reason = " ".join([f"{type(error).__name__}:", *str(error).split()])
        raise ValueError(f"{name} holds no {kind} that can be read: a file is missing or wrong ({reason})") from error


def _knows_no_word(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell the tokenizer that transformers 5 makes for a model without one: every word is unknown to it."""
    if len(tokenizer) > 50:
        return False
    return not any(map(str.isalnum, "".join(tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens))))


def _damaged_file(name: Name) -> str:
    """Return the path of the first JSON file in a folder that does not parse, or the name of a Hub id."""
    for path in sorted(Path(name).glob("*.json")):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return str(path)
    return f"a file of {name}"


def read_config(name: Name, **options: object) -> Options:
    """Return the content of a checkpoint's ``config.json``; of an adapter, that of its base model.

    ``options`` are keywords of ``from_pretrained``; with ``trust_remote_code=True`` nothing is refused.

    Raises:
        ValueError: a configuration asks for code or cannot be, see :func:`refuse_code`; or it is damaged, or an index
            of weights names files outside the checkpoint.
        OSError: if there is no such configuration.
    """
    hub: Options = {option: options[option] for option in HUB_OPTIONS if option in options}
    with clear_errors(name, "configuration"):
        content, _ = PretrainedConfig.get_config_dict(name, **hub)
    if not isinstance(content, dict):
        raise ValueError(f"config.json of {name} holds a {type(content).__name__} instead of names with values")
    trusted = bool(options.get("trust_remote_code"))
    if not trusted:
        refuse_code(content, name)
    _refuse_absurd(content, name)
    _refuse_outside(Path(str(name), str(options.get("subfolder") or "")))
    adapter = find_adapter_config_file(str(name), **hub) if is_peft_available() else None
    if adapter is None:
        return content
    with clear_errors(name, "adapter configuration"):
        base = json.loads(Path(adapter).read_text(encoding="utf-8")).get("base_model_name_or_path")
        base_content, _ = PretrainedConfig.get_config_dict(base)
    if not trusted:
        refuse_code(base_content, base)
    return content if content.get("model_type") else base_content


def require_checkpoint(auto: AutoClass, name: Name, **options: object) -> None:
    """Read a checkpoint's configuration, and raise ValueError where :func:`read_config` or :func:`require_task` do."""
    content = read_config(name, **options)
    backbone = content.get("backbone_config")
    require_task(auto, (backbone if isinstance(backbone, dict) else content).get("model_type"), name)


def require_task(auto: AutoClass, model_type: object, name: Name) -> None:
    """Raise ValueError for a kind of model that an Auto class of classifiers has none for; unknown kinds pass."""
    from transformers import CONFIG_MAPPING  # its module registers ours, which imports this one

    medium = {"AutoModelForSequenceClassification": "texts", "AutoModelForImageClassification": "images"}
    known = isinstance(model_type, str) and model_type in CONFIG_MAPPING and auto.__name__ in medium
    if known and CONFIG_MAPPING[str(model_type)] not in auto._model_mapping:
        raise ValueError(f"{name} is a {model_type!r} model, which does not classify {medium[auto.__name__]}")


def refuse_code(content: object, name: Name) -> None:
    """Raise ValueError where a configuration would make transformers run code without ``trust_remote_code=True``.

    Three kinds of keys do, at any depth: a ``trust_remote_code`` of its own (CVE-2026-5241: ``lightglue`` loads
    another checkpoint with it), an attention or experts implementation that is a repository (CVE-2026-4372), and an
    ``attribute_map``, which renames any harmless key to one of these. ``content`` is that of ``config.json``.
    """
    for place, value in _unsafe_keys(content):
        raise ValueError(
            f"config.json of {name} has {place}={value!r}, which makes transformers run code unasked; "
            "delete that key if you trust the rest of the checkpoint"
        )


def check_processor(processing_class: object) -> None:
    """Raise ValueError where saving a tokenizer or processor would write or copy files from outside its folder.

    Before 5.10, transformers writes each named chat template to the path that its name makes (CVE-2026-9856); 4.57
    copies a vocabulary from wherever ``tokenizer_config.json`` says, so that a private file is saved and pushed as one.
    """
    templates = getattr(processing_class, "chat_template", None)
    for name in templates if isinstance(templates, dict) else ():
        if _leaves_folder(name):
            raise ValueError(f"processing_class has a chat template named {name!r}; its name must be that of a file")
    source = getattr(processing_class, "name_or_path", "")
    if not source:
        return  # built here, from files that may have any name
    given = getattr(processing_class, "init_kwargs", {})
    for key, usual in getattr(processing_class, "vocab_files_names", {}).items():
        path = getattr(processing_class, key, None) or given.get(key)
        if key != "tokenizer_file" and isinstance(path, str) and Path(path).name != usual and Path(path).is_file():
            raise ValueError(
                f"tokenizer_config.json of {source} has {key}={path!r}, a file of this machine that would be saved as "
                f"{usual!r}; delete that key"
            )


def _leaves_folder(name: object) -> bool:
    return Path(str(name)).name != name or "\\" in name


def _unsafe_keys(content: object, place: str = "") -> Iterator[tuple[str, object]]:
    """Yield the keys of a configuration that ask for code, such as "backbone_config.trust_remote_code", and values."""
    if isinstance(content, list):
        content = dict(enumerate(content))
    for key, value in content.items() if isinstance(content, dict) else ():
        asks = (
            (key == "trust_remote_code" and value)
            or (_IMPLEMENTATION.fullmatch(str(key)) and "/" in str(value))
            or key == "attribute_map"
        )
        if asks:
            yield f"{place}{key}", value
        yield from _unsafe_keys(value, f"{place}{key}.")


def _refuse_absurd(content: object, name: Name, place: str = "") -> None:
    """Raise ValueError for a number of layers that no model has: building them would take hours and all memory."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if _LAYERS.fullmatch(str(key)):
            counts = value if isinstance(value, list) else [value]
            if any(isinstance(count, (int, float)) and count > _MOST_LAYERS for count in counts):
                raise ValueError(
                    f"config.json of {name} has {place}{key}={value}; no model has more than {_MOST_LAYERS:,} layers"
                )
        _refuse_absurd(value, name, f"{place}{key}.")


def _refuse_outside(folder: Path) -> None:
    """Raise ValueError where the index of a sharded checkpoint names files outside its folder."""
    for index in sorted(folder.glob("*.index.json")):
        with clear_errors(folder, "index of weights"):
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for file in sorted(map(str, files)):
            if _leaves_folder(file):
                raise ValueError(f"{index} names the file {file!r}, which is outside its folder")
