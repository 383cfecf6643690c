"""Result files: whole or absent, readable after a kill, and honest about where they came from."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hf_vub.runs import files, provenance


def test_json_goes_there_and_back(tmp_path: Path) -> None:
    content = {"name": "é\u2028", "values": np.arange(3), "tensor": torch.tensor(1.5), "path": Path("a/b")}
    path = files.write_json(tmp_path / "deep" / "result.json", content)
    assert files.read_json(path) == {"name": "é\u2028", "values": [0, 1, 2], "tensor": 1.5, "path": "a/b"}
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan"), torch.tensor(-math.inf), [math.nan]])
def test_what_json_cannot_say_is_null(tmp_path: Path, value: object) -> None:
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


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.bin"
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"old")
        assert not path.exists()
    with pytest.raises(FileNotFoundError), files.replacing(path):
        pass  # nothing was written
    with pytest.raises(TypeError), files.replacing(path) as temporary:
        temporary.write_bytes(b"n" + object())  # type: ignore[operator]
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


def test_rubbish_between_records_is_passed_over(tmp_path: Path) -> None:
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


CLAIMED = """
import sys
from hf_vub.runs.files import claim
with claim(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLAIMED, str(tmp_path / "run")]
    root = str(Path(provenance.__file__).parents[2])
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            ValueError, match="another process is writing to .*run; wait for it to end, or name another"
        ):
            files.claim(tmp_path / "run")
        other.kill()
    with files.claim(tmp_path / "run"), files.claim(tmp_path / "run"):
        pass  # free again, and one process may take it twice


def test_no_commit_outside_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "files.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() is None
