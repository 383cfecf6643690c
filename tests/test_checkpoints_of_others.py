"""Checkpoints whose configuration or tokenizer asks for code or for files run and reach nothing unasked."""

import ast
import contextlib
import itertools
import json

import pytest
import transformers
from datasets import Dataset

from helpers.models import build_model
from helpers.saving_trainer import trainer
from helpers.source_code import CODE, calls
from hf_vub import VUBConfig, VUBForImageClassification, VUBForSequenceClassification
from hf_vub.data.synthetic import word_tokenizer
from hf_vub.model import loading, trust

_numbers = itertools.count()


@pytest.fixture
def trace(tmp_path):
    """The file that a payload leaves where it runs."""
    return tmp_path / "owned"


@pytest.fixture
def elsewhere(tmp_path, trace):
    """Another checkpoint with code of its own; transformers imports a module once, so each has a new name."""
    folder, code = tmp_path / "elsewhere", f"payload_{next(_numbers)}"
    folder.mkdir()
    config = {"model_type": "payload", "auto_map": {"AutoConfig": f"{code}.Payload"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / f"{code}.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n"
        "from transformers import PretrainedConfig\n"
        "class Payload(PretrainedConfig):\n    model_type = 'payload'\n"
    )
    return folder


@pytest.fixture
def kernels(monkeypatch, trace):
    """A stand-in for the library that runs attention kernels from the Hub: it leaves the trace."""
    from transformers.integrations import hub_kernels

    def get_kernel(*args, **options):
        if options.get("trust_remote_code", True):  # what transformers 5 lets the library check
            trace.touch()
        raise OSError("there is no such kernel")

    monkeypatch.setattr(hub_kernels, "_kernels_available", True, raising=False)
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda *args, **options: True, raising=False)
    name = "get_kernel_hub" if hasattr(hub_kernels, "get_kernel_hub") else "get_kernel"
    monkeypatch.setattr(hub_kernels, name, get_kernel, raising=False)


def spoilt(folder, model, change):
    """The folder of a checkpoint whose configuration has been changed."""
    model.save_pretrained(folder)
    word_tokenizer(["good film", "bad film"], vocab_size=120, max_length=16).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(change(config)))
    return str(folder)


def attack_text(path):
    pytest.importorskip("nltk", reason="text attacks are an optional extra")
    from hf_vub.attacks import attack_text

    attack_text(path, Dataset.from_dict({"text": ["good film"] * 2, "label": [0, 1]}), "deepwordbug")


def attack_image(path):
    from hf_vub.attacks import attack_image

    attack_image(path, "digits", "fgs")


def shared_heads(path):
    from hf_vub.attacks import shared_heads

    shared_heads([path])


def wrapper(path):
    pytest.importorskip("textattack")
    from hf_vub.attacks import wrapper

    wrapper(path)


def load_backbone(path):
    from hf_vub.paper.backbone import load_backbone
    from hf_vub.paper.experiments import Experiment

    load_backbone(Experiment(name="x", task="text", model=path, dataset="digits"), 2, [])


def backbone_from_config(path):
    from hf_vub.paper.backbone import load_backbone
    from hf_vub.paper.experiments import Experiment

    load_backbone(Experiment(name="x", task="text", model=path, dataset="digits", from_config=True), 2, [])


def train_text(path):
    from hf_vub.training.classifiers import ModelArguments, build_classifier

    build_classifier("text", ModelArguments(model=path, objective="vanilla"), ["a", "b"], 0.5)


def train_image_from_scratch(path):
    from hf_vub.training.classifiers import ModelArguments, build_classifier

    build_classifier("image", ModelArguments(model=path, from_scratch=True), ["a", "b"], 0.5)


def auto_class(path):
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_pretrained(path)


SORTS = ("SequenceClassification", "ImageClassification")
WAYS = [
    VUBForSequenceClassification.from_pretrained,
    VUBForImageClassification.from_pretrained,
    attack_text,
    attack_image,
    shared_heads,
    wrapper,
    load_backbone,
    backbone_from_config,
    train_text,
    train_image_from_scratch,
]
TO_OURS = [auto_class, VUBConfig.from_pretrained]
"""Ways to our own checkpoints alone: what an Auto class does with those of others is not ours."""


def name(way):
    return getattr(way, "__qualname__", str(way)).replace(".from_pretrained", "")


def lightglue(elsewhere):
    """A configuration that loads another checkpoint, code included, in its constructor (CVE-2026-5241)."""
    detector = {"model_type": "payload", "_name_or_path": str(elsewhere)}
    return {"model_type": "lightglue", "trust_remote_code": True, "keypoint_detector_config": detector}


@pytest.mark.parametrize("way", WAYS, ids=name)
def test_a_stock_checkpoint_switches_no_remote_code_on(way, elsewhere, trace, tmp_path):
    path = spoilt(tmp_path / "model", build_model("bert").backbone, lambda config: lightglue(elsewhere))
    with pytest.raises(ValueError, match=r"config.json of .*model has trust_remote_code=True, which makes .* delete"):
        way(path)
    assert not trace.exists()


@pytest.mark.parametrize("way", [*WAYS, *TO_OURS], ids=name)
def test_a_backbone_switches_no_remote_code_on(way, elsewhere, trace, tmp_path):
    change = {"backbone_config": lightglue(elsewhere)}
    path = spoilt(tmp_path / "model", build_model("bert"), lambda config: {**config, **change})
    with pytest.raises(ValueError, match=r"has backbone_config.trust_remote_code=True"):
        way(path)
    assert not trace.exists()


def test_a_configuration_in_memory_switches_no_remote_code_on(elsewhere, trace):
    with pytest.raises(ValueError, match=r"has trust_remote_code=True"):
        VUBConfig(lightglue(elsewhere), num_labels=2)
    assert not trace.exists()


def test_an_adapter_leads_to_no_remote_code(elsewhere, trace, tmp_path):
    pytest.importorskip("peft")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(lightglue(elsewhere)))
    path = spoilt(tmp_path / "model", build_model("bert").backbone, dict)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "model" / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ValueError, match=r"config.json of .*base has trust_remote_code=True"):
        VUBForSequenceClassification.from_pretrained(path)
    assert not trace.exists()


KERNELS = [
    {"_attn_implementation_internal": "somebody/kernel"},
    {"_attn_implementation": "somebody/kernel@main"},
    {"_attn_implementation": {"": "somebody/kernel:attention"}},
    {"attribute_map": {"harmless": "_attn_implementation_internal"}, "harmless": "somebody/kernel"},
]


@pytest.mark.parametrize("change", KERNELS, ids=str)
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "stock"])
def test_no_configuration_fetches_a_kernel(ours, change, kernels, trace, tmp_path):
    """CVE-2026-4372."""
    model = build_model("bert")
    path = spoilt(tmp_path / "model", model if ours else model.backbone, lambda config: {**config, **change})
    for way in (VUBForSequenceClassification.from_pretrained, shared_heads, load_backbone, train_text):
        with pytest.raises(ValueError, match=rf"config.json of .* has {next(iter(change))}="):
            way(path)
    if ours:
        with pytest.raises(ValueError, match=rf"config.json of .* has {next(iter(change))}="):
            auto_class(path)
    assert not trace.exists()


def test_no_part_of_a_configuration_fetches_a_kernel(kernels, trace, tmp_path):
    from transformers import AutoModelForImageClassification, CLIPConfig

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = {**small, "image_size": 32, "patch_size": 8}
    model = AutoModelForImageClassification.from_config(CLIPConfig(text_config=small, vision_config=vision))
    change = {"vision_config": {**vision, "attn_implementation": "somebody/kernel"}}
    path = spoilt(tmp_path / "model", model, lambda config: {**config, **change})
    with pytest.raises(ValueError, match=r"has vision_config.attn_implementation='somebody/kernel'"):
        VUBForImageClassification.from_pretrained(path)
    assert not trace.exists()


def test_what_is_asked_for_is_let_through(tmp_path):
    """An implementation without a repository, one that the caller names, and what the caller trusts."""
    model = build_model("bert")
    plain = spoilt(tmp_path / "plain", model, lambda config: {**config, "attn_implementation": "eager"})
    assert VUBForSequenceClassification.from_pretrained(plain).config.model_type == "vub"
    assert VUBForSequenceClassification.from_pretrained(plain, attn_implementation="eager").training is False
    odd = spoilt(tmp_path / "odd", model.backbone, lambda config: {**config, "trust_remote_code": True})
    with pytest.raises(ValueError, match="trust_remote_code"):
        VUBForSequenceClassification.from_pretrained(odd)
    assert VUBForSequenceClassification.from_pretrained(odd, trust_remote_code=True).num_labels == 3


@pytest.fixture
def terminal(monkeypatch):
    """A user who answers every question with yes; the questions."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")
    return asked


@pytest.mark.parametrize("way", [*WAYS, *TO_OURS], ids=name)
def test_nothing_asks_on_the_terminal_whether_code_may_run(way, elsewhere, trace, terminal, tmp_path):
    """Backbone and tokenizer name code of their own for a kind of model that transformers has no classifier for."""
    code = next(path.stem for path in elsewhere.glob("*.py"))
    places = {f"Auto{kind}": f"{elsewhere}--{code}.Payload" for kind in ("Config", "Tokenizer", "ImageProcessor")}
    places |= {f"AutoModelFor{kind}": f"{elsewhere}--{code}.Payload" for kind in SORTS}
    backbone = {"model_type": "vit_mae", "hidden_size": 32, "auto_map": places}
    change = {"backbone_config": backbone}
    path = spoilt(tmp_path / "model", build_model("bert"), lambda config: {**config, **change})
    with contextlib.suppress(ValueError, OSError, TypeError):
        way(path)
    assert not terminal
    assert not trace.exists()


@pytest.mark.parametrize("way", WAYS, ids=name)
def test_a_stock_checkpoint_with_code_of_its_own_is_refused_without_a_question(
    way, elsewhere, trace, terminal, tmp_path
):
    code = next(path.stem for path in elsewhere.glob("*.py"))
    places = {f"Auto{kind}": f"{code}.Payload" for kind in ("Config", "Tokenizer", "ImageProcessor")}
    places |= {f"AutoModelFor{kind}": f"{code}.Payload" for kind in SORTS}
    change = {"model_type": "payload", "auto_map": places}
    path = spoilt(tmp_path / "model", build_model("bert").backbone, lambda config: {**config, **change})
    (tmp_path / "model" / f"{code}.py").write_text((elsewhere / f"{code}.py").read_text())
    with pytest.raises((ValueError, OSError, TypeError)):
        way(path)
    assert not terminal
    assert not trace.exists()


# Nonsense


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "nonsense", "torch_dtype": "nonsense"},
        {"dtype": ["float32"]},
        {"hidden_act": "nonsense"},
        {"hidden_size": "many"},
        {"hidden_size": -4},
        {"num_attention_heads": 0},
        {"vocab_size": None},
        {"num_hidden_layers": "two"},
        {"initializer_range": "x"},
        {"architectures": 7},
    ],
    ids=str,
)
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "stock"])
def test_nonsense_in_a_configuration_is_one_sentence_that_names_the_checkpoint(ours, change, tmp_path):
    model = build_model("bert")

    def spoil(config):
        return {**config, **change, "backbone_config": {**config["backbone_config"], **change}}

    path = spoilt(
        tmp_path / "model", model if ours else model.backbone, spoil if ours else lambda config: {**config, **change}
    )
    for way in (VUBForSequenceClassification.from_pretrained, train_text, load_text):
        try:
            way(path)
        except (ValueError, OSError, RuntimeError) as error:
            assert len(str(error)) < 1000  # noqa: PT017
        except TypeError as error:
            pytest.fail(f"{way}: {error}")


def load_text(path):
    loading.load_classifier(path, "text")


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "stock"])
def test_an_absurd_number_of_layers_is_refused_before_any_is_built(ours, tmp_path):
    model = build_model("bert")
    many = {"num_hidden_layers": 10**9}

    def spoil(config):
        return {**config, "backbone_config": {**config["backbone_config"], **many}} if ours else {**config, **many}

    path = spoilt(tmp_path / "model", model if ours else model.backbone, spoil)
    for way in (VUBForSequenceClassification.from_pretrained, shared_heads, train_text, load_text):
        with pytest.raises(ValueError, match=r"num_hidden_layers=1000000000; no model has more than 1,000 layers"):
            way(path)


@pytest.mark.parametrize("outside", ["../secret.safetensors", "{}/secret.safetensors", "a/b.safetensors", "a\\b"])
def test_an_index_of_weights_names_no_file_outside_its_folder(outside, tmp_path):
    model = build_model("bert")
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    index = tmp_path / "model" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    content["weight_map"][first] = outside.format(tmp_path)
    index.write_text(json.dumps(content))
    for way in (VUBForSequenceClassification.from_pretrained, load_text):
        with pytest.raises(ValueError, match=r"index.json names the file '.*', which is outside its folder"):
            way(str(tmp_path / "model"))


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "stock"])
def test_a_model_of_the_other_task_is_one_sentence(ours, tmp_path):
    for kind, way, message in (
        ("vit", VUBForSequenceClassification.from_pretrained, "is a 'vit' model, which does not classify texts"),
        ("bert", VUBForImageClassification.from_pretrained, "is a 'bert' model, which does not classify images"),
        ("vit", attack_text, "is a 'vit' model, which does not classify texts"),
        ("bert", attack_image, "is a 'bert' model, which does not classify images"),
        ("vit", train_text, "is a 'vit' model, which does not classify texts"),
    ):
        model = build_model(kind)
        path = spoilt(tmp_path / kind, model if ours else model.backbone, dict)
        with pytest.raises(ValueError, match=message):
            way(path)


# Tokenizers


def tokenizer_with(folder, **changes):
    """A saved tokenizer whose configuration has been changed, loaded as anybody would."""
    from transformers import AutoTokenizer

    word_tokenizer(["good film", "bad film"], vocab_size=120, max_length=16).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("outside", ["../../owned", "{}/owned", "a/b", "a\\b"])
def test_no_chat_template_is_written_elsewhere(outside, tmp_path):
    """CVE-2026-9856."""
    outside = outside.format(tmp_path)
    templates = [{"name": "default", "template": "x"}, {"name": outside, "template": "x"}]
    tokenizer = tokenizer_with(tmp_path / "tokenizer", chat_template=templates)
    with pytest.raises(ValueError, match=r"chat template named '.*'; its name must be that of a file"):
        trainer(tmp_path / "a" / "out", processing_class=tokenizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer"]


def test_chat_templates_with_plain_names_are_saved(tmp_path):
    templates = [{"name": "default", "template": "x"}, {"name": "tool_use", "template": "y"}]
    tokenizer = tokenizer_with(tmp_path / "tokenizer", chat_template=templates)
    trainer(tmp_path / "out", processing_class=tokenizer).save_model(str(tmp_path / "out"))
    assert len(list((tmp_path / "out").rglob("*.jinja"))) == 2


@pytest.mark.parametrize("kind", ["XLMRobertaTokenizer", "T5Tokenizer", "AlbertTokenizer", "BertTokenizer"])
def test_no_private_file_is_saved_as_a_vocabulary(kind, tmp_path):
    """A tokenizer's configuration may name any file of the machine as its vocabulary, to be saved and pushed."""
    secret = tmp_path / "secret.txt"
    secret.write_text("only for me\n")
    try:
        tokenizer = tokenizer_with(tmp_path / "tokenizer", tokenizer_class=kind, vocab_file=str(secret))
        job = trainer(tmp_path / "out", processing_class=tokenizer)
        job.save_model(str(tmp_path / "out"))
    except (ValueError, TypeError):
        pass  # refused by us, or by a version that reads no other file
    assert not any(b"only for me" in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_a_foreign_vocabulary_is_named(tmp_path):
    if transformers.__version__.startswith("5"):
        pytest.skip("transformers 5 reads no vocabulary from elsewhere")
    (tmp_path / "secret.txt").write_text("only for me\n")
    options = {"tokenizer_class": "T5Tokenizer", "vocab_file": str(tmp_path / "secret.txt")}
    with pytest.raises(ValueError, match=r"tokenizer_config.json of .* has vocab_file='.*secret.txt', a file of this"):
        trainer(tmp_path / "out", processing_class=tokenizer_with(tmp_path / "tokenizer", **options))


def test_a_tokenizer_made_here_may_come_from_any_file(tmp_path):
    from transformers import BertTokenizerFast

    (tmp_path / "words.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\nfilm\n")
    trust.check_processor(BertTokenizerFast(str(tmp_path / "words.txt")))
    tokenizer_with(tmp_path / "tokenizer")
    trust.check_processor(tokenizer_with(tmp_path / "tokenizer"))
    trust.check_processor(None)


# All ways in


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_every_checkpoint_is_loaded_with_a_look_at_it(path):
    """Auto classes load through :func:`hf_vub.model.trust.load`, which alone calls their ``from_pretrained``."""
    for called, _ in calls(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (called.startswith("Auto") and called.endswith(".from_pretrained")), called
        assert not called.endswith("stock_class.from_pretrained") or path.name == "modeling_vub.py", called
