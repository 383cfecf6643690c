from .heads import HeadRun, SweepResult, train_heads

__all__ = ["HeadRun", "SweepResult", "train_heads"]
