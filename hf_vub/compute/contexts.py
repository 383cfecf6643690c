"""Context managers that freeze a model or seed a block, and put everything back afterwards."""

import contextlib
import copy
import random
from collections.abc import Iterator
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


@contextlib.contextmanager
def frozen(model: Model) -> Iterator[Model]:
    """Freeze a model inside the block: evaluation mode, no parameter gradients, deterministic kernels.

    Attacks want gradients of pixels only: freezing the parameters halves the backward pass and leaves no ``.grad``.

    Example:
        >>> with frozen(nn.Dropout().train()) as model:
        ...     model.training
        False
    """
    training = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    model.requires_grad_(False)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield model
    finally:
        for module, was_training in training:
            module.training = was_training
        for parameter, required in trainable:
            parameter.requires_grad_(required)


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Start all random generators from ``key`` inside the block and restore them after it.

    Example:
        >>> with seeded(seed, batch_number):  # doctest: +SKIP
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


def placed(model: Model, device: torch.device, dtype: torch.dtype) -> Model:
    """Return the model itself if it is on that device in that dtype, else a converted copy."""
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.device != device or (tensor.is_floating_point() and tensor.dtype != dtype):
            return copy.deepcopy(model).to(device, dtype)
    return model
