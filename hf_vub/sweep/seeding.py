"""What a run of a sweep draws from its own seed and nothing else: first weights, the order of its data, its noise."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..model.head import VUBHead

NOISE_STEPS = 16
"""Steps whose noise is drawn at once. Another number is another noise."""


def data_order(seed: int, epoch: int, rows: int) -> Tensor:
    """The order in which a run of that seed sees the rows in an epoch (from 0): a permutation, shape (rows,)."""
    return torch.randperm(rows, generator=_generator(seed, epoch, 0))


def draw_noise(seed: int, epoch: int, block: int, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """The noise of a run for NOISE_STEPS steps from step ``block * NOISE_STEPS`` of an epoch on.

    Args:
        seed: of the run.
        epoch: counted from 0.
        block: counted from 0 in every epoch.
        shape: (batch_size, latent_size).
        device: whose generator draws; each kind has its own sequence.

    Returns:
        Standard normal numbers, shape (NOISE_STEPS, batch_size, latent_size).
    """
    generator = _generator(seed, epoch, 1 + block, device=device)
    return torch.randn(NOISE_STEPS, *shape, generator=generator, device=device)


def initial_head(seed: int, feature_size: int, num_labels: int, latent_size: int | None = None) -> VUBHead:
    """The head a run of that seed starts from: what ``VUBHead`` gives after ``torch.manual_seed(seed)``."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return VUBHead(feature_size, num_labels, latent_size)


def _generator(*purpose: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose: streams of different numbers are independent of each other."""
    state = np.random.SeedSequence(purpose).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)
