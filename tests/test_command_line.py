"""Options, exit codes and one-line errors."""

import ast
import json
import os
import pickle
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import safetensors
from datasets.exceptions import DatasetGenerationError

from hf_vub.command_line import command, parse

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Run:
    dataset: str = field(metadata={"help": "what to read"})
    seed: int = field(default=0, metadata={"help": "the seed"})
    learning_rate: float = 1e-4
    fast: bool = False
    names: list[str] = field(default_factory=list)


@dataclass
class Output:
    output_dir: str = "runs"

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError("output_dir must not be empty")


def end_of(error: BaseException, capsys: pytest.CaptureFixture) -> tuple[object, str]:
    """Exit code and stderr of a command that ends with ``error``."""

    @command
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code, capsys.readouterr().err


def test_options_fill_each_dataclass() -> None:
    run, output = parse(
        Run, Output, args=["--dataset", "imdb", "--seed", "3", "--fast", "--output-dir", "x", "--names", "a", "b"]
    )
    assert run == Run("imdb", 3, fast=True, names=["a", "b"])
    assert output == Output("x")


def test_a_field_can_be_the_first_word() -> None:
    assert parse(Run, args=["imdb", "--seed", "2"], positional="dataset") == (Run("imdb", 2),)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_file_gives_values_and_later_options_override_them(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"options.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps({"dataset": "imdb", "seed": 5, "learning_rate": 1, "fast": True, "names": ["a"]}))
    else:
        path.write_text("dataset: imdb\nseed: 5\nlearning_rate: 1e-0\nfast: true\nnames: [a]\n")
    (run,) = parse(Run, args=[str(path), "--seed", "6"])
    assert run == Run("imdb", 6, 1.0, True, ["a"])
    assert isinstance(run.learning_rate, float)


def test_an_endless_value_does_not_hide_the_sentence(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse(Run, args=["--dataset", "a", "--seed", "x" * 5000])
    message = capsys.readouterr().err.splitlines()[-1]
    assert "argument --seed: invalid int value: 'xxx" in message
    assert len(message) < 200


def test_a_file_gives_a_list_one_value_and_a_number_any_form(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("{dataset: 7, names: b, learning_rate: 1e-3, seed: null}")
    assert parse(Run, args=[str(tmp_path / "run.yaml")]) == (Run("7", learning_rate=0.001, names=["b"]),)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"datasett": "imdb"}', "options that do not exist: datasett"),
        ("a.json", "[1]", "must hold option names"),
        ("a.json", "{", "cannot read the options"),
        ("a.yaml", "a: [", "cannot read the options"),
        ("a.json", None, "cannot read the options"),
        ("a.json", '{"dataset": "a", "learning_rate": 1e400}', "must be a finite number, but is inf"),
        ("a.json", "{}", "the following arguments are required: --dataset"),
        ("a.json", '{"dataset": null}', "the following arguments are required: --dataset"),
        ("a.json", '{"dataset": "a", "seed": [1, 2]}', "gives seed a list, but it takes one value"),
        ("a.json", '{"dataset": "a", "seed": {"a": 1}}', "gives seed a dict, but it takes one value"),
        ("a.json", '{"dataset": "a", "names": [["b"]]}', "gives names a list among its values"),
        ("a.json", '{"dataset": "a", "seed": 1.5}', "seed cannot be 1.5"),
        ("a.yaml", "{dataset: a, seed: 2020-01-01}", "seed cannot be datetime.date"),
        ("a.yaml", "{dataset: a, fast: maybe}", "fast Truthy value expected"),
    ],
)
def test_a_bad_file_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as stopped:
        parse(Run, args=[str(tmp_path / name)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "imdb", "--sed", "1"], "unrecognized arguments: --sed 1"),
        (["--dataset", "imdb", "--see", "1"], "unrecognized arguments"),
        (["--dataset", "imdb", "--seed", "one"], "argument --seed: invalid int value: 'one'"),
        ([], "the following arguments are required: --dataset"),
        (["--dataset", "imdb", "--learning_rate", "inf"], "must be a finite number, but is inf"),
        (["--dataset", "imdb", "--learning_rate", "1e400"], "must be a finite number, but is 1e400"),
        (["--dataset", "imdb", "--learning_rate", "nan"], "must be a finite number, but is nan"),
        (["--dataset", "imdb", "--learning_rate", "x"], "invalid float value: 'x'"),
    ],
)
def test_bad_options_exit_with_2(capsys: pytest.CaptureFixture, words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(Run, args=words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_the_checks_of_a_dataclass_are_heard() -> None:
    with pytest.raises(ValueError, match="output_dir must not be empty"):
        parse(Output, args=["--output_dir", ""])


def test_help_is_the_docstring_of_the_caller_as_written(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(Run, args=["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert __doc__ in shown
    assert shown.startswith("usage: ")
    assert shown.splitlines()[0].endswith(" --dataset DATASET [options]")
    assert "what to read (required)" in shown
    assert "the seed (default: 0)" in shown
    assert not {"None", "False", "[]", "FAST"} & set(shown.replace(")", " ").split())
    assert "--learning-rate" not in shown
    with pytest.raises(SystemExit):
        parse(Run, args=["--help"], description="first line\n    indented 100%")
    assert "first line\n    indented 100%" in capsys.readouterr().out


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_every_script_prints_a_manual(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert ast.get_docstring(ast.parse(script.read_text())) in shown
    assert "Exit codes: 0 done" in shown
    assert "default: None" not in shown
    assert len(shown.splitlines()) < 200
    nameless = re.findall(r"^  (--\w+)(?: [A-Z_]+)?\n(?! {10})", shown, re.MULTILINE)
    assert not nameless, "options without a word"


def test_all_of_the_training_arguments_are_in_the_long_manual(capsys: pytest.CaptureFixture) -> None:
    from hf_vub import VUBTrainingArguments

    shown = {}
    for option in ("--help", "--help_all"):
        with pytest.raises(SystemExit) as stopped:
            parse(VUBTrainingArguments, args=[option])
        assert stopped.value.code == 0
        shown[option] = capsys.readouterr().out
    assert all("--beta_schedule" in manual and "--learning_rate" in manual for manual in shown.values())
    assert "--neftune_noise_alpha" not in shown["--help"]
    assert "--neftune_noise_alpha" in shown["--help_all"]
    (arguments,) = parse(VUBTrainingArguments, args=["--neftune_noise_alpha", "5", "--use_cpu"])
    assert arguments.neftune_noise_alpha == 5


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("beta is -1;\n must be positive"), "beta is -1; must be positive"),
        (TypeError("no number"), "no number (HF_VUB_DEBUG=1 shows where)"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), "x.json: No such file or directory"),
        (ImportError('pip install "hf_vub[vision]"'), 'pip install "hf_vub[vision]"'),
        (ValueError(), "ValueError"),
        (
            KeyError("The metric 'x' is not found in the evaluation metrics"),
            "The metric 'x' is not found in the evaluation metrics",
        ),
        (pickle.UnpicklingError("Weights only load failed"), "Weights only load failed"),
    ],
)
def test_what_a_user_can_mend_is_one_line(capsys: pytest.CaptureFixture, error: Exception, line: str) -> None:
    assert end_of(error, capsys) == (2, f"error: {line}\n")


def test_the_libraries_of_files_are_heard(capsys: pytest.CaptureFixture) -> None:
    try:
        safetensors.deserialize(b"x")
    except safetensors.SafetensorError as error:
        code, shown = end_of(error, capsys)
    assert code == 2
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    failed = DatasetGenerationError("failed")
    failed.__cause__ = OSError("why")
    assert end_of(failed, capsys) == (2, "error: failed: why\n")


@pytest.mark.parametrize(
    "error", [AssertionError(), AttributeError("x"), KeyError("x"), NotImplementedError(), RecursionError()]
)
def test_a_defect_is_not_dressed_up(error: Exception) -> None:
    @command
    def main() -> None:
        raise error

    with pytest.raises(type(error)):
        main()


def test_debug_lets_everything_through(monkeypatch: pytest.MonkeyPatch) -> None:
    @command
    def main() -> None:
        raise ValueError("why")

    monkeypatch.setenv("HF_VUB_DEBUG", "1")
    with pytest.raises(ValueError, match="why"):
        main()


def test_an_interrupt_says_how_to_go_on(capsys: pytest.CaptureFixture) -> None:
    code, shown = end_of(KeyboardInterrupt(), capsys)
    assert (code, shown.strip()) == (130, "stopped: run the same command again to resume")


def test_a_real_process_ends_with_one_line_and_its_code(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        "from hf_vub.command_line import command\n@command\ndef main():\n    raise ValueError('why')\nmain()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_VUB_DEBUG": ""}
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "error: why"
    assert "Traceback" not in done.stderr


def test_a_run_without_trouble_returns_what_main_returns() -> None:
    @command
    def main(value: int) -> int:
        """Return the value."""
        return value

    assert main(3) == 3
    assert main.__doc__ == "Return the value."
