r"""Certified radii: how far an input may move before a smoothed classifier can change its mind.

A smoothed classifier answers with the majority vote of a base classifier over noisy copies of the input. Let g be the
probability of the vote for class A, and p_lower a lower confidence bound of it. Where g stays above 1/2, A stays the
majority. docs/certify.md proves each radius.
"""

import math

from scipy.stats import beta, norm

ABSTAIN = -1
_SLACK = 1e-12  # a vote this close to 1/2 counts as a tie


def lower_bound(votes: int, draws: int, alpha: float) -> float:
    """Return the exact one-sided lower confidence bound of a vote's probability (Clopper and Pearson, 1934).

    The bound exceeds the true probability in at most a share ``alpha`` of repetitions.

    Args:
        votes: draws that voted for the class, 0 to ``draws``.
        draws: independent draws, at least 1.
        alpha: above 0 and below 1.

    Raises:
        ValueError: for counts or a level out of range.

    Example:
        >>> round(lower_bound(1000, 1000, 0.001), 4)
        0.9931
    """
    if draws < 1 or not 0 <= votes <= draws:
        raise ValueError(f"votes is {votes} and draws {draws}; votes must be from 0 to draws, and draws at least 1")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it must be above 0 and below 1")
    return float(beta.ppf(alpha, votes, draws - votes + 1)) if votes else 0.0


def deletion_radius(p_lower: float, deletion: float) -> int:
    r"""Return the certified number of word edits under random deletion, or -1 to abstain.

    Each word is deleted independently with probability p. Along an edit script with s substitutions, d deletions and i
    insertions, :math:`g(x') \ge p^{s+i}\,\bigl(1 - (1 - g(x))\,p^{-(s+d)}\bigr)`. Over all scripts of r edits the least
    is at r substitutions, :math:`g(x) - 1 + p^r`, so the vote for A stays a majority while

    .. math:: p_{lower} - 1 + p^r > 1/2, \qquad r = \lfloor \log(1.5 - p_{lower}) / \log p \rfloor

    where a tie does not count.

    Args:
        p_lower: lower bound of the vote for the class, in [0, 1]; at most 1/2 abstains.
        deletion: p, above 0 and below 1.

    Raises:
        ValueError: for probabilities out of range.

    Source: Huang et al., "RS-Del", NeurIPS 2023; "CERT-ED", Findings of EMNLP 2024.

    Example:
        >>> deletion_radius(0.99, 0.95), deletion_radius(0.6, 0.95), deletion_radius(0.5, 0.95)
        (13, 2, -1)
    """
    _check_bound(p_lower)
    if not 0 < deletion < 1:
        raise ValueError(f"deletion is {deletion}; it must be above 0 and below 1")
    if p_lower <= 0.5:
        return ABSTAIN
    radius = math.floor(math.log(1.5 - p_lower) / math.log(deletion))
    # Rounding may leave the floor one step off at a tie: the inequality itself decides.
    while radius > 0 and p_lower - 1.0 + deletion**radius <= 0.5 + _SLACK:
        radius -= 1
    return radius


def masking_radius(p_lower: float, words: int, kept: int) -> int:
    r"""Return the certified number of word substitutions under random masking, or -1 to abstain.

    Of n words, k drawn without replacement stay and the others are masked. Two texts that differ in r words give the
    same masked text unless one of these words stays, so their votes differ by at most
    :math:`\Delta_r = 1 - \binom{n-r}{k} / \binom{n}{k}`; the vote for A stays a majority while
    :math:`p_{lower} - \Delta_r > 1/2`.

    Args:
        p_lower: lower bound of the vote for the class, in [0, 1]; at most 1/2 abstains.
        words: n, at least 1.
        kept: k, from 1 to n.

    Raises:
        ValueError: for numbers out of range.

    Source: Zeng et al., "Certified Robustness to Text Adversarial Attacks by Randomized [MASK]", 2023 (RanMASK), with
    their beta taken as 1, which needs no second estimate.
    """
    _check_bound(p_lower)
    if not 1 <= kept <= words:
        raise ValueError(f"kept is {kept}; it must be from 1 to words={words}")
    if p_lower <= 0.5:
        return ABSTAIN
    radius, untouched = 0, 1.0
    while radius < words:
        # C(n-r-1, k) / C(n, k) from C(n-r, k) / C(n, k)
        untouched *= max(0.0, (words - radius - kept) / (words - radius))
        if p_lower - (1.0 - untouched) <= 0.5 + _SLACK:
            break
        radius += 1
    return radius


def gaussian_radius(p_lower: float, sigma: float) -> float:
    r"""Return the certified L2 radius under Gaussian noise, in [0, 1] pixels, or -1.0 to abstain.

    .. math:: r = \sigma\,\Phi^{-1}(p_{lower})

    Args:
        p_lower: lower bound of the vote for the class, in [0, 1]; at most 1/2 abstains.
        sigma: standard deviation of the noise on [0, 1] pixels, above 0.

    Raises:
        ValueError: for numbers out of range.

    Source: Cohen et al., "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, Theorem 1.

    Example:
        >>> round(gaussian_radius(0.99, 0.25), 4)
        0.5816
    """
    _check_bound(p_lower)
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma is {sigma}; it must be a finite number above 0")
    return float(sigma * norm.ppf(p_lower)) if p_lower > 0.5 else float(ABSTAIN)


def _check_bound(p_lower: float) -> None:
    if not 0 <= p_lower <= 1:
        raise ValueError(f"p_lower is {p_lower}; it must be a probability from 0 to 1")
