"""Results of training, and of the quick start."""

from dataclasses import dataclass
from typing import Literal

from .attacks import AttackSummary, ImageAttackResult, TextAttackResult
from .part import Part, nullable
from .result import Metrics, Result


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainResult(Result):
    """A trained classifier and its metrics on the test rows; of a reproduction, averaged over ``num_runs`` heads."""

    kind: Literal["train"] = "train"
    task: Literal["text", "image"]
    model: str
    base_model: str
    objective: str
    """ "vub", "vib", "ce", or "vanilla" for the stock classifier."""
    beta: float | None = None
    """Weight of the rate."""
    entropy_weight: float | None = None
    """Weight of the min term."""
    latent_size: int | None = nullable()
    """Size of z; None for half the features."""
    num_train_samples: int | None = None
    """Draws of z per example in training."""
    num_eval_samples: int | None = None
    """Draws of z in evaluation; 0 for the mean."""
    pooling: str | None = None
    freeze_backbone: bool | None = None
    from_scratch: bool | None = None
    image_size: int | None = nullable()
    """In pixels, where it was chosen."""
    fold_unicode: bool | None = None
    """The tokenizer reads look-alike letters as plain ones, and no invisible characters."""
    enlarge_to: int | None = None
    """Size in pixels to which the model itself enlarges images."""
    dataset: str
    num_train: int | None
    """Rows; None where the data set has no length."""
    num_validation: int | None = None
    num_test: int | None
    data_rows: str | None = None
    """Which rows were trained, selected and tested on, in words."""
    num_labels: int
    labels: tuple[str, ...] | None = None
    """Names of the classes."""
    max_length: int | None = nullable()
    """Tokens that a text is cut to."""
    feature_dtype: str | None = nullable()
    """Arithmetic of a frozen backbone's features."""
    seed: int | None = None
    num_runs: int | None = None
    epochs: float | None = None
    steps: int | None = None
    """Optimizer steps taken."""
    max_steps: int | None = None
    """Optimizer steps asked for; -1 where the epochs decide."""
    best_step: int | None = None
    """The step of the weights that were kept, where the best of several checkpoints was."""
    batch_size: int | None = None
    """Rows per optimizer step over all processes."""
    learning_rate: float | None = None
    optimizer: str | None = None
    lr_schedule: str | None = None
    warmup: float | None = nullable()
    """Steps, or their share where below 1."""
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    precision: str | None = None
    beta_schedule: str | None = nullable()
    adversary: str | None = None
    """ "fgsm_rs", "pgd", "trades" or "freelb"; None for a training on clean inputs."""
    epsilon: float | None = None
    """Radius of the adversary: of pixels in [0, 1], or of a text's embeddings."""
    adversary_steps: int | None = None
    adversary_norm: str | None = None
    """ "linf" or "l2"."""
    trades_weight: float | None = None
    ema_decay: float | None = None
    """Decay of the average that the weights are; None for the weights of the last step."""
    perturb: str | None = None
    """Random edits of the training texts, such as "typos:0.15"."""
    consistency: float | None = None
    """Weight of the symmetric KL between predictions for a text and for its edited copy."""
    smoothing: str | None = None
    """Noise on every row of training and test, such as "delete:0.95"."""
    metrics: Metrics
    other_metrics: dict[str, object] | None = None
    """Those of the user's ``compute_metrics`` that are not numbers."""
    metrics_std: Metrics | None = None
    """Standard deviations (n - 1) over the runs."""
    seconds: float | None = None
    card: dict[str, object] | None = None
    """``language``, ``license`` and ``tags`` for the model card."""
    attacks: tuple[TextAttackResult | ImageAttackResult | AttackSummary, ...] | None = None
    has_training_record: bool | None = None
    """The checkpoint says which rows it was trained on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Quickstart(Part):
    """The classifiers of a quick start, each with its attacks."""

    schema: Literal[1] = 1
    kind: Literal["quickstart"] = "quickstart"
    rows: tuple[TrainResult, ...]
    skipped: dict[str, str]
    """Why an attack was not made, by its title."""
