"""The models: features, saving and loading, freezing, dtypes, Auto classes, pipelines and the tools around them."""

import copy
import inspect
import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    pipeline,
)

from helpers.models import IMAGE_BACKBONES, TEXT_BACKBONES, backbone_config, build_model, model_inputs
from helpers.saving_trainer import trainer
from hf_vub import VUBConfig, VUBForImageClassification, VUBForSequenceClassification
from hf_vub.model.adapters import save_base
from hf_vub.model.configuration_vub import refuse_misspelt
from hf_vub.model.information import categorical_entropy, cross_entropy, gaussian_rate
from hf_vub.model.trust import HUB_OPTIONS

BACKBONES = [*TEXT_BACKBONES, *IMAGE_BACKBONES]


def auto_class(name):
    return AutoModelForSequenceClassification if name in TEXT_BACKBONES else AutoModelForImageClassification


def own_class(name):
    return VUBForSequenceClassification if name in TEXT_BACKBONES else VUBForImageClassification


def last_linear(stock):
    linears = [module for module in stock.modules() if isinstance(module, torch.nn.Linear)]
    return next(module for module in reversed(linears) if module.out_features == stock.config.num_labels)


@pytest.mark.parametrize("name", BACKBONES)
def test_features_are_what_the_stock_classifier_saw(name, tmp_path):
    stock = auto_class(name).from_config(backbone_config(name)).eval()
    stock.save_pretrained(tmp_path)
    model = own_class(name).from_pretrained(tmp_path, objective="vib", beta=0.5)
    inputs = model_inputs(name)
    with torch.no_grad():
        torch.testing.assert_close(last_linear(stock)(model.features(**inputs)), stock(**inputs).logits)
    assert model.config.num_labels == 3
    assert (model.config.objective, model.config.beta) == ("vib", 0.5)
    assert not model.training


@pytest.mark.parametrize("name", BACKBONES)
def test_save_and_load_give_the_same_bits(name, tmp_path):
    model, inputs = build_model(name), model_inputs(name)
    before = model(**inputs).logits
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    for cls in (own_class(name), auto_class(name)):
        again = cls.from_pretrained(tmp_path)
        assert type(again) is own_class(name)
        assert torch.equal(again(**inputs).logits, before)
        saved, loaded = (each.config.to_dict()["backbone_config"] for each in (model, again))
        assert {**loaded, "dtype": None} == {**saved, "dtype": None}


@pytest.mark.parametrize("name", ["bert", "modernbert", "qwen2", "convnext", "timm-resnet"])
def test_a_head_on_a_bf16_backbone_keeps_its_bits(name, tmp_path):
    auto_class(name).from_config(backbone_config(name)).save_pretrained(tmp_path / "stock")
    model = own_class(name).from_pretrained(tmp_path / "stock", dtype=torch.bfloat16, freeze_backbone=True)
    assert next(model.backbone.parameters()).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.head.parameters()} == {torch.float32}
    inputs, labels = model_inputs(name), torch.tensor([0, 1, 2])
    optimizer = torch.optim.Adam(model.head.parameters(), lr=1e-2)
    model.train()
    for _ in range(2):
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
    model.eval()
    before = model(**inputs).logits
    model.save_pretrained(tmp_path / "vub")
    again = own_class(name).from_pretrained(tmp_path / "vub")
    assert {parameter.dtype for parameter in again.head.parameters()} == {torch.float32}
    assert torch.equal(again(**inputs).logits, before)


@pytest.mark.parametrize("name", ["bert", "gpt2", "timm-resnet"])
def test_half_precision_models_give_finite_float32_logits_and_reload(name, tmp_path):
    model, inputs = build_model(name).bfloat16(), model_inputs(name)
    inputs = {key: value.bfloat16() if value.is_floating_point() else value for key, value in inputs.items()}
    out = model(**inputs, labels=torch.tensor([0, 1, 2]))
    assert out.logits.dtype == out.rate.dtype == torch.float32
    assert out.loss.isfinite()
    model.save_pretrained(tmp_path)
    assert torch.equal(own_class(name).from_pretrained(tmp_path)(**inputs).logits, out.logits)
    half = build_model(name).half()
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}
    assert half.head(torch.randn(2, half.head.feature_size).half()).logits.isfinite().all()


def test_a_plain_encoder_is_wrapped(tmp_path):
    AutoModel.from_config(backbone_config("bert")).save_pretrained(tmp_path)
    model = VUBForSequenceClassification.from_pretrained(tmp_path, num_labels=7)
    assert model(**model_inputs("bert")).logits.shape == (3, 7)
    encoder = AutoModel.from_pretrained(tmp_path).eval()
    inputs = model_inputs("bert")
    torch.testing.assert_close(model.features(**inputs), encoder(**inputs).pooler_output)


def test_labels_of_the_stock_checkpoint_are_kept_or_replaced(tmp_path):
    config = backbone_config("bert")
    config.id2label, config.label2id = {0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2}
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    load = VUBForSequenceClassification.from_pretrained
    assert load(tmp_path).config.id2label == {0: "a", 1: "b", 2: "c"}
    assert load(tmp_path, num_labels=3).config.id2label == {0: "a", 1: "b", 2: "c"}
    assert load(tmp_path, num_labels=4).config.num_labels == 4
    assert load(tmp_path, id2label={0: "x", 1: "y"}, label2id={"x": 0, "y": 1}).config.label2id == {"x": 0, "y": 1}


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_reads_its_last_token_whatever_the_padding(name, side):
    model = build_model(name)
    tokens = torch.randint(3, 60, (1, 6))
    padding = torch.zeros(1, 4, dtype=torch.long)
    halves = (padding, tokens) if side == "left" else (tokens, padding)
    ids = torch.cat(halves, 1)
    mask = (ids != 0).long()
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    padded = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(padded, model(input_ids=tokens).logits, rtol=1e-4, atol=1e-5)


def test_the_output_is_the_objective_of_its_terms():
    model = build_model("bert", objective="vub", beta=0.3, entropy_weight=0.7, label_entropy=0.9)
    inputs, labels = model_inputs("bert"), torch.tensor([0, 2, 1])
    out = model(**inputs, labels=labels)
    head = model.head(model.features(**inputs))
    torch.testing.assert_close(out.rate, gaussian_rate(head.mean, head.scale))
    torch.testing.assert_close(out.cross_entropy, cross_entropy(out.logits, labels))
    torch.testing.assert_close(out.entropy, categorical_entropy(out.logits))
    expected = 0.3 * out.rate + out.cross_entropy - 0.7 * out.entropy.clamp_max(0.9)
    torch.testing.assert_close(out.loss, expected.mean())
    assert {value.shape[0] for name, value in out.items() if name != "loss"} == {3}
    assert isinstance(model(**inputs, return_dict=False), tuple)
    assert len(model(**inputs, output_hidden_states=True).hidden_states) == 3
    assert VUBConfig(BertConfig(), num_labels=4).entropy_cap == pytest.approx(math.log(4))


def test_precomputed_features_give_the_same_logits():
    model, inputs = build_model("bert"), model_inputs("bert")
    assert torch.equal(model(features=model.features(**inputs)).logits, model(**inputs).logits)


def test_sampling_follows_the_mode_and_the_number_of_samples():
    model, inputs = build_model("bert"), model_inputs("bert")
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    assert not torch.equal(model(**inputs, num_samples=1).logits, model(**inputs, num_samples=1).logits)
    averaged = model(**inputs, num_samples=4000).logits.softmax(-1)
    again = model(**inputs, num_samples=4000).logits.softmax(-1)
    torch.testing.assert_close(averaged, again, atol=0.02, rtol=0)
    model.train()
    assert model.head.num_train_samples == 1
    assert not torch.equal(model(**inputs).rate, model(**inputs).logits[:, 0])
    sampled = build_model("bert", num_eval_samples=3)
    assert sampled.head(sampled.features(**inputs)).draws.shape == (3, 3, 3)


@pytest.mark.parametrize("name", ["bert", "resnet", "timm-resnet"])
def test_a_frozen_backbone_keeps_its_weights_dropout_and_statistics(name, tmp_path):
    model, inputs = build_model(name, freeze_backbone=True), model_inputs(name)
    before = copy.deepcopy(model.state_dict())
    features = model.features(**inputs)
    model.train()
    assert model.head.training
    assert not any(module.training for module in model.backbone.modules())
    assert torch.equal(model.features(**inputs), features)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model(**inputs, labels=torch.tensor([0, 1, 2])).loss.backward()
    optimizer.step()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("backbone."), key
    model.save_pretrained(tmp_path)
    again = own_class(name).from_pretrained(tmp_path).train()
    assert not any(parameter.requires_grad for parameter in again.backbone.parameters())
    assert not again.backbone.training


def test_an_open_backbone_trains():
    model, inputs = build_model("bert").train(), model_inputs("bert")
    before = copy.deepcopy(model.state_dict())
    model(**inputs, labels=torch.tensor([0, 1, 2])).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    # A bias of keys shifts all scores of a query alike and has no gradient of its own.
    assert all("key.bias" in key or "position" in key or "token_type" in key for key in still), still


def test_gradient_checkpointing_gives_the_same_gradients():
    inputs, labels = model_inputs("bert"), torch.tensor([0, 1, 2])
    gradients = []
    for checkpointing in (False, True):
        model = build_model("bert")
        model.config.backbone_config.hidden_dropout_prob = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.train()
        if checkpointing:
            # The name changed in transformers 5.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.backbone.modules())
        torch.manual_seed(1)
        model(**inputs, labels=labels).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_head_in_float32(dtype):
    model, inputs = build_model("bert").train(), model_inputs("bert")
    with torch.autocast("cpu", dtype=dtype):
        out = model(**inputs, labels=torch.tensor([0, 1, 2]))
    assert out.logits.dtype == out.loss.dtype == torch.float32
    out.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_torch_compile_gives_the_same_logits():
    model, inputs = build_model("bert"), model_inputs("bert")
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits)


def test_a_sharded_model_loads(tmp_path):
    model, inputs = build_model("bert"), model_inputs("bert")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert torch.equal(VUBForSequenceClassification.from_pretrained(tmp_path)(**inputs).logits, model(**inputs).logits)


def test_loading_options_of_any_model(tmp_path):
    model, inputs = build_model("bert"), model_inputs("bert")
    model.save_pretrained(tmp_path / "nested" / "inner")
    load = VUBForSequenceClassification.from_pretrained
    options = {"subfolder": "inner", "local_files_only": True, "revision": "main", "token": False}
    assert torch.equal(load(tmp_path / "nested", **options)(**inputs).logits, model(**inputs).logits)
    eager = load(tmp_path / "nested" / "inner", attn_implementation="eager", device_map="auto")
    assert eager.backbone.config._attn_implementation == "eager"
    torch.testing.assert_close(eager(**inputs).logits, model(**inputs).logits)
    assert load(tmp_path / "nested" / "inner", dtype=torch.float16).backbone.dtype == torch.float16
    changed, info = load(tmp_path / "nested" / "inner", beta=0.25, output_loading_info=True)
    assert changed.config.beta == 0.25
    assert not info["missing_keys"]
    stock = AutoModelForSequenceClassification.from_config(backbone_config("bert"))
    stock.save_pretrained(tmp_path / "stock" / "inner")
    wrapped = load(tmp_path / "stock", subfolder="inner", attn_implementation="eager", device_map="auto")
    assert wrapped.backbone.config._attn_implementation == "eager"
    assert wrapped(**inputs).logits.shape == (3, 3)


def test_every_option_is_in_the_checkpoint(tmp_path):
    options = {
        "objective": "vib",
        "beta": 0.125,
        "entropy_weight": 0.5,
        "label_entropy": 0.75,
        "latent_size": 5,
        "num_train_samples": 2,
        "num_eval_samples": 4,
        "freeze_backbone": True,
        "encoder_relu": True,
    }
    build_model("bert", **options).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert {name: config[name] for name in options} == options
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModelForSequenceClassification"}
    again = VUBForSequenceClassification.from_pretrained(tmp_path)
    assert (again.head.latent_size, again.head.num_train_samples, again.head.num_eval_samples) == (5, 2, 4)
    assert (again.head(torch.randn(9, 32)).mean >= 0).all(), "encoder_relu forbids negative means"


def test_text_pipeline(tmp_path):
    from transformers import BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *["good", "bad", "film", "the", "was"]]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    model = build_model("bert")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    results = pipeline("text-classification", model=str(tmp_path / "model"), top_k=None)(["the film was good"])[0]
    expected = model(**tokenizer("the film was good", return_tensors="pt")).logits.softmax(-1)[0]
    assert sorted(result["score"] for result in results) == pytest.approx(sorted(expected.tolist()), abs=1e-5)


@pytest.mark.parametrize("name", ["timm-resnet", "timm-vit"])
def test_image_pipeline_over_timm(name, tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    pytest.importorskip("torchvision")
    model = build_model(name)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").exists()
    results = pipeline("image-classification", model=str(tmp_path))(image_module.new("RGB", (50, 40), "red"))
    assert len(results) == 3


@pytest.mark.parametrize("architecture", ["inception_v3.tv_in1k", "resnet18.a1_in1k", "convnext_tiny.fb_in1k"])
def test_timm_preprocessing_is_translated(architecture):
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    import numpy as np
    from PIL import Image

    from hf_vub.model.timm_processing import timm_image_processor

    del torchvision
    config = timm.get_pretrained_cfg(architecture).to_dict()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(config), is_training=False)
    y, x = np.mgrid[0:360, 0:333]
    image = Image.fromarray(np.stack([y * 0.7, x * 0.75, 127 + 100 * np.sin((x + y) / 40)], -1).astype(np.uint8))
    ours = torch.as_tensor(np.asarray(timm_image_processor(config)(image)["pixel_values"][0]))
    theirs = transform(image)
    assert ours.shape == theirs.shape
    # Crops of an odd margin differ by a pixel, and interpolation rounds to whole grey values at different places.
    assert (ours - theirs).abs().mean() < 0.03


def test_peft_lora_trains_backbone_and_head(tmp_path):
    peft = pytest.importorskip("peft")
    model = build_model("bert")
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], modules_to_save=["head"])
    )
    before = {name: value.detach().clone() for name, value in adapted.named_parameters()}
    inputs, labels = model_inputs("bert"), torch.tensor([0, 1, 2])
    optimizer = torch.optim.Adam(adapted.parameters(), lr=1e-2)
    for _ in range(2):
        adapted.train()(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, value in adapted.named_parameters() if not torch.equal(value, before[name])}
    assert any("lora_A" in name for name in moved)
    assert any("head.modules_to_save" in name and "bottleneck_encoder" in name for name in moved)
    assert not any("base_layer" in name or "original_module" in name for name in moved)
    adapted.eval()
    logits = adapted(**inputs).logits
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build_model("bert"), tmp_path).eval()
    torch.testing.assert_close(again(**inputs).logits, logits)


def adapted_and_trained(peft, model):
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], modules_to_save=["head"])
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapted.eval()


@pytest.mark.parametrize("pooling", ["stock", "mean"])
def test_auto_classes_reload_an_adapter(pooling, tmp_path):
    peft = pytest.importorskip("peft")
    build_model("bert", latent_size=5, pooling=pooling).save_pretrained(tmp_path / "base")
    adapted = adapted_and_trained(peft, VUBForSequenceClassification.from_pretrained(tmp_path / "base"))
    inputs = model_inputs("bert")
    logits = adapted(**inputs).logits
    adapted.save_pretrained(tmp_path / "adapter")
    for way in (
        peft.AutoPeftModelForSequenceClassification,
        AutoModelForSequenceClassification,
        VUBForSequenceClassification,
    ):
        assert torch.equal(way.from_pretrained(tmp_path / "adapter").eval()(**inputs).logits, logits), way


def test_an_adapter_of_a_wrapped_checkpoint_keeps_its_base(tmp_path):
    """The stock checkpoint that was wrapped is not the adapter's base: it has no head."""
    peft = pytest.importorskip("peft")
    AutoModelForSequenceClassification.from_config(backbone_config("bert")).save_pretrained(tmp_path / "stock")
    model = VUBForSequenceClassification.from_pretrained(tmp_path / "stock", latent_size=5)
    adapted = adapted_and_trained(peft, model)
    inputs = model_inputs("bert")
    logits = adapted(**inputs).logits
    save_base(adapted, tmp_path / "base")
    assert torch.equal(adapted(**inputs).logits, logits)
    adapted.save_pretrained(tmp_path / "adapter")
    assert not any("lora" in name for name in load_file(tmp_path / "base" / "model.safetensors"))
    again = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(again(**inputs).logits, logits)
    stamp = (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns
    save_base(again, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_training_saves_an_adapter_that_auto_classes_reload(tmp_path):
    peft = pytest.importorskip("peft")
    AutoModelForSequenceClassification.from_config(backbone_config("bert")).save_pretrained(tmp_path / "stock")
    adapted = adapted_and_trained(peft, VUBForSequenceClassification.from_pretrained(tmp_path / "stock"))
    trainer(tmp_path / "run", model=adapted).save_model()
    again = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "run").eval()
    inputs = model_inputs("bert")
    assert torch.equal(again(**inputs).logits, adapted(**inputs).logits)


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("objectiv", "got the unexpected keyword 'objectiv': did you mean 'objective'?"),
        ("freeze_backbones", "got the unexpected keyword 'freeze_backbones': did you mean 'freeze_backbone'?"),
        ("num_label", "got the unexpected keyword 'num_label': did you mean 'num_labels'?"),
        ("colour", "got the unexpected keyword 'colour': neither VUBConfig nor 'bert' models have it"),
    ],
)
def test_a_misspelt_keyword_names_the_class_that_was_called(keyword, message, tmp_path):
    AutoModelForSequenceClassification.from_config(backbone_config("bert")).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=rf"VUBForSequenceClassification.from_pretrained {re.escape(message)}"):
        VUBForSequenceClassification.from_pretrained(tmp_path, **{keyword: 1})
    if "did you mean" in message:
        with pytest.raises(TypeError, match=rf"VUBConfig {re.escape(message)}"):
            VUBConfig(BertConfig(), **{keyword: 1})


def test_no_keyword_of_transformers_looks_misspelt():
    from transformers import PreTrainedModel, TrainingArguments

    known = {*inspect.signature(PreTrainedModel.from_pretrained).parameters, *HUB_OPTIONS, "attn_implementation"}
    known |= {"trust_remote_code", "device_map", "dtype", "torch_dtype", "output_loading_info", "subfolder"}
    for name in TEXT_BACKBONES:
        known |= backbone_config(name).to_dict().keys()
    refuse_misspelt("VUBConfig", known - set(inspect.signature(TrainingArguments).parameters))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "elbo"}, "objective is 'elbo'"),
        ({"beta": -1.0}, "beta is -1.0; it must be a finite number of at least 0"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"beta": "0.1"}, "beta is '0.1'"),
        ({"entropy_weight": float("inf")}, "entropy_weight is inf"),
        ({"label_entropy": 5.0, "num_labels": 2}, "label_entropy is 5.0"),
        ({"latent_size": 0}, "latent_size is 0"),
        ({"num_train_samples": 0}, "num_train_samples is 0"),
        ({"num_eval_samples": -1}, "num_eval_samples is -1"),
        ({"problem_type": "multi_label_classification"}, "problem_type is 'multi_label_classification'"),
        ({"problem_type": "regression"}, "problem_type is 'regression'"),
        ({"num_labels": 1}, "num_labels is 1"),
    ],
)
def test_bad_options_are_one_sentence_before_anything_loads(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        VUBConfig(BertConfig(), **options)
    AutoModelForSequenceClassification.from_config(backbone_config("bert")).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=message):
        VUBForSequenceClassification.from_pretrained(tmp_path, **options)


def test_bad_checkpoints_are_one_sentence(tmp_path):
    from safetensors.torch import load_file, save_file

    build_model("bert").save_pretrained(tmp_path)
    load = VUBForSequenceClassification.from_pretrained
    with pytest.raises(ValueError, match="have other sizes than its configuration asks for"):
        load(tmp_path, latent_size=3)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("head.bottleneck_decoder.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights \(head.bottleneck_decoder.weight"):
        load(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_bad_labels_and_features_are_one_sentence():
    model, inputs = build_model("bert"), model_inputs("bert")
    with pytest.raises(ValueError, match="labels span 0 to 3; num_labels=3"):
        model(**inputs, labels=torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match=r"labels are torch.float32"):
        model(**inputs, labels=torch.tensor([0.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match="features have 5 columns, this head was built for feature_size=32"):
        model(features=torch.randn(2, 5))
    with pytest.raises(ValueError, match="backbone_config is None"):
        VUBForSequenceClassification(VUBConfig())


def test_a_model_without_one_last_linear_layer_is_refused():
    from hf_vub.model.modeling_vub import replace_classifier

    stock = AutoModelForSequenceClassification.from_config(backbone_config("bert"))
    stock.second = torch.nn.Linear(32, 3)
    with pytest.raises(ValueError, match="has 2 layers that could be its last linear layer"):
        replace_classifier(stock)
