"""Outcomes per test row, which paired comparisons need: who was fooled on which row, and who was right on it.

Tables have one row per seed and one column per test row, NaN where a head was not attacked because it was wrong before.
"""

import base64
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..metrics.classification import Floats
from ..runs.schema import Outcomes, Reproduction
from .grid import Measured, attack_columns

GUIDED = " guided"
"""Ending of the column of attacks on texts whose search climbs the score of the stock classifier."""

_LINF = ("FGS", "pgd_linf", "apgd_ce", "apgd_dlr", "square", "autoattack")
_LETTERS = {"S": 1.0, "F": 0.0, "-": np.nan}


def outcomes_of(records: Sequence[Mapping[str, object]], search: str | None = None, budget: int = 0) -> Outcomes:
    """Return what an attack did to each of its rows, from its records in the order of the sample.

    Args:
        records: of the attack on one head.
        search: "own" or "guided", of texts that were searched both ways.
        budget: position of the budget, of an attack on images.
    """
    letters, distances = [], []
    for record in records:
        outcome = record.get(search) if search else None
        several = record.get("outcomes")
        if isinstance(several, Sequence) and several:
            outcome = several[budget]
        found = {**record, **outcome} if isinstance(outcome, Mapping) else record
        attacked = record["status"] == "attacked"
        letters.append(("S" if found.get("success") else "F") if attacked else "-")
        distance = found.get("l2")
        distances.append(distance if isinstance(distance, float) and letters[-1] == "S" else None)
    some = any(distance is not None for distance in distances)
    return Outcomes(letters="".join(letters), l2=tuple(distances) if some else None)


def successes(runs: Sequence[Measured], columns: Sequence[str]) -> Floats | None:
    """Return for each run and row 1 if any of some attacks succeeded, 0 if none did; None if one was not made."""
    worst: Floats | None = None
    for column in columns:
        found = [run.outcomes.get(column) for run in runs]
        if not found or any(each is None for each in found):
            return None
        lines = [[_LETTERS[letter] for letter in each.letters] for each in found if each is not None]
        if len({len(line) for line in lines}) > 1 or (worst is not None and len(lines[0]) != worst.shape[1]):
            return None  # of other rows
        worst = np.array(lines) if worst is None else np.fmax(worst, np.array(lines))
    return worst


def distances(runs: Sequence[Measured], column: str) -> Floats | None:
    """Return for each run and row the L2 distance of a success, NaN where there is none; None if it was not made."""
    found = [run.outcomes.get(column) for run in runs]
    if not found or any(each is None or each.l2 is None for each in found):
        return None
    lines = [each.l2 for each in found if each is not None and each.l2 is not None]
    if len({len(line) for line in lines}) > 1:
        return None
    return np.array([[np.nan if value is None else value for value in line] for line in lines])


def correct_rows(runs: Sequence[Measured]) -> Floats | None:
    """Return for each run and test row if it was classified correctly; None if one of the runs does not say."""
    found = [unpack(run.correct) for run in runs if run.correct is not None]
    if not found or len(found) < len(runs):
        return None
    return np.array(found, dtype=np.float64)


def worst_columns(results: Reproduction, column: str) -> list[str]:
    """Return the columns whose worst case decides about a claim on one column.

    Of texts these are all recipes and guides. Of images they are the attacks within the same budget of a pixel; none
    where all of them are single gradient steps, which say little by themselves. A distance stands alone.
    """
    if results.task == "text":
        every = attack_columns(results)
        return every if any(name.endswith(GUIDED) for name in every) else []
    attacks = results.vanilla.attacks
    budget = attacks[column].epsilon if column in attacks else None
    if budget is None:
        return [column]
    within = [
        name
        for name, attack in attacks.items()
        if name.startswith(_LINF) and attack.epsilon is not None and attack.epsilon <= budget
    ]
    return within if any(not name.startswith("FGS") for name in within) else []


def pack(correct: ArrayLike) -> str:
    """Return booleans as text: their number, a colon, and their bits in base64."""
    bits = np.asarray(correct, dtype=bool)
    return f"{len(bits)}:{base64.b64encode(np.packbits(bits).tobytes()).decode()}"


def unpack(text: str) -> list[bool]:
    """Return the booleans of `pack`."""
    count, _, code = text.partition(":")
    bits: list[bool] = np.unpackbits(np.frombuffer(base64.b64decode(code), dtype=np.uint8)).astype(bool).tolist()
    return bits[: int(count)]
