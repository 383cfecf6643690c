"""Votes of one example, counted in two stages, until a certificate is computed or out of reach.

The first ``n0`` copies choose the class. The next ``n``, which the choice has not seen, bound its vote: reusing the
first ones would favour whatever class they happened to like.
"""

import functools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from .radii import lower_bound

_GIVE_UP = 0.01
"""Predictive probability of a certificate, from the votes so far, below which an example is given up."""


@dataclass
class Tally:
    """The votes of one smoothed classifier on one example.

    An example is given up, and abstained on, where the votes so far leave a certificate less than a chance of 1 %.
    Abstaining is never wrong, so that no rule of giving up raises the chance of a wrong certificate above ``alpha``.

    Attributes:
        classes: of the classifier.
        n0: copies that choose the class.
        n: copies that bound its vote.
        alpha: probability of a wrong certificate, at most.
        first: votes of the first stage, shape (classes,).
        second: votes of the second stage, likewise.
    """

    classes: int
    n0: int
    n: int
    alpha: float
    first: NDArray[np.int64] = field(init=False)
    second: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.first = np.zeros(self.classes, dtype=np.int64)
        self.second = np.zeros(self.classes, dtype=np.int64)

    def add(self, votes: NDArray[np.int64]) -> None:
        """Count the classes (copies,) that the next copies vote for; those beyond ``n0 + n`` are left out."""
        chosen = self.n0 - int(self.first.sum())
        self.first += np.bincount(votes[:chosen], minlength=self.classes)
        room = self.n - int(self.second.sum())
        self.second += np.bincount(votes[chosen : chosen + room], minlength=self.classes)

    @property
    def draws(self) -> int:
        """Return the copies counted so far."""
        return int(self.first.sum() + self.second.sum())

    @property
    def prediction(self) -> int:
        """Return the class with most votes in both stages, the lower one of a tie."""
        return int((self.first + self.second).argmax())

    @property
    def complete(self) -> bool:
        """Return whether all copies are counted."""
        return self.draws == self.n0 + self.n

    @property
    def finished(self) -> bool:
        """Return whether further copies are of no use."""
        if self.complete or self.first.sum() < self.n0:
            return self.complete
        draws, votes = int(self.second.sum()), self._votes
        missing = votes_needed(self.n, self.alpha) - votes
        return bool(betabinom.sf(missing - 1, self.n - draws, votes + 1, draws - votes + 1) < _GIVE_UP)

    @property
    def p_lower(self) -> float:
        """Return the lower bound of the chosen class's vote; 0 where the example was given up."""
        return lower_bound(self._votes, self.n, self.alpha) if self.complete else 0.0

    @property
    def _votes(self) -> int:
        return int(self.second[self.first.argmax()])

    @property
    def chosen(self) -> int:
        """Return the class that the first stage chose, which a certificate is about."""
        return int(self.first.argmax())


@functools.cache
def votes_needed(n: int, alpha: float) -> int:
    """Return the least of ``n`` votes with which the lower bound exceeds 1/2; more than ``n`` where none does."""
    return next((votes for votes in range(n // 2, n + 1) if lower_bound(votes, n, alpha) > 0.5), n + 1)
