"""Warnings about a bottleneck that passes nothing on, or whose predictions stay uniform."""

from collections.abc import Mapping

from ..model.objectives import objective_weights

COLLAPSE = 0.01
"""Mean rate in nats below which a bottleneck counts as collapsed."""
SATURATION = 0.99
"""Share of H(Y) from which the mean entropy counts as at its cap."""


def collapse_warnings(
    means: Mapping[str, float], *, objective: str, beta: float, entropy_weight: float, label_entropy: float
) -> dict[str, str]:
    """Return what is wrong with a bottleneck after an epoch, and what helps.

    Args:
        means: ``rate`` and ``entropy`` of the predictions, means over the epoch in nats.
        objective: the training objective.
        beta: weight of the rate.
        entropy_weight: weight of the min term of vub.
        label_entropy: H(Y), the cap of the min term, in nats.

    Returns:
        A sentence for each problem, by the problem's name; empty for a healthy bottleneck.

    Example:
        >>> weights = {"objective": "vub", "beta": 0.1, "entropy_weight": 1.0, "label_entropy": 0.693}
        >>> list(collapse_warnings({"rate": 0.001, "entropy": 0.69}, **weights))
        ['KL collapse', 'saturation']
    """
    problems = {}
    beta, entropy_weight = objective_weights(objective, beta, entropy_weight)
    if beta > 0 and means["rate"] < COLLAPSE:
        problems["KL collapse"] = (
            f"the mean rate is {means['rate']:.2g} nats at beta={beta:g}, so almost nothing passes the bottleneck; "
            "lower beta, or raise it slowly (beta_schedule='linear')"
        )
    if entropy_weight > 0 and means["entropy"] >= SATURATION * label_entropy:
        problems["saturation"] = (
            f"the mean entropy is {means['entropy']:.3g} nats of at most H(Y) = {label_entropy:.3g}, so predictions "
            "are almost uniform and the min term is constant; lower entropy_weight or beta, or train longer"
        )
    return problems
