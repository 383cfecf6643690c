"""The processes of a run under ``accelerate launch``."""

from datetime import timedelta
from typing import Any


def processes() -> Any:
    """Accelerate's ``PartialState``, patient enough for processes that finish hours apart."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # On CPUs several processes are one job only where this is said, as Accelerator does.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(days=7))
