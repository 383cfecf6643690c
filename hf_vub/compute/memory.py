"""Batches that do not fit into memory: halve them and continue."""

import logging
from collections.abc import Callable
from typing import TypeVar

from accelerate.utils.memory import should_reduce_batch_size

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def halving(compute: Callable[[slice], Result], size: int, unit: str = "rows") -> list[Result]:
    """Compute a batch in one call, or in smaller and smaller calls until each one fits into memory.

    Each halving logs one warning. A caller that wants smaller batches from then on sees it in the number of results.

    Args:
        compute: takes the slice of the batch to compute.
        size: items in the batch.
        unit: plural noun for the items, for the log.

    Returns:
        The results in the order of the batch: one, unless memory ran out.

    Raises:
        RuntimeError: a single item does not fit into memory (or a MemoryError, if that is what ``compute`` raised).

    Example:
        >>> halving(lambda rows: [10, 20, 30][rows], 3)
        [[10, 20, 30]]
    """
    results: list[Result] = []
    first, most = 0, size
    while first < size or not results:
        last = min(first + most, size)
        try:
            results.append(compute(slice(first, last)))
            first = last
            continue
        except (RuntimeError, MemoryError) as error:
            if last - first <= 1 or not is_out_of_memory(error):
                raise
        # Outside of the except block: the error's traceback keeps the tensors of the failed call alive.
        most = (last - first) // 2
        logger.warning("out of memory with %d %s; continuing with %d at a time", last - first, unit, most)
    return results


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an error that a smaller batch would have avoided, on any device."""
    return isinstance(error, MemoryError) or (isinstance(error, Exception) and should_reduce_batch_size(error))
