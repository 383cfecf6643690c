"""The numbers of a certificate, from the records of its examples alone."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..metrics.intervals import wilson_interval
from ..runs.run_log import Record
from ..runs.schema import CertifiedAt

_STEP = 0.05  # between the L2 radii of a curve
_SLACK = 1e-9


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Return the numbers of a certificate, from the records alone.

    Raises:
        ValueError: no example could be read.
    """
    kept = [record for record in records if not record["status"].startswith("skipped")]
    if not kept:
        raise ValueError(f"none of {len(records)} examples could be certified; {records[0]['status']}")
    reasons = Counter(record["status"].removeprefix("skipped: ") for record in records if record not in kept)
    right = sum(record["prediction"] == record["label"] for record in kept)
    radii = sorted(record["radius"] for record in kept if record["decision"] == record["label"])
    decided = [record for record in kept if record["decision"] is not None]
    step = 1 if all("words" in record for record in kept) else _STEP
    steps = range(int((max(radii, default=0) + _SLACK) / step) + 1)
    curve = tuple(certified_at(round(step * place, 6), radii, len(kept)) for place in steps)
    ten_percent = -(-len(kept) // 10)
    seconds = sum(record["seconds"] for record in kept)
    draws = sum(record["draws"] for record in kept)
    words = [record["words"] for record in kept if "words" in record]
    return {
        "num_examples": len(kept),
        "num_skipped": len(records) - len(kept),
        "skipped": dict(sorted(reasons.items())),
        "smoothed_accuracy": right / len(kept),
        "smoothed_interval": wilson_interval(right, len(kept)),
        "num_abstained": len(kept) - len(decided),
        "num_given_up": sum(record["p_lower"] == 0 for record in kept),
        "num_wrong": sum(record["decision"] != record["label"] for record in decided),
        "curve": curve,
        "radius_of_ten_percent": radii[-ten_percent] if len(radii) >= ten_percent else None,
        "words_median": float(np.median(words)) if words else None,
        "draws_mean": draws / len(kept),
        "draws_per_second": draws / seconds if seconds else 0.0,
        "seconds": seconds,
    }


def certified_at(radius: float, radii: Sequence[float], examples: int) -> CertifiedAt:
    """Return the certified accuracy at a radius.

    Args:
        radius: word edits, or L2 norm.
        radii: of the right decisions.
        examples: all of them, those without a right decision too.
    """
    count = sum(each >= radius - _SLACK for each in radii)
    return CertifiedAt(
        radius=radius, num_certified=count, accuracy=count / examples, interval=wilson_interval(count, examples)
    )
