"""A guide made on the spot: a linear classifier that is fitted to the decisions of the model under attack."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from .classifier import TextClassifier, TokenFeatures
from .guide import Guide

_PENALTY = 0.1  # inverse strength of the L2 penalty on standardized features, far fewer texts than features
_NEVER = -30.0  # the logit of a class that the model never decides for


class BagOfTokens(nn.Module):
    """Map token ids to logits: one weight per token and class, summed over the text.

    Args:
        weight: shape (tokens, classes).
        bias: shape (classes,).
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(weight)
        self.bias = nn.Parameter(bias)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Return logits (texts, classes)."""
        weights = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        return SequenceClassifierOutput(logits=weights.sum(dim=1) + self.bias)


def fit_surrogate(
    features: TokenFeatures, keys: Sequence[bytes], decisions: NDArray[np.int64], classes: int, on_features: bool
) -> Guide:
    """Fit a linear classifier to the decisions that a model makes on some texts.

    Args:
        features: of the model.
        keys: the texts, encoded.
        decisions: class numbers (texts,).
        classes: how many classes the model has.
        on_features: the classifier is a head on the features; else it counts tokens.

    Raises:
        ValueError: the model decides alike on all texts.
    """
    if len(np.unique(decisions)) < 2:
        raise ValueError(f"the model puts all of {len(keys)} texts into one class, so no guide can be fitted to it")
    device = next(features.model.parameters()).device
    fitted = f"fitted to the model's decisions on {len(keys)} texts"
    # Refitted in every process, its last bits may differ: it is identified by the model and the texts, not by weights.
    if on_features:
        weight, bias = _logistic(features(keys).double().cpu().numpy(), decisions, classes)
        head = nn.Linear(weight.shape[1], classes)
        with torch.no_grad():
            head.weight.copy_(torch.tensor(weight))
            head.bias.copy_(torch.tensor(bias))
        return Guide(f"a logistic regression on its features, {fitted}", "", TextClassifier(features, head.to(device)))
    rows = [features.token_ids(key) for key in keys]
    ends = np.cumsum([0, *map(len, rows)])
    counts = csr_matrix((np.ones(ends[-1]), np.concatenate(rows), ends), shape=(len(rows), len(features.tokenizer)))
    weight, bias = _logistic(counts, decisions, classes)
    bag = BagOfTokens(torch.tensor(weight.T).float(), torch.tensor(bias).float()).to(device)
    classifier = TextClassifier(TokenFeatures(bag, features.tokenizer, features.max_length))
    return Guide(f"a logistic regression on tokens, {fitted}", "", classifier)


def _logistic(
    values: NDArray[np.float64] | csr_matrix, decisions: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weight (classes, features) and bias (classes,) of a logistic regression; dense values are standardized."""
    if isinstance(values, csr_matrix):
        center, scale, strength = np.zeros(values.shape[1]), np.ones(values.shape[1]), 1.0
        given = values
    else:
        center, scale, strength = values.mean(axis=0), values.std(axis=0) + 1e-6, _PENALTY
        given = (values - center) / scale
    model = LogisticRegression(C=strength, max_iter=1000).fit(given, decisions)
    rows, offsets = model.coef_ / scale, model.intercept_
    if len(model.classes_) == 2:
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    weight, bias = np.zeros((classes, values.shape[1])), np.full(classes, _NEVER)
    weight[model.classes_] = rows
    bias[model.classes_] = offsets - rows @ center
    return weight, bias
