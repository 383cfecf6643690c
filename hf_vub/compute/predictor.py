"""The declared predictor of a random classifier: the mean of its latent code, or an average of draws."""

import re

_NOISE = re.compile(r"averaged:([1-9][0-9]*)")


def parse_noise(noise: str) -> int:
    """Return how many draws a predictor averages: 0 for ``"mean"``, 1 for ``"sampled"``, k for ``"averaged:k"``.

    Raises:
        ValueError: for any other text.
    """
    if noise in ("mean", "sampled"):
        return int(noise == "sampled")
    match = _NOISE.fullmatch(noise) if isinstance(noise, str) else None
    if match is None:
        raise ValueError(f"noise must be 'mean', 'sampled' or 'averaged:k' with k >= 1, but is {noise!r}")
    return int(match.group(1))
