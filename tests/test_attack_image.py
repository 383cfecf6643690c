"""Attacks on images against closed forms, counts by hand, killed processes and bad input."""

import io
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value, load_from_disk
from PIL import Image as Pillow
from safetensors.torch import load_file
from torch import nn
from transformers import ViTImageProcessor

from helpers.image_attacks import dataset_of, vit, vub
from hf_vub.attacks import attack_image
from hf_vub.attacks.image.adversaries import (
    ATTACKS,
    CarliniWagner,
    FastGradient,
    ProjectedGradient,
    ProjectedGradientL2,
    make,
    parse_epsilons,
)
from hf_vub.attacks.image.examples import class_index
from hf_vub.compute.contexts import frozen, seeded
from hf_vub.compute.predictor import parse_noise
from hf_vub.embeddings.pixels import PixelModel
from hf_vub.runs.files import read_json, read_records

pytest.importorskip("foolbox")


class Linear(nn.Module):
    """Logits that are linear in the pixels: every attack on it has a closed form."""

    def __init__(self, classes=3, side=6, channels=1, scale=1.0):
        super().__init__()
        self.linear = nn.Linear(channels * side * side, classes)
        with torch.no_grad():
            self.linear.weight.mul_(scale)

    def forward(self, pixels):
        return self.linear(pixels.flatten(1))


def images_for(model, count=12, low=0.3, high=0.7, shape=(1, 6, 6)):
    """Random mid-grey images labelled by the model itself, so that all are rightly classified."""
    pixels = torch.rand(count, *shape) * (high - low) + low
    return pixels, model(pixels).argmax(dim=1)


@pytest.fixture
def pictures():
    """Twenty random 10x10 colour images of three classes."""
    torch.manual_seed(1)
    return dataset_of(torch.rand(20, 3, 10, 10), torch.arange(20) % 3, ["ant", "bee", "soccer ball"])


@pytest.fixture
def processor():
    return ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])


def without_times(result):
    return {key: value for key, value in result.items() if key not in ("seconds", "command")}


# Oracles


def test_fgs_is_its_closed_form_on_a_linear_model():
    model = Linear().double().float()
    pixels, labels = images_for(model)
    with frozen(model):
        found = FastGradient()(PixelModel(model), pixels, labels, (0.01, 0.1))
    weight = model.linear.weight.detach()
    probabilities = model(pixels).softmax(dim=1).detach()
    gradient = (probabilities - nn.functional.one_hot(labels, 3)) @ weight
    for epsilon, perturbed in zip((0.01, 0.1), found, strict=True):
        expected = (pixels + epsilon * gradient.sign().view_as(pixels)).clamp(0, 1)
        assert torch.allclose(perturbed.adversarial, expected, atol=1e-6)
        assert torch.equal(perturbed.success, model(expected).argmax(dim=1) != labels)
        assert torch.allclose(perturbed.distance, torch.full((12,), epsilon), atol=1e-6)


def test_fgs_computes_one_gradient_for_all_budgets():
    model = Linear()
    pixels, labels = images_for(model)
    calls = []
    model.linear.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    with frozen(model):
        FastGradient()(PixelModel(model), pixels, labels, (0.01, 0.1, 0.2))
    assert sum(calls) == 1


@pytest.mark.parametrize("targeted", [False, True])
def test_carlini_wagner_finds_the_distance_to_the_hyperplane(targeted):
    model = Linear(classes=2, scale=4.0)
    pixels, labels = images_for(model, 8, 0.4, 0.6)
    weight, bias = model.linear.weight.detach(), model.linear.bias.detach()
    normal = weight[1] - weight[0]
    exact = ((pixels.flatten(1) @ normal + bias[1] - bias[0]) / normal.norm()).abs()
    adversary = CarliniWagner(steps=150, stepsize=0.01, binary_search_steps=10, abort_early=False)
    with frozen(model):
        (found,) = adversary(PixelModel(model), pixels, labels, (), 1 - labels if targeted else None)
    assert found.success.all()
    assert torch.equal(model(found.adversarial).argmax(dim=1), 1 - labels)
    assert ((found.distance - exact).abs() / exact).max() < 0.02


def test_carlini_wagner_reaches_the_nearest_of_three_planes():
    model = Linear(classes=3, scale=4.0)
    pixels, labels = images_for(model, 6, 0.4, 0.6)
    weight, logits = model.linear.weight.detach(), model(pixels).detach()
    gaps = logits.gather(1, labels[:, None]) - logits
    norms = (weight[labels][:, None] - weight[None]).norm(dim=2)
    exact = (gaps / norms.clamp_min(1e-9)).masked_fill(nn.functional.one_hot(labels, 3).bool(), math.inf).amin(dim=1)
    adversary = CarliniWagner(steps=150, stepsize=0.01, binary_search_steps=10, abort_early=False)
    with frozen(model):
        (found,) = adversary(PixelModel(model), pixels, labels)
    assert found.success.all()
    assert ((found.distance - exact).abs() / exact).max() < 0.02


@pytest.mark.parametrize(
    ("adversary", "dual"), [(ProjectedGradient(), 1), (ProjectedGradientL2(100, relative_stepsize=0.3), 2)]
)
def test_pgd_reaches_the_worst_case_of_a_linear_model(adversary, dual):
    model = Linear(classes=2)
    pixels, labels = images_for(model)
    epsilon = 0.05
    with frozen(model):
        (found,) = adversary(PixelModel(model), pixels, labels, (epsilon,))
    weight = model.linear.weight.detach()
    sign = 1.0 - 2.0 * labels  # the margin is (first - second) logit for label 0

    def margin(images):
        logits = model(images).detach()
        return (logits[:, 0] - logits[:, 1]) * sign

    worst = margin(pixels) - epsilon * (weight[0] - weight[1]).norm(p=dual)
    assert torch.allclose(margin(found.adversarial), worst, atol=1e-4)


@pytest.mark.parametrize("name", ["apgd_ce", "apgd_dlr", "square"])
def test_toolbox_attacks_stay_in_the_budget_and_reach_the_worst_case(name):
    pytest.importorskip("art")
    model = Linear(classes=4)
    pixels, labels = images_for(model, 16)
    epsilon = 0.03
    weight, logits = model.linear.weight.detach(), model(pixels).detach()
    gaps = logits.gather(1, labels[:, None]) - logits
    reach = epsilon * (weight[labels][:, None] - weight[None]).abs().sum(dim=2)
    other = torch.arange(4)[None] != labels[:, None]
    can_fall = ((gaps < 0.98 * reach) & other).any(dim=1)
    cannot_fall = ((gaps > 1.001 * reach) | ~other).all(dim=1)
    adversary = make(name, 200 if name == "square" else 30)[1]
    with frozen(model), seeded(0):
        (found,) = adversary(PixelModel(model), pixels, labels, (epsilon,))
    assert (found.adversarial - pixels).abs().max() <= epsilon + 1e-6
    assert found.adversarial.min() >= 0
    assert found.adversarial.max() <= 1
    assert not (found.success & cannot_fall).any()
    assert 0 < can_fall.sum() < 16
    reached = (found.success & can_fall).sum() / can_fall.sum()
    assert reached >= (0.5 if name == "square" else 0.99)


def test_success_is_scored_on_the_image_that_is_returned():
    """A library that claims success for unchanged or impossible images gains nothing by it."""
    model = Linear()
    pixels, labels = images_for(model, 3)

    class Boaster(ProjectedGradient):
        def _propose(self, batch):
            return [torch.stack([batch.images[0], batch.images[1] * float("nan"), batch.images[2] + 100.0])]

    with frozen(model):
        (found,) = Boaster()(PixelModel(model), pixels, labels, (1e-4,))
    assert not found.success.any()
    assert torch.equal(found.adversarial[:2], pixels[:2])
    assert (found.adversarial[2] - pixels[2]).abs().max() <= 1e-4 + 1e-6


def test_carlini_wagner_leaves_an_image_alone_where_it_finds_nothing():
    """Foolbox returns black images for failures; black is of another class here, so it would look like success."""
    model = Linear(classes=2)
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor([[0.0], [1.0]]).expand(2, 36))
        model.linear.bias.copy_(torch.tensor([1.0, 0.0]))
    pixels = torch.rand(4, 1, 6, 6) * 0.4 + 0.3
    labels = torch.ones(4, dtype=torch.long)
    assert model(torch.zeros(1, 1, 6, 6)).argmax() == 0
    with frozen(model):
        (found,) = CarliniWagner(steps=1, binary_search_steps=1)(PixelModel(model), pixels, labels)
    assert torch.equal(found.adversarial, pixels)
    assert not found.success.any()
    assert found.distance.tolist() == [0.0] * 4


def test_an_untouched_image_that_noise_misclassifies_is_no_success():
    class Coin(Linear):
        def forward(self, pixels, num_samples=0):
            return torch.randn(len(pixels), 3) if num_samples else super().forward(pixels)

    class Idle(ProjectedGradient):
        def _propose(self, batch):
            return [batch.images.clone()]

    model = Coin()
    pixels, labels = images_for(model, 64)
    with frozen(model):
        (found,) = Idle()(PixelModel(model, noise="sampled"), pixels, labels, (0.1,))
    assert (found.prediction != labels).any()
    assert not found.success.any()


def test_images_stay_in_range_whatever_a_library_proposes():
    class Boaster(ProjectedGradient):
        def _propose(self, batch):
            return [batch.images + 5.0, batch.images - 5.0]

    model = Linear()
    pixels, labels = images_for(model, 6, 0.0, 1.0)
    with frozen(model):
        up, down = Boaster()(PixelModel(model), pixels, labels, (0.3, 0.6))
    assert torch.allclose(up.adversarial, (pixels + 0.3).clamp(0, 1))
    assert torch.allclose(down.adversarial, (pixels - 0.6).clamp(0, 1))
    assert up.adversarial.max() <= 1.0
    assert down.adversarial.min() >= 0.0


def test_every_batch_has_a_random_state_of_its_own(tmp_path):
    model = Linear(classes=2)
    image = (torch.rand(1, 6, 6) * 0.4 + 0.3).tolist()
    data = Dataset.from_dict({"image": [image] * 3, "label": [int(model(torch.tensor([image])).argmax())] * 3})
    attack_image(model, data, ProjectedGradient(1, relative_stepsize=0.01), batch_size=1, output_dir=tmp_path)
    first, second, third = load_file(tmp_path / "images.safetensors")["adversarial"]
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_a_batch_that_does_not_fit_is_halved():
    model = Linear()
    pixels, labels = images_for(model, 8)
    sizes = []

    class Large(FastGradient):
        def _propose(self, batch):
            sizes.append(len(batch.images))
            if len(batch.images) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super()._propose(batch)

    with frozen(model):
        (halves,) = Large()(PixelModel(model), pixels, labels, (0.1,))
        (whole,) = FastGradient()(PixelModel(model), pixels, labels, (0.1,))
    assert sizes[0] == 8
    assert max(sizes[-2:]) <= 3
    for ours, theirs in zip(halves, whole, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_counts_by_hand():
    """One pixel, threshold 0.5 between the classes: of five images the one at 0.45 falls to a budget of 0.1."""

    class Threshold(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[-1.0], [1.0]]))

        def forward(self, pixels):
            return (pixels.flatten(1).mean(dim=1, keepdim=True) - 0.5) @ self.weight.T

    values, labels = [0.45, 0.2, 0.7, 0.3, 0.9], [0, 0, 1, 1, 0]
    pixels = [np.full((1, 1, 1), value, dtype=np.float32).tolist() for value in values]
    data = Dataset.from_dict({"image": pixels, "label": labels})
    result = attack_image(Threshold(), data, "fgs", epsilon=[0.1, 0.25])
    assert result["clean_accuracy"] == 3 / 5
    assert result["num_attacked"] == 3
    first, second = result["budgets"]
    assert first["accuracy_under_attack"] == 2 / 5
    assert first["attack_success_rate"] == 1 / 3
    assert first["l2_mean"] == pytest.approx(0.1, abs=1e-6)
    assert second["attack_success_rate"] == 2 / 3
    assert second["l2_median"] == pytest.approx(0.25, abs=1e-6)
    assert result["epsilon"] == 0.25
    assert result["accuracy_under_attack"] == 1 / 5


def test_targeted_runs_leave_inputs_of_the_target_alone():
    torch.manual_seed(0)
    model = Linear(scale=4.0)
    pixels, labels = images_for(model, 15)
    data = Dataset.from_dict({"image": pixels.tolist(), "label": labels.tolist()})
    for target in range(3):
        result = attack_image(model, data, CarliniWagner(steps=100), target=target)
        assert result["target"] == {"index": target, "name": str(target)}
        assert result["clean_accuracy"] == 1.0
        assert result["num_attacked"] == 15 - int((labels == target).sum())


def test_failures_are_in_no_distance():
    model = Linear(scale=4.0)
    pixels, labels = images_for(model, 6)
    data = Dataset.from_dict({"image": pixels.tolist(), "label": labels.tolist()})
    result = attack_image(model, data, CarliniWagner(steps=1, binary_search_steps=1))
    assert result["attack_success_rate"] == 0.0
    assert result["l2_mean"] is None
    assert result["l2_median"] is None


# The adapter


def test_pixels_give_the_logits_of_the_ordinary_pipeline(processor, pictures):
    model = vit()
    pixel_model = PixelModel(model, processor)
    assert pixel_model.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3], abs=1e-5)
    assert pixel_model.std.flatten().tolist() == pytest.approx([0.2, 0.3, 0.4], abs=1e-5)
    images = pictures["image"][:4]
    pixels = torch.stack([pixel_model.read(image) for image in images])
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    with torch.no_grad():
        expected = model(**processor(list(images), return_tensors="pt")).logits
        assert torch.allclose(pixel_model(pixels), expected, atol=1e-4)


def test_a_timm_processor_is_inverted_too():
    timm_wrapper = pytest.importorskip("transformers.models.timm_wrapper.image_processing_timm_wrapper")
    pytest.importorskip("timm")
    settings = {"input_size": [3, 16, 16], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "crop_pct": 0.875}
    pixel_model = PixelModel(vit(), timm_wrapper.TimmWrapperImageProcessor(settings))
    assert pixel_model.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3], abs=1e-5)
    assert pixel_model.read(Pillow.new("RGB", (40, 20), (255, 0, 51))).shape == (3, 16, 16)


def test_noise_is_parsed_or_refused():
    assert [parse_noise(noise) for noise in ("mean", "sampled", "averaged:7")] == [0, 1, 7]
    for noise in ("averaged:0", "averaged", "off", 3):
        with pytest.raises(ValueError, match="'mean', 'sampled' or 'averaged:k'"):
            parse_noise(noise)


def test_gradients_flow_through_the_average(processor):
    model = vub()
    pixels = torch.rand(2, 3, 8, 8, requires_grad=True)
    with frozen(model):
        averaged = PixelModel(model, processor, "averaged:5")
        with seeded(3):
            logits = averaged(pixels)
            gradient = torch.autograd.grad(logits[:, 0].sum(), pixels)[0]
        with seeded(3):
            features = model.features(pixel_values=(pixels - averaged.mean) / averaged.std)
            head = model.head(features, num_samples=5)
            expected = head.draws.log_softmax(dim=-1).logsumexp(dim=0) - math.log(5)
            by_hand = torch.autograd.grad(expected[:, 0].sum(), pixels)[0]
        assert torch.allclose(logits, expected, atol=1e-5)
        assert torch.allclose(gradient, by_hand, atol=1e-5)
        with seeded(3):
            one = averaged.redraw(pixels, 2)[0]
        with seeded(3):
            assert torch.equal(one, averaged.predict(pixels))
    mean = PixelModel(model, processor)
    assert torch.equal(mean(pixels), mean(pixels))


def test_random_predictors_are_scored_over_fresh_draws(processor, pictures, tmp_path):
    result = attack_image(
        vub(),
        pictures,
        "pgd_linf",
        processor=processor,
        epsilon="8/255",
        steps=3,
        noise="averaged:2",
        redraws=6,
        output_dir=tmp_path,
    )
    again = result["redraws"]
    assert again["draws"] == 6
    low, high = again["attack_success_interval"]
    assert low <= again["attack_success_rate"] <= high
    records = [r for r in read_records(tmp_path / "records.jsonl") if r["status"] == "attacked"]
    shares = [r["outcomes"][0]["redraws_turned"] / 6 for r in records]
    assert again["attack_success_rate"] == pytest.approx(np.mean(shares))
    assert again["clean_error_rate"] == pytest.approx(np.mean([r["redraws_wrong_clean"] / 6 for r in records]))


def test_the_model_is_left_as_it_was(processor, pictures):
    model = vit().train()
    model.classifier.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    attack_image(model, pictures, "fgs", processor=processor)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["classifier.weight"]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# Runs


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_attack_runs_on_a_checkpoint_from_disk(name, processor, pictures, tmp_path):
    if name in ("apgd_ce", "apgd_dlr", "square"):
        pytest.importorskip("art")
    if "autoattack" in name:
        pytest.importorskip("pyautoattack")
    vub().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    options = {"steps": None if name == "fgs" else 3, "queries": 30 if "autoattack" in name else None}
    result = attack_image(tmp_path / "model", pictures, name, num_examples=9, output_dir=tmp_path / "run", **options)
    assert result == {**read_json(tmp_path / "run" / "result.json")}
    assert result["schema"] == 1
    assert result["attack"] == name
    assert result["num_examples"] == 9
    assert len(list(read_records(tmp_path / "run" / "records.jsonl"))) == 9
    for row in result["budgets"]:
        assert 0 <= row["accuracy_under_attack"] <= result["clean_accuracy"] <= 1
    saved = load_file(tmp_path / "run" / "images.safetensors")
    assert saved["adversarial"].shape == (result["num_attacked"], len(result["budgets"]), 3, 8, 8)
    assert sorted(path.name for path in (tmp_path / "run").glob("[!_]*")) == [
        "images.safetensors", "records.jsonl", "result.json", "run.json"
    ]  # fmt: skip


def test_images_are_kept_of_examples_spread_over_the_run(processor, pictures, tmp_path):
    attack_image(vit(), pictures, "fgs", processor=processor, output_dir=tmp_path, save_images=4, batch_size=3)
    records = {r["index"]: r for r in read_records(tmp_path / "records.jsonl")}
    expected = [index for index in (0, 5, 10, 15) if records[index]["status"] == "attacked"]
    assert load_file(tmp_path / "images.safetensors")["index"].tolist() == expected


@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_run_ends_with_the_same_bits(processor, pictures, tmp_path, monkeypatch, torn):
    import hf_vub.runs.run_log as module

    options = {"attack": "pgd_linf", "steps": 3, "batch_size": 4, "noise": "sampled", "redraws": 3, "seed": 5}
    whole = attack_image(vub(), pictures, processor=processor, **options, output_dir=tmp_path / "whole")
    written = []
    append = module.append_record

    def dies(path, record):
        if len(written) == 10:
            raise KeyboardInterrupt
        written.append(record)
        append(path, record)

    monkeypatch.setattr(module, "append_record", dies)
    with pytest.raises(KeyboardInterrupt):
        attack_image(vub(), pictures, processor=processor, **options, output_dir=tmp_path / "cut")
    monkeypatch.setattr(module, "append_record", append)
    if torn:
        with open(tmp_path / "cut" / "records.jsonl", "a") as file:
            file.write('{"index": 1')
    resumed = attack_image(vub(), pictures, processor=processor, **options, output_dir=tmp_path / "cut")
    assert without_times(resumed) == without_times(whole)
    one, other = (list(map(without_times, read_records(tmp_path / run / "records.jsonl"))) for run in ("whole", "cut"))
    assert one == other
    images = [(tmp_path / run / "images.safetensors").read_bytes() for run in ("whole", "cut")]
    assert images[0] == images[1]


def test_a_killed_process_goes_on_where_it_stopped(processor, pictures, tmp_path):
    model = vub()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    pictures.save_to_disk(tmp_path / "data")
    program = textwrap.dedent(
        """
        import sys
        from datasets import load_from_disk
        from hf_vub.attacks import attack_image

        folder = sys.argv[1]
        attack_image(folder + "/model", load_from_disk(folder + "/data"), "pgd_linf", steps=60, batch_size=2,
               noise="averaged:3", redraws=3, output_dir=folder + "/killed")
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = str(Path(__file__).resolve().parents[1])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root})
    records = tmp_path / "killed" / "records.jsonl"
    while process.poll() is None and not (records.exists() and len(list(read_records(records))) >= 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 5 <= len(list(read_records(records))) < 20
    assert not (tmp_path / "killed" / "result.json").exists()
    options = {"steps": 60, "batch_size": 2, "noise": "averaged:3", "redraws": 3}
    resumed, whole = (
        attack_image(
            tmp_path / "model",
            load_from_disk(tmp_path / "data"),
            "pgd_linf",
            output_dir=tmp_path / run,
            **options,
        )
        for run in ("killed", "whole")
    )
    assert without_times(resumed) == without_times(whole)
    images = [(tmp_path / run / "images.safetensors").read_bytes() for run in ("killed", "whole")]
    assert images[0] == images[1]


def test_the_bar_shows_the_running_success_rate(processor, pictures, monkeypatch):
    said = []
    monkeypatch.setattr("tqdm.auto.tqdm.set_postfix_str", lambda bar, text, **options: said.append(text))
    result = attack_image(
        vit(), pictures, "fgs", processor=processor, epsilon=[0.01, 0.5], num_examples=8, batch_size=4
    )
    assert len(said) == 2
    assert said[-1] == f"success {result['num_successes']}/{result['num_attacked']}"


def test_a_finished_run_is_read_and_another_is_refused(processor, pictures, tmp_path):
    model = vit()
    first = attack_image(model, pictures, "fgs", processor=processor, output_dir=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FastGradient, "_propose", None)
        assert attack_image(model, pictures, "fgs", processor=processor, output_dir=tmp_path) == first
    with pytest.raises(ValueError, match=r"holds a run with epsilons=\[0.1, 0.5\], and this one has epsilons=\[0.2\]"):
        attack_image(model, pictures, "fgs", processor=processor, epsilon=0.2, output_dir=tmp_path)
    with pytest.raises(ValueError, match="holds a run with weights="):
        attack_image(vit(seed=1), pictures, "fgs", processor=processor, output_dir=tmp_path)


def test_samples_are_stratified_and_seeded(processor, pictures):
    def rows(tmp, **options):
        attack_image(vit(), pictures, "fgs", processor=processor, num_examples=6, output_dir=tmp, **options)
        return [(record["index"], record["label"]) for record in read_records(tmp / "records.jsonl")]

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        seeds = [rows(Path(folder) / str(seed), seed=seed) for seed in (0, 1)]
        assert [sorted(label for _, label in chosen) for chosen in seeds] == [[0, 0, 1, 1, 2, 2]] * 2
        assert seeds[0] != seeds[1]
        first = rows(Path(folder) / "first", how="first")
        assert [index for index, _ in first] == list(range(6))


# Bad input


def test_odd_images_are_attacked_and_broken_ones_skipped(processor, tmp_path):
    def png(mode, size, colour):
        buffer = io.BytesIO()
        Pillow.new(mode, size, colour).save(buffer, "PNG")
        return buffer.getvalue()

    contents = [
        png("L", (9, 9), 120), png("RGB", (1, 1), (9, 90, 200)), png("RGBA", (9, 9), (9, 90, 200, 40)),
        png("I;16", (9, 9), 40_000), b"not an image", png("RGB", (9, 9), (1, 2, 3))[:45], None,
        png("RGB", (9, 9), (200, 90, 9)),
    ]  # fmt: skip
    rows = {"image": [{"bytes": content, "path": None} if content else None for content in contents]}
    rows["label"] = [0, 1, 2, 0, 1, 2, 0, None]
    data = Dataset.from_dict(rows, features=Features({"image": Image(decode=False), "label": Value("int64")}))
    result = attack_image(
        vit(), data.cast_column("image", Image()), "fgs", processor=processor, batch_size=3, output_dir=tmp_path
    )
    assert result["num_examples"] == 4
    assert result["num_skipped"] == 4
    statuses = [record["status"] for record in read_records(tmp_path / "records.jsonl")]
    assert [status.startswith("skipped: ") for status in statuses] == [False] * 4 + [True] * 4
    assert statuses[6] == "skipped: it has no image"
    assert statuses[7] == "skipped: it has no label"
    assert "not a readable image" in statuses[4]


def test_images_of_another_size_are_skipped_where_nothing_resizes_them():
    model = Linear()
    data = Dataset.from_dict(
        {"image": [torch.rand(1, 6, 6).tolist(), torch.rand(1, 5, 6).tolist(), [[[2.0]]]], "label": [0, 1, 2]}
    )
    result = attack_image(model, data, "fgs")
    assert result["num_examples"] == 1
    assert result["skipped"] == {
        "1x5x6 pixels where this run's images are 1x6x6": 1,
        "an array with values outside [0, 1]": 1,
    }


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"attack": "deepfool"}, "attack must be one of fgs, cw, .* but is 'deepfool'"),
        ({"attack": "cw", "target": 3}, "target must be a class from 0 to 2, but is 3"),
        ({"attack": "cw", "target": -1}, "target must be a class from 0 to 2, but is -1"),
        ({"attack": "cw", "target": "socer ball"}, "'socer ball' is no class of the model: did you mean 'soccer ball'"),
        ({"attack": "fgs", "target": 1}, "FastGradient has no targeted form; those that have: cw, pgd_linf, pgd_l2"),
        ({"attack": "cw", "epsilon": 0.1}, "takes no epsilon"),
        ({"epsilon": 1.5}, "epsilon must be above 0"),
        ({"epsilon": "1e-99999999"}, "epsilon must be above 0"),
        ({"epsilon": [0.1, "8/0"]}, "a fraction such as 8/255, but is '8/0'"),
        ({"epsilon": []}, "epsilon is an empty list"),
        ({"attack": "fgs", "steps": 3}, "steps=3 does not fit fgs"),
        ({"attack": "pgd_linf", "steps": 0}, "steps must be a whole number of at least 1, but is 0"),
        ({"noise": "sampled"}, "needs a model with a stochastic head, and ViTForImageClassification has none"),
        ({"noise": "averaged:x"}, "noise must be"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, but is 0"),
        ({"num_examples": 0}, "num_examples must be a whole number of at least 1, but is 0"),
        ({"how": "last", "num_examples": 3}, "how must be"),
        ({"image_column": "photo"}, "image_column is 'photo', but the columns are image, label"),
        ({"label_column": "y"}, "label_column is 'y', but the columns are image, label"),
    ],
)
def test_bad_arguments_are_one_sentence(options, sentence, processor, pictures):
    with pytest.raises(ValueError, match=sentence) as caught:
        attack_image(vit(), pictures, processor=processor, **options)
    assert "\n" not in str(caught.value)


def test_dlr_needs_three_classes(processor):
    pytest.importorskip("art")
    data = dataset_of(torch.rand(6, 3, 10, 10), [0, 1] * 3)
    with pytest.raises(ValueError, match="apgd_dlr compares the three highest logits, and this model has 2 classes"):
        attack_image(vit(2), data, "apgd_dlr", processor=processor)


def test_classes_that_do_not_fit_are_refused(processor):
    names = ["ant", "bee", "cat", "dog"]
    data = dataset_of(torch.rand(8, 3, 10, 10), [0, 1, 2, 3] * 2, names)
    with pytest.raises(ValueError, match=r"the data set has 4 classes \(ant, bee, cat, dog\), but the model has 3"):
        attack_image(vit(), data, "fgs", processor=processor)
    with pytest.raises(ValueError, match="the data set has labels up to 3, but the model has 3 classes"):
        attack_image(vit(), dataset_of(torch.rand(8, 3, 10, 10), [0, 1, 2, 3] * 2), "fgs", processor=processor)


def test_labels_follow_the_names_of_the_classes(processor, tmp_path):
    model = vit(4)
    model.config.id2label = dict(enumerate(["dog", "Cat", "bee", "ant"]))
    data = dataset_of(torch.rand(4, 3, 10, 10), [0, 1, 2, 0], ["ant", "cat", "dog"])
    attack_image(model, data, "fgs", processor=processor, output_dir=tmp_path)
    assert [record["label"] for record in read_records(tmp_path / "records.jsonl")] == [3, 1, 0, 3]


def test_targets_by_name():
    names = ["ant", "soccer ball, football", "crane", "crane", "7"]
    assert class_index("Soccer Ball, football", names) == 1
    assert class_index("football", names) == 1
    assert class_index("0", names) == 0
    assert class_index("7", names) == 4
    with pytest.raises(ValueError, match=r"the name of the classes \[2, 3\]: give a number"):
        class_index("crane", names)


def test_wrong_kinds_of_data_are_named(processor, pictures):
    with pytest.raises(TypeError, match="dataset has the splits test: give one of them"):
        attack_image(vit(), {"test": pictures}, processor=processor)
    with pytest.raises(TypeError, match=r"must be a name, a path or a datasets.Dataset, but is a list"):
        attack_image(vit(), [1, 2], processor=processor)
    with pytest.raises(ValueError, match="no rows"):
        attack_image(vit(), pictures.select([]), processor=processor)


def test_budgets_are_sorted_numbers():
    assert parse_epsilons(FastGradient(), ["8/255", 0.01, "0.01"]) == (0.01, 8 / 255)
    assert parse_epsilons(ProjectedGradientL2(), 3) == (3.0,)
    assert make("PGD-Linf")[0] == "pgd_linf"


@pytest.mark.parametrize("missing", ["foolbox", "art"])
def test_a_missing_library_is_one_sentence(missing, processor, pictures, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "hf_vub\[image-attacks\]"'):
        attack_image(vit(), pictures, "square" if missing == "art" else "cw", processor=processor, steps=3)


def test_the_script_attacks_and_says_what_is_wrong(processor, pictures, tmp_path):
    vit().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    pictures.save_to_disk(tmp_path / "data")
    root = Path(__file__).resolve().parents[1]

    def run(*words):
        command = [sys.executable, str(root / "scripts" / "attack_image.py"), "--model", str(tmp_path / "model")]
        command += ["--dataset", str(tmp_path / "data"), *words]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True)

    done = run("--epsilons", "8/255", "0.1", "--num_examples", "4", "--output_dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "accuracy_under_attack" in done.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [row["epsilon"] for row in result["budgets"]] == [8 / 255, 0.1]
    assert result["class_names"] == ["ant", "bee", "soccer ball"]
    files = {"examples.pdf", "examples.png", "images.safetensors", "records.jsonl", "result.json", "run.json"}
    assert {path.name for path in (tmp_path / "run").iterdir()} - {"_lock"} == files
    drawn = (tmp_path / "run" / "examples.png").read_bytes()
    again = run("--epsilons", "8/255", "0.1", "--num_examples", "4", "--output_dir", str(tmp_path / "run"))
    assert again.returncode == 0, again.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} - {"_lock"} == files
    assert (tmp_path / "run" / "examples.png").read_bytes() == drawn
    wrong = run("--attack", "nonsense")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: attack must be one of")
    assert wrong.stderr.count("\n") == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"square"}))
def test_attacks_on_an_accelerator_reach_the_worst_case_of_a_linear_model(name):
    """The smallest budget that misclassifies each image has a closed form."""
    counts = {"fgs": {}, "autoattack": {"steps": 30, "queries": 50}, "autoattack_l2": {"steps": 30, "queries": 50}}
    adversary = make(name, **counts.get(name, {"steps": 60}))[1]
    if name == "cw":
        adversary = CarliniWagner(steps=150, binary_search_steps=10, abort_early=False)
    cpu = Linear(classes=4, scale=4.0)
    pixels, labels = images_for(cpu, 16, 0.4, 0.6)
    weight, logits = cpu.linear.weight.detach(), cpu(pixels).detach()
    norms = (weight[labels][:, None] - weight[None]).norm(p=1 if adversary.norm == math.inf else 2, dim=2)
    gaps = (logits.gather(1, labels[:, None]) - logits) / norms.clamp_min(1e-9)
    exact = gaps.masked_fill(nn.functional.one_hot(labels, 4).bool(), math.inf).amin(dim=1)
    epsilon = None if name == "cw" else float(exact.median()) * 1.02
    model = cpu.to("cuda")
    with frozen(model), seeded(0):
        (found,) = adversary(PixelModel(model), pixels.cuda(), labels.cuda(), (epsilon,))
    assert found.adversarial.is_cuda
    success, distance = found.success.cpu(), found.distance.cpu()
    if epsilon is None:
        assert success.all()
        assert ((distance - exact) / exact).abs().median() < 0.02
        assert (distance > 0.99 * exact).all()
    else:
        assert distance.max() <= epsilon + 1e-5
        assert not success[exact > 1.01 * epsilon].any()
        # The gradient of the cross-entropy need not point at the nearest class.
        assert success[exact < 0.98 * epsilon].double().mean() > (0.95 if "auto" in name else 0.7)


@pytest.mark.shared_data
def test_a_trained_model_is_attacked_from_its_folder(shared_data):
    result = attack_image(
        shared_data / "models" / "resnet18-cifar10", shared_data / "data" / "cifar10", "fgs", epsilon="8/255",
        num_examples=40,
    )  # fmt: skip
    assert result["clean_accuracy"] > 0.7
    assert result["accuracy_under_attack"] < 0.3
