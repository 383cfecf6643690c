"""The training of a sweep: runs divided among cores and processes, saved and resumed.

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

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..compute.cores import divide, usable_cores
from ..model.head import VUBHead
from ..model.objectives import objective_weights
from ..runs.digests import tensor_digest
from ..runs.files import replacing
from ..runs.processes import processes
from .collapse import collapse_warnings
from .measures import measure_head, plane_point
from .runs import HeadRun, Settings
from .seeding import NOISE_STEPS, data_order, draw_noise, initial_head
from .stacked_heads import MEASURES, Objectives, StackedHeads

logger = logging.getLogger(__name__)

FORMAT = 3  # a part of every checkpoint's name: raise it when the code would train another head under the same name


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        run: the run.
        epoch: epochs that are done.
        history: one record per epoch.
        state: weights and moments of a run that is resumed.
        head: of a run that was trained in this process.
    """

    run: HeadRun
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    state: dict[str, Tensor] | None = None
    head: VUBHead | None = None


class Grid:
    """A sweep over rows of features.

    Args:
        features: shape (rows, feature_size).
        labels: shape (rows,).
        settings: shared by all runs.
        held_out: features and labels that are measured after every epoch, if any.
        device: where to train.
    """

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
        self.identity: list[object] = []
        self.feature_size = features.shape[1]
        self.latent_size = settings.latent_size or max(1, self.feature_size // 2)
        self.steps = math.ceil(len(labels) / settings.batch_size)

    def save_in(self, folder: Path, save_every: int) -> None:
        """Save runs in a folder, under names that depend on everything that decides their result."""
        folder.mkdir(parents=True, exist_ok=True)
        data = [tensor_digest(self.features, self.labels), tensor_digest(*self.held_out) if self.held_out else None]
        self.folder, self.save_every = folder, save_every
        self.identity = [FORMAT, asdict(self.settings), data, self.device.type]

    def train(self, runs: Sequence[HeadRun], epochs: int, stack_size: int | None) -> list[tuple[Progress, VUBHead]]:
        """Return the progress and the head of every run after ``epochs`` epochs."""
        state = processes()
        if state.num_processes > 1 and self.folder is None:
            raise ValueError("checkpoint_dir is None, but several processes share their results in it: name a folder")
        progress = [self._load(run, epochs) for run in runs]
        share = progress[state.process_index :: state.num_processes]
        on_cpu = self.device.type == "cpu"
        stacks = _stacks([p for p in share if p.epoch < epochs], stack_size or (1 if on_cpu else len(runs)))
        cores = usable_cores(len(stacks)) if on_cpu else 1
        with ExitStack() as stack:
            if cores > 1 and self.folder is None:
                # Read by this call alone, so it needs no identity, which would be the digest of all rows.
                self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hf_vub-")))
                self.save_every = epochs
            hidden = None if state.is_main_process else True
            bar = stack.enter_context(tqdm(total=epochs * len(share), desc="train heads", unit="epoch", disable=hidden))
            bar.update(sum(p.epoch for p in share))
            self._train_stacks(stacks, epochs, cores, bar.update)
            if state.num_processes > 1:
                state.wait_for_everyone()
            if cores > 1 or state.num_processes > 1:
                progress = [self._load(run, epochs) for run in runs]
        if state.is_main_process:
            self._warn_of_collapse(progress)
        # A run trained elsewhere or before has a state and no head.
        return [(p, (p.head or self._stack([p]).head(0)).eval()) for p in progress]

    def _train_stacks(
        self, stacks: Sequence[list[Progress]], epochs: int, cores: int, advance: Callable[[int], object]
    ) -> None:
        def train(number: int, advance: Callable[[int], object]) -> None:
            self._train_stack(stacks[number], epochs, advance)

        if self.device.type == "cpu":
            divide(len(stacks), train, cores, advance)
            return
        for number in range(len(stacks)):
            train(number, advance)

    def _warn_of_collapse(self, finished: Sequence[Progress]) -> None:
        """Warn once for each problem and point of the grid, not for each seed."""
        warned: dict[tuple[str, HeadRun], list[str]] = {}
        for p in finished:
            weights = {"beta": p.run.beta, "entropy_weight": p.run.entropy_weight}
            found = collapse_warnings(
                p.history[-1], objective=p.run.objective, **weights, label_entropy=self.settings.label_entropy
            )
            for problem, sentence in found.items():
                warned.setdefault((problem, replace(p.run, seed=0)), []).append(sentence)
        for (problem, run), sentences in warned.items():
            logger.warning(
                "%s in %d runs of %s at beta=%g: %s", problem, len(sentences), run.objective, run.beta, sentences[0]
            )

    def _stack(self, stacked: Sequence[Progress]) -> StackedHeads:
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

    def _train_stack(self, stacked: list[Progress], epochs: int, advance: Callable[[int], object]) -> None:
        stack = self._stack(stacked)
        for epoch in range(stacked[0].epoch, epochs):
            means = self._train_epoch(stack, [p.run for p in stacked], epoch)
            last = epoch + 1 == epochs
            for position, p in enumerate(stacked):
                record = plane_point(means[:, position], self.latent_size)
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
        """Train a stack for one epoch; return the means of MEASURES over its rows, shape (len(MEASURES), runs)."""
        size, rows, settings = self.settings.batch_size, len(self.labels), self.settings
        orders = torch.stack([data_order(run.seed, epoch, rows) for run in runs]).to(self.device)
        total = torch.zeros(len(MEASURES), len(runs), dtype=torch.float64, device=self.device)
        for block, chosen in enumerate(orders.split(NOISE_STEPS * size, dim=1)):
            shape = (size, self.latent_size)
            noise = torch.stack([draw_noise(run.seed, epoch, block, shape, self.device) for run in runs])
            features = self.features.index_select(0, chosen.reshape(-1)).float().view(*chosen.shape, -1)
            log = stack.train_block(features, self.labels[chosen], noise, settings.learning_rate_in(epoch))
            if not log.isfinite().all():
                _raise_non_finite(log, runs, epoch, block * NOISE_STEPS, size)
            total += log.double().sum(-1)
        return total.cpu() / rows

    def _measure_held_out(self, head: VUBHead, run: HeadRun) -> dict[str, float]:
        assert self.held_out is not None
        logits, measures = measure_head(head, run, self.settings, *self.held_out)
        accuracy = (logits.argmax(-1) == self.held_out[1]).double().mean().item()
        return {f"eval_{name}": value for name, value in {**measures, "accuracy": accuracy}.items()}

    def _path(self, run: HeadRun) -> Path:
        assert self.folder is not None
        name = hashlib.sha256(json.dumps([self.identity, asdict(run)], sort_keys=True).encode()).hexdigest()
        return self.folder / f"{run.objective}-{name[:32]}.safetensors"

    def _load(self, run: HeadRun, epochs: int) -> Progress:
        if self.folder is None or not self._path(run).exists():
            return Progress(run)
        try:
            with safe_open(self._path(run), "pt") as file:
                saved = json.loads(file.metadata()["progress"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._path(run)} is damaged ({error}); delete it to train {run} again") from error
        if saved["epoch"] > epochs:
            raise ValueError(
                f"epochs is {epochs}, but {run} is at epoch {saved['epoch']} in {self.folder}; ask for more, or name "
                "another checkpoint_dir"
            )
        return Progress(run, saved["epoch"], saved["history"], state)

    def _save(self, p: Progress, state: dict[str, Tensor]) -> None:
        """Write state and history to one file, atomically."""
        progress = {"run": asdict(p.run), "epoch": p.epoch, "history": p.history}
        with replacing(self._path(p.run)) as temporary:
            save_file(state, temporary, metadata={"progress": json.dumps(progress)})


def _stacks(waiting: Sequence[Progress], size: int) -> list[list[Progress]]:
    """Return the runs in stacks of at most ``size``, all runs of a stack at the same epoch.

    A kill in the middle of saving leaves runs at different epochs.
    """
    stacks: list[list[Progress]] = []
    for _, group in groupby(sorted(waiting, key=lambda p: p.epoch), key=lambda p: p.epoch):
        alike = list(group)
        stacks += [alike[first : first + size] for first in range(0, len(alike), size)]
    return stacks


def _raise_non_finite(log: Tensor, runs: list[HeadRun], epoch: int, first_step: int, batch_size: int) -> None:
    """Raise FloatingPointError that names the run, the step and the term; terms go before their sum."""
    row, position, _ = (~log.isfinite()).permute(2, 1, 0).nonzero()[0].tolist()
    values = dict(zip(MEASURES, log[:, position, row].tolist(), strict=True))
    step = row // batch_size
    term = next(name for name in (*MEASURES[1:], MEASURES[0]) if not math.isfinite(values[name]))
    raise FloatingPointError(
        f"{runs[position]}: {term} is {values[term]} at step {first_step + step} of epoch {epoch} (both from 0); try a "
        "smaller learning_rate or beta"
    )
