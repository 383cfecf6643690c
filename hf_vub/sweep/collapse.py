"""Warnings of a bottleneck that lets nothing through, or everything."""

from collections.abc import Mapping

from ..model.objectives import objective_weights

COLLAPSE = 0.01
"""Mean rate in nats under which a bottleneck lets nothing through."""
SATURATION = 0.99
"""Share of H(Y) above which the mean entropy is at its cap."""


def advice(
    means: Mapping[str, float], *, objective: str, beta: float, entropy_weight: float, label_entropy: float
) -> dict[str, str]:
    """What is wrong with a bottleneck whose mean terms over an epoch are these, and what helps; by a short name.

    Args:
        means: ``rate`` and ``entropy`` of the predictions, in nats.
        objective: that it is trained with.
        beta: weight of the rate.
        entropy_weight: weight of the min term of vub.
        label_entropy: H(Y), the cap of that term, in nats.

    Example:
        >>> weights = {"objective": "vub", "beta": 0.1, "entropy_weight": 1.0, "label_entropy": 0.693}
        >>> list(advice({"rate": 0.001, "entropy": 0.69}, **weights))
        ['KL collapse', 'saturation']
    """
    found = {}
    beta, entropy_weight = objective_weights(objective, beta, entropy_weight)
    if beta > 0 and means["rate"] < COLLAPSE:
        found["KL collapse"] = (
            f"the mean rate is {means['rate']:.2g} nats at beta={beta:g}: next to nothing passes the bottleneck; lower "
            "beta, or let it rise slowly (beta_schedule='linear')"
        )
    if entropy_weight > 0 and means["entropy"] >= SATURATION * label_entropy:
        found["saturation"] = (
            f"the mean entropy is {means['entropy']:.3g} nats of at most H(Y) = {label_entropy:.3g}: predictions are "
            "all but uniform and the min term is constant; lower entropy_weight or beta, or train longer"
        )
    return found
