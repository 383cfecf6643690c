"""Push, pull, card and attacks through the true code paths of ``huggingface_hub``, against a Hub on this machine."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load
from transformers import BertForSequenceClassification, ViTForImageClassification, ViTImageProcessor

from helpers.hub_server import TOKEN, metadata_errors
from helpers.models import backbone_config, build_model, model_inputs
from helpers.xet_store import chunks
from hf_vub import VUBConfig, VUBForSequenceClassification
from hf_vub.attacks import attack_image
from hf_vub.data import synthetic
from hf_vub.runs.files import read_json
from hf_vub.runs.schema import TrainResult

ROOT = Path(__file__).resolve().parents[1]
CODE = {
    "configuration_vub.py",
    "head.py",
    "information.py",
    "modeling_vub.py",
    "objectives.py",
    "pooling.py",
    "stock.py",
}
WEIGHTS = {"config.json", "model.safetensors"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny text and image classifiers, ours and stock ones, with what prepares their inputs, and reviews."""
    folder = tmp_path_factory.mktemp("hub")
    splits = synthetic.reviews(num_train=48, num_test=24)
    tokenizer = synthetic.word_tokenizer(splits["train"]["text"], vocab_size=200)
    config = backbone_config("bert", num_labels=2)
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder / "stock")
    VUBForSequenceClassification(VUBConfig(config)).save_pretrained(folder / "text")
    build_model("timm-resnet", num_labels=10).save_pretrained(folder / "image")
    ViTForImageClassification(backbone_config("vit", num_labels=10)).save_pretrained(folder / "stock-image")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "stock-image")
    for name in ("stock", "text"):
        tokenizer.save_pretrained(folder / name)
    for name, split in splits.items():
        split.to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def pushed(hub, online, folder):
    """What a training pushes, what its model, tokenizer and image processor push, and another revision of these."""
    online.run(
        """
        import os
        from datasets import load_dataset
        from transformers import AutoImageProcessor, AutoTokenizer
        from hf_vub import *
        from hf_vub.data.preprocessing import tokenize

        tokenizer = AutoTokenizer.from_pretrained("text")
        splits = load_dataset("parquet", data_files={name: f"{name}.parquet" for name in ("train", "test")})
        rows = {name: tokenize(split, tokenizer, 32) for name, split in splits.items()}
        model = VUBForSequenceClassification.from_pretrained("text")
        trainer = VUBTrainer(
            model=model,
            args=VUBTrainingArguments("run", max_steps=2, report_to=[], use_cpu=True, hub_model_id="trained",
                save_strategy="steps", save_steps=1, push_to_hub=True,
                hub_token=os.environ["HF_TOKEN"]),
            train_dataset=rows["train"],
            eval_dataset=rows["test"],
            processing_class=tokenizer,
        )
        trainer.train()
        trainer._finish_current_push()
        trainer.evaluate()
        trainer.push_to_hub(license="apache-2.0", dataset="user/reviews")

        model = VUBForSequenceClassification.from_pretrained("text")
        model.push_to_hub("user/text")
        tokenizer.push_to_hub("user/text")
        model.config.beta = 0.5
        model.head.bottleneck_decoder.bias.data += 1.0
        model.push_to_hub("user/text", revision="shifted")

        VUBForImageClassification.from_pretrained("image").push_to_hub("user/image")
        AutoImageProcessor.from_pretrained("image").push_to_hub("user/processor")
        """,
        folder,
    )
    return hub


def logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits


def script(online, name, folder, *options):
    """Run one of the scripts in the interpreter that uses the Hub; what it prints."""
    path = str(ROOT / "scripts" / name)
    return online.run(f"import runpy; runpy.run_path({path!r}, run_name='__main__')", folder, [path, *options])


def test_a_training_pushes_everything(pushed):
    files = pushed.files("user/trained")
    assert files.keys() >= WEIGHTS | CODE | {"README.md", "result.json", "tokenizer.json", "tokenizer_config.json"}
    assert "training_args.bin" in files
    assert json.loads(files["config.json"])["auto_map"] == {
        "AutoConfig": "configuration_vub.VUBConfig",
        "AutoModelForSequenceClassification": "modeling_vub.VUBForSequenceClassification",
    }
    assert not any(TOKEN.encode() in content for content in files.values())


def test_the_text_script_pushes_everything(pushed, folder, tmp_path):
    """The whole way of a user: a process of its own, and the token on its command line."""
    name = "user/by-script"
    (tmp_path / "reviews").mkdir()
    for split in ("train.parquet", "test.parquet"):
        shutil.copy(folder / split, tmp_path / "reviews")
    options = ["--model", folder / "stock", "--dataset", "reviews", "--max_length", "24", "--max_steps", "2"]
    options += ["--push_to_hub", "--hub_model_id", name, "--hub_token", TOKEN, "--save_steps", "1"]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "train_text.py", *options, "--output_dir", "run", "--use_cpu"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **pushed.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = pushed.files(name)
    check_arrived(files, name, "text-classification")
    assert {"tokenizer.json", "tokenizer_config.json"} <= files.keys()
    written = [path for root in ("run", "home") for path in (tmp_path / root).rglob("*") if path.is_file()]
    assert tmp_path / "run" / "model.safetensors" in written
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize("objective", ["vub", "vanilla"])
def test_the_image_script_pushes_everything(pushed, online, folder, objective):
    name = f"user/by-script-{objective}"
    options = ["--model", "stock-image", "--dataset", "digits", "--max_train", "40", "--max_test", "20"]
    options += ["--objective", objective, "--max_steps", "1", "--push_to_hub", "--hub_model_id", name, "--use_cpu"]
    options += ["--output_dir", f"script-{objective}", "--hub_token", TOKEN]
    shown = script(online, "train_image.py", folder, *options)
    files = pushed.files(name)
    check_arrived(files, name, "image-classification", code=CODE if objective == "vub" else set())
    assert "preprocessor_config.json" in files
    assert TOKEN not in shown


def check_arrived(files, name, task, code=CODE):
    """What a script pushed is a whole model with a card of it, and says nothing of the token."""
    assert files.keys() >= WEIGHTS | code | {"README.md", "result.json", "training_args.bin"}
    assert not any(TOKEN.encode() in content for content in files.values())
    about = json.loads(files["config.json"]).get("auto_map", {})
    assert {place.partition(".")[0] + ".py" for place in about.values()} <= code
    assert bool(about) == bool(code)
    text, result = files["README.md"].decode(), json.loads(files["result.json"])
    assert metadata_errors(text) == []
    card = ModelCard(text)
    assert card.data.pipeline_tag == task
    assert {each.metric_type: each.metric_value for each in card.data.eval_results}["accuracy"] == (
        result["metrics"]["accuracy"]
    )
    assert result["model"] == name
    assert name in text
    assert "| Class names | " in text
    assert ("### By epoch" in text) == bool(code)
    assert (result["lr_schedule"], result["beta_schedule"]) == ("linear", "constant" if code else None)


def test_checkpoints_pushed_on_the_way_can_be_loaded(pushed):
    """What ``push_to_hub=True`` sends in the middle of a training is a whole model too."""
    repository = pushed.repository("user/trained")
    on_the_way = [sha for sha, message in repository.messages.items() if message == "Training in progress, step 1"]
    assert repository.commits[on_the_way[0]].keys() >= WEIGHTS | CODE | {"tokenizer.json", "training_args.bin"}


def test_the_card_of_a_training_holds_its_results(pushed):
    files = pushed.files("user/trained")
    text = files["README.md"].decode()
    assert metadata_errors(text) == []
    card = ModelCard(text)
    result = json.loads(files["result.json"])
    assert card.data.license == "apache-2.0"
    assert {"hf_vub", "information-bottleneck", "vub"} <= set(card.data.tags)
    found = {each.metric_type: each for each in card.data.eval_results}
    assert found["accuracy"].metric_value == result["metrics"]["accuracy"]
    assert found["accuracy"].dataset_type == "user/reviews"
    assert 'from_pretrained("user/trained")' in text
    assert (result["steps"], result["num_train"], result["num_test"]) == (2, 48, 24)


def test_model_tokenizer_and_image_processor_push_everything(pushed):
    assert pushed.files("user/text").keys() >= WEIGHTS | CODE | {"README.md", "tokenizer.json"}
    assert pushed.files("user/image").keys() >= WEIGHTS | CODE | {"README.md", "preprocessor_config.json"}
    assert "preprocessor_config.json" in pushed.files("user/processor")
    for name in ("user/text", "user/image"):
        text = pushed.files(name)["README.md"].decode()
        assert metadata_errors(text) == []
        assert {"hf_vub", "information-bottleneck"} <= set(ModelCard(text).data.tags)


def test_a_revision_is_a_revision(pushed):
    main, shifted = (load(pushed.files("user/text", at)["model.safetensors"]) for at in ("main", "shifted"))
    name = "head.bottleneck_decoder.bias"
    assert torch.equal(shifted[name], main[name] + 1)
    assert json.loads(pushed.files("user/text", "shifted")["config.json"])["beta"] == 0.5


def test_weights_go_through_the_storage_without_the_token(pushed):
    stored = [shown for method, path, shown in pushed.requests if path.startswith(("/lfs/", "/storage/"))]
    assert stored
    assert not any(stored)


@pytest.fixture
def xet(pushed, online, folder):
    """The Hub with its other store, and the client with leave to use it."""
    pytest.importorskip("hf_xet")
    switch = "import huggingface_hub.constants\nhuggingface_hub.constants.HF_HUB_DISABLE_XET = {}"
    online.run(switch.format(False), folder)
    pushed.xet = True
    yield pushed
    pushed.xet = False
    online.run(switch.format(True), folder)


def test_weights_go_through_xet_and_back(xet, online, folder, tmp_path):
    """Through ``hf_xet`` itself; and what it sent, a client without it can have too."""
    online.run(
        """
        from hf_vub import VUBForSequenceClassification
        VUBForSequenceClassification.from_pretrained("text").push_to_hub("user/xet")
        """,
        folder,
    )
    sent = xet.files("user/xet")["model.safetensors"]
    assert sent == b"".join(piece for xorb in xet.xorbs.values() for piece in chunks(xorb))
    for disabled, way in ((False, "/v1/reconstructions/"), (True, "/storage/")):
        del xet.requests[:]
        online.run(
            f"""
            import huggingface_hub.constants
            huggingface_hub.constants.HF_HUB_DISABLE_XET = {disabled}
            from hf_vub import VUBForSequenceClassification
            model = VUBForSequenceClassification.from_pretrained("user/xet", cache_dir="cache-{disabled}")
            model.save_pretrained("pulled")
            """,
            tmp_path,
        )
        assert any(path.startswith(way) for _, path, _ in xet.requests)
        pulled, own = (
            load((place / "model.safetensors").read_bytes()) for place in (tmp_path / "pulled", folder / "text")
        )
        assert pulled.keys() == own.keys()
        assert all(torch.equal(pulled[name], value) for name, value in own.items())


def said_of_push(online, folder, repository, error):
    """Return what a push of the model in ``text`` says where it ends in that error; nothing where it does not."""
    return online.run(
        f"""
        from hf_vub import VUBForSequenceClassification
        from hf_vub.runs.pushing import report_failed_push
        try:
            with report_failed_push("{repository}"):
                VUBForSequenceClassification.from_pretrained("text").push_to_hub("{repository}")
        except {error.__name__} as error:
            print(error)
        """,
        folder,
    )


def test_a_hub_without_xet_takes_the_files_otherwise_or_none(xet, online, folder):
    """huggingface_hub 0.36 asks the server which way it takes; 2.4 does not, and the push has to say that it failed."""
    xet.xet = False
    said = said_of_push(online, folder, "user/no-xet", OSError)
    if said:
        assert said.startswith("the push to user/no-xet failed: ")
        assert said.rstrip().endswith("nothing was published")
        assert any("/xet-write-token/" in path for _, path, _ in xet.requests)
    else:
        assert xet.files("user/no-xet").keys() >= WEIGHTS | CODE


def test_pulled_without_the_package_it_predicts_the_same_bits(pushed, folder, tmp_path):
    text, image = model_inputs("bert"), model_inputs("timm-resnet")
    torch.save([text, image], tmp_path / "inputs.pt")
    code = """
        import sys

        class Hidden:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "hf_vub":
                    raise ModuleNotFoundError("hf_vub is hidden", name=name)

        sys.meta_path.insert(0, Hidden())
        import torch
        from transformers import AutoImageProcessor, AutoTokenizer, pipeline
        from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
        text, image = torch.load("inputs.pt", weights_only=True)
        load, found = AutoModelForSequenceClassification.from_pretrained, {}
        found["text"] = load("user/text", trust_remote_code=True)(**text).logits
        found["shifted"] = load("user/text", revision="shifted", trust_remote_code=True)(**text).logits
        model = AutoModelForImageClassification.from_pretrained("user/image", trust_remote_code=True)
        found["image"] = model(**image).logits
        size = AutoImageProcessor.from_pretrained("user/image").crop_size
        assert size == {"height": 32, "width": 32} or (size.height, size.width) == (32, 32), size
        tokenizer = AutoTokenizer.from_pretrained("user/trained")
        classify = pipeline("text-classification", "user/trained", trust_remote_code=True)
        answers = classify(["a fine film", "a dull film"])
        assert {answer["label"] for answer in answers} <= {"LABEL_0", "LABEL_1"}, answers
        torch.save(found, "found.pt")
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **pushed.environment(tmp_path / "home"), "PYTHONPATH": ""},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    model = VUBForSequenceClassification.from_pretrained(folder / "text")
    assert torch.equal(found["text"], logits(model, text))
    model.head.bottleneck_decoder.bias.data += 1.0
    assert torch.equal(found["shifted"], logits(model, text))
    assert torch.equal(found["image"], logits(build_model("timm-resnet", num_labels=10), image))


@pytest.mark.parametrize(
    ("name", "when", "told"),
    [
        ("user/text", "before", "the Hub holds the previous revision {before}, unchanged"),
        ("user/never", "before", "nothing was published"),
        ("user/doubtful", "after", "all the same the Hub has a new revision {now}"),
    ],
)
def test_a_push_that_dies_says_what_the_hub_holds(pushed, online, folder, name, when, told):
    pushed.dies = {"dies": when}
    before = pushed.repositories.get(("model", name))
    before = before and before.sha("main")
    said = online.run(
        f"""
        from hf_vub import VUBForSequenceClassification
        from hf_vub.runs.pushing import report_failed_push
        model = VUBForSequenceClassification.from_pretrained("text", beta=0.25)
        try:
            with report_failed_push({name!r}):
                model.push_to_hub({name!r}, commit_message="dies")
        except OSError as error:
            print(error)
        """,
        folder,
    )
    repository = pushed.repository(name)
    assert said.startswith(f"the push to {name} failed: ")
    assert told.format(before=before, now=repository.sha("main")) in said
    files = pushed.files(name).keys()
    assert (before == repository.sha("main")) if before else (files >= WEIGHTS) == (when == "after")


def test_a_training_whose_push_dies_says_so_too(pushed, online, folder):
    pushed.dies = {"dies": "before"}
    before = pushed.repository("user/trained").sha("main")
    said = online.run(
        """
        from hf_vub import *
        model = VUBForSequenceClassification.from_pretrained("text", beta=0.25)
        args = VUBTrainingArguments("again", report_to=[], use_cpu=True, hub_model_id="user/trained")
        try:
            VUBTrainer(model=model, args=args).push_to_hub("dies")
        except OSError as error:
            print(error)
        """,
        folder,
    )
    assert f"the Hub holds the previous revision {before}, unchanged" in said
    assert pushed.repository("user/trained").sha("main") == before


def test_what_cannot_be_pushed_is_no_broken_push(online, folder):
    said = said_of_push(online, folder, "user/two words", ValueError)
    assert "two words" in said


# Attacks on what is on the Hub


@pytest.mark.skipif(find_spec("textattack") is None, reason="text attacks are an optional extra")
def test_the_text_attack_script_takes_hub_ids(pushed, online, folder):
    pushed.add("user/stock", folder / "stock")
    data = ["--dataset", "test.parquet", "--num_examples", "2", "--max_length", "24"]
    results = {}
    for name, options in {
        "ours": ["--model", "user/text", "--trust_remote_code"],
        "shifted": ["--model", "user/text", "--revision", "shifted"],
        "stock": ["--model", "user/stock"],
    }.items():
        shown = script(online, "attack_text.py", folder, *options, *data, "--output_dir", f"attack-{name}")
        assert "accuracy_under_attack" in shown
        results[name] = read_json(folder / f"attack-{name}" / "result.json")
    assert [result["model"] for result in results.values()] == ["user/text", "user/text", "user/stock"]
    assert results["shifted"]["revision"] == "shifted"
    assert results["ours"]["weights"] != results["shifted"]["weights"]
    missing = [*data, "--model", "user/nowhere", "--output_dir", "attack-nowhere"]
    with pytest.raises(AssertionError, match="SystemExit: 2"):
        script(online, "attack_text.py", folder, *missing)


@pytest.mark.skipif(find_spec("textattack") is None, reason="text attacks are an optional extra")
def test_textattacks_command_line_takes_a_hub_id(pushed, online, folder):
    rows = [(row["text"], row["label"]) for row in synthetic.reviews(num_train=2, num_test=2)["test"]]
    (folder / "data.py").write_text(f"import textattack\ndataset = textattack.datasets.Dataset({rows!r})\n")
    page = (ROOT / "docs" / "attack.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(from hf_vub\.attacks import wrapper\n.*?)```", page, re.DOTALL)
    (folder / "model.py").write_text(block.replace("user/vub-bert-imdb", "user/text"))
    options = ["--model-from-file", "model.py", "--dataset-from-file", "data.py", "--recipe", "deepwordbug"]
    shown = online.run(
        "import runpy; runpy.run_module('hf_vub.attacks.text.textattack_compat', run_name='__main__')",
        folder,
        ["textattack", "attack", *options, "--num-examples", "2"],
    )
    assert "Number of successful attacks" in shown


def test_the_image_attack_script_takes_hub_ids(pushed, online, folder):
    pushed.add("user/stock-image", folder / "stock-image")
    for name, options in {"image": ["--trust_remote_code"], "stock-image": ["--revision", "main"]}.items():
        data = ["--dataset", "digits", "--num_examples", "8", "--attack", "fgs", "--output_dir", f"attack-{name}"]
        shown = script(online, "attack_image.py", folder, "--model", f"user/{name}", *options, *data)
        assert "attack_success_rate" in shown
        assert read_json(folder / f"attack-{name}" / "result.json")["model"] == f"user/{name}"


def test_an_attack_in_the_folder_of_a_checkpoint_refreshes_its_card(folder):
    checkpoint = folder / "image"
    about = {"task": "image", "model": "user/image", "base_model": "timm/resnet10t", "objective": "vub"}
    about |= {"dataset": "digits", "num_train": 1, "num_test": 1, "num_labels": 10, "metrics": {"accuracy": 0.1}}
    about |= {"versions": {}, "command": "", "commit": None}
    TrainResult(**about, card={"license": "mit", "tags": ["tiny"]}).save(checkpoint / "result.json")
    options = {"num_examples": 20, "epsilon": ["1/255", "8/255"], "progress": False}
    found = attack_image(checkpoint, "digits", "fgs", output_dir=checkpoint / "fgs", **options)
    attack_image(folder / "stock-image", "digits", "fgs", output_dir=checkpoint / "another", **options)
    text = (checkpoint / "README.md").read_text()
    assert metadata_errors(text) == []
    card = ModelCard(text)
    assert (card.data.license, card.data.tags[-1]) == ("mit", "tiny")
    under = [each for each in card.data.eval_results if each.metric_type == "accuracy" and each.metric_args]
    assert [each.metric_value for each in under] == [row["accuracy_under_attack"] for row in found["budgets"]]
    assert [each.metric_args["epsilon"] for each in under] == [1 / 255, 8 / 255]
    assert all(str(folder) not in line for line in text.splitlines())
