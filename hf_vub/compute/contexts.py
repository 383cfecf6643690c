"""Context managers: freeze a model, seed a block."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients of parameters and deterministic kernels inside the block; all restored after it.

    Attacks want gradients of pixels only: freezing the parameters halves the backward pass and leaves no ``.grad``.
    """
    training = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    model.requires_grad_(False)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        for module, was_training in training:
            module.training = was_training
        for parameter, required in wanted:
            parameter.requires_grad_(required)


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """All random generators started from ``key`` inside the block and put back after it.

    Example:
        >>> with seeded(seed, batch_number):
        ...     adversarial = attack(pixel_model, images, labels)
    """
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(enabled=True):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
