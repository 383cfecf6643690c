"""Faster convolutions: the same logits and gradients, the model as it was afterwards, and nothing folded in doubt."""

import contextlib

import pytest
import torch
from torch import nn

from hf_vub.attacks.image.adversaries import FastGradient
from hf_vub.compute import convolutions
from hf_vub.compute.contexts import frozen
from hf_vub.compute.convolutions import fast_convolutions
from hf_vub.embeddings.pixels import PixelModel


def lively(model):
    """Batch norms as after training: no two channels alike."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return model.eval()


def small():
    return lively(
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(64, 3)),
        )
    )


class Block(nn.Module):
    """One convolution and one norm, and what else a case does with them."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.last = nn.Linear(3, 4)

    def forward(self, pixels):
        found = self.convolution(pixels)
        normed = self.norm(found)
        if self.kind == "another reader":
            normed = normed + found
        elif self.kind == "convolution twice":
            normed = normed + self.convolution(pixels)
        elif self.kind == "norm twice":
            normed = self.norm(normed)
        return self.last(normed.mean((2, 3)))


def gradients(model, pixels):
    entered = pixels.clone().requires_grad_()
    logits = model(entered)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), entered)[0]


def state(model):
    return [(name, value.data_ptr(), value.stride(), value.requires_grad) for name, value in model.named_parameters()]


def networks():
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1], layer_type="basic", num_labels=3)
    timm = pytest.importorskip("timm")
    return {
        "small": small(),
        "transformers": lively(ResNetForImageClassification(config)),
        "timm": lively(timm.create_model("resnet10t", num_classes=3)),
    }


@pytest.mark.parametrize("name", ["small", "transformers", "timm"])
@pytest.mark.parametrize("large", [False, True])
def test_logits_and_gradients_are_those_of_the_model_and_no_batch_norm_is_computed(name, large, monkeypatch):
    size = 8 if name == "small" else 32
    model, pixels = PixelModel(networks()[name]), torch.rand(4, 3, size, size)
    monkeypatch.setattr(convolutions, "LARGE_BATCH", 4 * size**2 + (not large))
    before = state(model)
    with frozen(model):
        plain = gradients(model, pixels)
        called = []
        with fast_convolutions(model, pixels):
            for module in model.modules():
                assert not isinstance(module, nn.BatchNorm2d) or module.forward(called) is called
            kernels = [value for value in model.parameters() if value.ndim == 4 and value[0, 0].numel() > 1]
            assert kernels
            assert all(value.is_contiguous(memory_format=torch.channels_last) == large for value in kernels)
            fast = gradients(model, pixels)
        again = gradients(model, pixels)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4 * float(plain[1].abs().max()))
    torch.testing.assert_close(again, plain, rtol=0, atol=0)
    assert state(model) == before


@pytest.mark.parametrize(
    "kind",
    ["plain", "another reader", "convolution twice", "norm twice", "training", "watched", "weight norm", "blank"],
)
def test_in_doubt_nothing_is_folded(kind):
    model, pixels = lively(Block(kind)), torch.rand(2, 3, 5, 5)
    watched = []
    if kind == "training":
        model.norm.train()
        model.norm.momentum = 0.0
    elif kind == "watched":
        model.convolution.register_forward_hook(lambda module, entered, output: watched.append(output))
    elif kind == "weight norm":
        nn.utils.parametrizations.weight_norm(model.convolution)
    elif kind == "blank":
        model.norm.running_mean = model.norm.running_var = None
    plain = model(pixels)
    with fast_convolutions(model, pixels):
        assert ("forward" in vars(model.norm)) == (kind == "plain")
        torch.testing.assert_close(model(pixels), plain)
    assert "forward" not in vars(model.norm)


def test_a_random_model_is_folded_too_and_its_random_numbers_are_left_alone():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small()

        def forward(self, pixels):
            logits = self.inner(pixels)
            return logits + torch.randn_like(logits)

    model, pixels = Noisy(), torch.rand(2, 3, 8, 8)
    torch.manual_seed(3)
    plain = model(pixels)
    torch.manual_seed(3)
    with fast_convolutions(model, pixels):
        assert "forward" in vars(model.inner[1])
        torch.testing.assert_close(model(pixels), plain)


def test_of_an_empty_batch_nothing_is_asked():
    model = small()
    model[0].register_forward_pre_hook(lambda module, entered: pytest.fail("the model was called"))
    with fast_convolutions(model, torch.empty(0, 3, 8, 8)):
        pass


@pytest.mark.parametrize("fails", [False, True])
def test_an_attack_searches_on_fast_convolutions_and_is_scored_by_the_model_as_it_is(fails):
    model, pixels = small(), torch.rand(4, 3, 8, 8)
    plain = model(pixels).detach()
    before, seen = state(model), []

    class Watcher(FastGradient):
        def _propose(self, batch):
            seen.append("forward" in vars(model[1]))
            if fails:
                raise FloatingPointError("no such luck")
            return super()._propose(batch)

    with frozen(model), pytest.raises(FloatingPointError) if fails else contextlib.nullcontext():
        (found,) = Watcher()(PixelModel(model), pixels, plain.argmax(1), (0.1,))
        assert torch.equal(found.prediction, model(found.adversarial).argmax(1))
    assert seen == [True]
    assert state(model) == before
    assert "forward" not in vars(model[1])
