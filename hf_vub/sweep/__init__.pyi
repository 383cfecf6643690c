from .baselines import Baseline, early_stopped_mlp, logistic_regression
from .heads import HeadRun, SweepResult, train_heads
from .suggestion import Suggestion, suggest

__all__ = [
    "Baseline",
    "HeadRun",
    "Suggestion",
    "SweepResult",
    "early_stopped_mlp",
    "logistic_regression",
    "suggest",
    "train_heads",
]
