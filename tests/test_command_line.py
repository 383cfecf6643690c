"""Options, exit codes and one-line errors, most of them through a real process."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hf_vub.command_line import command, parse

SCRIPT = '''"""Do a thing.

    python script.py --seed 3    # kept as written
"""
import sys
from dataclasses import dataclass
from hf_vub.command_line import command

@command
def main() -> None:
    {body}

main()
'''


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


def run_script(tmp_path: Path, body: str, **environment: str) -> subprocess.CompletedProcess:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(body=body))
    root = str(Path(__file__).resolve().parents[1])
    return subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root, "HF_VUB_DEBUG": "", **environment},
        timeout=300,
    )


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


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"datasett": "imdb"}', "options that do not exist: datasett"),
        ("a.json", "[1]", "must hold option names"),
        ("a.json", "{", "cannot read the options"),
        ("a.yaml", "a: [", "cannot read the options"),
        ("a.json", None, "cannot read the options"),
        ("a.json", "{}", "the following arguments are required: --dataset"),
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
    assert "the seed (default: 0)" in shown
    with pytest.raises(SystemExit):
        parse(Run, args=["--help"], description="first line\n    indented 100%")
    assert "first line\n    indented 100%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("raise ValueError('beta is -1;\\n must be positive')", "error: beta is -1; must be positive"),
        ("raise TypeError('no number')", "error: no number (HF_VUB_DEBUG=1 shows where)"),
        ("open('/nowhere/x.json')", "error: /nowhere/x.json: No such file or directory"),
        ("raise ImportError('pip install \"hf_vub[vision]\"')", 'error: pip install "hf_vub[vision]"'),
        ("raise ValueError()", "error: ValueError"),
        (
            "from datasets.exceptions import DatasetGenerationError as E\n    raise E('failed') from OSError('why')",
            "error: failed: why",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(tmp_path: Path, body: str, line: str) -> None:
    done = run_script(tmp_path, body)
    assert (done.returncode, done.stderr) == (2, line + "\n")


def test_a_broken_checkpoint_is_one_line(tmp_path: Path) -> None:
    done = run_script(tmp_path, "import safetensors; safetensors.deserialize(b'x')")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run_script(tmp_path, "raise ValueError('why')", HF_VUB_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("body", ["assert False", "None.x", "{}['key']", "raise NotImplementedError"])
def test_a_defect_keeps_its_traceback(tmp_path: Path, body: str) -> None:
    done = run_script(tmp_path, body)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    done = run_script(tmp_path, "raise KeyboardInterrupt")
    assert (done.returncode, done.stderr.strip()) == (130, "stopped: run the same command again to resume")


def test_a_run_without_trouble_returns_what_main_returns() -> None:
    @command
    def main(value: int) -> int:
        """Return the value."""
        return value

    assert main(3) == 3
    assert main.__doc__ == "Return the value."
