"""Faster kernels: the functions of torch within their rounding, and gradients left alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_vub.compute import kernels
from hf_vub.compute.kernels import FastKernels

BFLOAT16 = pytest.mark.skipif(
    not kernels.has_onednn(torch.bfloat16), reason="oneDNN has no bfloat16 arithmetic on this machine"
)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(300,), (7, 300), (2, 7, 300)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_gives_what_torch_gives(dtype, shape, has_bias):
    torch.manual_seed(0)
    layer = nn.Linear(300, 400, bias=has_bias).to(dtype)
    entered = torch.randn(shape, dtype=dtype)
    with FastKernels():
        found = layer(entered)
    expected = F.linear(entered.double(), layer.weight.double(), layer.bias.double() if has_bias else None)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
    assert found.dtype == dtype


def test_a_strided_input_is_taken():
    layer, entered = nn.Linear(300, 400), torch.randn(5, 4, 300)[:, 1]
    with FastKernels():
        torch.testing.assert_close(layer(entered), F.linear(entered, layer.weight, layer.bias))


def test_a_weight_of_another_kind_is_left_to_torch():
    class Quantised(torch.Tensor):
        """Stands for what libraries put in place of a weight: it says float32 and is something else."""

        @classmethod
        def __torch_function__(cls, function, types, arguments=(), options=None):
            assert function is not torch.ops.mkldnn._linear_pointwise.default
            return super().__torch_function__(function, types, arguments, options or {})

    weight = torch.randn(400, 300)
    entered = torch.randn(7, 300)
    with FastKernels():
        found = F.linear(entered, weight.as_subclass(Quantised))
    assert isinstance(found, Quantised)
    assert torch.equal(found.as_subclass(torch.Tensor), F.linear(entered, weight))


@BFLOAT16
def test_weights_are_put_in_order_once_and_again_when_they_change():
    layer, entered = nn.Linear(300, 400).bfloat16(), torch.randn(7, 300).bfloat16()
    fast = FastKernels()

    def output():
        with fast:
            found = layer(entered)
        torch.testing.assert_close(found, F.linear(entered, layer.weight, layer.bias), atol=2e-2, rtol=2e-2)
        return fast._reorder(layer.weight)

    first = output()
    assert output() is first
    layer.weight.mul_(2)
    assert output() is not first
    second = output()
    layer.weight.data = torch.randn(400, 300).bfloat16()
    assert output() is not second


@BFLOAT16
def test_no_more_weights_are_kept_twice_than_allowed(monkeypatch):
    monkeypatch.setattr(kernels, "PACKED", 150_000)
    small, large = nn.Linear(300, 400).bfloat16(), nn.Linear(300, 400).bfloat16()
    fast = FastKernels()
    assert fast._reorder(small.weight) is not small.weight
    assert fast._reorder(large.weight) is large.weight
    assert fast._reorder(small.weight) is not small.weight


def masks(rows, length, others):
    """No mask, and masks of every kind and shape that attention takes."""
    own = torch.arange(others) < torch.arange(1, rows + 1)[:, None]  # one example may look at one key, another at two
    added = torch.zeros(rows, 1, 1, others).masked_fill(~own[:, None, None], torch.finfo(torch.bfloat16).min)
    common = torch.rand(length, others)
    return {
        "none": None,
        "bool, by example": own[:, None, None],
        "added, by example": added.bfloat16(),
        "expanded": added.expand(rows, 1, length, others).bfloat16(),
        "common": common.bfloat16(),
    }


@BFLOAT16
@pytest.mark.parametrize("scores", [1, 2 * 3 * 11 * 13, kernels.SCORES])
@pytest.mark.parametrize("kind", list(masks(5, 11, 13)))
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_gives_what_torch_gives(scores, kind, scale, monkeypatch):
    monkeypatch.setattr(kernels, "SCORES", scores)
    torch.manual_seed(0)
    query = torch.randn(5, 11, 3, 8).transpose(1, 2).bfloat16()
    key, value = (torch.randn(5, 13, 3, 8).transpose(1, 2).bfloat16() for _ in range(2))
    mask = masks(5, 11, 13)[kind]
    with FastKernels():
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    wide = mask if mask is None or mask.dtype == torch.bool else mask.double()
    exact = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), attn_mask=wide, scale=scale)
    torch.testing.assert_close(found.double(), exact, atol=3e-2, rtol=3e-2)
    assert found.dtype == torch.bfloat16


@BFLOAT16
@pytest.mark.parametrize("options", [{"is_causal": True}, {"enable_gqa": True}])
def test_other_attention_is_torchs_own(options):
    query = torch.randn(2, 4, 6, 8).bfloat16()
    key = torch.randn(2, 2 if "enable_gqa" in options else 4, 6, 8).bfloat16()
    expected = F.scaled_dot_product_attention(query, key, key, **options)
    with FastKernels():
        assert torch.equal(F.scaled_dot_product_attention(query, key, key, **options), expected)


@torch.enable_grad()
def test_gradients_are_torchs_own():
    layer, entered = nn.Linear(300, 400), torch.randn(7, 300, requires_grad=True)
    with FastKernels():
        found = layer(entered)
    found.sum().backward()
    assert torch.equal(found, F.linear(entered, layer.weight, layer.bias))
    assert entered.grad is not None


@BFLOAT16
def test_a_models_features_stay_as_near_to_float32_as_torchs_own():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=384, num_hidden_layers=2, num_attention_heads=12, intermediate_size=1536
    )
    model = BertModel(config).eval()
    tokens = torch.randint(5, 50, (4, 40))
    mask = (torch.arange(40) < torch.tensor([40, 33, 7, 1])[:, None]).long()
    exact = model(input_ids=tokens, attention_mask=mask).last_hidden_state[mask.bool()]
    model.bfloat16()
    plain = model(input_ids=tokens, attention_mask=mask).last_hidden_state[mask.bool()].float()
    with FastKernels():
        found = model(input_ids=tokens, attention_mask=mask).last_hidden_state[mask.bool()].float()
    assert (found - exact).abs().mean() < 1.2 * (plain - exact).abs().mean()
