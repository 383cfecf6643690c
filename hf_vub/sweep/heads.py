"""Many heads trained at once over cached features: the paper's grid of objective, beta and seed in one call.

A GPU trains all runs as stacked tensors (:mod:`hf_vub.sweep.stacked_heads`). A CPU trains one run per core: a head of
ordinary size then keeps its weights and moments in the cache, and no core waits for another. Each run has its own
initialisation, data order and noise, drawn from its own seed and nothing else: its result does not depend on the runs
beside it, on the number of cores, nor on where a killed sweep went on.

The cores of a CPU are used by processes forked for them (:mod:`hf_vub.compute.cores`), one per thread of torch; on
systems other than Linux, where a fork is not safe, one core trains. Under ``accelerate launch`` the processes divide
the runs between them, and each returns the results of all; that works everywhere.
"""

import hashlib
import json
import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..compute.cores import divide, usable_cores
from ..metrics.classification import classification_metrics
from ..model.configuration_vub import Objective
from ..model.head import VUBHead
from ..model.information import gaussian_entropy, prior_entropy
from ..model.information import label_entropy as entropy_of_labels
from ..model.objectives import objective_loss, objective_terms, objective_weights
from ..runs.files import replacing
from ..runs.processes import processes
from .collapse import collapse_warnings
from .seeding import NOISE_STEPS, data_order, draw_noise, initial_head
from .stacked_heads import MEASURES, Objectives, StackedHeads

logger = logging.getLogger(__name__)

FORMAT = 3  # a part of every checkpoint's name: raise it when the code would train another head under the same name
EVALUATION_ROWS = 1024


@dataclass(frozen=True)
class HeadRun:
    """One run of a sweep.

    Args:
        objective: "ce", "vib" or "vub".
        beta: weight of the rate, at least 0.
        entropy_weight: weight of the min term of vub, at least 0.
        seed: of the initialisation, the order of the data and the noise, at least 0.

    Raises:
        ValueError: for an unknown objective or a weight or seed out of range.
    """

    objective: str = Objective.VUB.value
    beta: float = 1e-3
    entropy_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", Objective.parse(self.objective).value)
        for name in ("beta", "entropy_weight", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a finite number of at least 0")


@dataclass(frozen=True)
class Settings:
    """What all runs of a sweep share.

    Attributes:
        num_labels: classes.
        label_entropy: H(Y) in nats, the cap of the min term.
        latent_size: size of z; None is half the feature size.
        batch_size: rows in a step; the last batch of an epoch may be smaller.
        learning_rate: of Adam in the first epoch.
        decay: factor on the learning rate after every ``decay_epochs`` epochs.
        decay_epochs: see ``decay``.
    """

    num_labels: int
    label_entropy: float
    latent_size: int | None = None
    batch_size: int = 16
    learning_rate: float = 1e-4
    decay: float = 0.97
    decay_epochs: int = 2

    def rate_in(self, epoch: int) -> float:
        """The learning rate in an epoch, counted from 0."""
        return self.learning_rate * self.decay ** (epoch // self.decay_epochs)


@dataclass
class SweepResult:
    """A trained head and how it came to be.

    Attributes:
        run: what was asked for.
        settings: what it shared with the other runs.
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

    def evaluate(self, features: Any, labels: Any) -> dict[str, float]:
        """Classification metrics and mean terms of the head through its mean on rows of features.

        Args:
            features: shape (rows, feature_size).
            labels: shape (rows,).

        Returns:
            The metrics of :func:`hf_vub.metrics.classification_metrics`, and loss, cross_entropy, rate, entropy,
            information and inverse_cross_entropy.
        """
        features, labels = _checked(features, labels, self.settings.num_labels, "features", "labels")
        logits, measures = _predict(self.head, self.run, self.settings, features, labels)
        return {**classification_metrics(logits, labels), **_plane(measures, self.head.latent_size)}

    def export(self, model: Any, folder: str | Path) -> None:
        """Save ``model`` with this head and objective as an ordinary VUB checkpoint.

        Args:
            model: a VUB model with the backbone that the features came from; its head and objective become this run's.
            folder: where to.
        """
        model.head.load_state_dict(self.head.state_dict())
        for name in ("objective", "beta", "entropy_weight"):
            setattr(model.config, name, getattr(self.run, name))
        model.config.label_entropy = self.settings.label_entropy
        model.save_pretrained(folder)


def train_heads(
    features: Any,
    labels: Any,
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
    eval_features: Any = None,
    eval_labels: Any = None,
    checkpoint_dir: str | Path | None = None,
    save_every: int = 5,
    stack_size: int | None = None,
    device: str | torch.device = "cpu",
) -> list[SweepResult]:
    """Train a head per run on the same features, with Adam; the defaults are the paper's for IMDB (section 4).

    Args:
        features: shape (rows, feature_size); a tensor or an array, memory-mapped or not.
        labels: integers in [0, num_labels), shape (rows,).
        runs: what to train.
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
        checkpoint_dir: where each run is saved as it goes. Called again with the same arguments, and the same or other
            runs or more epochs, the sweep goes on from there to the same bits as one that never stopped. Several
            processes need one: they meet in its files.
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
    features, labels = _checked(features, labels, num_labels, "features", "labels")
    held_out = None
    if (eval_features is None) != (eval_labels is None):
        raise ValueError("eval_features and eval_labels must be given together")
    if eval_features is not None:
        held_out = _checked(eval_features, eval_labels, num_labels, "eval_features", "eval_labels")
        if held_out[0].shape[1] != features.shape[1]:
            raise ValueError(f"eval_features have {held_out[0].shape[1]} columns, features have {features.shape[1]}")
    if not runs:
        raise ValueError("runs is empty; give at least one HeadRun")
    sizes = {"epochs": epochs, "batch_size": batch_size, "decay_epochs": decay_epochs, "save_every": save_every}
    for name, size in {**sizes, "latent_size": latent_size or 1, "stack_size": stack_size or 1}.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")
    for name, value in {"learning_rate": learning_rate, "decay": decay}.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be a positive number")
    if label_entropy is None:
        label_entropy = entropy_of_labels(labels, num_labels)
    settings = Settings(num_labels, label_entropy, latent_size, batch_size, learning_rate, decay, decay_epochs)
    sweep = _Sweep(features, labels, settings, held_out, torch.device(device))
    if checkpoint_dir is not None:
        sweep.keep_in(Path(checkpoint_dir), save_every)
    return sweep.train(list(runs), epochs, stack_size)


@dataclass
class _Progress:
    """How far a run is."""

    run: HeadRun
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    state: dict[str, Tensor] | None = None
    head: VUBHead | None = None


class _Sweep:
    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        settings: Settings,
        held_out: tuple[Tensor, Tensor] | None,
        device: torch.device,
    ):
        self.features, self.labels = features.to(device), labels.to(device)
        self.settings, self.held_out, self.device = settings, held_out, device
        self.folder: Path | None = None
        self.save_every = 0
        self.identity: list[Any] = []
        self.feature_size = features.shape[1]
        self.latent_size = settings.latent_size or max(1, self.feature_size // 2)
        self.steps = math.ceil(len(labels) / settings.batch_size)

    def keep_in(self, folder: Path, save_every: int) -> None:
        """Save runs in a folder, under names that tell everything that decides their result."""
        folder.mkdir(parents=True, exist_ok=True)
        data = [_digest(self.features, self.labels), _digest(*self.held_out) if self.held_out else None]
        self.folder, self.save_every = folder, save_every
        self.identity = [FORMAT, asdict(self.settings), data, self.device.type]

    def train(self, runs: list[HeadRun], epochs: int, stack_size: int | None) -> list[SweepResult]:
        state = processes()
        if state.num_processes > 1 and self.folder is None:
            raise ValueError("checkpoint_dir is None, but several processes meet in its files: name a folder")
        runs_at = [self._load(run, epochs) for run in runs]
        mine = runs_at[state.process_index :: state.num_processes]
        waiting = sorted((p for p in mine if p.epoch < epochs), key=lambda p: p.epoch)
        on_cpu = self.device.type == "cpu"
        together = stack_size or (1 if on_cpu else len(runs))
        stacks: list[list[_Progress]] = []
        # Runs stopped by a kill in the middle of saving may be at different epochs, which no stack can mix.
        for _, group in groupby(waiting, key=lambda p: p.epoch):
            alike = list(group)
            stacks += [alike[first : first + together] for first in range(0, len(alike), together)]
        cores = usable_cores(len(stacks)) if on_cpu else 1
        hidden = None if state.is_main_process else True
        with ExitStack() as opened:
            if cores > 1 and self.folder is None:
                # What is read in this call only needs no identity, which would be the digest of all rows.
                self.folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="hf_vub-")))
                self.save_every = epochs
            bar = opened.enter_context(tqdm(total=epochs * len(mine), desc="train heads", unit="epoch", disable=hidden))
            bar.update(sum(p.epoch for p in mine))

            def train(place: int, advance: Callable[[int], Any]) -> None:
                self._train_stack(stacks[place], epochs, advance)

            if on_cpu:
                divide(len(stacks), train, cores, bar.update)
            else:
                for place in range(len(stacks)):
                    train(place, bar.update)
            if state.num_processes > 1:
                state.wait_for_everyone()
            if cores > 1 or state.num_processes > 1:
                runs_at = [self._load(run, epochs) for run in runs]
        heads = [p.head or self._stack([p]).head(0) for p in runs_at]  # some were trained elsewhere or before
        if state.is_main_process:
            self._advise(runs_at)
        return [
            SweepResult(p.run, self.settings, head.eval(), p.history) for p, head in zip(runs_at, heads, strict=True)
        ]

    def _advise(self, finished: list[_Progress]) -> None:
        """Warn of runs that ended as a dead bottleneck, once for each problem and point of the grid."""
        told: dict[tuple[str, HeadRun], list[str]] = {}
        for p in finished:
            weights = {name: value for name, value in asdict(p.run).items() if name != "seed"}
            for problem, advised in collapse_warnings(
                p.history[-1], **weights, label_entropy=self.settings.label_entropy
            ).items():
                told.setdefault((problem, replace(p.run, seed=0)), []).append(advised)
        for (problem, run), found in told.items():
            logger.warning("%s in %d runs of %s at beta=%g: %s", problem, len(found), run.objective, run.beta, found[0])

    def _stack(self, stacked: list[_Progress]) -> StackedHeads:
        settings = self.settings
        weights = [objective_weights(p.run.objective, p.run.beta, p.run.entropy_weight) for p in stacked]
        rate_weight, entropy_weight = torch.tensor(weights, device=self.device).unsqueeze(-1).unbind(1)
        heads = [initial_head(p.run.seed, self.feature_size, settings.num_labels, self.latent_size) for p in stacked]
        objectives = Objectives(rate_weight, entropy_weight, settings.label_entropy)
        stack = StackedHeads([head.to(self.device) for head in heads], objectives)
        for position, p in enumerate(stacked):
            if p.state is not None:
                stack.load_state(position, p.state, step=p.epoch * self.steps)
        return stack

    def _train_stack(self, stacked: list[_Progress], epochs: int, advance: Callable[[int], Any]) -> None:
        stack = self._stack(stacked)
        for epoch in range(stacked[0].epoch, epochs):
            measured = self._train_epoch(stack, [p.run for p in stacked], epoch)
            last = epoch + 1 == epochs
            for position, p in enumerate(stacked):
                record = _plane(measured[:, position], self.latent_size)
                if self.held_out is not None:
                    record.update(self._measure_held_out(stack.head(position), p.run))
                p.history.append(record)
                p.epoch = epoch + 1
                if self.folder is not None and (last or p.epoch % self.save_every == 0):
                    self._save(p, stack.state(position))
                if last:
                    p.head = stack.head(position)
            advance(len(stacked))

    def _train_epoch(self, stack: StackedHeads, runs: list[HeadRun], epoch: int) -> Tensor:
        """One epoch of a stack; the means of MEASURES over its rows, shape (len(MEASURES), runs)."""
        size, rows, settings = self.settings.batch_size, len(self.labels), self.settings
        orders = torch.stack([data_order(run.seed, epoch, rows) for run in runs]).to(self.device)
        total = torch.zeros(len(MEASURES), len(runs), dtype=torch.float64, device=self.device)
        for block, chosen in enumerate(orders.split(NOISE_STEPS * size, dim=1)):
            shape = (size, self.latent_size)
            noise = torch.stack([draw_noise(run.seed, epoch, block, shape, self.device) for run in runs])
            features = self.features.index_select(0, chosen.reshape(-1)).float().view(*chosen.shape, -1)
            log = stack.train_block(features, self.labels[chosen], noise, settings.rate_in(epoch))
            if not log.isfinite().all():
                _stop(log, runs, epoch, block * NOISE_STEPS, size)
            total += log.double().sum(-1)
        return total.cpu() / rows

    def _measure_held_out(self, head: VUBHead, run: HeadRun) -> dict[str, float]:
        assert self.held_out is not None
        logits, measures = _predict(head, run, self.settings, *self.held_out)
        accuracy = (logits.argmax(-1) == self.held_out[1]).double().mean().item()
        return {f"eval_{k}": v for k, v in {**_plane(measures, self.latent_size), "accuracy": accuracy}.items()}

    def _path(self, run: HeadRun) -> Path:
        assert self.folder is not None
        name = hashlib.sha256(json.dumps([self.identity, asdict(run)], sort_keys=True).encode()).hexdigest()
        return self.folder / f"{run.objective}-{name[:32]}.safetensors"

    def _load(self, run: HeadRun, epochs: int) -> _Progress:
        if self.folder is None or not self._path(run).exists():
            return _Progress(run)
        try:
            with safe_open(self._path(run), "pt") as file:
                known = json.loads(file.metadata()["progress"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._path(run)} is damaged ({error}); delete it to train {run} again") from error
        if known["epoch"] > epochs:
            raise ValueError(
                f"epochs is {epochs}, but {run} is at epoch {known['epoch']} in {self.folder}; ask for more, or name "
                "another checkpoint_dir"
            )
        return _Progress(run, known["epoch"], known["history"], state)

    def _save(self, p: _Progress, state: dict[str, Tensor]) -> None:
        """State and history in one file, whole or not at all."""
        progress = {"run": asdict(p.run), "epoch": p.epoch, "history": p.history}
        with replacing(self._path(p.run)) as temporary:
            save_file(state, temporary, metadata={"progress": json.dumps(progress)})


@torch.inference_mode()
def _predict(
    head: VUBHead, run: HeadRun, settings: Settings, features: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits through the mean, (rows, num_labels), and the means of MEASURES over the rows."""
    logits = []
    total = torch.zeros(len(MEASURES), dtype=torch.float64)
    for rows, own in zip(features.split(EVALUATION_ROWS), labels.split(EVALUATION_ROWS), strict=True):
        out = head(rows, num_samples=0)
        terms = objective_terms(out.mean, out.scale, out.draws, own)
        loss = objective_loss(
            run.objective,
            terms,
            beta=run.beta,
            label_entropy=settings.label_entropy,
            entropy_weight=run.entropy_weight,
        )
        posterior_entropy = gaussian_entropy(out.scale)
        assert terms.cross_entropy is not None
        measured = [loss, terms.cross_entropy, terms.rate, terms.entropy, posterior_entropy]
        total += torch.stack(measured).double().sum(-1)
        logits.append(out.logits)
    return torch.cat(logits), total / len(labels)


def _plane(measures: Tensor, latent_size: int) -> dict[str, float]:
    """MEASURES by name, with the coordinates of the information plane."""
    named = dict(zip(MEASURES, measures.tolist(), strict=True))
    named["information"] = prior_entropy(latent_size) - named.pop("posterior_entropy")
    named["inverse_cross_entropy"] = 1.0 / max(named["cross_entropy"], 1e-12)
    return named


def _stop(log: Tensor, runs: list[HeadRun], epoch: int, first_step: int, batch_size: int) -> None:
    """Say which run went wrong where; its terms come before their sum."""
    row, position, _ = (~log.isfinite()).permute(2, 1, 0).nonzero()[0].tolist()
    values = dict(zip(MEASURES, log[:, position, row].tolist(), strict=True))
    step = row // batch_size
    term = next(name for name in (*MEASURES[1:], MEASURES[0]) if not math.isfinite(values[name]))
    raise FloatingPointError(
        f"{runs[position]}: {term} is {values[term]} at step {first_step + step} of epoch {epoch} (both from 0); try a "
        "smaller learning_rate or beta"
    )


def _checked(
    features: Any, labels: Any, num_labels: int, features_name: str, labels_name: str
) -> tuple[Tensor, Tensor]:
    """Features and labels as tensors that fit each other."""
    features, labels = torch.as_tensor(features), torch.as_tensor(labels)
    if features.ndim != 2 or not features.is_floating_point() or 0 in features.shape:
        raise ValueError(
            f"{features_name} are {features.dtype} of shape {tuple(features.shape)}; they must be floats of shape "
            "(rows, feature_size)"
        )
    if labels.shape != features.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"{labels_name} are {labels.dtype} of shape {tuple(labels.shape)}; they must be whole numbers, one for "
            f"each of the {len(features)} rows of {features_name}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_labels:
        raise ValueError(
            f"{labels_name} span {low} to {high}; with num_labels={num_labels} they must be 0 to {num_labels - 1}"
        )
    for first in range(0, len(features), EVALUATION_ROWS):
        finite = features[first : first + EVALUATION_ROWS].isfinite().all(1)
        if not finite.all():
            raise ValueError(f"{features_name} are not finite in row {first + int(finite.int().argmin())}")
    return features, labels.long()


def _digest(features: Tensor, labels: Tensor) -> str:
    """sha256 of the rows, read in blocks."""
    content = hashlib.sha256(f"{features.dtype} {tuple(features.shape)}".encode())
    for tensor in (features, labels):
        for rows in tensor.split(EVALUATION_ROWS):
            content.update(rows.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return content.hexdigest()
