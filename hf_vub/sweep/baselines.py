"""Baselines on cached features, tuned as carefully as the heads that are compared with them.

Both choose their hyperparameters by the negative log-likelihood of validation rows, never of test rows. Without
validation rows the logistic regression uses stratified folds of the training rows, and the MLP holds a fifth of them
out.
"""

import copy
import importlib
import logging
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compute.contexts import seeded
from ..metrics.classification import accuracy, negative_log_likelihood
from ..model.information import categorical_entropy
from .rows import BLOCK_ROWS, Rows, check_held_out, check_rows
from .seeding import data_order

logger = logging.getLogger(__name__)

C_GRID = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0, 10.0)
"""Inverse regularization strengths of the logistic regression, for standardised features."""
DROPOUT_GRID = (0.2, 0.5)
WEIGHT_DECAY_GRID = (1e-2, 1e-1, 1.0)
FOLDS = 5


@dataclass(frozen=True)
class Baseline:
    """A classifier of features and how it was chosen.

    Attributes:
        name: "logistic regression" or "early-stopped MLP".
        module: from features (rows, feature_size) to logits (rows, num_labels); frozen, on the CPU.
        hyperparameters: the chosen values by name.
        validation_nll: negative log-likelihood of the validation rows, nats per row.
        validation_accuracy: accuracy on the same rows.
        validation: which rows these are, as a phrase.
        trials: every setting that was tried, with its ``validation_nll``.
        seconds: wall time of the whole search.
    """

    name: str
    module: nn.Module
    hyperparameters: dict[str, float]
    validation_nll: float
    validation_accuracy: float
    validation: str
    trials: tuple[dict[str, float], ...] = field(repr=False)
    seconds: float


class _Data(NamedTuple):
    """Training rows, and the validation rows that choose between fits on them."""

    features: Tensor
    labels: Tensor
    validation_features: Tensor
    validation_labels: Tensor


class _Penalties(NamedTuple):
    """The regularisation of one MLP: its dropout, weight decay, label smoothing and confidence penalty."""

    dropout: float
    weight_decay: float
    label_smoothing: float
    confidence_penalty: float


class _Settings(NamedTuple):
    """Settings that all trials of an MLP share."""

    hidden: int
    learning_rate: float
    batch_size: int
    patience: int
    max_epochs: int
    seed: int


class _Trained(NamedTuple):
    """An MLP as it was after its best epoch (counted from 1)."""

    layers: nn.Sequential
    validation_nll: float
    epoch: int


def logistic_regression(
    features: Rows,
    labels: Rows,
    *,
    num_labels: int,
    validation_features: Rows | None = None,
    validation_labels: Rows | None = None,
    regularization: Sequence[float] = C_GRID,
    seed: int = 0,
) -> Baseline:
    r"""Fit a logistic regression whose regularization strength is chosen on validation rows.

    For each C it minimises, over standardised features,

    .. math::
        \tfrac12 \lVert W \rVert^2 - C \sum_i \log p(y_i \mid x_i)

    with scikit-learn. The C of the lowest validation NLL wins. The standardisation becomes a part of the
    returned layer. A class without training rows gets zero weights and a bias of log(1 / rows) below the lowest one.

    Args:
        features: training rows, shape (rows, feature_size).
        labels: whole numbers in [0, num_labels), shape (rows,); at least two classes.
        num_labels: classes.
        validation_features: rows that choose C; without them, stratified folds of the training rows do.
        validation_labels: their labels.
        regularization: values of C to try, each above 0.
        seed: of the folds; nothing else is random.

    Returns:
        A baseline whose module is an ``nn.Linear``, trained on all training rows and no others.

    Raises:
        ValueError: rows that do not fit, a C that is not above 0, or labels of one class.
        ImportError: scikit-learn is not installed.

    Example:
        >>> features, labels = torch.randn(60, 4), torch.arange(60) % 3
        >>> baseline = logistic_regression(features, labels, num_labels=3, regularization=(0.1, 1.0))
        >>> baseline.module(features).shape
        torch.Size([60, 3])
    """
    started = time.perf_counter()
    grid = sorted(regularization)
    if not grid or not all(0 < c < math.inf for c in grid):
        raise ValueError(f"regularization is {tuple(regularization)}; it must hold at least one number, all above 0")
    rows, held_out = _checked(features, labels, validation_features, validation_labels, num_labels)
    if held_out is None:
        parts = _folds(*rows, seed)
        validation = f"{len(parts)} stratified folds of the {len(rows[1])} training rows"
    else:
        parts = [_Data(*rows, *held_out)]
        validation = f"{len(held_out[1])} validation rows"
    paths = [_regression_path(part.features, part.labels, grid, num_labels) for part in parts]
    logits = [
        torch.cat([_logits(layer, part.validation_features) for layer, part in zip(layers, parts, strict=True)])
        for layers in zip(*paths, strict=True)
    ]
    targets = torch.cat([part.validation_labels for part in parts])
    losses = [negative_log_likelihood(scores, targets) for scores in logits]
    best = int(np.argmin(losses))
    if best in (0, len(grid) - 1) and losses[best] < min(losses[1:-1], default=-math.inf) - 1e-3:
        logger.warning("C=%g, an end of the grid, has the lowest validation NLL; try a wider grid", grid[best])
    return Baseline(
        "logistic regression",
        paths[0][best] if held_out else _regression_path(*rows, grid[best : best + 1], num_labels)[0],
        {"C": grid[best]},
        losses[best],
        accuracy(logits[best], targets),
        validation,
        tuple({"C": c, "validation_nll": loss} for c, loss in zip(grid, losses, strict=True)),
        time.perf_counter() - started,
    )


def early_stopped_mlp(
    features: Rows,
    labels: Rows,
    *,
    num_labels: int,
    validation_features: Rows | None = None,
    validation_labels: Rows | None = None,
    hidden: int | None = None,
    dropout: Sequence[float] = DROPOUT_GRID,
    weight_decay: Sequence[float] = WEIGHT_DECAY_GRID,
    label_smoothing: Sequence[float] = (0.0,),
    confidence_penalty: Sequence[float] = (0.0,),
    learning_rate: float = 3e-4,
    batch_size: int = 256,
    patience: int = 5,
    max_epochs: int = 50,
    seed: int = 0,
) -> Baseline:
    """Train a two-layer MLP with cross-entropy, dropout, weight decay and early stopping.

    ``Linear(d, hidden) - ReLU - Dropout - Linear(hidden, num_labels)`` on standardised features, with AdamW. Each point
    of the grid trains until the validation NLL has not fallen for ``patience`` epochs; the weights of the best epoch of
    the best point win. The standardisation becomes a part of the first layer. Label smoothing and the confidence
    penalty, minus a share of the entropy of the prediction, are off by default.

    Args:
        features: training rows, shape (rows, feature_size).
        labels: whole numbers in [0, num_labels), shape (rows,); at least two classes.
        num_labels: classes.
        validation_features: rows that stop the training and choose the pair; without them, a stratified fifth of the
            training rows does, and is not trained on.
        validation_labels: their labels.
        hidden: units of the hidden layer; by default the feature size.
        dropout: shares of hidden units to try, each in [0, 1).
        weight_decay: AdamW's decoupled decays to try, each at least 0.
        label_smoothing: shares of the label spread evenly over the classes to try, each in [0, 1).
        confidence_penalty: weights of the entropy of the prediction to try, each at least 0 (Pereyra et al., 2017).
        learning_rate: of AdamW, constant.
        batch_size: rows in a step.
        patience: epochs without a lower validation NLL after which training stops.
        max_epochs: epochs after which training stops in any case.
        seed: of the initialisation, the order of the rows, dropout and the held-out fifth; the same at every point.

    Returns:
        A baseline whose module is an ``nn.Sequential``.

    Raises:
        ValueError: rows that do not fit, labels of one class, or a hyperparameter out of range.
        ImportError: scikit-learn, which draws the held-out fifth, is not installed.

    Example:
        >>> features, labels = torch.randn(60, 4), torch.arange(60) % 3
        >>> baseline = early_stopped_mlp(features, labels, num_labels=3, max_epochs=2)
        >>> sorted(baseline.hyperparameters)
        ['dropout', 'epochs', 'weight_decay']
    """
    started = time.perf_counter()
    grid = _penalties(dropout, weight_decay, label_smoothing, confidence_penalty)
    rows, held_out = _checked(features, labels, validation_features, validation_labels, num_labels)
    settings = _Settings(hidden or rows[0].shape[1], learning_rate, batch_size, patience, max_epochs, seed)
    for name, value in settings._asdict().items():
        if not (0 if name == "seed" else 1e-12) <= value < math.inf:
            raise ValueError(f"{name} is {value}; it must be a positive number")
    if held_out is None:
        data = _folds(*rows, seed)[0]
        validation = f"a stratified fifth ({len(data.validation_labels)}) of the {len(rows[1])} training rows"
    else:
        data = _Data(*rows, *held_out)
        validation = f"{len(held_out[1])} validation rows"
    scaling = _Scaling.of(data.features)
    scaled = data._replace(
        features=scaling.apply(data.features).float(),
        validation_features=scaling.apply(data.validation_features).float(),
    )
    trials = [_train_mlp(scaled, num_labels, penalties, settings) for penalties in grid]
    losses = [trial.validation_nll for trial in trials]
    best = int(np.argmin(losses))
    module = trials[best].layers.requires_grad_(False)
    first = module[0]
    assert isinstance(first, nn.Linear)
    scaling.fold_into(first)
    return Baseline(
        "early-stopped MLP",
        module,
        {**_named(grid[best]), "epochs": trials[best].epoch},
        losses[best],
        accuracy(_logits(module, data.validation_features), data.validation_labels),
        validation,
        tuple(
            {**_named(penalties), "epochs": trial.epoch, "validation_nll": trial.validation_nll}
            for penalties, trial in zip(grid, trials, strict=True)
        ),
        time.perf_counter() - started,
    )


@dataclass(frozen=True)
class _Scaling:
    """Standardisation of features, in float64: each has mean 0 and standard deviation 1 on the training rows."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "_Scaling":
        deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
        constant = deviation <= 1e-6 * mean.abs()  # float32 rounding, which must not become a feature
        return cls(mean, torch.where(constant, 1.0, deviation))

    def apply(self, features: Tensor) -> Tensor:
        return (features.double() - self.mean) / self.deviation

    def fold_into(self, layer: nn.Linear) -> None:
        """Make a layer that takes standardised features take them as they are."""
        weight = layer.weight.detach().double() / self.deviation
        layer.bias.data = (layer.bias.detach().double() - weight @ self.mean).float()
        layer.weight.data = weight.float()


def _checked(
    features: Rows, labels: Rows, validation_features: Rows | None, validation_labels: Rows | None, num_labels: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    rows = check_rows(features, labels, num_labels)
    if len(rows[1].unique()) < 2:
        raise ValueError(f"all {len(rows[1])} labels are {int(rows[1][0])}; a classifier needs rows of two classes")
    return rows, check_held_out(rows[0], validation_features, validation_labels, num_labels, "validation_")


def _folds(features: Tensor, labels: Tensor, seed: int) -> list[_Data]:
    """Return the data with each stratified fold once as validation rows, the others as training rows."""
    model_selection = _sklearn("model_selection")
    largest = int(labels.bincount().max())
    if largest < 2:
        raise ValueError("no class has two training rows; give validation_features and validation_labels")
    folds = model_selection.StratifiedKFold(min(FOLDS, largest), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # its rows are in some folds only
        splits = list(folds.split(labels, labels))
    return [_Data(features[kept], labels[kept], features[left_out], labels[left_out]) for kept, left_out in splits]


def _regression_path(features: Tensor, labels: Tensor, grid: Sequence[float], num_labels: int) -> list[nn.Linear]:
    """Return one layer per C, from the lowest C on; each fit starts from the one before."""
    linear_model = _sklearn("linear_model")
    from sklearn.exceptions import ConvergenceWarning

    scaling = _Scaling.of(features)
    standardised, targets = scaling.apply(features).numpy(), labels.numpy()
    # Newton's method took 3 s where L-BFGS took 16 (20,000 rows of 384 correlated features, two classes, nine values of
    # C, one core); with more classes, or many features, its matrix of second derivatives is too large.
    newton = len(labels.unique()) == 2 and features.shape[1] <= 1024
    regression = linear_model.LogisticRegression(
        solver="newton-cholesky" if newton else "lbfgs", max_iter=2000, tol=1e-5, warm_start=True
    )
    layers = []
    for c in grid:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            regression.set_params(C=c).fit(standardised, targets)
        if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
            logger.warning("the logistic regression with C=%g has not converged after %d steps", c, regression.max_iter)
        weight, bias = torch.from_numpy(regression.coef_), torch.from_numpy(regression.intercept_)
        if len(weight) == 1:  # of two classes, scikit-learn gives the difference of their logits
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        layer = nn.utils.skip_init(nn.Linear, features.shape[1], num_labels).requires_grad_(False).eval()
        layer.weight.zero_()
        layer.bias.fill_(float(bias.min()) - math.log(len(labels)))
        present = torch.from_numpy(regression.classes_)
        layer.weight[present], layer.bias[present] = weight.float(), bias.float()
        scaling.fold_into(layer)
        layers.append(layer)
    return layers


def _penalties(*grid: Sequence[float]) -> list[_Penalties]:
    """Return the points of a grid of penalties, or raise ValueError for one that is out of range."""
    for name, values in zip(_Penalties._fields, grid, strict=True):
        limit = 1.0 if name in ("dropout", "label_smoothing") else math.inf
        if not values or not all(0 <= value < limit for value in values):
            wanted = "in [0, 1)" if limit == 1.0 else "at least 0 and finite"
            raise ValueError(f"{name} is {tuple(values)}; it must hold at least one number, each {wanted}")
    return [_Penalties(*point) for point in product(*grid)]


def _named(penalties: _Penalties) -> dict[str, float]:
    """Return the penalties by name; label smoothing and confidence penalty only where they are on."""
    always = ("dropout", "weight_decay")
    return {name: value for name, value in penalties._asdict().items() if value or name in always}


def _train_mlp(data: _Data, num_labels: int, penalties: _Penalties, settings: _Settings) -> _Trained:
    """Train an MLP on standardised features until the validation NLL stops falling."""
    size = data.features.shape[1]
    with seeded(settings.seed):
        layers = nn.Sequential(
            nn.Linear(size, settings.hidden),
            nn.ReLU(),
            nn.Dropout(penalties.dropout),
            nn.Linear(settings.hidden, num_labels),
        )
        optimizer = torch.optim.AdamW(
            layers.parameters(), lr=settings.learning_rate, weight_decay=penalties.weight_decay, fused=True
        )
        best = _Trained(layers, math.inf, 0)
        for epoch in range(settings.max_epochs):
            layers.train()
            for rows in data_order(settings.seed, epoch, len(data.labels)).split(settings.batch_size):
                optimizer.zero_grad()
                logits = layers(data.features[rows])
                loss = F.cross_entropy(logits, data.labels[rows], label_smoothing=penalties.label_smoothing)
                if penalties.confidence_penalty:
                    loss = loss - penalties.confidence_penalty * categorical_entropy(logits).mean()
                loss.backward()
                optimizer.step()
            layers.eval()
            nll = negative_log_likelihood(_logits(layers, data.validation_features), data.validation_labels)
            if nll < best.validation_nll:
                best = _Trained(copy.deepcopy(layers), nll, epoch + 1)
            if epoch + 1 - best.epoch >= settings.patience:
                break
    return best


@torch.inference_mode()
def _logits(module: nn.Module, features: Tensor) -> Tensor:
    return torch.cat([module(block.float()) for block in features.split(BLOCK_ROWS)])


def _sklearn(module: str) -> ModuleType:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError('baselines need scikit-learn: pip install "hf_vub[report]"') from error
