"""Fixtures that every test may use."""

import os

# Before torch and transformers are imported: tiny models gain nothing from threads, and no test may reach the Hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import contextlib
import logging
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from helpers.hub_server import Interpreter, LoopbackHub

torch.set_num_threads(1)
with contextlib.suppress(ImportError):
    import hypothesis

    # Draws depend neither on the clock nor on how busy the machine is.
    hypothesis.settings.register_profile(
        "steady", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("steady")
for scripts in ("scripts/benchmark", "scripts/docs"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / scripts))


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Undo what a test does to the environment, as training arguments do, or to logging, as scripts do."""
    logging.disable(logging.NOTSET)  # a module's fixture may have run a script before
    with mock.patch.dict(os.environ):
        yield
    logging.disable(logging.NOTSET)


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


@pytest.fixture(scope="session")
def hub() -> Iterator[LoopbackHub]:
    """A Hub on this machine."""
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="session")
def online(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    """An interpreter that takes it for the Hub."""
    environment = hub.environment(tmp_path_factory.mktemp("home"))
    interpreter = Interpreter({**environment, "PYTHONPATH": str(Path(__file__).resolve().parents[1])})
    yield interpreter
    interpreter.close()
