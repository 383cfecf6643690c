"""The upper bounds on the information bottleneck's functional, from the terms of an evaluation."""

import numpy as np
from numpy.typing import NDArray

from ..model.configuration_vub import VUBConfig
from ..model.information import NATS_PER_BIT

Floats = NDArray[np.float64]


def bound_metrics(terms: dict[str, Floats], config: VUBConfig) -> dict[str, float]:
    r"""Return the means of the terms and three upper bounds on :math:`\beta I(Z;X) - I(Z;Y)`, the loosest first.

    ``bound_vib`` is beta R + CE; ``bound_vub`` subtracts the mean of min{H(Y), H(c)}; ``bound_ib`` subtracts H(Y)
    itself, which is the tightest but has the gradient of vib. All in nats, and in bits with ``_bits`` at the end.
    """
    means = {name: float(values.mean()) for name, values in terms.items()}
    vib = config.beta * means["rate"] + means["cross_entropy"]
    nats = {
        "cross_entropy": means["cross_entropy"],
        "rate": means["rate"],
        "entropy": means["entropy"],
        "bound_vib": vib,
        "bound_vub": vib - float(np.minimum(terms["entropy"], config.entropy_cap).mean()),
        "bound_ib": vib - config.entropy_cap,
    }
    bits = {f"{name}_bits": value / NATS_PER_BIT for name, value in nats.items()}
    return {**nats, **bits, "posterior_entropy": means["posterior_entropy"]}
