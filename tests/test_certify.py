"""Certified radii: sound on every small text, exact against closed forms, and -1 where nothing can be promised."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from hf_vub.certify import radii
from hf_vub.certify.radii import deletion_radius, gaussian_radius, lower_bound, masking_radius

ALPHABET = "ab"
LONGEST = 6


def texts(longest=LONGEST):
    return ["".join(word) for length in range(longest + 1) for word in itertools.product(ALPHABET, repeat=length)]


def distances(words):
    """Levenshtein distance between all pairs of short texts, by breadth-first search over single edits."""
    place = {word: row for row, word in enumerate(words)}
    neighbours = []
    for word in words:
        edits = {word[:i] + word[i + 1 :] for i in range(len(word))}
        edits |= {word[:i] + letter + word[i + 1 :] for i in range(len(word)) for letter in ALPHABET}
        edits |= {word[:i] + letter + word[i:] for i in range(len(word) + 1) for letter in ALPHABET}
        neighbours.append([place[edit] for edit in edits if edit in place])
    table = np.full((len(words), len(words)), 99)
    for start in range(len(words)):
        table[start, start], frontier, steps = 0, [start], 0
        while frontier:
            steps += 1
            frontier = list({n for row in frontier for n in neighbours[row] if table[start, n] == 99})
            table[start, frontier] = steps
    return table


def deletion_votes(words, base, p):
    """The exact probability that the base classifier says 1 on a randomly deleted text."""
    votes = []
    for word in words:
        total = 0.0
        for keep in itertools.product((0, 1), repeat=len(word)):
            left = "".join(letter for letter, kept in zip(word, keep, strict=True) if kept)
            total += base[left] * p ** (len(word) - sum(keep)) * (1 - p) ** sum(keep)
        votes.append(min(total, 1.0))
    return np.array(votes)


def violations(words, table, votes, radius):
    """Pairs whose majority differs though the first's certificate covers the second."""
    wrong = 0
    for row, vote in enumerate(votes):
        for says_one, share in ((True, vote), (False, 1 - vote)):
            reach = radius(share)
            if reach >= 0:
                others = votes[(table[row] <= reach)]
                wrong += int(np.sum((others <= 0.5 + 1e-9) if says_one else (others >= 0.5 - 1e-9)))
    return wrong


@pytest.mark.parametrize("p", [0.5, 0.8, 0.95])
def test_no_edit_within_the_radius_changes_a_vote(p):
    """Every text of up to six letters, every text within its radius, classifiers of many kinds, exact votes."""
    words, generator = texts(), np.random.default_rng(0)
    table = distances(words)
    bases = [
        {word: float("a" in word) for word in words},
        {word: float(word.count("a") >= word.count("b")) for word in words},
        {word: float(len(word) % 2 == 0) for word in words},
        {word: float(len(word) < 2) for word in words},
        *({word: float(generator.random() < 0.9) for word in words} for _ in range(4)),
    ]
    certified = 0
    for base in bases:
        votes = deletion_votes(words, base, p)
        assert violations(words, table, votes, lambda share: deletion_radius(share, p)) == 0
        certified += sum(deletion_radius(max(vote, 1 - vote), p) > 0 for vote in votes)
    assert certified > 100 or p == 0.5


def test_a_radius_that_is_one_too_large_is_caught():
    """The bound is tight: r + 1 substitutions change the vote of a classifier that refuses strange letters."""
    words, p = texts(), 0.8
    table = distances(words)
    base = {word: float("b" not in word) for word in words}
    votes = deletion_votes(words, base, p)
    assert violations(words, table, votes, lambda share: deletion_radius(share, p)) == 0
    assert violations(words, table, votes, lambda share: deletion_radius(share, p) + 1) > 0


@pytest.mark.parametrize("kept", [1, 2])
def test_no_substitution_within_the_radius_changes_a_masked_vote(kept):
    words = ["".join(word) for word in itertools.product("abc", repeat=5)]
    generator = np.random.default_rng(0)
    chosen = list(itertools.combinations(range(5), kept))
    masked = {(where, tuple(word[i] for i in where)) for word in words for where in chosen}
    for bias in (0.5, 0.8, 0.95):
        base = {view: float(generator.random() < bias) for view in sorted(masked)}
        votes = np.array([np.mean([base[w, tuple(word[i] for i in w)] for w in chosen]) for word in words])
        table = np.array([[sum(a != b for a, b in zip(x, y, strict=True)) for y in words] for x in words])
        assert violations(words, table, votes, lambda share: masking_radius(share, 5, kept)) == 0


def test_masking_is_the_ratio_of_binomials():
    n, k = 40, 12
    for p in (0.6, 0.9, 1.0):
        fits = [r for r in range(n + 1) if p - (1 - math.comb(n - r, k) / math.comb(n, k)) > 0.5]
        assert masking_radius(p, n, k) == max(fits)


def test_the_deletion_radius_is_the_largest_that_holds():
    for p in (0.3, 0.7, 0.95, 0.99):
        for bound in np.linspace(0.5001, 1, 300):
            r = deletion_radius(bound, p)
            assert r == 0 or bound - 1 + p**r > 0.5
            assert bound - 1 + p ** (r + 1) <= 0.5 + 1e-9


def test_a_tie_is_not_certified():
    assert deletion_radius(1.0, 0.5) == 0  # 1 - 1 + 0.5 is no majority, though the floor is 1
    assert deletion_radius(1.0, 0.51) == 1


def test_the_bound_is_clopper_and_pearsons():
    for votes, draws in ((0, 10), (7, 10), (990, 1000), (1000, 1000)):
        exact = binomtest(votes, draws, alternative="greater").proportion_ci(0.999, method="exact").low
        assert lower_bound(votes, draws, 0.001) == pytest.approx(exact, abs=1e-12)
    assert lower_bound(100, 100, 0.001) == pytest.approx(0.001 ** (1 / 100), abs=1e-12)


def test_the_gaussian_radius_is_cohens():
    assert gaussian_radius(0.99, 0.25) == pytest.approx(0.25 * norm.ppf(0.99), abs=1e-12)
    assert gaussian_radius(1.0, 0.25) == math.inf


def test_half_of_the_votes_abstain():
    assert deletion_radius(0.5, 0.9) == masking_radius(0.5, 9, 3) == radii.ABSTAIN
    assert gaussian_radius(0.5, 1.0) == -1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: deletion_radius(1.1, 0.5), r"p_lower is 1\.1"),
        (lambda: deletion_radius(0.9, 1.0), r"deletion is 1\.0"),
        (lambda: gaussian_radius(0.9, 0.0), r"sigma is 0\.0"),
        (lambda: masking_radius(0.9, 5, 0), "kept is 0"),
        (lambda: lower_bound(5, 4, 0.1), "votes is 5"),
        (lambda: lower_bound(1, 4, 0.0), r"alpha is 0\.0"),
    ],
)
def test_numbers_out_of_range_are_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
