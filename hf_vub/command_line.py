"""The common parts of all scripts: options from dataclasses, a manual from the docstring, exit codes.

```python
@command
def main() -> None:
    (arguments,) = parse(Arguments)
    train(**vars(arguments))
```

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a defect in the program: the traceback is shown |
| 2 | an error in the options, the files or the environment: one line says which |
| 130 | stopped from the keyboard: the same command resumes |
"""

import argparse
import functools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

from .runs.provenance import mask

P = ParamSpec("P")
R = TypeVar("R")

_CLEAR_ERRORS = (ValueError, TypeError, OSError, ImportError, RuntimeError, FloatingPointError, MemoryError)
_STOPPED = "\nstopped: run the same command again to resume\n"
_DEFECTS = (NotImplementedError, RecursionError)  # RuntimeErrors that no other input avoids
# Libraries whose own exceptions are about files and networks; matched by name, so that none is imported here.
_LIBRARIES = {
    "PIL",
    "_pickle",
    "datasets",
    "huggingface_hub",
    "httpx",
    "httpx2",
    "pyarrow",
    "requests",
    "safetensors",
    "safetensors_rust",
    "yaml",
    "zipfile",
}


# Options of transformers that the manual shows, with their help; --help_all shows the hundred others too.
_SHOWN = {
    "output_dir": "Folder of the checkpoints, result.json and the card; trainer_output by default.",
    "num_train_epochs": "Epochs; 20 with --freeze_backbone.",
    "max_steps": "Steps; above 0 they replace the epochs.",
    "per_device_train_batch_size": "Rows of a training batch, on each device; 32 with --freeze_backbone.",
    "per_device_eval_batch_size": "Rows of a test batch, on each device.",
    "gradient_accumulation_steps": "Batches whose gradients make one step.",
    "gradient_checkpointing": "Keep few activations and recompute the others: less memory, slower.",
    "learning_rate": "Learning rate, the highest of its schedule; 1e-3 with --freeze_backbone.",
    "lr_scheduler_type": "Schedule of the learning rate: linear, cosine, constant and others.",
    "warmup_steps": "Steps in which the learning rate rises from 0.",
    "weight_decay": "Weight decay.",
    "max_grad_norm": "Largest norm of the gradients; larger ones are scaled down.",
    "optim": "Optimizer: adamw_torch, sgd, adafactor and others.",
    "bf16": "Mixed precision with bfloat16.",
    "fp16": "Mixed precision with float16.",
    "seed": "Seed of the sample, the order of rows, new weights, dropout and noise.",
    "use_cpu": "Run on the CPU even where there is an accelerator.",
    "dataloader_num_workers": "Processes that prepare batches; 0 does it in the training process.",
    "eval_strategy": "When to evaluate during training.",
    "save_strategy": "When to save a checkpoint, from which an interrupted run resumes.",
    "save_steps": "Steps between two checkpoints.",
    "save_total_limit": "Checkpoints kept; all by default.",
    "logging_steps": "Steps between two lines of the log.",
    "report_to": "Trackers: tensorboard, wandb and others, all or none.",
    "push_to_hub": "Push model, code, result and card to the Hub.",
    "hub_model_id": "user/name on the Hub; the last part of output_dir by default.",
    "hub_token": "Token to push with; HF_TOKEN or `hf auth login` keep it out of the list of processes.",
    "hub_private_repo": "True makes a new repository private.",
}
# Options of transformers that take a mapping or a list, of which the command line takes JSON or one word.
_STRUCTURED = {
    *("accelerator_config", "fsdp_config", "deepspeed", "gradient_checkpointing_kwargs", "lr_scheduler_kwargs"),
    *("liger_kernel_config", "parallelism_config", "report_to", "fsdp", "debug"),
}
_MANUAL_END = """\
A first word that ends in .yaml or .json is a file of options; those after it override it.
Exit codes: 0 done; 1 a defect in the program; 2 an error in options, files or environment, named in one line
(HF_VUB_DEBUG=1 shows where); 130 interrupted.
"""


class _Manual(argparse.RawDescriptionHelpFormatter):
    """Show the description as written, and every option once, with its default where it has one.

    argparse alone shows each option under two spellings, every choice of forty optimizers, and "(default: None)".
    """

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        name = action.option_strings[-1 if len(action.option_strings[0]) == 2 else 0]  # --output_dir, not --output-dir
        choices = action.choices
        if choices is not None and len(list(choices)) > 5:
            action.metavar = "NAME"
        switch = action.nargs == 0 or (action.nargs == "?" and action.const is True)
        return name if switch else f"{name} {self._format_args(action, action.dest.upper())}"

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = " ".join((action.help or "").split()), action.default
        if action.required:
            return f"{text} (required)"
        if default is None or default is False or default in ("", [], argparse.SUPPRESS):
            return text
        return f"{text} (default: %(default)s)"


def parse(
    *dataclass_types: type,
    args: Sequence[str] | None = None,
    description: str | None = None,
    positional: str | None = None,
) -> tuple[Any, ...]:
    """Fill dataclasses, whose every field is an option, from the command line; return one instance of each in order.

    Args:
        dataclass_types: dataclasses for ``transformers.HfArgumentParser``.
        args: the words after the program's name; ``sys.argv[1:]`` where None. A first word that ends in ``.json``,
            ``.yaml`` or ``.yml`` is a file of option values, which the options after it override.
        description: the manual shown by ``--help``; the docstring of the calling module where None.
        positional: name of a field that may be given as the first word without its option name.

    Raises:
        SystemExit: code 2 with the usage line for an unknown or malformed option or a number that is not finite; code 0
            for ``--help``, which leaves out the rarer options of transformers' training arguments, and ``--help_all``.
        ValueError: from the checks of the dataclasses.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Arguments:
        ...     seed: int = 0
        >>> parse(Arguments, args=["--seed", "1"], description="")
        (Arguments(seed=1),)
    """
    from transformers import HfArgumentParser

    if description is None:
        description = sys._getframe(1).f_globals.get("__doc__")
    types: list[Any] = list(dataclass_types)
    parser = HfArgumentParser(
        types, description=description, epilog=_MANUAL_END, formatter_class=_Manual, allow_abbrev=False
    )
    numbers_or_words = _numbers_or_words(types)
    for action in parser._actions:
        if action.type is float:
            action.type = _finite_or_word if action.dest in numbers_or_words else _finite
    end_with = parser.error
    vars(parser)["error"] = lambda message: end_with(_abbreviated(message))
    words = list(sys.argv[1:] if args is None else args)
    _shorten(parser, types, positional, everything="--help_all" in words)
    if words and not words[0].startswith("-"):
        if words[0].lower().endswith((".json", ".yaml", ".yml")):
            _set_defaults(parser, Path(words.pop(0)))
        elif positional is not None:
            words.insert(0, f"--{positional}")
    *instances, unknown = parser.parse_args_into_dataclasses(
        words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return tuple(instances)


def command(main: Callable[P, R]) -> Callable[P, R]:
    """Make ``main`` end with the right exit code, and with one line where a user can correct the error.

    That is the built-in exceptions of values, files and memory, a KeyError whose key is a sentence, and the exceptions
    of the data and file libraries; ``HF_VUB_DEBUG=1`` shows their traceback. Everything else is a defect.
    """

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not sys.stderr.isatty():
            _silence_bars()
        try:
            return main(*args, **kwargs)
        except KeyboardInterrupt:
            sys.stderr.write(_STOPPED)
            raise SystemExit(130) from None
        except Exception as error:
            if os.environ.get("HF_VUB_DEBUG") == "1" or not _is_clear(error):
                raise
            sys.stderr.write(f"error: {_one_line(error)}\n")
            raise SystemExit(2) from None

    return run


def _silence_bars() -> None:
    """Turn off the progress bars of libraries that show them even where stderr is a file."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for module, function in (
        ("datasets", "disable_progress_bars"),
        ("huggingface_hub.utils", "disable_progress_bars"),
        ("transformers.utils.logging", "disable_progress_bar"),
    ):
        if module in sys.modules:  # it read the environment before
            getattr(sys.modules[module], function)()


def _show_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show no traceback for an interrupt before or after ``main``, such as during the seconds of imports."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write(_STOPPED)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _show_uncaught


def _is_clear(error: Exception) -> bool:
    """Tell whether the message of ``error`` is meant for a user and not for a developer."""
    if isinstance(error, KeyError):  # a key is a developer's matter, but some libraries put a sentence there
        return len(str(error).split()) > 4
    if any(base.__module__.partition(".")[0] in _LIBRARIES for base in type(error).__mro__):
        return True
    return isinstance(error, _CLEAR_ERRORS) and not isinstance(error, _DEFECTS)


def _one_line(error: Exception) -> str:
    """Return the message on one line, completed by the name of a file or the cause."""
    message = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {error.strerror}"
    elif type(error).__module__.startswith("datasets") and error.__cause__ is not None:
        # "An error occurred while generating the dataset" does not say which.
        message = f"{message}: {error.__cause__}"
    elif isinstance(error, (TypeError, RuntimeError)):
        message = f"{message} (HF_VUB_DEBUG=1 shows where)"
    return mask(_abbreviated(" ".join(message.split()))) or type(error).__name__


def _abbreviated(message: str) -> str:
    """Return a message without the middle of words of hundreds of characters, which would hide the sentence."""
    return re.sub(r"\S{200,}", lambda found: f"{found[0][:60]}...{found[0][-20:]}", message)


def _shorten(parser: argparse.ArgumentParser, types: Sequence[type], positional: str | None, everything: bool) -> None:
    """Shorten the usage to one line, and hide the options of transformers that hardly anybody needs."""
    theirs = {
        name
        for kind in types
        for base in kind.__mro__
        if base.__module__.startswith("transformers.")
        for name in vars(base).get("__annotations__", {})
    }
    required = [f"{action.option_strings[0]} {action.dest.upper()}" for action in parser._actions if action.required]
    parser.usage = " ".join(["%(prog)s", *([f"[{positional.upper()}]"] if positional else []), *required, "[options]"])
    if not theirs:
        return
    for action in parser._actions:
        if action.option_strings[0].startswith("--no_"):
            action.help = f"Turn off --{action.dest}."
        if action.dest in theirs:
            action.help = _SHOWN.get(action.dest, action.help if everything else argparse.SUPPRESS)
    parser.add_argument("--help_all", action="help", help="Show every option of transformers.TrainingArguments too.")


def _finite(text: str) -> float:
    """Return the number; an option that is infinite or no number would fail late, or never end."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid float value: {text!r}") from None
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a finite number, but is {text}")
    return number


def _finite_or_word(text: str) -> float | str:
    """Return the number, or a word that stands for one, which the program checks."""
    return text if text.strip().isalpha() and text.lower() not in ("inf", "infinity", "nan") else _finite(text)


def _numbers_or_words(types: list[Any]) -> set[str]:
    """Return the names of the options that take a number or a word."""
    ours = [kind for kind in types if not any(base.__module__.startswith("transformers.") for base in kind.__mro__)]
    hints = {name: hint for kind in ours for name, hint in get_type_hints(kind).items()}
    return {name for name, hint in hints.items() if set(get_args(hint)) == {float, str}}


def _set_defaults(parser: argparse.ArgumentParser, path: Path) -> None:
    """Make the values of a JSON or YAML file the defaults of ``parser``."""
    import yaml

    read = json.loads if path.suffix.lower() == ".json" else yaml.safe_load
    try:
        values = read(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.error(f"cannot read the options in {path}: {' '.join(str(error).split())}")
    if not isinstance(values, dict):
        parser.error(f"{path} must hold option names with their values, but holds a {type(values).__name__}")
    actions = {action.dest: action for action in parser._actions if action.nargs != 0}
    unknown = sorted(str(name) for name in values if name not in actions)
    if unknown:
        parser.error(f"{path} holds options that do not exist: {', '.join(unknown)}")
    for name, value in values.items():
        if value is None:  # as if it were not there
            continue
        action = actions[name]
        action.required = False
        parser.set_defaults(**{name: _converted(parser, action, value, path)})


def _converted(parser: argparse.ArgumentParser, action: argparse.Action, value: object, path: Path) -> object:
    """Return the value of an option in a file as the command line would give it, or end with a usage error.

    YAML reads 1e-4 as a text and 1 as no float, and argparse converts no list: so the option's own type reads them all.
    """
    if isinstance(value, (dict, list)) and action.dest in _STRUCTURED:
        return value
    several = action.nargs in ("+", "*")
    if isinstance(value, (list, dict)) and not several:
        parser.error(f"{path} gives {action.dest} a {type(value).__name__}, but it takes one value")
    found = []
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, (list, dict)):
            parser.error(f"{path} gives {action.dest} a {type(each).__name__} among its values")
        try:
            found.append(action.type(str(each)) if callable(action.type) else str(each))
        except argparse.ArgumentTypeError as error:
            parser.error(f"{path}: {action.dest} {error}")
        except (ValueError, TypeError):
            parser.error(f"{path}: {action.dest} cannot be {each!r}")
    return found if several else found[0]
