"""The outcomes of guided search: plateaus, rates and paired tests, from logits and records alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np
from torch import Tensor

from ..metrics.intervals import wilson_interval
from ..metrics.paired import holm, mcnemar
from ..runs.schema.guided import GuidedAttack, GuidedComparison, PlateauBin
from .controls import HEADS, STOCK, VUB

_BINS = 12


class Plateau(TypedDict):
    """The fields of a `GuidedHead` that `plateau` measures."""

    margin_quartiles: tuple[float, float, float] | None
    rank_correlation: float | None
    plateau: tuple[PlateauBin, ...]


def margin(logits: Tensor) -> np.ndarray:
    """Return the highest logit less the second highest, (rows,), of logits (rows, classes)."""
    highest = logits.double().topk(2, dim=-1).values
    return (highest[:, 0] - highest[:, 1]).numpy()


def plateau(margins: np.ndarray, stock: np.ndarray, correlate: bool = True) -> Plateau:
    """Return the fields of a head that say if its margins still order confident texts as the stock classifier's do."""
    from scipy.stats import spearmanr

    if not len(margins):
        return Plateau(margin_quartiles=None, rank_correlation=None, plateau=())
    low, middle, high = np.quantile(margins, [0.25, 0.5, 0.75]).tolist()
    bins = [
        PlateauBin(
            stock=float(np.median(stock[places])),
            low=float(np.quantile(margins[places], 0.05)),
            median=float(np.median(margins[places])),
            high=float(np.quantile(margins[places], 0.95)),
            count=len(places),
        )
        for places in np.array_split(np.argsort(stock, kind="stable"), min(_BINS, len(stock)))
    ]
    return {
        "margin_quartiles": (low, middle, high),
        "rank_correlation": float(spearmanr(margins, stock).statistic) if correlate and len(stock) > 2 else None,
        "plateau": tuple(bins),
    }


def summary(recipe: str, decides: str, guided_by: str, records: Sequence[Mapping[str, object]]) -> GuidedAttack:
    """Return the result of one attack from its records, in the order of the drawn rows."""
    letters = {"attacked": "F", "misclassified": "-"}
    outcomes = "".join("S" if record.get("success") else letters.get(str(record["status"]), "-") for record in records)
    wins, attacked = outcomes.count("S"), len(outcomes) - outcomes.count("-")
    queries = [float(str(record["queries"])) for record in records if record["status"] == "attacked"]
    return GuidedAttack(
        recipe=recipe,
        decides=decides,
        guided_by=guided_by,
        outcomes=outcomes,
        num_examples=len(outcomes),
        num_attacked=attacked,
        num_successes=wins,
        attack_success_rate=wins / attacked if attacked else None,
        attack_success_interval=wilson_interval(wins, attacked),
        queries_mean=float(np.mean(queries)) if queries else None,
    )


def compare_attacks(attacks: Sequence[GuidedAttack]) -> list[GuidedComparison]:
    """Return the paired comparisons of each recipe, each once, with Holm's correction over all of them.

    Every head guided by the stock classifier is compared with the same head by its own score; the stock classifier
    with VUB, both by their own score and by the stock classifier's; the stock classifier guided by VUB with itself.
    """
    pairs: list[tuple[GuidedAttack, GuidedAttack]] = []
    for recipe in dict.fromkeys(attack.recipe for attack in attacks):
        made = {(attack.decides, attack.guided_by): attack for attack in attacks if attack.recipe == recipe}
        wanted: Iterable[tuple[tuple[str, str], tuple[str, str]]] = [
            ((STOCK, STOCK), (VUB, VUB)),
            ((STOCK, STOCK), (VUB, STOCK)),
            ((STOCK, STOCK), (STOCK, VUB)),
            *(((name, STOCK), (name, name)) for name in HEADS if name != STOCK),
        ]
        pairs += [(made[first], made[second]) for first, second in wanted if first in made and second in made]
    counted = [_paired(first.outcomes, second.outcomes) for first, second in pairs]
    p_values = [mcnemar(*both) if both[0] else 1.0 for both in counted]
    return [
        GuidedComparison(
            recipe=first.recipe,
            first=(first.decides, first.guided_by),
            second=(second.decides, second.guided_by),
            num_pairs=len(one),
            only_first=sum(a and not b for a, b in zip(one, other, strict=True)),
            only_second=sum(b and not a for a, b in zip(one, other, strict=True)),
            p_value=p_value,
            p_holm=adjusted,
        )
        for (first, second), (one, other), p_value, adjusted in zip(
            pairs, counted, p_values, holm(p_values), strict=True
        )
    ]


def _paired(first: str, second: str) -> tuple[list[bool], list[bool]]:
    """Return the successes of two attacks on the rows that both attacked."""
    both = [(a == "S", b == "S") for a, b in zip(first, second, strict=True) if "-" not in (a, b)]
    return [a for a, _ in both], [b for _, b in both]
