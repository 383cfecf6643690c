"""Attack a smoothed text classifier: does any edit within a certified radius change its decision?

A certificate is a proof, so no attack can refute it; one can find an error in the code, or a radius that is too large.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..certify.smoothing import Smoothing
from ..certify.voters import TextVoter


@dataclass(frozen=True)
class Trial:
    """What became of a certified text under attack.

    Attributes:
        radius: certified number of word edits.
        edits: word edits of the text that changed the decision, or of the last one tried.
        flipped: the classifier decided, without abstaining, for another class.
    """

    radius: float
    edits: int
    flipped: bool

    @property
    def refutes(self) -> bool:
        """Return whether this change of a decision lies within the certified radius."""
        return self.flipped and self.edits <= self.radius


def word_edits(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the Levenshtein distance of two texts over words.

    Example:
        >>> word_edits(["a", "fine", "film"], ["a", "film", "indeed"])
        2
    """
    row = np.arange(len(other) + 1)
    for place, word in enumerate(one, start=1):
        substituted = row[:-1] + np.array([word != each for each in other], dtype=int)
        best = np.minimum(substituted, row[1:] + 1)
        # An insertion may follow any earlier place: the least of best[j] + (k - j) over j <= k.
        costs = np.concatenate([[place], best]) - np.arange(len(other) + 1)
        row = np.minimum.accumulate(costs) + np.arange(len(other) + 1)
    return int(row[-1])


def try_texts(
    voter: TextVoter, smoothing: Smoothing, name: str, words: Sequence[str], candidates: Sequence[Sequence[str]]
) -> list[Trial]:
    """Certify a text, and decide each of some changed texts with copies of their own.

    Args:
        voter: of the smoothed classifier.
        smoothing: copies and level, the same for all decisions.
        name: of the head.
        words: of the text.
        candidates: words of the changed texts, such as an attack's.

    Returns:
        One trial per candidate; none where the classifier abstains on the text itself.
    """
    decision, radius = _decide(voter, smoothing, name, words, 0)
    if decision is None:
        return []
    trials = []
    for key, changed in enumerate(candidates, start=1):
        other, _ = _decide(voter, smoothing, name, changed, key)
        trials.append(Trial(radius, word_edits(words, changed), other is not None and other != decision))
    return trials


def climb(
    voter: TextVoter, smoothing: Smoothing, name: str, words: Sequence[str], vocabulary: Sequence[str], most: int,
    *, tried: int = 40, draws: int = 100, seed: int = 0,
) -> list[list[str]]:  # fmt: skip
    """Search for edits that lower the vote for the decision, one at a time, and return the text after each of them.

    Every step tries random substitutions, deletions and insertions, and keeps the one after which the fewest of
    ``draws`` copies vote for the decision: a greedy search on the smoothed score itself.

    Args:
        voter: of the smoothed classifier.
        smoothing: of the decision that is attacked.
        name: of the head.
        words: of the text.
        vocabulary: words to put in.
        most: edits, more than the certified radius to look beyond it.
        tried: edits tried in each step.
        draws: copies of each.
        seed: of the edits tried.
    """
    decision, _ = _decide(voter, smoothing, name, words, 0)
    generator, path, current = np.random.default_rng(seed), [], list(words)
    if decision is None:
        return []
    for _ in range(most):
        options = [_edited(current, vocabulary, generator) for _ in range(tried)]
        # The same key gives all options of a step the same deletions, so that they differ by the edit and little else.
        votes = [voter.votes(voter.copies(each, seed)(draws), [name])[name] for each in options]
        current = options[int(np.argmin([np.mean(each == decision) for each in votes]))]
        path.append(current)
    return path


def _edited(words: Sequence[str], vocabulary: Sequence[str], generator: np.random.Generator) -> list[str]:
    place, kind = int(generator.integers(len(words) + 1)), int(generator.integers(3))
    new = [] if kind == 0 else [vocabulary[int(generator.integers(len(vocabulary)))]]
    return [*words[:place], *new, *words[place if kind == 2 else place + 1 :]]


def _decide(
    voter: TextVoter, smoothing: Smoothing, name: str, words: Sequence[str], key: int
) -> tuple[int | None, float]:
    """Return the class, or None to abstain, and the certified radius."""
    example = voter.prepare(" ".join(words))
    tally = smoothing.tally(voter.num_classes(voter.heads[name], example))
    voter.count(example, key, smoothing, {name: tally})
    radius = voter.radius(tally.p_lower, example)
    return (None if radius < 0 else tally.chosen), radius
