"""Gradient ascent on a loss inside a small ball around pixels in [0, 1]: the inner step of attacks and of training."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

NORMS = ("linf", "l2")
_TINY = 1e-12


def perturb(
    loss: Callable[[Tensor], Tensor],
    pixels: Tensor,
    *,
    epsilon: float,
    step: float,
    steps: int,
    norm: str = "linf",
    start: Tensor | None = None,
) -> Tensor:
    r"""Return pixels near the given ones that a loss is high for, by projected gradient ascent.

    .. math:: x_{t+1} = \Pi_{B_\epsilon(x) \cap [0, 1]^d}\bigl(x_t + \alpha\, g(\nabla_x L(x_t))\bigr)

    with g the sign under the Linf norm, and the gradient divided by its own length under the L2 norm (Madry et al.
    2018). One step of 1.25 epsilon from a random start is the fast method of Wong et al. (2020).

    Args:
        loss: from pixels to one loss per example, or to their sum; its graph must reach the pixels.
        pixels: shape (batch, channels, height, width), in [0, 1].
        epsilon: radius of the ball, in [0, 1] pixels of the norm.
        step: length of a step, in the same unit.
        steps: gradient steps.
        norm: "linf" or "l2", over the pixels of each example.
        start: where to start, from `random_start`; None starts at the pixels themselves.

    Returns:
        Pixels in [0, 1] within epsilon of the given ones, without a graph.

    Example:
        >>> perturb(lambda x: x.sum(), torch.full((1, 1, 1, 1), 0.5), epsilon=0.1, step=0.1, steps=1).item()
        0.6000000238418579
    """
    pixels = pixels.detach()
    current = pixels if start is None else start
    for _ in range(steps):
        current = current.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            total = loss(current).sum()
        (gradient,) = torch.autograd.grad(total, current)
        current = project(current.detach() + step * direction(gradient, norm), pixels, epsilon, norm)
    return current


def direction(gradient: Tensor, norm: str) -> Tensor:
    """Return the steepest step of length 1 in the norm: the gradient's sign, or the gradient over its L2 length.

    Entries that are not finite count as zero, so that one of them does not turn a whole image into NaN.
    """
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    if norm == "linf":
        return gradient.sign()
    return gradient / _lengths(gradient).clamp_min(_TINY)


def project(candidate: Tensor, pixels: Tensor, epsilon: float, norm: str) -> Tensor:
    """Return the candidate moved into the ball around the pixels, and then into [0, 1].

    Args:
        candidate: shape (batch, ...).
        pixels: centres of the balls, the same shape, in [0, 1].
        epsilon: radius in the norm.
        norm: "linf" or "l2".
    """
    change = candidate - pixels
    if norm == "linf":
        change = change.clamp(-epsilon, epsilon)
    else:
        change = change * (epsilon / _lengths(change).clamp_min(_TINY)).clamp_max(1.0)
    return (pixels + change).clamp(0.0, 1.0)


def random_start(pixels: Tensor, epsilon: float, norm: str, generator: Generator | None = None) -> Tensor:
    """Return pixels drawn from the ball around the given ones, clipped to [0, 1].

    Under Linf every pixel moves uniformly within epsilon. Under L2 the draw is uniform in the ball: a random direction
    at the distance epsilon times the d-th root of a uniform number, for d pixels.

    Args:
        pixels: shape (batch, ...), in [0, 1].
        epsilon: radius in the norm.
        norm: "linf" or "l2".
        generator: of the draws, on the pixels' device; None uses the global one.
    """
    if norm == "linf":
        change = torch.empty_like(pixels).uniform_(-epsilon, epsilon, generator=generator)
    else:
        numbers = pixels.numel() // max(1, len(pixels))
        radius = pixels.new_empty(len(pixels), *[1] * (pixels.ndim - 1)).uniform_(generator=generator)
        change = torch.empty_like(pixels).normal_(generator=generator)
        change = epsilon * radius ** (1 / max(1, numbers)) * direction(change, "l2")
    return project(pixels + change, pixels, epsilon, norm)


def _lengths(change: Tensor) -> Tensor:
    """Return the L2 length of each example, shaped to broadcast over it."""
    lengths: Tensor = torch.linalg.vector_norm(change.flatten(1), dim=1)
    return lengths.view(-1, *[1] * (change.ndim - 1))
