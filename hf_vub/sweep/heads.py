"""Many heads trained at once on cached features: the paper's grid of objective, beta and seed in one call.

A GPU trains all runs as stacked tensors (:mod:`hf_vub.sweep.stacked_heads`). A CPU trains one run per core, so that the
weights and moments of an ordinary head stay in the cache and no core waits for another (:mod:`hf_vub.sweep.grid`). Each
run draws its initialisation, data order and noise from its own seed and nothing else: its result depends neither on the
other runs, nor on the number of cores, nor on where a killed sweep resumed.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..metrics.classification import classification_metrics
from ..model.head import VUBHead
from ..model.information import label_entropy as entropy_of_labels
from .grid import Grid
from .measures import measure_head
from .rows import Rows, check_held_out, check_rows
from .runs import HeadRun, Settings, check_sizes

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase

    from ..model.modeling_vub import VUBForImageClassification, VUBForSequenceClassification

logger = logging.getLogger(__name__)


@dataclass
class SweepResult:
    """A trained head and its history.

    Attributes:
        run: the run that was asked for.
        settings: shared with the other runs.
        head: the trained head, on the CPU, in evaluation mode.
        history: one dictionary per epoch, in nats: loss, cross_entropy, rate, entropy, information (the paper's
            estimate of I(Z;X), H(R) - H(Z|X)) and inverse_cross_entropy (its stand-in for I(Z;Y)), means over the
            epoch's batches; with held-out rows also eval_accuracy and the same terms with the prefix "eval_", measured
            through the mean after the epoch.
    """

    run: HeadRun
    settings: Settings
    head: VUBHead
    history: list[dict[str, float]] = field(default_factory=list)

    def evaluate(self, features: Rows, labels: Rows) -> dict[str, float]:
        """Return classification metrics and mean terms of the head through its mean.

        Args:
            features: shape (rows, feature_size).
            labels: shape (rows,).

        Returns:
            The metrics of :func:`hf_vub.metrics.classification_metrics`, and loss, cross_entropy, rate, entropy,
            information and inverse_cross_entropy.
        """
        features, labels = check_rows(features, labels, self.settings.num_labels)
        logits, measures = measure_head(self.head, self.run, self.settings, features, labels)
        return {**classification_metrics(logits, labels), **measures}

    def export(
        self,
        model: "VUBForSequenceClassification | VUBForImageClassification",
        folder: str | Path,
        processor: "PreTrainedTokenizerBase | BaseImageProcessor | None" = None,
        *,
        probabilities: str = "softmax",
        calibration_temperature: float = 1.0,
    ) -> None:
        """Save ``model`` with this head as a checkpoint that ``pipeline`` and the attacks load by its folder.

        The folder holds weights, configuration, tokenizer or image processor, and the code that
        ``trust_remote_code=True`` runs where this package is not installed.

        Args:
            model: a VUB model with the backbone that the features came from. Its head and objective become this run's.
            folder: to write to.
            processor: tokenizer or image processor; by default the one saved with the checkpoint that ``model`` was
                loaded from.
            probabilities: that the checkpoint reports, "softmax" or "posterior".
            calibration_temperature: of these probabilities.

        Raises:
            ValueError: the head does not fit the model, or no processor is given or found.

        Example:
            >>> results[0].export(model, "vub-imdb", tokenizer)  # doctest: +SKIP
            >>> pipeline("text-classification", "vub-imdb")("a fine film")  # doctest: +SKIP
        """
        from ..model.trust import check_processor

        for name in ("feature_size", "latent_size", "num_labels"):
            ours, theirs = getattr(self.head, name), getattr(model.head, name)
            if ours != theirs:
                raise ValueError(f"{name} of the run's head is {ours}, but that of the model's head is {theirs}")
        if model.config.encoder_relu:
            raise ValueError("the model has encoder_relu=True, which heads of a sweep do not have")
        if processor is None:
            processor = _processor_of(model)
        check_processor(processor)
        model.head.load_state_dict(self.head.state_dict())
        for name in ("objective", "beta", "entropy_weight"):
            setattr(model.config, name, getattr(self.run, name))
        model.config.label_entropy = self.settings.label_entropy
        # That of the model's last head does not hold for this one.
        model.config.set_calibration(probabilities, calibration_temperature)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def train_heads(
    features: Rows,
    labels: Rows,
    runs: Sequence[HeadRun],
    *,
    num_labels: int,
    epochs: int = 150,
    batch_size: int = 16,
    learning_rate: float = 1e-4,
    decay: float = 0.97,
    decay_epochs: int = 2,
    label_entropy: float | None = None,
    latent_size: int | None = None,
    eval_features: Rows | None = None,
    eval_labels: Rows | None = None,
    checkpoint_dir: str | Path | None = None,
    save_every: int = 5,
    stack_size: int | None = None,
    device: str | torch.device = "cpu",
) -> list[SweepResult]:
    """Train a head per run on the same features, with Adam; the defaults are the paper's for IMDB (section 4).

    Args:
        features: shape (rows, feature_size); a tensor or an array, memory-mapped or not.
        labels: integers in [0, num_labels), shape (rows,).
        runs: the heads to train.
        num_labels: classes.
        epochs: passes over the rows.
        batch_size: rows in a step; the last batch of an epoch may be smaller.
        learning_rate: in the first epoch.
        decay: factor on the learning rate after every ``decay_epochs`` epochs.
        decay_epochs: see ``decay``.
        label_entropy: H(Y) in nats; by default that of ``labels``.
        latent_size: size of z; by default half the feature size.
        eval_features: held-out rows to measure after every epoch.
        eval_labels: their labels.
        checkpoint_dir: folder where each run is saved every ``save_every`` epochs. Called again with the same
            arguments, and the same or other runs or more epochs, the sweep resumes and ends with the same bits as one
            that never stopped. Several processes need one, to share their results.
        save_every: epochs between checkpoints.
        stack_size: runs in one stack of tensors; by default 1 on a CPU, where a run's result is then the same to the
            bit whatever else is trained, and all of them on a GPU. Stacks of other sizes agree within rounding.
        device: where to train.

    Returns:
        One result per run, in the order of ``runs``.

    Raises:
        ValueError: for bad arguments, before any training.
        FloatingPointError: when a term of a run's loss stops being finite.

    Example:
        >>> features, labels = torch.randn(64, 8), torch.arange(64) % 2
        >>> results = train_heads(features, labels, [HeadRun(beta=1e-3), HeadRun("vib")], num_labels=2, epochs=1)
        >>> sorted(results[0].history[0])
        ['cross_entropy', 'entropy', 'information', 'inverse_cross_entropy', 'loss', 'rate']
    """
    features, labels = check_rows(features, labels, num_labels)
    held_out = check_held_out(features, eval_features, eval_labels, num_labels, "eval_")
    if not runs:
        raise ValueError("runs is empty; give at least one HeadRun")
    check_sizes(epochs=epochs, save_every=save_every, stack_size=1 if stack_size is None else stack_size)
    if label_entropy is None:
        label_entropy = entropy_of_labels(labels, num_labels)
    settings = Settings(num_labels, label_entropy, latent_size, batch_size, learning_rate, decay, decay_epochs)
    grid = Grid(features, labels, settings, held_out, torch.device(device))
    if checkpoint_dir is not None:
        grid.save_in(Path(checkpoint_dir), save_every)
    trained = grid.train(runs, epochs, stack_size)
    return [SweepResult(progress.run, settings, head, progress.history) for progress, head in trained]


def _processor_of(
    model: "VUBForSequenceClassification | VUBForImageClassification",
) -> "PreTrainedTokenizerBase | BaseImageProcessor":
    """Return the tokenizer or image processor saved with the checkpoint that a model was loaded from."""
    from ..model.loading import load_processor
    from ..model.modeling_vub import VUBForImageClassification

    source = getattr(model, "name_or_path", "")
    try:
        if source:
            processor: PreTrainedTokenizerBase | BaseImageProcessor = load_processor(
                source, "image" if isinstance(model, VUBForImageClassification) else "text", savable=True
            )
            return processor
        reason = "the model was not loaded from a folder or the Hub"
    except (OSError, ValueError) as error:
        reason = f"{source} has none ({' '.join(str(error).split())[:200]})"
    raise ValueError(f"processor is None, and {reason}: give the tokenizer or image processor of the model")
