"""Faster arithmetic for a frozen model on a CPU: torch's own functions, computed another way.

| function | what torch does | what happens here |
|---|---|---|
| ``linear``, float32 | the BLAS library, whose kernels are narrow on some makes of CPU | oneDNN |
| ``linear``, bfloat16 | oneDNN, with the weights put in its order for every call | once for all calls |
| ``scaled_dot_product_attention``, bfloat16 | small tiles, multiplied by BLAS | oneDNN, examples by the block |

The results are those of torch within the rounding of their dtype; there are no gradients.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

ONEDNN_WEIGHTS = 2**16
"""Weights of a layer from which a product by oneDNN beats one by the BLAS library."""

PACKED = 2**30
"""Most weights that are kept a second time, in oneDNN's own order."""

SCORES = 2**22
"""Scores of attention, in bfloat16, that stay in the cache between their product and their softmax."""


def product(entered: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """``activation(entered @ weight.T + bias)`` by oneDNN, where ``suits_onednn(weight)``; no gradients."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise.default(entered, weight, bias, activation, [], "")
    return found


def suits_onednn(weight: Tensor) -> bool:
    """Whether products with this weight should go to oneDNN."""
    return (
        weight.device.type == "cpu"
        and weight.ndim == 2
        and weight.numel() >= ONEDNN_WEIGHTS
        and has_onednn(weight.dtype)
    )


@functools.cache
def has_onednn(dtype: torch.dtype = torch.float32) -> bool:
    """Whether torch has oneDNN's products, and this machine the arithmetic for them."""
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if dtype == torch.bfloat16:
        return known and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return known and dtype == torch.float32


class FastKernels(TorchFunctionMode):
    """A block in which a frozen model computes faster, as long as gradients are off.

    Use one object for all passes of a model: it keeps its weights in oneDNN's order. A weight that is changed in place
    or replaced is put in order anew.

    Example:
        >>> with torch.no_grad(), FastKernels():
        ...     torch.nn.Linear(512, 512)(torch.ones(8, 512)).shape
        torch.Size([8, 512])
    """

    def __init__(self) -> None:
        super().__init__()
        self._packed: dict[int, tuple[Tensor, tuple[int, int], Tensor]] = {}
        self._numbers = 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        """What torch calls in place of each of its functions."""
        if not torch.is_grad_enabled():
            if function is F.linear:
                function = self._linear
            elif function is F.scaled_dot_product_attention:
                function = _attention
        return function(*arguments, **(options or {}))

    def _linear(self, entered: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        plain = type(entered) is Tensor and type(weight) in (Tensor, Parameter)  # not quantised, not sharded
        if plain and suits_onednn(weight) and entered.dtype == weight.dtype and entered.is_contiguous():
            return product(entered, weight if weight.dtype == torch.float32 else self._in_order(weight), bias)
        return F.linear(entered, weight, bias)

    def _in_order(self, weight: Tensor) -> Tensor:
        """The weight as oneDNN multiplies it best."""
        state = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        known = self._packed.get(id(weight))
        if known is not None and known[1] == state:
            return known[2]
        if known is None:
            self._numbers += weight.numel()
        if self._numbers > PACKED:
            return weight
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self._packed[id(weight)] = (weight, state, packed)  # the weight too, so that no other one gets its id
        return packed


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **options: Any,
) -> Tensor:
    """Query (rows, heads, length, size), key and value (rows, heads, other length, size)."""
    suits = query.dtype == torch.bfloat16 and query.device.type == "cpu" and has_onednn(query.dtype)
    same_heads = query.ndim == 4 and query.shape[:2] == key.shape[:2] == value.shape[:2]
    if not (suits and same_heads) or is_causal or dropout_p or any(options.values()):
        given: dict[str, Any] = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, **options}
        return F.scaled_dot_product_attention(query, key, value, scale=scale, **given)
    rows, heads, length, size = query.shape
    others = key.shape[2]
    if scale is None:
        scale = size**-0.5
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            lowest = torch.finfo(query.dtype).min
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, lowest)
        attn_mask = attn_mask.broadcast_to(rows, heads, length, others)
    found = query.new_empty(rows, length, heads, value.shape[3]).transpose(1, 2)
    together = max(1, SCORES // (heads * length * others))
    scores = query.new_empty(min(rows, together) * heads, length, others)
    for first in range(0, rows, together):
        block = slice(first, first + together)
        queries, keys, values = (part[block].flatten(0, 1) for part in (query, key, value))
        own = scores[: len(queries)]
        torch.baddbmm(own, queries, keys.mT, beta=0, alpha=scale, out=own)
        if attn_mask is not None:
            own.unflatten(0, (-1, heads)).add_(attn_mask[block])
        torch.softmax(own, dim=-1, out=own)
        found[block] = torch.bmm(own, values).unflatten(0, (-1, heads))
    return found
