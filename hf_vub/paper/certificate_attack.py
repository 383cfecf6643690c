"""Attack a smoothed text classifier: does any edit within a certified radius change its decision?

A certificate is a proof, so no attack can refute it; one can find an error in the code, or a radius that is too large.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..certify.smoothing import Smoothing
from ..certify.voters import TextVoter, as_head, make_voter
from ..compute.contexts import frozen
from ..data.noise import parse_noise
from ..model.loading import load_classifier
from ..runs.provenance import provenance, public_name
from ..runs.schema import AttackedCertificates, CertificateAttack


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
    voter: TextVoter, smoothing: Smoothing, words: Sequence[str], vocabulary: Sequence[str], most: int,
    *, tried: int = 40, draws: int = 100, seed: int = 0,
) -> list[list[str]]:  # fmt: skip
    """Search for edits that lower the vote for the decision, one at a time, and return the text after each of them.

    Every step tries random substitutions, deletions and insertions, and keeps the one after which the fewest of
    ``draws`` copies vote for the decision: a greedy search on the smoothed score itself.

    Args:
        voter: of the smoothed classifier.
        smoothing: of the decision that is attacked.
        words: of the text.
        vocabulary: words to put in.
        most: edits, more than the certified radius to look beyond it.
        tried: edits tried in each step.
        draws: copies of each.
        seed: of the edits tried.
    """
    decision, _ = _decide(voter, smoothing, "", words, 0)
    generator, path, current = np.random.default_rng(seed), [], list(words)
    if decision is None:
        return []
    for _ in range(most):
        options = [_edited(current, vocabulary, generator) for _ in range(tried)]
        # The same key gives all options of a step the same deletions, so that they differ by the edit and little else.
        votes = [voter.votes(voter.copies(each, seed)(draws), [""])[""] for each in options]
        current = options[int(np.argmin([np.mean(each == decision) for each in votes]))]
        path.append(current)
    return path


def attack_certificates(
    model: str,
    noise: str,
    texts: Mapping[str, Sequence[tuple[str, str]]],
    *,
    n0: int = 100,
    n: int = 1000,
    alpha: float = 0.001,
    climbed: int = 3,
    most: int = 10,
    seed: int = 0,
) -> CertificateAttack:
    """Decide texts that attacks have changed, and search for changes of the decision, within and beyond the radius.

    Args:
        model: folder or Hub id of the base classifier.
        noise: on words.
        texts: by the name of the attack, pairs of a text and what the attack made of it.
        n0: copies that choose the class.
        n: copies that bound its vote.
        alpha: probability of a wrong certificate, at most.
        climbed: texts of the first attack on which `climb` searches by the smoothed score.
        most: edits of that search.
        seed: of all draws.
    """
    began = time.perf_counter()
    smoothing = Smoothing(parse_noise(noise), n0, n, alpha)
    loaded = load_classifier(model, "text")
    own = getattr(loaded.network, "head", None) if hasattr(loaded.network, "features") else None
    found = []
    with frozen(loaded.network):
        voter, _ = make_voter(loaded, smoothing, {"": as_head(own)}, seed)
        assert isinstance(voter, TextVoter)
        for name, pairs in texts.items():
            trials = [try_texts(voter, smoothing, "", one.split(), [other.split()]) for one, other in pairs]
            found.append(_summary(name, trials))
        originals = [one.split() for one, _ in next(iter(texts.values()))][:climbed]
        vocabulary = sorted({word for pairs in texts.values() for _, other in pairs for word in other.split()})
        trials = [
            try_texts(voter, smoothing, "", words, climb(voter, smoothing, words, vocabulary, most, seed=seed))
            for words in originals
        ]
        found.append(_summary("search by the smoothed score", trials))
    return CertificateAttack(
        **provenance(),
        model=public_name(model),
        noise=noise,
        n0=n0,
        n=n,
        alpha=alpha,
        seed=seed,
        attacks=tuple(found),
        seconds=time.perf_counter() - began,
    )


def _summary(name: str, of_texts: Sequence[Sequence[Trial]]) -> AttackedCertificates:
    trials = [trial for trials in of_texts for trial in trials]
    return AttackedCertificates(
        attack=name,
        texts=sum(bool(trials) for trials in of_texts),
        tried=len(trials),
        within=sum(trial.edits <= trial.radius for trial in trials),
        flipped_within=sum(trial.refutes for trial in trials),
        flipped_beyond=sum(trial.flipped and not trial.refutes for trial in trials),
        fewest_edits=min((trial.edits for trial in trials if trial.flipped), default=None),
    )


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
