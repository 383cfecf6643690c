"""Attack success, accuracy under attack, and the distance of adversarial examples."""

from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .classification import to_numpy


class AttackRates(TypedDict):
    """Result of ``attack_summary``."""

    num_examples: int
    num_attacked: int
    num_successes: int
    clean_accuracy: float
    accuracy_under_attack: float
    attack_success_rate: float | None


class Distances(TypedDict):
    """Result of ``l2_summary``, in [0, 1] pixels."""

    l2_mean: float | None
    l2_median: float | None


def attack_summary(
    correct_before: ArrayLike,
    correct_after: ArrayLike,
    attacked: ArrayLike | None = None,
    success: ArrayLike | None = None,
) -> AttackRates:
    """Summarise an attack on a set of inputs.

    Args:
        correct_before: bool (rows,): classified correctly without the attack.
        correct_after: bool (rows,): classified correctly after it.
        attacked: bool (rows,): inputs that were attacked; all where None. The others keep their result.
        success: bool (rows,): the attack reached its goal, where that is not just any wrong class.

    Returns:
        ``clean_accuracy``: correct before, over all inputs. ``accuracy_under_attack``: correct before and after, over
        all inputs (a wrong input that an attack happens to correct stays wrong: an adversary would leave it alone).
        ``attack_success_rate``: successes over attacked inputs that were correct before, None without any.
        ``num_examples``, ``num_attacked`` (attacked and correct before), ``num_successes``.

    Raises:
        ValueError: for arrays of different lengths, without rows, or of values other than true and false.

    Example:
        >>> attack_summary([True, True, False], [True, False, False])["attack_success_rate"]
        0.5
    """
    before, after = booleans("correct_before", correct_before), booleans("correct_after", correct_after)
    tried = np.ones_like(before) if attacked is None else booleans("attacked", attacked)
    wins = ~after if success is None else booleans("success", success)
    if not before.shape == after.shape == tried.shape == wins.shape:
        raise ValueError(
            "correct_before, correct_after, attacked and success must have the same length, but have "
            f"{len(before)}, {len(after)}, {len(tried)} and {len(wins)} entries"
        )
    if not len(before):
        raise ValueError("correct_before must have at least one entry, but is empty")
    tried = tried & before
    successes = int(np.sum(tried & wins))
    return {
        "num_examples": len(before),
        "num_attacked": int(np.sum(tried)),
        "num_successes": successes,
        "clean_accuracy": float(np.mean(before)),
        "accuracy_under_attack": float(np.mean(before & (after | ~tried))),
        "attack_success_rate": successes / int(np.sum(tried)) if np.any(tried) else None,
    }


def l2_summary(distances: ArrayLike, success: ArrayLike) -> Distances:
    """Return mean and median of the L2 distances (rows,), in [0, 1] pixels, of the successful attacks alone.

    The distances of failures are ignored; without a success both are None.
    """
    values, wins = np.asarray(to_numpy(distances), dtype=np.float64), booleans("success", success)
    if values.shape != wins.shape:
        raise ValueError(f"distances {values.shape} and success {wins.shape} must have the same shape")
    kept = values[wins]
    if not np.all(np.isfinite(kept)) or np.any(kept < 0):
        raise ValueError("distances must be finite and not negative wherever success is true")
    if not len(kept):
        return {"l2_mean": None, "l2_median": None}
    return {"l2_mean": float(np.mean(kept)), "l2_median": float(np.median(kept))}


def booleans(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    """Return a flat list of true and false as an array; raise ValueError, naming it, for anything else."""
    array = np.asarray(to_numpy(values))
    if array.ndim != 1 or not (array.dtype == bool or np.all((array == 0) | (array == 1))):
        raise ValueError(f"{name} must be a flat list of true and false, but is {array.dtype} of shape {array.shape}")
    return array.astype(bool)
