"""The metrics and attacks of a model card, as rows for its tables and its metadata."""

from dataclasses import dataclass
from typing import NamedTuple

from ..runs.provenance import public_name
from ..runs.schema import AttackSummary, BudgetResult, ImageAttackResult, TextAttackResult
from .rendering import number, share

CardAttack = TextAttackResult | ImageAttackResult | AttackSummary
"""An attack that a card can show."""

PIPELINES = {
    "text": ("text-classification", "Text classification"),
    "image": ("image-classification", "Image classification"),
}
"""The Hub's name of a task, and how people write it."""


class Metric(NamedTuple):
    """A metric as cards show it.

    Attributes:
        key: its name in results.
        title: its name in words.
        is_share: whether it is shown in percent.
        meaning: its unit or definition.
    """

    key: str
    title: str
    is_share: bool
    meaning: str


METRICS = (
    Metric("accuracy", "Accuracy", True, "share of rows classified correctly"),
    Metric("robust_accuracy", "Accuracy under ten PGD steps", True, "of some rows, with the radius trained against"),
    Metric("nll", "Negative log-likelihood", False, "nats, through the mean of the posterior"),
    Metric("brier", "Brier score", False, "0 to 2"),
    Metric("ece", "Expected calibration error", False, "15 bins of equal width"),
    Metric("cross_entropy", "Cross-entropy", False, "nats, as in the objective"),
    Metric("entropy", "Entropy of the prediction", False, "nats"),
    Metric("rate", "Rate", False, "nats, KL of the posterior from the prior: the bound on I(Z;X)"),
    Metric("bound_vib", "VIB objective", False, "nats: beta rate + cross-entropy"),
    Metric("bound_vub", "VUB objective", False, "nats: the VIB objective - min{H(Y), entropy of the prediction}"),
    Metric("bound_ib", "Bound on the IB functional", False, "nats: beta rate + cross-entropy - H(Y)"),
)


@dataclass(frozen=True)
class AttackRow:
    """An attack at one budget as a row of a table.

    Attributes:
        attack: its name.
        epsilon: the budget; None for an attack without one.
        budget: the budget as text.
        num_examples: rows drawn.
        clean: accuracy without the attack, as text.
        under: accuracy under attack, as text.
        success: success rate with its interval, as text.
        size: mean size of successful changes, as text.
        noise: the predictor attacked.
        values: the result at that budget.
    """

    attack: str
    epsilon: float | None
    budget: str
    num_examples: int
    clean: str
    under: str
    success: str
    size: str
    noise: str
    values: CardAttack | BudgetResult


def attack_rows(attack: CardAttack) -> list[AttackRow]:
    """Return the rows of a table for one attack: one per budget, or a single one."""
    budgets = attack.budgets if isinstance(attack, ImageAttackResult) else (attack,)
    rows = []
    for at in budgets:
        image = attack.kind == "image_attack"
        epsilon = None if isinstance(at, TextAttackResult) else at.epsilon
        size = at.get("l2_mean" if image else "words_perturbed_mean")
        interval = at.attack_success_interval
        rows.append(
            AttackRow(
                attack=_attack_title(attack),
                epsilon=epsilon,
                budget=number(epsilon),
                num_examples=attack.num_examples,
                clean=share(attack.clean_accuracy),
                under=share(at.accuracy_under_attack),
                success=share(at.attack_success_rate)
                + (f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else ""),
                size="-" if size is None else f"{number(size, digits=3)} {'L2' if image else 'words'}",
                noise=attack.noise,
                values=at,
            )
        )
    return rows


def _attack_title(attack: CardAttack) -> str:
    """Return the name of an attack, and of the model whose score guided it where that was not the one attacked."""
    if not isinstance(attack, TextAttackResult) or attack.guide is None:
        return attack.attack
    searches = "by its own score and guided" if attack.search == "both" else "guided"
    return f"{attack.attack}, {searches} by {public_name(attack.guide)}"
