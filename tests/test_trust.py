"""Files that others made are data, never code: nothing is unpickled, escapes its folder or is published unasked."""

import ast
import contextlib
import json
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from safetensors import SafetensorError

from helpers.models import build_model
from helpers.saving_trainer import trainer
from helpers.source_code import CODE, calls
from hf_vub import VUBForSequenceClassification, VUBTrainingArguments
from hf_vub.data.splits import load_splits
from hf_vub.embeddings.extraction import Features
from hf_vub.runs import files as results
from hf_vub.runs.files import read_json
from hf_vub.sweep.heads import HeadRun, train_heads
from hf_vub.training.checkpoints import last_checkpoint

REFUSED = (ValueError, TypeError, OSError, RuntimeError, LookupError, AttributeError, EOFError, pickle.UnpicklingError)


# What the code says


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.names[0].name != "UnpicklingError":
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_nothing_unpickles_or_evaluates(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unpickling = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
    assert not unpickling & set(imported(tree))
    for name, options in calls(tree):
        assert name not in ("eval", "exec", "__import__", "os.system", "yaml.load", "yaml.unsafe_load"), name
        assert not name.endswith(("read_pickle", "allow_pickle")), name
        assert "allow_pickle" not in options, name
        if name == "torch.load":
            assert ast.unparse(options["weights_only"]) == "True"
        assert "shell" not in options, name


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_remote_code_is_never_switched_on(path):
    for name, options in calls(ast.parse(path.read_text(encoding="utf-8"))):
        value = options.get("trust_remote_code")
        assert value is None or not (isinstance(value, ast.Constant) and value.value is True), name


# Pickles in the place of files


class Evil:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.fixture(params=["torch", pytest.param("pickle", marks=pytest.mark.slow)])
def poison(request, tmp_path):
    """Puts a pickle, bare or as torch writes it, in the place of a file; the trace tells if it ran."""
    trace = tmp_path / "owned"

    def put(path):
        path = Path(path)
        if request.param == "pickle":
            path.write_bytes(pickle.dumps(Evil(trace)))
        else:
            torch.save({"state": Evil(trace)}, path)
        return path

    put.trace = trace
    yield put
    assert not trace.exists(), "a pickle was run"


def test_the_trap_works(tmp_path):
    torch.save(Evil(tmp_path / "owned"), tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "owned").exists()


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory):
    """A training with a checkpoint in its middle."""
    folder = tmp_path_factory.mktemp("training")
    trainer(folder, num_train_epochs=1, save_steps=2, save_total_limit=3).train()
    return folder


STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt", "training_args.bin", "pytorch_model.bin")


@pytest.mark.parametrize("name", [*STATE, "model.safetensors", "trainer_state.json", "config.json"])
def test_a_resumed_training_runs_no_pickle(name, checkpointed, poison, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(checkpointed / "checkpoint-2", folder / "checkpoint-2")
    poison(folder / "checkpoint-2" / name)
    if name == "pytorch_model.bin":
        (folder / "checkpoint-2" / "model.safetensors").unlink()
    # Whatever a library says, or nothing where it does not look at the file: the trace must not be there.
    with contextlib.suppress(*REFUSED, SafetensorError):
        trainer(folder, num_train_epochs=1).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "config.json"])
def test_a_checkpoint_is_loaded_without_unpickling(name, poison, tmp_path):
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path / "model"
    build_model("bert").save_pretrained(folder)
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    poison(folder / name)
    for load in (VUBForSequenceClassification, AutoModelForSequenceClassification):
        with pytest.raises((*REFUSED, SafetensorError)):
            load.from_pretrained(folder)


def test_caches_and_records_run_no_pickle(poison, tmp_path):
    with pytest.raises(ValueError, match="is not a feature cache"):
        Features.load(poison(tmp_path / "a.safetensors"))
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_json(poison(tmp_path / "result.json"))
    assert list(results.read_records(poison(tmp_path / "records.jsonl"))) == []
    (tmp_path / "checkpoint-3").mkdir()
    poison(tmp_path / "checkpoint-3" / "trainer_state.json")
    assert last_checkpoint(tmp_path) is None
    features, labels = torch.randn(6, 4), torch.arange(6) % 2
    options = {"num_labels": 2, "epochs": 1, "checkpoint_dir": tmp_path / "heads"}
    train_heads(features, labels, [HeadRun()], **options)
    (saved,) = (tmp_path / "heads").glob("*.safetensors")
    poison(saved)
    with pytest.raises(ValueError, match=f"{saved.name} is damaged"):
        train_heads(features, labels, [HeadRun()], **options)


@pytest.mark.parametrize("name", ["data.pkl", "data.pt", "data.parquet", "data.csv", "data.jsonl"])
def test_data_sets_run_no_pickle(name, poison, tmp_path):
    with pytest.raises(ValueError, match=r"data\."):
        load_splits(poison(tmp_path / name))


# Code, names, markup, secrets


def test_code_in_a_checkpoint_runs_only_when_asked(tmp_path):
    from transformers import AutoModelForSequenceClassification

    from hf_vub.model.loading import load_classifier

    trace = tmp_path / "owned"
    folder = tmp_path / "model"
    build_model("bert").backbone.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    names = ("AutoConfig", "AutoModelForSequenceClassification", "AutoModelForImageClassification", "AutoTokenizer")
    config |= {"model_type": "evil", "auto_map": {name: "evil.Evil" for name in names}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Evil: pass\n")
    for load in (
        VUBForSequenceClassification.from_pretrained,
        AutoModelForSequenceClassification.from_pretrained,
        lambda name: load_classifier(name, "text"),
    ):
        with pytest.raises((ValueError, OSError)):
            load(str(folder))
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["a/..", "../../etc", "..", "a/../../b", "a\\..\\b", "a/b/../../../c", "%2e%2e/x", "a/.", "x\0y"]
)
def test_no_name_leads_out_of_the_cache(name, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")  # whose parent holds no data of other tests
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    before = sorted(path for path in tmp_path.rglob("*") if tmp_path / "home" not in path.parents)
    with pytest.raises((ValueError, OSError)):
        load_splits(name)
    with pytest.raises((ValueError, OSError)):
        VUBForSequenceClassification.from_pretrained(name, num_labels=2)
    assert sorted(path for path in tmp_path.rglob("*") if tmp_path / "home" not in path.parents) == before


def test_cards_of_results_from_elsewhere_stay_in_their_folder(tmp_path):
    from helpers.grid_results import make
    from hf_vub.paper.report import write_cards

    with pytest.raises(ValueError, match="experiment is '../../evil'"):
        write_cards(replace(make(), experiment="../../evil"), tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_no_secret_stays_in_a_training_folder(tmp_path, monkeypatch):
    token = "hf_" + "Q7" * 16
    monkeypatch.setattr(sys, "argv", ["train.py", "--hub_token", token])
    job = trainer(tmp_path, num_train_epochs=1, hub_token=token, logging_steps=1)
    job.train()
    job.save_model(str(tmp_path))
    job.create_model_card()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path


def test_a_data_set_runs_no_code_of_its_own(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    datasets.Dataset.from_dict({"text": ["a", "b"] * 5, "label": [0, 1] * 5}).to_csv(tmp_path / "data" / "train.csv")
    load_splits(tmp_path / "data")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("way", ["folder", "bytes"])
def test_no_image_is_handed_to_a_program(way, tmp_path, monkeypatch):
    """Pillow gives EPS, whatever the file is called, to Ghostscript, whose language reads and writes files."""
    from PIL import EpsImagePlugin

    from hf_vub.embeddings.pixels import PixelModel

    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'owned'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        (tmp_path / "images" / name).write_bytes(content)
    ways = {
        "folder": lambda: load_splits(tmp_path / "images", hold_out=0)["test"][0]["image"].load(),
        "bytes": lambda: PixelModel(torch.nn.Flatten()).read({"bytes": content, "path": None}),
    }
    with pytest.raises((ValueError, OSError), match="Unable to locate Ghostscript"):
        ways[way]()
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("change", [{"_format_type": "custom"}, {"_data_files": 3}, {"_data_files": [{}]}])
def test_a_spoilt_folder_of_save_to_disk_is_refused(change, tmp_path):
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).save_to_disk(tmp_path / "data")
    state = tmp_path / "data" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), **change}))
    with pytest.raises(ValueError, match="data is not a whole folder of save_to_disk"):
        load_splits(tmp_path / "data")


def test_training_arguments_keep_the_token_for_the_push():
    assert VUBTrainingArguments("out", hub_token="hf_x", report_to=[]).hub_token == "hf_x"
