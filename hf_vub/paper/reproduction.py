"""The paper's section 4 from one call: embed, sweep, evaluate, attack, statistics, report.

```python
from hf_vub.paper.experiments import experiment
from hf_vub.paper.reproduction import reproduce

results = reproduce(experiment("imdb", model="runs/minilm", runs=5, epochs=20), "runs/imdb")
```

Every stage leaves one JSON file in the output folder, written whole or not at all, with a key made of everything that
decides its content. A stage whose file has the right key is not run again, and the long stages go on from what a
killed run left behind: the final ``results.json`` is the same whatever happened on the way, times apart.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..data.splits import label_names, load_splits, read_labels, subset
from ..embeddings.extraction import Features, extract
from ..metrics.classification import classification_metrics, reliability_bins
from ..model.head import VUBHead
from ..model.information import label_entropy
from ..runs.digests import digest, weights_digest
from ..runs.files import claim, read_json, replacing, write_json
from ..runs.processes import processes
from ..runs.provenance import provenance
from ..sweep.heads import HeadRun, Settings, SweepResult, train_heads
from .backbone import in_blocks, linear_probe, load_backbone
from .claims import choose, phases, statistics
from .experiments import Experiment
from .report import write_report

logger = logging.getLogger(__name__)

FORMAT = 4  # a part of every key: raise it when a stage would give other content under the same key
STAGES = ("embed", "sweep", "evaluate", "attack", "statistics", "report")
CURVES = ("information", "inverse_cross_entropy", "cross_entropy", "rate", "entropy", "eval_accuracy")


def reproduce(settings: Experiment, output_dir: str | Path, device: str | torch.device | None = None) -> dict[str, Any]:
    """Run an experiment to the last figure, or what is missing of it.

    Args:
        settings: see :func:`hf_vub.paper.experiments.experiment`.
        output_dir: where everything goes; what is there and still valid is used.
        device: of the backbone and the heads; by default the accelerator, if there is one.

    Returns:
        The results (``kind: "reproduction"``), as saved in ``results.json``: the settings, ``vanilla`` and ``runs``
        with their metrics and attacks, ``curves`` per epoch, ``chosen`` betas, ``statistics`` and ``claims``.

    Raises:
        ValueError: for data and backbone that do not fit, several processes, or a folder that another one writes to.
        ImportError: with the command to install what is missing.

    Source: section 4 of the paper.
    """
    state = processes()
    if state.num_processes > 1:
        raise ValueError(f"a reproduction runs in one process, but there are {state.num_processes}")
    with claim(output_dir):
        return _Reproduction(settings, Path(output_dir), torch.device(device or state.device)).run()


def run_name(run: HeadRun) -> str:
    """A name for a run that is also a file name."""
    return f"{run.objective}-beta{run.beta:g}-weight{run.entropy_weight:g}-seed{run.seed}"


class _Reproduction:
    def __init__(self, settings: Experiment, folder: Path, device: torch.device):
        self.settings, self.folder, self.device = settings, folder, device
        self.grid = settings.grid()
        self.done: dict[str, dict[str, Any]] = {}
        self.key = ""

    def run(self) -> dict[str, Any]:
        about = asdict(self.settings)
        places = (
            "task",
            "model",
            "dataset",
            "validation",
            "max_train",
            "max_test",
            "max_length",
            "from_config",
            "seed",
        )
        embedding = {name: about[name] for name in places}
        embedding["files"] = [_identity(about["model"]), _identity(about["dataset"])]
        embedded = self._stage("embed", embedding, self._embed, self._has_features)
        training = {name: about[name] for name in ("epochs", "batch_size", "learning_rate")}
        # What the features are, not which files they came from: a model copied to another place trains nothing again.
        features = {name: embedded[name] for name in ("caches", "vanilla", "data")}
        training |= {"grid": [asdict(run) for run in self.grid], "features": features}
        swept = self._stage("sweep", {**training, "device": self.device.type}, self._sweep, self._has_heads)
        evaluated = self._stage("evaluate", {"sweep": swept["key"]}, self._evaluate)
        attacking = {
            name: about[name]
            for name in (
                *(
                    "attacks",
                    "num_examples",
                    "cw_examples",
                    "cw_steps",
                    "how",
                    "epsilons",
                    "target",
                    "stress",
                    "stress_examples",
                ),
                "seed",
            )
        }
        attacked = self._stage("attack", {**attacking, "evaluated": evaluated["key"]}, self._attack)
        results = self._results(embedded, swept, evaluated, attacked)
        found = self._stage("statistics", {"results": digest(results)}, lambda: statistics(results))
        results |= {name: found[name] for name in ("chosen", "statistics", "claims")}
        results = {**provenance(), **results, "seconds": {name: found["seconds"] for name, found in self.done.items()}}
        write_json(self.folder / "results.json", results)
        results = read_json(self.folder / "results.json")
        began = time.perf_counter()
        write_report(results, self.folder)
        logger.info("report: %.1f s", time.perf_counter() - began)
        return results

    def _stage(
        self, name: str, inputs: dict[str, Any], make: Callable[[], dict[str, Any]], whole: Any = None
    ) -> dict[str, Any]:
        """The content of a stage's file, made where it is missing or of other inputs."""
        path = self.folder / f"{name}.json"
        key = digest(FORMAT, name, inputs)
        if path.exists():
            found = read_json(path)
            if found.get("key") == key and (whole is None or whole(found)):
                logger.info("%s: done before", name)
                self.done[name] = found
                return found
        logger.info("%s: started", name)
        self.key = key[:16]
        began = time.perf_counter()
        content = make()
        write_json(path, {"key": key, **content, "seconds": time.perf_counter() - began})
        found = read_json(path)  # what a later run will see
        logger.info("%s: %.1f s", name, found["seconds"])
        self.done[name] = found
        return found

    # What the stages share

    @cached_property
    def splits(self) -> DatasetDict:
        """train, validation (where some is held out) and test."""
        own = self.settings
        found = load_splits(own.dataset, max_train=own.max_train, max_test=own.max_test, seed=own.seed)
        if "train" not in found:
            raise ValueError(f"dataset {own.dataset} has no training split")
        train = found["train"]
        splits = {"train": train, "test": found["test"]}
        if own.validation:
            numbered = Dataset.from_dict({"label": read_labels(train), "row": range(len(train))})
            held_out = subset(numbered, max(1, round(own.validation * len(train))), own.seed)["row"][:]
            kept = sorted(set(range(len(train))) - set(held_out))
            splits |= {"train": train.select(kept), "validation": train.select(held_out)}
        return DatasetDict(splits)

    @cached_property
    def backbone(self) -> tuple[Any, Any, nn.Linear | None]:
        texts = self.splits["train"][:]["text"] if self.settings.task == "text" and self.settings.from_config else []
        model, processor, last = load_backbone(self.settings, len(label_names(self.splits)), texts)
        return model.to(self.device), processor, last

    def rows(self, split: str) -> tuple[Tensor, Tensor] | None:
        """Features and labels of a split; None where there is none."""
        name = self.done["embed"]["caches"].get(split)
        if name is None:
            return None
        cached = Features.load(self.folder / "features" / name)
        return cached.features, cached.labels

    def head(self, name: str) -> nn.Module:
        """The head of a run, or the linear layer called "vanilla"."""
        if name == "vanilla":
            state = load_file(self._vanilla(self.done["embed"]["vanilla"]))
            layer = nn.Linear(state["weight"].shape[1], state["weight"].shape[0])
            layer.load_state_dict(state)
            return layer.requires_grad_(False).eval()
        state = load_file(self.folder / "heads" / self.done["sweep"]["heads"] / f"{name}.safetensors")
        latent, size = state["bottleneck_decoder.weight"].shape[1], state["bottleneck_encoder.0.weight"].shape[0]
        head = VUBHead(size, state["bottleneck_decoder.weight"].shape[0], latent)
        head.load_state_dict(state)
        return head.requires_grad_(False).eval()

    # Stages

    def _embed(self) -> dict[str, Any]:
        model, processor, last = self.backbone
        caches, sizes = {}, {}
        for split, dataset in self.splits.items():
            found = extract(
                model,
                dataset,
                self.folder / "features",
                processing_class=processor,
                max_length=self.settings.max_length,
                device=self.device,
            )
            caches[split], sizes[f"num_{split}"] = found.path.name, len(found)
            if split == "train":
                features, labels = found.features, found.labels
        names = label_names(self.splits)
        origin = "checkpoint" if last is not None else "linear probe"
        if last is None:
            last = linear_probe(features, labels, len(names), self.settings.seed)
        vanilla = weights_digest(last)
        _save(last, self._vanilla(vanilla))
        data = {"num_labels": len(names), "feature_size": features.shape[1], "class_names": names, **sizes}
        entropy = label_entropy(labels, len(names))
        return {"caches": caches, "vanilla": vanilla, "origin": origin, "data": {**data, "label_entropy": entropy}}

    def _has_features(self, found: dict[str, Any]) -> bool:
        needed = [self.folder / "features" / name for name in found["caches"].values()]
        return all(path.exists() for path in (*needed, self._vanilla(found["vanilla"])))

    def _vanilla(self, weights: str) -> Path:
        return self.folder / "heads" / f"vanilla-{weights}.safetensors"

    def _sweep(self) -> dict[str, Any]:
        train, held_out = self.rows("train"), self.rows("validation")
        assert train is not None
        own, folder = self.settings, self.folder / "heads" / self.key
        found = train_heads(
            *train,
            self.grid,
            num_labels=self.done["embed"]["data"]["num_labels"],
            epochs=own.epochs,
            batch_size=own.batch_size,
            learning_rate=own.learning_rate,
            eval_features=None if held_out is None else held_out[0],
            eval_labels=None if held_out is None else held_out[1],
            checkpoint_dir=self.folder / "checkpoints" / self.key,
            device=self.device,
        )
        histories = {}
        for result in found:
            _save(result.head, folder / f"{run_name(result.run)}.safetensors")
            histories[run_name(result.run)] = {
                name: [float(f"{epoch[name]:.6g}") for epoch in result.history]
                for name in CURVES
                if name in result.history[0]
            }
        return {"heads": self.key, "histories": histories}

    def _has_heads(self, found: dict[str, Any]) -> bool:
        folder = self.folder / "heads" / found["heads"]
        return all((folder / f"{run_name(run)}.safetensors").exists() for run in self.grid)

    def _evaluate(self) -> dict[str, Any]:
        own, data = self.settings, self.done["embed"]["data"]
        shared = Settings(data["num_labels"], data["label_entropy"], None, own.batch_size, own.learning_rate)
        measured: dict[str, Any] = {}
        for run in (None, *self.grid):
            name = "vanilla" if run is None else run_name(run)
            head = self.head(name)
            record: dict[str, Any] = {}
            for split, key in (("test", "metrics"), ("validation", "validation")):
                rows = self.rows(split)
                if rows is None:
                    continue
                features, labels = rows
                logits = torch.cat(list(in_blocks(head, features)))
                record[key] = classification_metrics(logits, labels)
                if split == "test":
                    bins = reliability_bins(logits, labels)
                    record["reliability"] = {column: bins[column].tolist() for column in bins}
                if run is not None and isinstance(head, VUBHead):
                    record[key] |= _terms(run, shared, head, features, labels)
            measured[name] = record
        return {"measured": measured}

    def _attack(self) -> dict[str, Any]:
        from .grid_attacks import attack_images, attack_texts

        names = ["vanilla", *map(run_name, self.grid)]
        best = {
            objective: run_name(HeadRun(**found["run"]))
            for objective, found in choose(self._records(), "validation").items()
        }
        folder = self.folder / "attacks" / self.key
        model, processor, _ = self.backbone
        heads = {name: self.head(name).to(self.device) for name in names}
        make = attack_texts if self.settings.task == "text" else attack_images
        return make(self.settings, model, processor, heads, best, self.splits["test"], folder)

    def _records(self) -> list[dict[str, Any]]:
        return [{**asdict(run), **self.done["evaluate"]["measured"][run_name(run)]} for run in self.grid]

    def _results(
        self, embedded: dict[str, Any], swept: dict[str, Any], evaluated: dict[str, Any], attacked: dict[str, Any]
    ) -> dict[str, Any]:
        """Everything but statistics and provenance, as the report and the claims want it."""
        from ..reports.model_cards import public_name

        runs = []
        for record, run in zip(self._records(), self.grid, strict=True):
            name = run_name(run)
            history = swept["histories"][name]
            runs.append(
                {**record, "name": name, "phases": phases(history), "attacks": attacked["attacks"].get(name, {})}
            )
        curves = [
            {**asdict(run), **swept["histories"][run_name(run)]} for run in self.grid if run.seed == self.settings.seed
        ]
        about = asdict(self.settings)
        about |= {name: public_name(about[name]) for name in ("model", "dataset")}
        return {
            "kind": "reproduction",
            "experiment": self.settings.name,
            "task": self.settings.task,
            "model": about["model"],
            "dataset": about["dataset"],
            "settings": about,
            "data": embedded["data"],
            "vanilla": {
                "origin": embedded["origin"],
                **evaluated["measured"]["vanilla"],
                "attacks": attacked["attacks"].get("vanilla", {}),
            },
            "runs": runs,
            "curves": curves,
            "stress": attacked["stress"],
            "examples": attacked["examples"],
        }


def _terms(run: HeadRun, shared: Settings, head: VUBHead, features: Tensor, labels: Tensor) -> dict[str, float]:
    """The terms of the objective through the mean, in nats, and the bounds that they make."""
    measured = SweepResult(run, shared, head).evaluate(features, labels)
    terms = {name: measured[name] for name in ("cross_entropy", "rate", "entropy", "information")}
    # Without the rate, whose rounding would hide the min term where a bottleneck has exploded.
    free = replace(run, objective="vub", beta=0.0, entropy_weight=1.0)
    distortion = SweepResult(free, shared, head).evaluate(features, labels)["loss"]
    rate = run.beta * terms["rate"]
    vib = rate + terms["cross_entropy"]
    return terms | {"bound_vib": vib, "bound_vub": rate + distortion, "bound_ib": vib - shared.label_entropy}


def _save(module: nn.Module, path: Path) -> None:
    """Weights in one file, whole or not at all."""
    with replacing(path) as temporary:
        save_file({name: value.contiguous() for name, value in module.state_dict().items()}, temporary)


def _identity(name: str) -> list[list[Any]]:
    """Sizes and times of the files behind a name, so that other weights or data in the same place are seen."""
    path = Path(name)
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]
