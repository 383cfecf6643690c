"""Faster convolutional networks while an attack searches, with the same results."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .contexts import seeded

LARGE_BATCH = 2**17
"""Positions (batch times height times width) from which channels-last kernels are faster on a CPU."""


@contextlib.contextmanager
def fast_convolutions(model: nn.Module, pixels: Tensor) -> Iterator[None]:
    r"""Fold batch norms into the convolutions before them, and put kernels in the order that suits the batch.

    In evaluation mode a batch norm scales and shifts each channel by constants, so that

    .. math::
        \gamma \, \frac{w * x + b - \mu}{\sqrt{v + \epsilon}} + \beta
        = \frac{\gamma w}{\sqrt{v + \epsilon}} * x + \frac{\gamma (b - \mu)}{\sqrt{v + \epsilon}} + \beta

    is one convolution. A forward pass of one image shows which norm follows which convolution. If folding changes its
    logits by more than rounding, because something else reads a convolution's output too, nothing is folded. Everything
    is restored after the block.

    Args:
        model: from pixels to logits, in evaluation mode.
        pixels: the batch to be attacked, shape (batch, channels, height, width).
    """
    with contextlib.ExitStack() as undo:
        _fold(model, pixels[:1], undo)
        if pixels.device.type == "cpu" and pixels[:, 0].numel() >= LARGE_BATCH:
            for kernel in (parameter for parameter in model.parameters() if parameter.ndim == 4):
                undo.callback(setattr, kernel, "data", kernel.data)
                kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
        yield


def _fold(model: nn.Module, image: Tensor, undo: contextlib.ExitStack) -> None:
    """Fold every norm that can be folded, if that does not change the logits of an image; ``undo`` restores them."""
    if not len(image) or not any(_is_plain(module, nn.BatchNorm2d) for module in model.modules()):
        return
    with seeded(0), torch.no_grad(), _recorded_pairs(model) as pairs:
        expected = model(image)
    with contextlib.ExitStack() as folding:
        for convolution, norm in pairs:
            weight, bias, mean, variance = convolution.weight, convolution.bias, norm.running_mean, norm.running_var
            assert mean is not None
            assert variance is not None
            folding.callback(_unfold, convolution, weight, bias, norm)
            fused = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, norm.weight, norm.bias)
            convolution.weight, convolution.bias = (part.requires_grad_(False) for part in fused)
            vars(norm)["forward"] = _identity
        with seeded(0), torch.no_grad():
            folded = model(image)
        if torch.allclose(folded, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
            undo.push(folding.pop_all())


def _unfold(convolution: nn.Conv2d, weight: Tensor, bias: Tensor | None, norm: nn.Module) -> None:
    convolution.weight, convolution.bias = weight, bias
    vars(norm).pop("forward", None)


def _identity(entered: Tensor) -> Tensor:
    return entered


@contextlib.contextmanager
def _recorded_pairs(model: nn.Module) -> Iterator[list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """Record the convolutions and the batch norms right after them that are called exactly once in the block."""
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # keeps the tensors alive, so that no two share an id
    calls: dict[nn.Module, int] = {}

    def after(convolution: nn.Conv2d, entered: object, output: Tensor) -> None:
        outputs[id(output)] = convolution, output
        calls[convolution] = calls.get(convolution, 0) + 1

    def before(norm: nn.BatchNorm2d, entered: tuple[Tensor, ...]) -> None:
        calls[norm] = calls.get(norm, 0) + 1
        if id(entered[0]) in outputs:
            pairs.append((outputs[id(entered[0])][0], norm))

    with contextlib.ExitStack() as hooks:
        for module in model.modules():
            if _is_plain(module, nn.Conv2d):
                hooks.callback(module.register_forward_hook(after).remove)
            elif _is_plain(module, nn.BatchNorm2d):
                hooks.callback(module.register_forward_pre_hook(before).remove)
        yield pairs
    pairs[:] = [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether a module is of that very class, in evaluation mode, without hooks or a replaced forward."""
    if type(module) is not kind or "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
        return False
    if kind is nn.BatchNorm2d:
        return not module.training and module.running_mean is not None
    return "weight" in dict(module.named_parameters(recurse=False))  # not computed from others, as by weight norm
