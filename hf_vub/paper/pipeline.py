"""The stages of an experiment: embed, fit the baselines, sweep, evaluate, attack."""

import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import torch
from torch import nn

from ..data.record import TrainingRecord
from ..data.splits import Splits, label_names, load_splits
from ..embeddings.extraction import Features, extract
from ..model.information import label_entropy
from ..runs.digests import weights_digest
from ..runs.schema import AttackSummary, DataSummary, HeadResult, Metrics, Outcomes, Part, Reliability
from ..sweep.baselines import early_stopped_mlp, logistic_regression
from ..sweep.heads import HeadRun, Settings, train_heads
from .backbone import LoadedBackbone, aligned_classifier, load_backbone
from .experiments import Experiment
from .grid import choose, phases, points
from .grid_attacks import Attacked, GridAttack, slug
from .heads import load_head, measure, right_rows, save_head
from .outcomes import pack
from .stages import Stages

logger = logging.getLogger(__name__)

VANILLA = "vanilla"
"""Name of the stock classifier's own last layer among the heads."""
LOGISTIC = "logistic regression"
"""Name of the tuned logistic regression among the heads; it is "vanilla" where a backbone has no classifier."""

_CURVES = ("information", "inverse_cross_entropy", "cross_entropy", "rate", "entropy", "eval_accuracy")


def run_name(run: HeadRun) -> str:
    """Return a name for a run that is also a file name."""
    return f"{run.objective}-beta{run.beta:g}-weight{run.entropy_weight:g}-seed{run.seed}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded(Part):
    """The features of every split, and the backbone's own classifier."""

    caches: dict[str, str]
    """File of the features by split."""
    classifier: str | None
    """Digest of the stock classifier's last layer; None if it does not fit the classes."""
    data: DataSummary


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted(Part):
    """The baselines: digests of their weights, and how they were chosen."""

    weights: dict[str, str]
    hyperparameters: dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Swept(Part):
    """The trained heads: their folder, and their histories by name."""

    folder: str
    histories: dict[str, dict[str, tuple[float | None, ...]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured(Part):
    """One head on the rows of each split."""

    metrics: Metrics
    reliability: Reliability
    validation: Metrics | None = None
    correct: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated(Part):
    """Every head, by name."""

    heads: dict[str, Measured]


class Pipeline:
    """One experiment in one folder, as a chain of stages.

    Every stage is a cached property that asks for the ones before it: embedded, fitted, swept, evaluated, attacked.
    """

    def __init__(self, settings: Experiment, folder: Path, device: torch.device):
        self.settings, self.folder, self.device = settings, folder, device
        self.stages = Stages(folder)
        self.grid = {run_name(run): run for run in settings.grid()}

    # Data and backbone

    @cached_property
    def splits(self) -> Splits:
        """Read train, test and, if any rows are held out, validation."""
        own = self.settings
        splits = load_splits(
            own.dataset, medium=own.task, max_train=own.max_train, max_test=own.max_test, validation=own.held_out,
            seed=own.seed, **own.columns(),
        )  # fmt: skip
        if "train" not in splits:
            raise ValueError(f"dataset {own.dataset} has no training split")
        if own.held_out == 0:
            splits.pop("validation", None)  # the paper chooses on the test split
        if own.choose_on == "test half":
            halve_test(splits, own.seed)
        return splits

    @cached_property
    def backbone(self) -> LoadedBackbone:
        """Load the frozen model onto the device."""
        texts = self.splits["train"][:]["text"] if self.settings.task == "text" and self.settings.from_config else []
        loaded = load_backbone(self.settings, len(label_names(self.splits)), texts)
        model: nn.Module = loaded.model
        model.to(self.device)
        return loaded

    def rows(self, split: str) -> Features:
        """Return the features and labels of a split."""
        return Features.load(self.folder / "features" / self.embedded.caches[split])

    # Stages

    @cached_property
    def embedded(self) -> Embedded:
        """Extract the features of every split."""
        own = self.settings
        places = (
            "task",
            "model",
            "validation",
            "choose_on",
            "max_train",
            "max_test",
            "max_length",
            "from_config",
            "seed",
        )
        inputs: dict[str, object] = {name: getattr(own, name) for name in places}
        inputs |= {"dataset": own.dataset, "columns": own.columns(), "match_labels": own.match_labels}
        inputs["files"] = [_identity(own.model), _identity(own.dataset)]
        return self.stages.run("embed", Embedded, inputs, self._embed, self._has_features)

    def _embed(self, key: str) -> Embedded:
        model, processor = self.backbone.model, self.backbone.processor
        cached = {
            split: extract(
                model,
                dataset,
                self.folder / "features",
                processing_class=processor,
                max_length=self.settings.max_length,
                device=self.device,
            )
            for split, dataset in self.splits.items()
        }
        names = label_names(self.splits)
        classifier = aligned_classifier(self.backbone, names, self.settings.match_labels)
        if classifier is not None:
            save_head(classifier, self._weights(VANILLA, weights_digest(classifier)))
        record = None if self.settings.from_config else TrainingRecord.load(self.settings.model)
        data = DataSummary(
            num_labels=len(names),
            feature_size=cached["train"].features.shape[1],
            class_names=tuple(names),
            num_train=len(cached["train"]),
            num_validation=len(cached["validation"]) if "validation" in cached else None,
            num_test=len(cached["test"]),
            label_entropy=label_entropy(cached["train"].labels, len(names)),
            data_rows=self.splits.described(),
            seen_by_backbone=None if record is None else _seen(record, self.splits),
        )
        return Embedded(
            caches={split: features.path.name for split, features in cached.items()},
            classifier=None if classifier is None else weights_digest(classifier),
            data=data,
        )

    def _has_features(self, found: Embedded) -> bool:
        needed = [self.folder / "features" / name for name in found.caches.values()]
        needed += [] if found.classifier is None else [self._weights(VANILLA, found.classifier)]
        return all(path.exists() for path in needed)

    @property
    def features(self) -> dict[str, object]:
        """Identify the features by their content: a model or data set copied to another place trains nothing again."""
        return {"caches": self.embedded.caches, "num_labels": self.embedded.data.num_labels}

    @cached_property
    def fitted(self) -> Fitted:
        """Fit the baselines."""
        inputs = {"features": self.features, "seed": self.settings.seed}
        return self.stages.run("baselines", Fitted, inputs, self._fit, self._has_baselines)

    def _fit(self, key: str) -> Fitted:
        train = self.rows("train")
        held_out = self.rows("validation") if "validation" in self.embedded.caches else None
        made = [
            fit(
                train.features,
                train.labels,
                num_labels=self.embedded.data.num_labels,
                validation_features=None if held_out is None else held_out.features,
                validation_labels=None if held_out is None else held_out.labels,
                seed=self.settings.seed,
            )
            for fit in (logistic_regression, early_stopped_mlp)
        ]
        for baseline in made:
            save_head(baseline.module, self._weights(baseline.name, weights_digest(baseline.module)))
        return Fitted(
            weights={baseline.name: weights_digest(baseline.module) for baseline in made},
            hyperparameters={baseline.name: baseline.hyperparameters for baseline in made},
        )

    def _has_baselines(self, found: Fitted) -> bool:
        return all(self._weights(name, weights).exists() for name, weights in found.weights.items())

    def _weights(self, name: str, weights: str) -> Path:
        return self.folder / "heads" / f"{slug(name)}-{weights}.safetensors"

    @cached_property
    def swept(self) -> Swept:
        """Train the grid."""
        own = self.settings
        inputs = {name: getattr(own, name) for name in ("epochs", "batch_size", "learning_rate")}
        inputs |= {"grid": [asdict(run) for run in self.grid.values()], "features": self.features}
        return self.stages.run("sweep", Swept, {**inputs, "device": self.device.type}, self._sweep, self._has_heads)

    def _sweep(self, key: str) -> Swept:
        train = self.rows("train")
        held_out = self.rows("validation") if "validation" in self.embedded.caches else None
        results = train_heads(
            train.features,
            train.labels,
            list(self.grid.values()),
            num_labels=self.embedded.data.num_labels,
            epochs=self.settings.epochs,
            batch_size=self.settings.batch_size,
            learning_rate=self.settings.learning_rate,
            eval_features=None if held_out is None else held_out.features,
            eval_labels=None if held_out is None else held_out.labels,
            checkpoint_dir=self.folder / "checkpoints" / key,
            device=self.device,
        )
        histories: dict[str, dict[str, tuple[float | None, ...]]] = {}
        for result in results:
            save_head(result.head, self.folder / "heads" / key / f"{run_name(result.run)}.safetensors")
            histories[run_name(result.run)] = {
                name: tuple(float(f"{epoch[name]:.6g}") for epoch in result.history)
                for name in _CURVES
                if name in result.history[0]
            }
        return Swept(folder=key, histories=histories)

    def _has_heads(self, found: Swept) -> bool:
        folder = self.folder / "heads" / found.folder
        return all((folder / f"{name}.safetensors").exists() for name in self.grid)

    @cached_property
    def heads(self) -> dict[str, Path]:
        """Name the file of every head: the stock classifier's own, the baselines and the grid."""
        files = {} if self.embedded.classifier is None else {VANILLA: self._weights(VANILLA, self.embedded.classifier)}
        files |= {name: self._weights(name, weights) for name, weights in self.fitted.weights.items()}
        folder = self.folder / "heads" / self.swept.folder
        return files | {name: folder / f"{name}.safetensors" for name in self.grid}

    @property
    def weights(self) -> dict[str, object]:
        """Identify the weights of every head."""
        return {
            "features": self.features,
            "classifier": self.embedded.classifier,
            "baselines": self.fitted.weights,
            "sweep": self.swept.folder,
        }

    @cached_property
    def evaluated(self) -> Evaluated:
        """Measure every head on the test and validation rows."""
        return self.stages.run("evaluate", Evaluated, {**self.weights, "rows": "correct"}, self._evaluate)

    def _evaluate(self, key: str) -> Evaluated:
        own, data = self.settings, self.embedded.data
        shared = Settings(data.num_labels, data.label_entropy, None, own.batch_size, own.learning_rate)
        splits = [split for split in ("test", "validation") if split in self.embedded.caches]
        measured = {}
        for name, path in self.heads.items():
            head = load_head(path)
            found = {split: measure(head, self.rows(split), self.grid.get(name), shared) for split in splits}
            metrics, reliability = found["test"]
            validation = found["validation"][0] if "validation" in found else None
            correct = pack(right_rows(head, self.rows("test")))
            measured[name] = Measured(metrics=metrics, reliability=reliability, validation=validation, correct=correct)
        return Evaluated(heads=measured)

    @cached_property
    def attacked(self) -> Attacked:
        """Attack every head; in a comparison only the chosen ones and those that they are compared with."""
        own = self.settings
        names = ("attacks", "num_examples", "cw_examples", "cw_steps", "how", "epsilons", "target", "stress")
        inputs = {name: getattr(own, name) for name in (*names, "stress_examples", "seed", "max_length", "name")}
        inputs |= {"heads": self.weights, "splits": self.embedded.data.data_rows, "rows": "outcomes"}
        return self.stages.run("attack", Attacked, inputs, self._attack)

    def _attack(self, key: str) -> Attacked:
        runs = self.runs()
        chosen = choose(runs, "validation", self.settings.choose_by)
        names = list(self.heads)
        if self.settings.is_comparison:
            grouped = points(runs)
            kept = [grouped[name, choice.beta, choice.entropy_weight] for name, choice in chosen.items()]
            names = [name for name in names if name not in self.grid] + [run.name for same in kept for run in same]
        model, processor = self.backbone.model, self.backbone.processor
        attack = GridAttack(
            settings=self.settings,
            model=model,
            processor=processor,
            heads={name: load_head(self.heads[name]).to(self.device) for name in names},
            best={objective: run_name(HeadRun(**choice.run)) for objective, choice in chosen.items()},
            dataset=self.splits["test"],
            record=TrainingRecord.of(self.splits, self.settings.dataset),
            rows=self.splits.origin["test"],
            folder=self.folder / "attacks" / key,
        )
        return attack.run()

    def runs(self, attacked: Attacked | None = None) -> list[HeadResult]:
        """Return every head of the grid with its metrics and, where they were made, its attacks."""
        return [
            HeadResult(
                **asdict(run),
                name=name,
                **self.evaluated.heads[name],
                phases=phases(self.swept.histories[name]),
                **attacks_on(name, attacked),
            )
            for name, run in self.grid.items()
        ]


class HeadAttacks(TypedDict):
    """The fields of a result that hold the attacks on one head."""

    attacks: dict[str, AttackSummary]
    outcomes: dict[str, Outcomes]


def attacks_on(name: str, attacked: Attacked | None) -> HeadAttacks:
    """Return the attacks on one head; none where it was not attacked."""
    if attacked is None:
        return {"attacks": {}, "outcomes": {}}
    return {"attacks": attacked.attacks.get(name, {}), "outcomes": attacked.outcomes.get(name, {})}


def halve_test(splits: Splits, seed: int) -> None:
    """Choose on one half of the test rows and test on the other, stratified and fixed by a seed.

    A backbone that was fine-tuned on the training split has seen the rows that are held out of it, and has not seen
    these.
    """
    test, origin = splits["test"], splits.origin["test"]
    halves = test.train_test_split(test_size=0.5, seed=seed, stratify_by_column="label")
    splits["validation"], splits["test"] = halves["train"], halves["test"]
    for name, which in (("validation", "one half"), ("test", "the other half")):
        splits.origin[name] = f"{which} of {origin}, stratified, seed {seed}"


def _seen(record: TrainingRecord, splits: Splits) -> dict[str, int]:
    """Return how many rows of each split the backbone was trained or selected on; warn of rows that should be new."""
    seen = {name: int(record.seen(rows).sum()) for name, rows in splits.items()}
    for name in ("validation", "test"):
        if seen.get(name):
            logger.warning(
                "The backbone was trained or selected on %d of the %d %s rows: its results on them are too good.",
                seen[name],
                len(splits[name]),
                name,
            )
    return seen


def _identity(name: str) -> list[list[str | int]]:
    """Return sizes and times of the files behind a name, which change with the weights or data in that place."""
    path = Path(name)
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]
