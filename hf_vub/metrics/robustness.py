"""Robustness: attack success, accuracy under attack, and the distance of adversarial examples."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .classification import _to_numpy


def attack_summary(
    correct_before: ArrayLike,
    correct_after: ArrayLike,
    attacked: ArrayLike | None = None,
    success: ArrayLike | None = None,
) -> dict[str, Any]:
    """What an attack did to a model, over one set of inputs.

    Args:
        correct_before: bool (rows,): right on the clean input.
        correct_after: bool (rows,): right on the attacked input.
        attacked: bool (rows,): inputs that the attack was run on; all where None. The others keep their clean result.
        success: bool (rows,): reached its goal, for a goal other than a wrong class (a targeted attack).

    Returns:
        ``clean_accuracy``: right clean inputs over all inputs. ``accuracy_under_attack``: right before and after over
        all inputs (a wrong input that an attack happens to mend stays wrong: an adversary would leave it alone).
        ``attack_success_rate``: successes over attacked inputs that were right before, None where there are none.
        ``num_examples``, ``num_attacked`` (right before and attacked), ``num_successes``.

    Example:
        >>> attack_summary([True, True, False], [True, False, False])["attack_success_rate"]
        0.5
    """
    before, after = _booleans("correct_before", correct_before), _booleans("correct_after", correct_after)
    tried = np.ones_like(before) if attacked is None else _booleans("attacked", attacked)
    turned = ~after if success is None else _booleans("success", success)
    if not before.shape == after.shape == tried.shape == turned.shape:
        raise ValueError(
            "correct_before, correct_after, attacked and success must be of one length, but have "
            f"{len(before)}, {len(after)}, {len(tried)} and {len(turned)} entries"
        )
    if not len(before):
        raise ValueError("correct_before is empty: there is nothing to summarise")
    tried = tried & before
    successes = int(np.sum(tried & turned))
    return {
        "num_examples": len(before),
        "num_attacked": int(np.sum(tried)),
        "num_successes": successes,
        "clean_accuracy": float(np.mean(before)),
        "accuracy_under_attack": float(np.mean(before & (after | ~tried))),
        "attack_success_rate": successes / int(np.sum(tried)) if np.any(tried) else None,
    }


def l2_summary(distances: ArrayLike, success: ArrayLike) -> dict[str, float | None]:
    """``l2_mean`` and ``l2_median`` of the L2 distances (rows,), in [0, 1] pixels, of the successful attacks alone.

    What stands in ``distances`` for a failure is ignored; without a success both are None.
    """
    values, wins = np.asarray(_to_numpy(distances), dtype=np.float64), _booleans("success", success)
    if values.shape != wins.shape:
        raise ValueError(f"distances {values.shape} and success {wins.shape} must have the same shape")
    kept = values[wins]
    if not np.all(np.isfinite(kept)) or np.any(kept < 0):
        raise ValueError("distances must be finite and not negative wherever success is true")
    if not len(kept):
        return {"l2_mean": None, "l2_median": None}
    return {"l2_mean": float(np.mean(kept)), "l2_median": float(np.median(kept))}


def _booleans(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(_to_numpy(values))
    if array.ndim != 1 or not (array.dtype == bool or np.all((array == 0) | (array == 1))):
        raise ValueError(f"{name} must be a flat list of true and false, but is {array.dtype} of shape {array.shape}")
    return array.astype(bool)
