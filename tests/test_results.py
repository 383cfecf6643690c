"""Result files: written atomically, readable after a kill, and honest about where they came from."""

import copy
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from safetensors.torch import save_file

from hf_vub.runs import digests, files, provenance
from hf_vub.runs.run_log import RunLog


def test_json_goes_there_and_back(tmp_path: Path) -> None:
    content = {"name": "é\u2028", "values": np.arange(3), "tensor": torch.tensor(1.5), "path": Path("a/b")}
    path = files.write_json(tmp_path / "deep" / "result.json", content)
    assert files.read_json(path) == {"name": "é\u2028", "values": [0, 1, 2], "tensor": 1.5, "path": "a/b"}
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan"), torch.tensor(-math.inf), [math.nan]])
def test_a_number_that_is_not_finite_is_null(tmp_path: Path, value: object) -> None:
    found = files.read_json(files.write_json(tmp_path / "a.json", {"value": value}))["value"]
    assert found in (None, [None])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write_json(tmp_path / "a.json", {"old": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TypeError):
        files.write_json(path, {"value": object()})
    assert files.read_json(path) == {"old": 1}


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.bin"
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"old")
        assert not path.exists()
    with pytest.raises(FileNotFoundError), files.replacing(path):
        pass  # nothing was written
    with pytest.raises(AssertionError), files.replacing(path) as temporary:
        assert temporary.write_bytes(b"half") == 0
    assert path.read_bytes() == b"old"
    with files.replacing(path) as temporary:
        save_file({"one": torch.zeros(1)}, temporary)
    assert [file.name for file in path.parent.iterdir()] == ["a.bin"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (lambda path: files.write_json(path, {}), lambda path: files.append_record(path, {})):
        with pytest.raises(OSError, match="file"):
            write(tmp_path / "file" / "a.json")


@pytest.mark.parametrize("text", ["{", "[1]", "", "\udcff", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_broken_json_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"broken\.json"):
        files.read_json(path)


def test_records_outlive_a_kill_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for row in range(3):
        files.append_record(path, {"row": row, "text": "naïve\n\x00"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        before = list(files.read_records(path))
        assert [record["row"] for record in before] == list(range(len(before)))
        files.append_record(path, {"row": "next"})
        assert [record["row"] for record in files.read_records(path)] == [*range(len(before)), "next"]


def test_a_lone_surrogate_survives(tmp_path: Path) -> None:
    files.append_record(tmp_path / "r.jsonl", {"text": "a\ud800b"})
    assert list(files.read_records(tmp_path / "r.jsonl")) == [{"text": "a\ud800b"}]
    assert files.read_json(files.write_json(tmp_path / "r.json", {"text": "\udfff"})) == {"text": "\udfff"}


def test_rubbish_between_records_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(
        b'{"row": 0}\n[1]\n\xff\xfe\n{"row"\n\n' + b"[" * 100_000 + b"\n" + b"9" * 5000 + b'\n{"row": 1}\n'
    )
    assert [record["row"] for record in files.read_records(path)] == [0, 1]
    assert list(files.read_records(tmp_path / "none.jsonl")) == []


def test_provenance_is_plain_json() -> None:
    found = provenance.provenance()
    assert found["schema"] == provenance.SCHEMA == 1
    assert torch.__version__.startswith(found["versions"]["torch"])
    assert json.loads(json.dumps(found)) == found


def test_the_command_names_no_machine_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "scripts" / "run.py"), "--name", "two words"])
    assert provenance.command() == "python scripts/run.py --name 'two words'"
    monkeypatch.setattr(sys, "argv", ["/somewhere/else/run.py"])
    assert provenance.command() == "python run.py"


def test_the_command_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_" + "a1" * 16
    words = [
        "--hub_token",
        "s3cret",
        "--api-key=s3cret",
        "--model",
        f"https://me:{token}@host/m",
        "--batch_tokens",
        "64",
    ]
    monkeypatch.setattr(sys, "argv", ["run.py", *words, "--push_to_hub_token", "--seed", "1"])
    found = provenance.command()
    assert "s3cret" not in found
    assert token not in found
    assert found.endswith("--batch_tokens 64 --push_to_hub_token --seed 1")


HOLDER = """
import sys
from hf_vub.runs.files import lock_folder
with lock_folder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    root = str(Path(provenance.__file__).parents[2])
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            ValueError, match="another process is writing to .*run; wait for it to end, or name another"
        ):
            files.lock_folder(tmp_path / "run")
        other.kill()
    with files.lock_folder(tmp_path / "run"), files.lock_folder(tmp_path / "run"):
        pass  # free again, and one process may take it twice


@pytest.mark.parametrize(
    "token", ["hf_" + "a1" * 16, "hf_oauth_eyJhbGciOi.eyJzY29wZSI6_x-y.Zm9v", "api_org_" + "B2" * 17]
)
def test_no_json_carries_an_access_token(token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", f"https://me:{token}@host/m", "--run_name", f"run-{token}"])
    assert provenance.command() == "python run.py 'https://me:***@host/m' --run_name 'run-***'"
    path = files.write_json(tmp_path / "a.json", {"model": f"outputs/{token}", "runs": [{token: f"{token}\n"}]})
    assert files.read_json(path) == {"model": "outputs/***", "runs": [{"***": "***\n"}]}
    plain = "hf_vub api_org_ hf_oauth_ hf_short"
    assert provenance.mask(plain) == plain


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_what_a_killed_run_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "heads").mkdir(parents=True)
    dead, alive = dead_process(), os.getppid()
    left = [run / f".result.json.{dead}.tmp", run / "heads" / f".a.safetensors.{dead}.tmp"]
    kept = [run / f".result.json.{alive}.tmp", run / "notes.tmp", run / f"result.json.{dead}.tmp", run / ".x.tmp"]
    for path in (*left, *kept):
        path.write_text("half")
    outside = tmp_path / f".result.json.{dead}.tmp"
    outside.write_text("half")
    with files.replacing(run / "b.json") as own:
        own.write_text("{}")
        with files.lock_folder(run):
            assert own.exists()
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in (*kept, outside, run / "b.json"))


KILLED = """
import os, signal, sys
from hf_vub.runs.files import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_while_writing_leaves_nothing_after_the_next_start(tmp_path: Path) -> None:
    path = files.write_json(tmp_path / "result.json", {"old": 1})
    root = str(Path(provenance.__file__).parents[2])
    subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=root, check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with files.lock_folder(tmp_path):
        pass
    assert {file.name for file in tmp_path.iterdir()} == {"result.json", "_lock"}
    assert files.read_json(path) == {"old": 1}


def test_a_leftover_that_cannot_be_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / f".a.json.{dead_process()}.tmp").touch()

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    files.remove_leftovers(tmp_path)
    assert "was left by a killed run and cannot be removed" in caplog.text


def test_a_run_whose_settings_hold_a_token_resumes(tmp_path: Path) -> None:
    state = PartialState(cpu=True)
    settings = {"dataset": "https://hf_" + "a1" * 16 + "@host/d", "epsilons": (0.1,), "seed": 0}
    with RunLog(tmp_path, settings, state) as log:
        log.add({"index": 3})
    with RunLog(tmp_path, {**settings, "model": "moved"}, state) as log:
        assert log.records == {3: {"index": 3}}
    with pytest.raises(ValueError, match=r"holds a run with seed=0, and this one has seed=1: give another output_dir"):
        RunLog(tmp_path, {**settings, "seed": 1}, state)


def test_digests_tell_values_names_and_shapes_apart() -> None:
    values = torch.arange(20_000.0)
    found = digests.tensor_digest(values.view(-1, 2), torch.ones(3))
    content = hashlib.sha256(b"torch.float32 (10000, 2)" + values.numpy().tobytes() + torch.ones(3).numpy().tobytes())
    assert found == content.hexdigest()
    others = [values.view(2, -1), values.view(-1, 2).double(), values.view(-1, 2) + 1]
    assert len({found, *(digests.tensor_digest(other, torch.ones(3)) for other in others)}) == 4
    layer = torch.nn.Linear(2, 3)
    before = digests.weights_digest(layer)
    assert before == digests.weights_digest(copy.deepcopy(layer)) != digests.weights_digest(None)
    with torch.no_grad():
        layer.bias[0] += 1e-3
    assert before != digests.weights_digest(layer)
    assert digests.digest("a", {"b": 1, "c": 2}) == digests.digest("a", {"c": 2, "b": 1}) != digests.digest("a")
    content = hashlib.sha256(repr(([0, 1], ["a", "b"], [1, 0])).encode())
    assert digests.examples_digest([0, 1], ["a", "b"], [1, 0]) == content.hexdigest()[:16]


def test_no_commit_outside_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "files.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() is None
