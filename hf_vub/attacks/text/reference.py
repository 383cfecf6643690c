"""What a report card knows about a model before it attacks a text: how its score ranks other texts of the split."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.sample import Sample
from .classifier import TextClassifier, TokenFeatures
from .guide import Guide
from .recipes import Searcher
from .verdicts import Plateau, measure_plateau

MOST_EDITS = 12
"""Words that random edits of a reference text change at most: each takes a while."""
CONFIDENT_LOG_ODDS = 4.0
"""Log-odds of the median text in the search of the check ``link``: 98 % sure, far from where float32 rounds to 1."""


@dataclass(frozen=True)
class Reference:
    """What is known about a model before a text is attacked.

    Attributes:
        plateau: what the score says about confident texts; None where the model decides alike on all texts.
        agreement: share of texts on which the guide decides like the model; 0 without a guide.
        temperature: divides the logits in the search of the check ``link``.
        words_of_others: by class, words of texts that the model puts into another class; empty where it decides alike
            on all texts.
        problem: why a check could not be made; "" where all could.
    """

    plateau: Plateau | None
    agreement: float
    temperature: float
    words_of_others: Mapping[int, Sequence[str]]
    problem: str = ""


class ReferenceTexts:
    """Texts of the split that models answer once, each as it is and after random edits, as a search sees them.

    Args:
        sample: the texts, with the second text of each pair.
        max_words: longer ones are left out.
        recipe: edits them.
    """

    def __init__(self, sample: Sample, max_words: int, recipe: Searcher):
        texts, pairs = sample.texts(), sample.second_texts()
        kept = [place for place, text in enumerate(texts) if 0 < len(text.split()) <= max_words]
        self.texts = [texts[place] for place in kept]
        self.pairs = None if pairs is None else 2 * [pairs[place] for place in kept]
        self.texts += [recipe.edit_at_random(text, random.random() / 2, MOST_EDITS) for text in self.texts]

    def keys(self, features: TokenFeatures) -> list[bytes]:
        """Return the texts as keys of some features."""
        if self.pairs is None:
            return features.encode(self.texts)
        keys = []
        for text, features.second in zip(self.texts, self.pairs, strict=True):
            features.clear()  # it remembers texts without their second ones
            keys += features.encode([text])
        features.second = None
        features.clear()
        return keys

    def logits(self, classifier: TextClassifier) -> Tensor:
        """Return a classifier's logits (texts, classes)."""
        return classifier.of_keys(self.keys(classifier.features))


def look(
    texts: ReferenceTexts, logits: Tensor, guide: Guide | None, surrogate: Guide | None, problem: str = ""
) -> Reference:
    """Compare the score of a model with those of the guide and of a linear classifier of the same decisions.

    Args:
        texts: that the model answered.
        logits: its answers (texts, classes).
        guide: the guide; None where there is none.
        surrogate: a linear classifier of the same decisions; None where it could not be fitted.
        problem: why there is no surrogate.
    """
    decisions = logits.argmax(dim=-1)
    log_odds = margins(logits, decisions)
    score = (
        logits.softmax(dim=-1).gather(1, decisions[:, None])[:, 0].double().numpy()
    )  # in float32, as a search sees it
    plateaus, agreement = [], 0.0
    for other in dict.fromkeys(each for each in (guide, surrogate) if each is not None):
        theirs = margins(other.aligned(texts.logits(other.classifier)), decisions)
        plateaus.append(measure_plateau(score, log_odds, theirs, decisions.numpy()))
        if other is guide:
            agreement = float(np.mean(theirs > 0))
    words: dict[int, list[str]] = {}
    if len(decisions.unique()) > 1:
        for label in range(logits.shape[-1]):
            found = (text for text, decision in zip(texts.texts, decisions.tolist(), strict=True) if decision != label)
            words[label] = sorted({word for text in found for word in re.findall(r"\w+", text)})
    median = float(np.median(log_odds))
    return Reference(
        plateau=max(plateaus, key=lambda plateau: plateau.upper, default=None),
        agreement=agreement,
        temperature=median / CONFIDENT_LOG_ODDS if median > 0 else 1.0,
        words_of_others=words,
        problem=problem,
    )


def margins(logits: Tensor, decisions: Tensor) -> NDArray[np.float64]:
    """Return by how much the logit of each decision exceeds the largest other one, in nats."""
    logits = logits.double()
    chosen = torch.nn.functional.one_hot(decisions, logits.shape[-1]).bool()
    others = logits.masked_fill(chosen, -torch.inf).amax(dim=-1)
    differences: NDArray[np.float64] = (logits[chosen] - others).numpy()
    return differences
