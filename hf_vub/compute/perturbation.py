r"""Perturb pixels by projected gradient ascent: the inner step of attacks and of adversarial training.

Formulas on tensors of [0, 1] pixels alone; models, budgets of attacks and schedules of training live elsewhere.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]


def perturb(
    loss: Callable[[Tensor], Tensor],
    pixels: Tensor,
    epsilon: float,
    *,
    steps: int = 10,
    step_size: float | None = None,
    norm: Norm = "linf",
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return pixels whose loss is as large as projected gradient ascent makes it within a budget.

    .. math::
        x_{t+1} = \Pi_\epsilon\big(x_t + \alpha\, d(\nabla_x \ell(x_t))\big), \qquad
        d(g) = \mathrm{sign}(g) \ (\ell_\infty) \ \text{or}\ g / \lVert g \rVert_2 \ (\ell_2)

    where :math:`\Pi_\epsilon` projects onto the ball of radius epsilon around ``pixels`` and clips to [0, 1]. It takes
    ``steps`` forward and backward passes. Only the pixels get gradients: the ``.grad`` of parameters stays as it is.

    Args:
        loss: maps pixels (batch, channels, height, width) to the losses (batch,), or to their sum, that are maximised.
            Return the negative loss of a target to approach it. The caller sets the mode of the model behind it.
        pixels: (batch, channels, height, width) in [0, 1], not perturbed.
        epsilon: budget in [0, 1] pixels.
        steps: gradient steps.
        step_size: size of a step in [0, 1] pixels; None for 2.5 epsilon / steps, the choice of Madry et al.
        norm: "linf" or "l2".
        start: where the first step starts; None for a random point of the ball, ``pixels`` for the images themselves.
        generator: of the random start; None for the global one.

    Returns:
        (batch, channels, height, width), detached. Entries of a gradient that are not finite count as zero.

    Source:
        Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks".

    Example:
        >>> step = 2.5 * 8 / 255 / 10
        >>> adversarial = perturb(lambda x: F.cross_entropy(model(x), y), x, 8 / 255, step_size=step)  # doctest: +SKIP
    """
    pixels = pixels.detach()
    size = 2.5 * epsilon / steps if step_size is None else step_size
    moved = random_start(pixels, epsilon, norm, generator) if start is None else start.detach()
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(moved).sum(), moved)
        moved = project(pixels, moved.detach() + size * direction(gradient, norm), epsilon, norm)
    return moved.detach()


def direction(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the unit step of steepest ascent: the sign of a gradient in Linf, the gradient over its length in L2."""
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    if norm == "linf":
        return gradient.sign()
    return gradient / _lengths(gradient).clamp_min(1e-12)


def project(pixels: Tensor, moved: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """Return ``moved`` inside the ball of radius ``epsilon`` around ``pixels`` and inside [0, 1]."""
    change = moved - pixels
    if norm == "linf":
        change = change.clamp(-epsilon, epsilon)
    else:
        change = change * (epsilon / _lengths(change).clamp_min(1e-12)).clamp_max(1.0)
    return (pixels + change).clamp(0.0, 1.0)


def random_start(pixels: Tensor, epsilon: float, norm: Norm, generator: torch.Generator | None = None) -> Tensor:
    """Return a uniformly drawn point of the ball of radius ``epsilon`` around each image, clipped to [0, 1]."""
    if norm == "linf":
        noise = torch.empty_like(pixels).uniform_(-epsilon, epsilon, generator=generator)
        return (pixels + noise).clamp(0.0, 1.0)
    noise = torch.empty_like(pixels).normal_(generator=generator)
    radius = torch.empty_like(_lengths(pixels)).uniform_(generator=generator) ** (1 / math.prod(pixels.shape[1:]))
    return (pixels + epsilon * radius * noise / _lengths(noise).clamp_min(1e-12)).clamp(0.0, 1.0)


def _lengths(change: Tensor) -> Tensor:
    """Return the L2 norms (batch, 1, ...) of a batch, in a shape that divides it."""
    sizes: Tensor = torch.linalg.vector_norm(change.flatten(1), dim=1)
    return sizes.view(-1, *[1] * (change.ndim - 1))
