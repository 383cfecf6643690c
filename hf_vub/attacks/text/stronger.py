"""The searches that a report card compares with a recipe: stronger ones, one without constraints, and no search at all.

All of them are TextAttack's; each keeps the transformation and the constraints of the recipe unless it says otherwise.
"""

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import textattack_compat

if TYPE_CHECKING:
    from textattack import Attack
    from textattack.constraints import Constraint
    from textattack.search_methods import SearchMethod
    from textattack.shared import AttackedText

Variant = Callable[["Attack"], "Attack"]
"""Turns a recipe's attack into another one on the same goal."""

BEAM_WIDTH = 8


def every_candidate(attack: "Attack") -> "Attack":
    """Return a greedy search that tries every edit of every word at each step, not word after word by importance."""
    return _rebuilt(attack, search=textattack_compat.load().search_methods.GreedySearch())


def beam(attack: "Attack") -> "Attack":
    """Return a beam search that keeps the best `BEAM_WIDTH` texts of each step."""
    return _rebuilt(attack, search=textattack_compat.load().search_methods.BeamSearch(beam_width=BEAM_WIDTH))


def in_random_order(attack: "Attack") -> "Attack":
    """Return the greedy search over words in a random order, a new one for every restart."""
    return _rebuilt(attack, search=_word_by_word("random"))


def unbounded(words: Sequence[str], per_word: int = 8) -> Variant:
    """Return the greedy search without constraints that may replace every word by any of some others.

    Args:
        words: the replacements.
        per_word: how many of them, drawn at random, are tried for each word.
    """
    word_swap = textattack_compat.load().transformations.WordSwap

    class AnyWord(word_swap):  # type: ignore[misc, valid-type]
        """Replace words by words of other texts."""

        def _get_replacement_words(self, word: str) -> list[str]:
            return random.sample(words, min(per_word, len(words)))

        @property
        def deterministic(self) -> bool:
            return False

    def change(attack: "Attack") -> "Attack":
        textattack = textattack_compat.load()
        return textattack.Attack(attack.goal_function, [], AnyWord(), _word_by_word("unk"))

    return change


def swaps_words(attack: "Attack") -> bool:
    """Return whether a recipe only replaces or deletes words, which `in_random_order` asks for."""
    check = textattack_compat.load().shared.validators.transformation_consists_of_word_swaps_and_deletions
    return bool(check(attack.transformation))


def edit_at_random(attack: "Attack", text: "AttackedText", share: float, most: int | None = None) -> "AttackedText":
    """Return a text after random edits of a share of its words, as the recipe's constraints allow them.

    Args:
        attack: the recipe.
        text: to edit.
        share: of the words; at least one is edited.
        most: words to edit at most; None for no limit.
    """
    words = list(range(text.num_words))
    random.shuffle(words)
    edited = text
    for word in words[: max(1, round(share * len(words)))][:most]:
        found = attack.get_transformations(edited, original_text=text, indices_to_modify=[word])
        if found:
            edited = random.choice(found)
    return edited


def _word_by_word(order: str) -> "SearchMethod":
    return textattack_compat.load().search_methods.GreedyWordSwapWIR(wir_method=order)


def _rebuilt(attack: "Attack", search: "SearchMethod") -> "Attack":
    constraints: list[Constraint] = [*attack.pre_transformation_constraints, *attack.constraints]
    return textattack_compat.load().Attack(attack.goal_function, constraints, attack.transformation, search)
