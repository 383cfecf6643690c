"""Batches that run out of memory, and models that are frozen for a while."""

import pytest
import torch
from torch import nn

from hf_vub.compute.contexts import frozen, placed, seeded
from hf_vub.compute.memory import halving

OUT_OF_MEMORY = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def limited(most: int, error: Exception, seen: list[int]):
    def compute(rows: slice) -> torch.Tensor:
        batch = torch.arange(11)[rows]
        seen.append(len(batch))
        if len(batch) > most:
            raise error
        return batch

    return compute


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 11])
@pytest.mark.parametrize("most", [1, 2, 3, 5, 11])
@pytest.mark.parametrize("error", [OUT_OF_MEMORY, MemoryError()], ids=["torch", "python"])
def test_every_row_is_computed_once_in_order(size, most, error):
    seen: list[int] = []
    parts = halving(limited(most, error, seen), size)
    assert torch.cat(parts).tolist() == list(range(size))
    assert all(len(part) <= most for part in parts)
    assert (len(parts) == 1) == (size <= most)


def test_a_size_that_failed_is_not_tried_again(caplog):
    seen: list[int] = []
    halving(limited(3, OUT_OF_MEMORY, seen), 8, "images")
    assert seen == [8, 4, 2, 2, 2, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with 8 images; continuing with 4 at a time",
        "out of memory with 4 images; continuing with 2 at a time",
    ]


def test_one_row_that_does_not_fit_and_other_errors_are_raised():
    with pytest.raises(RuntimeError, match="out of memory"):
        halving(limited(0, OUT_OF_MEMORY, []), 8)
    seen: list[int] = []
    with pytest.raises(RuntimeError, match="shapes"):
        halving(limited(0, RuntimeError("shapes cannot be multiplied"), seen), 8)
    assert seen == [8]


def test_a_frozen_model_is_put_back_part_by_part():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2)).train()
    model[2].eval()
    model[0].bias.requires_grad_(False)
    with frozen(model) as inside:
        assert inside is model
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["0.bias"]


def test_a_seeded_block_repeats_and_leaves_no_trace():
    before = torch.get_rng_state()
    draws = []
    for key in ((0, 1), (0, 1), (1, 0)):
        with seeded(*key):
            draws.append(torch.randn(3).tolist())
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_is_copied_only_where_it_must_change():
    model = nn.BatchNorm1d(2)  # with a counter of whole numbers, which no dtype of floats applies to
    cpu = torch.device("cpu")
    assert placed(model, cpu, torch.float32) is model
    copied = placed(model, cpu, torch.bfloat16)
    assert copied.weight.dtype == torch.bfloat16
    assert model.weight.dtype == torch.float32
