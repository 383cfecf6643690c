"""Faster arithmetic for a frozen model on a CPU: functions of torch, computed with other kernels.

| function | torch uses | this module uses |
|---|---|---|
| ``linear``, float32 | the BLAS library, whose kernels are narrow on some CPUs | oneDNN |
| ``linear``, bfloat16 | oneDNN, reordering the weights in every call | oneDNN, reordering them once |
| ``scaled_dot_product_attention``, bfloat16 | small tiles, multiplied by BLAS | oneDNN, several examples at once |

The results are those of torch within the rounding of their dtype; there are no gradients.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

ONEDNN_WEIGHTS = 2**16
"""Smallest number of weights for which oneDNN is faster than the BLAS library."""

PACKED = 2**30
"""Largest number of weights that are kept a second time, in oneDNN's order."""

SCORES = 2**22
"""Attention scores, in bfloat16, that stay in the cache between their product and their softmax."""


def onednn_linear(entered: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """Return ``activation(entered @ weight.T + bias)`` by oneDNN, without gradients; see `suits_onednn`."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise.default(entered, weight, bias, activation, [], "")
    return output


def suits_onednn(weight: Tensor) -> bool:
    """Return whether oneDNN should multiply by this weight."""
    large = weight.ndim == 2 and weight.numel() >= ONEDNN_WEIGHTS
    return large and weight.device.type == "cpu" and has_onednn(weight.dtype)


@functools.cache
def has_onednn(dtype: torch.dtype = torch.float32) -> bool:
    """Return whether torch has oneDNN's linear layer, and this machine the arithmetic for it."""
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if dtype == torch.bfloat16:
        return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return available and dtype == torch.float32


class FastKernels(TorchFunctionMode):
    """Make a frozen model compute faster inside a block, as long as gradients are off.

    Use one object for all passes of a model: it keeps the weights in oneDNN's order. A weight that is changed in place
    or replaced is reordered again.

    Example:
        >>> with torch.no_grad(), FastKernels():
        ...     torch.nn.Linear(512, 512)(torch.ones(8, 512)).shape
        torch.Size([8, 512])
    """

    def __init__(self) -> None:
        super().__init__()
        self._reordered: dict[int, tuple[Tensor, tuple[int, int], Tensor]] = {}
        self._size = 0

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        arguments: tuple[object, ...] = (),
        options: dict[str, object] | None = None,
    ) -> object:
        """Run a function of torch, or its faster form. torch calls this in place of each of its functions."""
        if not torch.is_grad_enabled():
            if function is F.linear:
                function = self._linear
            elif function is F.scaled_dot_product_attention:
                function = _attention
        return function(*arguments, **(options or {}))

    def _linear(self, entered: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        plain = type(entered) is Tensor and type(weight) in (Tensor, Parameter)  # not quantised, not sharded
        if plain and suits_onednn(weight) and entered.dtype == weight.dtype and entered.is_contiguous():
            weight = weight if weight.dtype == torch.float32 else self._reorder(weight)
            return onednn_linear(entered, weight, bias)
        return F.linear(entered, weight, bias)

    def _reorder(self, weight: Tensor) -> Tensor:
        """Return the weight in oneDNN's order, or the weight itself once PACKED is reached."""
        state = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        known = self._reordered.get(id(weight))
        if known is not None and known[1] == state:
            return known[2]
        if known is None:
            self._size += weight.numel()
        if self._size > PACKED:
            return weight
        reordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self._reordered[id(weight)] = (weight, state, reordered)  # the weight too, so that no other gets its id
        return reordered


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **options: bool,
) -> Tensor:
    """Return attention for query (rows, heads, length, size), key and value (rows, heads, other length, size)."""
    suits = query.dtype == torch.bfloat16 and query.device.type == "cpu" and has_onednn(query.dtype)
    same_heads = query.ndim == 4 and query.shape[:2] == key.shape[:2] == value.shape[:2]
    if not (suits and same_heads) or is_causal or dropout_p or any(options.values()):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options
        )
    rows, heads, length, size = query.shape
    others = key.shape[2]
    scale = size**-0.5 if scale is None else scale
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            lowest = torch.finfo(query.dtype).min
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, lowest)
        attn_mask = attn_mask.broadcast_to(rows, heads, length, others)
    output = query.new_empty(rows, length, heads, value.shape[3]).transpose(1, 2)
    examples = max(1, SCORES // (heads * length * others))
    scores = query.new_empty(min(rows, examples) * heads, length, others)
    for first in range(0, rows, examples):
        block = slice(first, first + examples)
        queries, keys, values = (part[block].flatten(0, 1) for part in (query, key, value))
        block_scores = scores[: len(queries)]
        torch.baddbmm(block_scores, queries, keys.mT, beta=0, alpha=scale, out=block_scores)
        if attn_mask is not None:
            block_scores.unflatten(0, (-1, heads)).add_(attn_mask[block])
        torch.softmax(block_scores, dim=-1, out=block_scores)
        output[block] = torch.bmm(block_scores, values).unflatten(0, (-1, heads))
    return output
