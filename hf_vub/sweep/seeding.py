"""Random draws of a run, from its own seed and nothing else: first weights, order of the data, noise."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..model.head import VUBHead

NOISE_STEPS = 16
"""Steps whose noise is drawn at once. Another number gives other noise."""


def data_order(seed: int, epoch: int, rows: int) -> Tensor:
    """Return the order of the rows in an epoch (from 0) of a run with that seed: a permutation, shape (rows,)."""
    return torch.randperm(rows, generator=_generator(seed, epoch, 0))


def draw_noise(seed: int, epoch: int, block: int, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return the noise of a run for NOISE_STEPS steps, from step ``block * NOISE_STEPS`` of an epoch on.

    Args:
        seed: of the run.
        epoch: counted from 0.
        block: counted from 0 in every epoch.
        shape: (batch_size, latent_size).
        device: where to draw; each kind of device has its own sequence.

    Returns:
        Standard normal numbers, shape (NOISE_STEPS, batch_size, latent_size).
    """
    generator = _generator(seed, epoch, 1 + block, device=device)
    return torch.randn(NOISE_STEPS, *shape, generator=generator, device=device)


def initial_head(seed: int, feature_size: int, num_labels: int, latent_size: int | None = None) -> VUBHead:
    """Return the initial head of a run with that seed: ``VUBHead`` built after ``torch.manual_seed(seed)``."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return VUBHead(feature_size, num_labels, latent_size)


def _generator(*purpose: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for one purpose; different numbers give independent streams."""
    state = np.random.SeedSequence(purpose).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)
