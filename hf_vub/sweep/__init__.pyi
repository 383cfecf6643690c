from .baselines import Baseline, early_stopped_mlp, logistic_regression
from .heads import HeadRun, SweepResult, train_heads

__all__ = ["Baseline", "HeadRun", "SweepResult", "early_stopped_mlp", "logistic_regression", "train_heads"]
