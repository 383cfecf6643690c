"""The processes of a run under ``accelerate launch``."""

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import PartialState


def processes() -> "PartialState":
    """Return Accelerate's ``PartialState`` with a timeout for processes that finish hours apart."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # On CPUs several processes are one job only where this says so, as in Accelerator.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(days=7))
