"""The classifier whose score guides a search while the victim decides, and the features that the two may share.

A recipe climbs the score of the model that it attacks, and gives up where that score is flat, whatever the model's
decisions do. With a guide it climbs the score of another classifier and asks the victim for its decision alone.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel

from ...data.labels import align_labels, class_names
from ...model.loading import LoadedClassifier, backbone_dtype, classifier_name
from ...runs.digests import processing_digest, weights_digest
from ..victim import Victim
from .classifier import TextClassifier, TokenFeatures
from .heads import backbone_digest, split

GuideModel = nn.Module | str | Path
"""A classifier, the folder or Hub id of one, or a head on the features of the model under attack."""

Score = Callable[[Sequence[str]], Tensor]
"""Probabilities (texts, classes), of the classes as the model under attack numbers them."""


class Guide:
    """The score that a search climbs.

    Args:
        name: of its checkpoint.
        weights: their digest.
        classifier: answers queries.
        names: its class names; empty where it numbers its classes as the victim does.

    Attributes:
        modules: what computes its score.
    """

    def __init__(self, name: str, weights: str, classifier: TextClassifier, names: Sequence[str] = ()):
        self.name, self.weights, self.classifier = name, weights, classifier
        self.modules = [module for module in (classifier.model, classifier.head) if isinstance(module, nn.Module)]
        self._names = names
        self._places: list[int] = []

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return probabilities (texts, classes), float32 on the CPU, of the classes as the victim numbers them."""
        return self.aligned(self.classifier(texts)).softmax(dim=-1)

    def aligned(self, logits: Tensor) -> Tensor:
        """Return its logits (texts, classes) of the classes as the victim numbers them."""
        return logits[:, self._places]

    def align(self, names: Sequence[str], match_labels: str) -> None:
        """Learn how the victim numbers its classes, which have these names; see `align_labels`.

        Raises:
            ValueError: the classes cannot be matched, or the guide is a head that does not take the model's features.
        """
        try:
            count = int(self.classifier(["a"]).shape[-1])
        except RuntimeError as error:
            if self.classifier.head is None:
                raise
            raise ValueError(f"guide {self.name} does not take the model's features: {error}") from error
        self.classifier.clear()
        if count != len(names):
            raise ValueError(f"guide {self.name} has {count} classes, but the model has {len(names)}: guide by another")
        try:
            places = align_labels(range(count), names, self._names or names, by=match_labels)
        except ValueError as error:
            raise ValueError(f"guide {self.name} numbers its classes otherwise than the model: {error}") from None
        self._places = places.tolist()


class OwnScore:
    """The score of a classifier itself, at another temperature.

    Unlike the recipe as published, a search that climbs it ends with any text that is misclassified (see `Searcher`).
    """

    def __init__(self, classifier: TextClassifier, temperature: float = 1.0):
        self.classifier, self.temperature = classifier, temperature

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return probabilities (texts, classes)."""
        return (self.classifier(texts) / self.temperature).softmax(dim=-1)


class GuideAsVictim:
    """A guide that is attacked itself, its classes numbered as the victim's.

    Attributes:
        draws: it is not random.
    """

    draws = 0

    def __init__(self, guide: Guide):
        self.guide = guide

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return log-probabilities (texts, classes)."""
        return self.guide(texts).log()


class Guided(NamedTuple):
    """A victim and its guide, which share a backbone where they can.

    Attributes:
        features: those of the victim.
        head: the victim's, if a stock classifier was taken apart to share its features; None for its own.
        guide: the score to climb; None for the victim's own.
    """

    features: TokenFeatures
    head: nn.Module | None
    guide: Guide | None


def load_guide(guide: GuideModel | None, victim: Victim, loaded: LoadedClassifier) -> Guided:
    """Load a guide, and let it share the victim's features where both have the same frozen backbone.

    Args:
        guide: a classifier, the folder or Hub id of one, or a head: a module that maps the victim's features to logits
            (such as a logistic regression), and takes no ``input_ids``. A module that was never saved is given the
            victim's tokenizer. None for no guide.
        victim: how the model under attack answers.
        loaded: that model.

    Raises:
        ValueError: as for `load_classifier`, or the guide is a head and the model has no features that it could take.
    """
    whole = TokenFeatures(loaded.network, loaded.processor, victim.max_length, victim.batch_size)
    if guide is None:
        return Guided(whole, None, None)
    parts = take_apart(loaded, victim)
    if parts is None:
        return Guided(whole, None, guide_beside(guide, victim, loaded, None))
    features, head = parts
    made = guide_beside(guide, victim, loaded, features)
    return Guided(features, head, made) if made.classifier.features is features else Guided(whole, None, made)


def guide_beside(guide: GuideModel, victim: Victim, loaded: LoadedClassifier, features: TokenFeatures | None) -> Guide:
    """Return a guide that computes on some features of the victim if it can; arguments and errors as `load_guide`.

    Args:
        guide: as for `load_guide`.
        victim: how the model under attack answers.
        loaded: that model.
        features: those of the model taken apart; None where it cannot be.
    """
    device = next(loaded.network.parameters()).device
    if isinstance(guide, nn.Module) and _is_head(guide):
        if features is None:
            kind = type(loaded.network).__name__
            raise ValueError(f"guide is a head, but {kind} has no features for it: guide by a whole classifier")
        return Guide(classifier_name(guide), weights_digest(guide), TextClassifier(features, guide.to(device)))
    never_saved = isinstance(guide, nn.Module) and not getattr(guide, "name_or_path", "")
    processor = loaded.processor if never_saved else None
    asked = Victim(
        guide, processor, batch_size=victim.batch_size, max_length=victim.max_length, dtype=victim.dtype, device=device,
        trust_remote_code=victim.trust_remote_code,
    )  # fmt: skip
    other = asked.load("text")
    weights, config = weights_digest(other.network), getattr(other.network, "config", None)
    classifier = TextClassifier(TokenFeatures(other.network, other.processor, victim.max_length, victim.batch_size))
    if features is not None and _read_alike(features, classifier.features):
        theirs = take_apart(other, asked)
        if theirs is not None and backbone_digest(features.model) == backbone_digest(theirs[0].model):
            classifier = TextClassifier(features, theirs[1])
    count = int(classifier(["a"]).shape[-1])
    return Guide(other.name, weights, classifier, class_names(config, count))


def take_apart(loaded: LoadedClassifier, victim: Victim) -> tuple[TokenFeatures, nn.Module] | None:
    """Return the features of a classifier and the head on them; None where it cannot be taken apart.

    A stock classifier is copied first, as taking it apart changes it. The head stays in float32.
    """
    network = loaded.network
    if not isinstance(network, PreTrainedModel):
        return None
    if hasattr(network, "features"):
        head = split(network)[0]
    elif not _is_stock(network):
        return None
    else:
        network = copy.deepcopy(network)
        try:
            head = split(network)[0].float()
        except ValueError:  # its logits do not come from one linear layer
            return None
    return TokenFeatures(network, loaded.processor, victim.max_length, victim.batch_size), head


def _is_head(module: nn.Module) -> bool:
    """Return whether a module takes features: it has no argument for token ids."""
    parameters = inspect.signature(module.forward).parameters.values()
    takes_tokens = any(each.name == "input_ids" or each.kind is each.VAR_KEYWORD for each in parameters)
    return not takes_tokens and not hasattr(module, "features")


def _is_stock(network: PreTrainedModel) -> bool:
    """Return whether everything above the base model is of transformers: of other code nobody knows what it adds."""
    inside = set(network.base_model.modules())
    above = [module for module in network.modules() if module not in inside]
    leaves = [
        module for module in above if type(module).__module__.startswith("torch.nn.") and not [*module.children()]
    ]
    others = [module for module in above if module not in leaves]
    return bool(above) and all(type(module).__module__.startswith("transformers.") for module in others)


def _read_alike(first: TokenFeatures, second: TokenFeatures) -> bool:
    """Return whether two backbones are given equal tokens, and compute in the same arithmetic."""
    alike = first.max_length == second.max_length and backbone_dtype(first.model) == backbone_dtype(second.model)
    return alike and processing_digest(first.tokenizer) == processing_digest(second.tokenizer)
