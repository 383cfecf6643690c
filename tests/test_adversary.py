"""Adversarial training: where standard training fails, its arithmetic, its guard and its checkpoints."""

import json
import logging
import math

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoImageProcessor, BitImageProcessor, ResNetForImageClassification

from helpers.models import build_model
from helpers.robust_toy import EPSILON, MEAN, STD, TwoFeatures, processor
from helpers.training import Features, Tokens, arguments, pad, trainer
from hf_vub import VUBForImageClassification, VUBTrainer
from hf_vub.data import synthetic
from hf_vub.runs.digests import backbone_digest
from hf_vub.runs.schema import read_result
from hf_vub.training import DataArguments, ModelArguments, feature_rows, fine_tune
from hf_vub.training.adversary import Adversary, PixelAdversary, adversary_of, has_collapsed, symmetric_divergence
from hf_vub.training.embedding_adversary import EmbeddingAdversary

BALL = {"epsilon": str(EPSILON)}


def image_trainer(folder, rows=256, model=None, **options):
    defaults = {"per_device_train_batch_size": 32, "per_device_eval_batch_size": 64, "learning_rate": 5e-3}
    return VUBTrainer(
        model=model or build_model("resnet", num_labels=2, objective="vub", label_entropy=math.log(2)),
        args=arguments(folder, **{**defaults, **options}),
        train_dataset=TwoFeatures(rows, 0),
        eval_dataset=TwoFeatures(128, 1),
        processing_class=processor(),
    )


def robust_accuracy(model):
    rows = TwoFeatures(128, 1)
    attack = PixelAdversary(Adversary("pgd", EPSILON, 10, "linf"), model, processor())
    return float(attack.correct(rows.values, rows.labels, torch.Generator().manual_seed(0)).float().mean())


def test_standard_training_has_no_robustness_here(tmp_path):
    run = image_trainer(tmp_path, num_train_epochs=6)
    run.train()
    assert run.evaluate()["eval_accuracy"] > 0.95
    assert robust_accuracy(run.model) < 0.1
    assert "eval_robust_accuracy" not in run.evaluate()


@pytest.mark.parametrize(
    "options",
    [
        {"adversary": "pgd", "adversary_steps": 3},
        {"adversary": "fgsm_rs", "ema_decay": 0.9},
        {"adversary": "trades", "adversary_steps": 3},
        {"adversary": "fgsm_rs", "bf16": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_an_adversary_makes_the_model_robust(tmp_path, options):
    run = image_trainer(tmp_path, num_train_epochs=6, **BALL, **options)
    run.train()
    metrics = run.evaluate()
    assert metrics["eval_robust_accuracy"] > 0.85
    assert robust_accuracy(run.model) == pytest.approx(metrics["eval_robust_accuracy"], abs=0.05)


class Linear(nn.Module):
    """Logits that are linear in normalised pixels."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 4 * 4, 2, bias=False)
        nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, pixel_values):
        return self.layer(pixel_values.flatten(1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_on_a_linear_model_is_the_closed_form_in_pixels(norm, monkeypatch):
    """The worst pixels of label 0 lie epsilon along the gradient of the other logit, whatever the processor does."""
    monkeypatch.setattr("hf_vub.training.adversary.random_start", lambda pixels, *_: pixels)
    model, labels = Linear(), torch.zeros(5, dtype=torch.long)
    pixels = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    worst = PixelAdversary(Adversary("pgd", 0.05, 10, norm), model, processor()).perturbed(
        (pixels - MEAN) / STD, labels
    )
    away = (model.layer.weight[1] - model.layer.weight[0]).view(3, 4, 4)
    step = away.sign() if norm == "linf" else away / away.norm()
    torch.testing.assert_close(worst, (pixels + 0.05 * step - MEAN) / STD, atol=1e-4, rtol=0)


def test_pixels_stay_in_their_range_and_within_epsilon():
    values = TwoFeatures(16, 2).values * 3  # many are black or white
    for kind in ("fgsm_rs", "pgd", "trades"):
        model = build_model("resnet", num_labels=2).train()
        found = PixelAdversary(
            Adversary(kind, 0.1, 2 if kind != "fgsm_rs" else 1, "linf"), model, processor()
        ).perturbed(values, torch.zeros(16, dtype=torch.long))
        pixels = (values * STD + MEAN).clamp(0, 1)
        again = found * STD + MEAN
        assert float((again - pixels).abs().max()) <= 0.1 + 1e-5
        assert float(again.min()) >= -1e-5
        assert float(again.max()) <= 1 + 1e-5
        assert model.training


def test_batch_norms_learn_in_the_inner_loop_as_the_papers_code_does():
    """In training mode for fgsm_rs and pgd, in evaluation mode for trades."""
    rows = TwoFeatures(16, 2)
    for kind, moves in (("fgsm_rs", True), ("trades", False)):
        model = build_model("resnet", num_labels=2).train()
        before = {name: value.clone() for name, value in model.named_buffers()}
        PixelAdversary(Adversary(kind, 0.1, 1, "linf"), model, processor()).perturbed(rows.values, rows.labels)
        assert any(not torch.equal(value, before[name]) for name, value in model.named_buffers()) == moves
        assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "options", [{"adversary": "pgd", "adversary_steps": 2}, {"adversary": "fgsm_rs", "ema_decay": 0.8}]
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, options):
    options = {**BALL, **options, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3, "logging_steps": 1}
    whole = image_trainer(tmp_path / "whole", rows=128, **options)
    whole.train()
    again = image_trainer(tmp_path / "again", rows=128, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    found = again.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(found[name], value), name


def test_checkpoints_hold_averaged_weights(tmp_path):
    """A checkpoint gives the metrics that were logged for it, and the best one is loaded at the end."""
    options = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    run = image_trainer(
        tmp_path, rows=96, num_train_epochs=2, ema_decay=0.9, metric_for_best_model="robust_accuracy",
        adversary="fgsm_rs", **BALL, **options,
    )  # fmt: skip
    run.train()
    logged = {log["step"]: log for log in run.state.log_history if "eval_nll" in log}
    saved = type(run.model).from_pretrained(tmp_path / "checkpoint-3")
    check = image_trainer(tmp_path / "check", model=saved, adversary="fgsm_rs", **BALL)
    metrics = check.evaluate()
    for name in ("eval_nll", "eval_robust_accuracy"):
        assert metrics[name] == pytest.approx(logged[3][name], abs=1e-6)
    best = logged[run.best_step()]
    assert best["eval_robust_accuracy"] == max(log["eval_robust_accuracy"] for log in logged.values())
    assert run.evaluate()["eval_nll"] == pytest.approx(best["eval_nll"], abs=1e-6)
    (tmp_path / "checkpoint-3" / "training_weights.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks training_weights.safetensors"):
        image_trainer(tmp_path, rows=96, ema_decay=0.9).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_accumulation_gives_the_gradient_of_the_whole_batch(tmp_path, monkeypatch):
    """Batch 8 equals batch 2 x 4 under PGD; plain SGD, no batch norm and no noise."""
    monkeypatch.setattr("hf_vub.training.adversary.random_start", lambda pixels, *_: pixels)
    found = []
    for batch, steps in ((8, 1), (2, 4)):
        model = build_model("convnext", num_labels=2, objective="vub", label_entropy=0.6)
        model.head.num_train_samples = 0
        run = image_trainer(
            tmp_path, rows=16, model=model, adversary="pgd", adversary_steps=2, adversary_norm="l2", optim="sgd",
            per_device_train_batch_size=batch, gradient_accumulation_steps=steps, max_steps=2, max_grad_norm=0.0,
        )  # fmt: skip
        run.train()
        found.append(run.model.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-6, rtol=0, msg=name)


def test_gradient_checkpointing_gives_the_same_weights(tmp_path):
    found = []
    for checkpointing in (False, True):
        model = build_model("vit", num_labels=2, objective="vub", enlarge_to=32)
        run = image_trainer(
            tmp_path, rows=32, model=model, adversary="pgd", adversary_steps=2, max_steps=1,
            gradient_checkpointing=checkpointing,
        )  # fmt: skip
        run.train()
        found.append(run.model.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-6, rtol=0, msg=name)


def test_a_collapse_is_told(tmp_path, caplog):
    run = image_trainer(tmp_path, adversary="fgsm_rs", **BALL)
    run.state.log_history = [{"eval_robust_accuracy": 0.9}]
    run._robust_accuracy = lambda loader: 0.3
    with caplog.at_level(logging.WARNING):
        run.evaluate()
    assert "fell from 0.90 to 0.30" in caplog.text
    assert not has_collapsed(0.46, 0.9, 2)
    assert not has_collapsed(0.2, 0.6, 2)  # never better than chance
    assert has_collapsed(0.05, 0.3, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adversary": "pgdd"}, "adversary is 'pgdd'; it must be one of 'fgsm_rs', 'pgd', 'trades', 'freelb'"),
        ({"adversary": "pgd", "epsilon": "8"}, "epsilon is '8'; it must be between 0 and 1 in the linf norm"),
        ({"adversary": "pgd", "epsilon": "-1/255"}, "epsilon is '-1/255'; it must be between 0 and 1"),
        ({"adversary": "pgd", "epsilon": "8/0"}, "epsilon is '8/0'; it must be a number or a fraction"),
        ({"adversary": "pgd", "epsilon": "nan"}, "epsilon is 'nan'; it must be between 0 and 1"),
        ({"adversary": "pgd", "adversary_steps": 0}, "adversary_steps is 0; it must be at least 1"),
        ({"adversary": "fgsm_rs", "adversary_steps": 3}, "fgsm_rs takes one step"),
        ({"adversary": "pgd", "adversary_norm": "l1"}, "adversary_norm is 'l1'; it must be 'linf' or 'l2'"),
        ({"epsilon": "8/255"}, "epsilon is '8/255', but there is no adversary"),
        ({"adversary_steps": 3}, "adversary_steps is 3, but there is no adversary"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; it must be at least 0 and less than 1"),
        ({"trades_weight": -1.0}, "trades_weight is -1.0; it must be at least 0"),
        ({"adversary": "pgd", "smoothing": "gaussian:0.25"}, "adversary and smoothing are both set"),
        ({"learning_rate": 1e30}, "learning_rate is 1e\\+30; it must be at most 100"),
        ({"num_train_epochs": 1e30}, "num_train_epochs is 1e\\+30; it must be at most 1e\\+06"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        arguments(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_adversaries_that_cannot_be_are_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="adversary is 'pgd', but the model classifies texts; use 'freelb'"):
        trainer(tmp_path, adversary="pgd")
    with pytest.raises(ValueError, match="adversary is 'freelb', but the model classifies images"):
        image_trainer(tmp_path, adversary="freelb")
    model = build_model("resnet", num_labels=2)
    with pytest.raises(ValueError, match="processing_class is None; give the model's image processor"):
        VUBTrainer(model=model, args=arguments(tmp_path, adversary="pgd"), train_dataset=TwoFeatures(8, 0))
    with pytest.raises(ValueError, match="metric_for_best_model is 'robust_accuracy'"):
        image_trainer(tmp_path, metric_for_best_model="robust_accuracy")
    frozen = build_model("bert", num_labels=2, freeze_backbone=True)
    tokens = Dataset.from_list([Tokens()[row] for row in range(8)])
    rows = feature_rows(frozen, tokens, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match="train_dataset holds cached features, which cannot be perturbed"):
        VUBTrainer(model=frozen, args=arguments(tmp_path, adversary="freelb"), train_dataset=rows)


def test_defaults_are_those_of_the_papers(tmp_path):
    assert adversary_of(arguments(tmp_path, adversary="fgsm_rs")).step == pytest.approx(10 / 255)
    assert adversary_of(arguments(tmp_path, adversary="pgd")).step == pytest.approx(2 / 255)
    assert adversary_of(arguments(tmp_path, adversary="pgd", adversary_norm="l2")) == Adversary(
        "pgd", pytest.approx(128 / 255), 10, "l2"
    )
    assert adversary_of(arguments(tmp_path, adversary="freelb")) == Adversary("freelb", 0.3, 3, "l2")
    assert adversary_of(arguments(tmp_path)) is None


def test_freelb_shifts_are_bounded_and_leave_padding_alone():
    attack = EmbeddingAdversary(Adversary("freelb", 0.3, 3, "l2"))
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    shift = attack.start(mask, 8)
    assert float(shift.flatten(1).norm(dim=1).max()) < 0.3
    gradient = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        shift = attack.climb(shift, gradient, mask)
    assert torch.equal(shift[1, 1:], torch.zeros(2, 8))
    expected = gradient * mask[..., None]
    expected = 0.3 * expected / expected.flatten(1).norm(dim=1)[:, None, None]
    torch.testing.assert_close(shift, expected, atol=2e-2, rtol=0)


def test_freelb_averages_the_gradients_of_its_passes(tmp_path):
    """With epsilon 0 its passes are all the plain one, so plain SGD ends where a plain training does."""
    found = []
    for options in ({}, {"adversary": "freelb", "epsilon": "0", "gradient_accumulation_steps": 1}):
        model = build_model("bert", num_labels=2, objective="vub", label_entropy=0.6)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.config.backbone_config.attention_probs_dropout_prob = 0.0
        for module in model.modules():
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.0
        model.head.num_train_samples = 0
        run = trainer(
            tmp_path,
            model=model,
            dataset=Tokens(16),
            collator=pad,
            optim="sgd",
            learning_rate=0.1,
            max_steps=3,
            **options,
        )
        run.train()
        found.append((run.model.state_dict(), [log["loss"] for log in run.state.log_history if "loss" in log]))
    for name, value in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], value, atol=1e-5, rtol=0, msg=name)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-3)


def test_freelb_trains_with_accumulation_and_resumes_bit_for_bit(tmp_path):
    options = {
        "adversary": "freelb", "gradient_accumulation_steps": 2, "max_steps": 4, "save_strategy": "steps",
        "save_steps": 2, "dataset": Tokens(32), "collator": pad,
    }  # fmt: skip
    model = {"num_labels": 2, "beta": 0.01}
    whole = trainer(tmp_path / "whole", model=build_model("bert", **model), **options)
    whole.train()
    again = trainer(tmp_path / "again", model=build_model("bert", **model), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    plain = trainer(tmp_path / "plain", model=build_model("bert", **model), **{**options, "adversary": None})
    plain.train()
    assert any(
        not torch.equal(plain.model.state_dict()[name], value) for name, value in whole.model.state_dict().items()
    )


def test_weights_are_averaged_with_a_warm_up(tmp_path):
    """By hand: m = d m + (1 - d) w with d = min(decay, (1 + t) / (10 + t))."""
    steps = []
    run = trainer(tmp_path, dataset=Features(32), ema_decay=0.5, max_steps=3, logging_steps=1)
    average = {name: value.double().clone() for name, value in run.model.state_dict().items()}
    update = run.average_step

    def recorded():
        update()
        decay = min(0.5, (1 + run.state.global_step) / (10 + run.state.global_step))
        steps.append(decay)
        for name, value in run.model.state_dict().items():
            average[name] = decay * average[name] + (1 - decay) * value.double()

    run.average_step = recorded
    run.train()
    assert len(steps) == 3
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value.double(), average[name], atol=1e-5, rtol=1e-5, msg=name)


def test_the_symmetric_divergence_is_that_of_the_formula():
    first, second = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, q = first.softmax(-1), second.softmax(-1)
    expected = (((p * (p / q).log()).sum(-1)) + ((q * (q / p).log()).sum(-1))) / 2
    torch.testing.assert_close(symmetric_divergence(first, second), expected)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A folder with a tiny stock image classifier and its processor."""
    folder = tmp_path_factory.mktemp("resnet")
    backbone = build_model("resnet", num_labels=10).config.backbone_config
    ResNetForImageClassification(backbone).save_pretrained(folder)
    BitImageProcessor(do_center_crop=False, size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def fine_tuned(folder, resnet, **options):
    model = ModelArguments(str(resnet), options.pop("objective", "vub"), freeze_backbone=options.pop("freeze", False))
    options = {"adversary": "fgsm_rs", "epsilon": "16/255", "robust_eval_rows": 20, **options}
    options = {"num_train_epochs": 1, "per_device_train_batch_size": 16, **options}
    return fine_tune("image", model, DataArguments("digits", max_train=60, max_test=40), arguments(folder, **options))


def test_the_script_says_what_it_trained_against(tmp_path, resnet):
    result = fine_tuned(tmp_path / "run", resnet, ema_decay=0.9, eval_strategy="epoch")
    assert read_result(tmp_path / "run" / "result.json") == result
    fields = (result.adversary, result.adversary_steps, result.adversary_norm, result.ema_decay, result.trades_weight)
    assert fields == ("fgsm_rs", 1, "linf", 0.9, None)
    assert result.epsilon == pytest.approx(16 / 255)
    assert 0 <= result.metrics["robust_accuracy"] <= 1
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Trained against" in card
    assert "Accuracy under ten PGD steps" in card
    lines = [json.loads(line) for line in (tmp_path / "run" / "information_plane.jsonl").read_text().splitlines()]
    assert lines[-1]["held_out"] is not None


def test_a_frozen_backbone_is_trained_on_attacked_images(tmp_path, resnet):
    """Features cannot be cached then: the images go through the backbone in every step."""
    result = fine_tuned(tmp_path / "run", resnet, freeze=True)
    assert result.adversary == "fgsm_rs"
    assert not list(tmp_path.rglob("*.features"))


def test_a_run_against_another_adversary_does_not_go_on(tmp_path, resnet):
    fine_tuned(tmp_path / "run", resnet, save_strategy="epoch")
    with pytest.raises(ValueError, match="holds checkpoints of a run with epsilon='16/255', and this one has '4/255'"):
        fine_tuned(tmp_path / "run", resnet, save_strategy="epoch", epsilon="4/255")


def test_the_stock_trainer_has_no_adversary(tmp_path, resnet):
    with pytest.raises(ValueError, match="objective is 'vanilla', whose trainer has no adversary"):
        fine_tuned(tmp_path / "run", resnet, objective="vanilla")
    assert not (tmp_path / "run").exists()


def test_images_are_attacked_at_their_own_size_and_enlarged_inside(tmp_path, resnet):
    """The processor gives 8 px, the backbone sees 16; the checkpoint, its features and remote code do the same."""
    model = ModelArguments(str(resnet), "vub", image_size=8, enlarge_to=16)
    data = DataArguments("digits", max_train=60, max_test=40)
    options = {"adversary": "fgsm_rs", "epsilon": "16/255", "num_train_epochs": 1, "per_device_train_batch_size": 16}
    result = fine_tune("image", model, data, arguments(tmp_path / "run", **options))
    assert (result.image_size, result.enlarge_to) == (8, 16)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run", use_fast=False)
    image = synthetic.digits()["test"][0]["image"]
    pixels = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 8, 8)
    trained = VUBForImageClassification.from_pretrained(tmp_path / "run")
    inside = torch.nn.functional.interpolate(pixels, (16, 16), mode="bilinear")
    expected = trained.head(trained.backbone(pixel_values=inside).logits).logits
    assert torch.equal(trained(pixel_values=pixels).logits, expected)
    plain = backbone_digest(trained)
    trained.config.enlarge_to = None
    assert backbone_digest(trained) != plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enlarge_to": 16}, "enlarge_to is 16; give image_size"),
        ({"image_size": 8}, "image_size is 8; only an untrained timm model, or one with enlarge_to"),
        ({"image_size": 8, "enlarge_to": 0}, "enlarge_to is 0; it must be a size of images in pixels"),
        (
            {"image_size": 8, "enlarge_to": 16, "objective": "vanilla"},
            "objective 'vanilla' is a stock model without it",
        ),
    ],
)
def test_sizes_that_cannot_be_are_refused(tmp_path, resnet, options, message):
    with pytest.raises(ValueError, match=message):
        fine_tune("image", ModelArguments(str(resnet), **options), DataArguments("digits"), arguments(tmp_path / "run"))
