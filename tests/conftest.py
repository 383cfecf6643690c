"""Fixtures that every test may use."""

import os

# Before torch and transformers are imported: tiny models gain nothing from threads, and no test may reach the Hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import random
from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    """Give every test the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data sets and models: ``$HF_VUB_SHARED``, or ``shared`` beside the checkout."""
    named = os.environ.get("HF_VUB_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data: {folder} holds no data folder; name one with HF_VUB_SHARED")
    return folder
