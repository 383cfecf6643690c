"""How a run attacks images, batch by batch: read, classify, perturb, record, and keep some images for figures."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.sample import Sample, check_counts
from ...embeddings.pixels import PixelModel
from ...metrics.intervals import share_interval, wilson_interval
from ...metrics.robustness import attack_summary, l2_summary
from ...runs import schema
from ...runs.files import replacing
from ...runs.schema import BudgetResult, ImageAttackResult, ImageRedraws, MemberResult
from ..runner import Method, Record, not_skipped
from ..victim import Victim
from .adversary import Attack
from .examples import read_pixels

Budgets = Sequence[float | None]


@dataclass(frozen=True)
class Search:
    """How an adversarial image is searched for, and how many are kept."""

    name: str
    adversary: Attack
    epsilons: tuple[float | None, ...]
    target: int | str | None
    save_images: int

    def __post_init__(self) -> None:
        check_counts(at_least=0, save_images=self.save_images)
        if self.target is not None:
            self.adversary.check_targeted()


class ImageMethod(Method[ImageAttackResult]):
    """Attack images batch by batch."""

    unit = "image"

    def __init__(
        self, sample: Sample, shape: torch.Size, model: PixelModel, search: Search, goal: int | None, victim: Victim
    ):
        self.sample, self.shape, self.model, self.search, self.goal = sample, shape, model, search, goal
        self.group_size = victim.batch_size or len(sample)
        self.redraws = victim.redraws if model.random else 0
        self.members = search.adversary.members_for(len(sample.class_names), model.random)
        count = search.save_images
        self.shown = {sample.rows[place * len(sample) // count] for place in range(count)}
        self.images: dict[str, Tensor] = {}

    def seed_key(self, group: range) -> int:
        """Start the random state of a batch from its first position."""
        return group.start

    def attack(self, target: str, group: range) -> list[Record]:
        """Attack the images at some positions that are classified correctly; return a record of each position."""
        began = time.perf_counter()
        records, batch = self._read(group)
        clean = self.model.predict(batch.pixels) if batch.records else batch.labels
        chosen = clean == batch.labels
        if self.goal is not None:
            chosen &= batch.labels != self.goal
        for record, prediction, label, attacked in zip(
            batch.records, clean.tolist(), batch.labels.tolist(), chosen.tolist(), strict=True
        ):
            record["prediction"] = prediction
            record["status"] = "attacked" if attacked else "misclassified" if prediction != label else "is the target"
        self.images = self._perturb(batch.only(chosen)) if bool(chosen.any()) else {}
        seconds = (time.perf_counter() - began) / max(1, len(records))
        for record in records:
            record["seconds"] = seconds
        return records

    def save_group(self, folder: Path, group: range) -> None:
        """Write the images of the last batch that figures show."""
        if not self.images:
            return
        keep = [place for place, row in enumerate(self.images["index"].tolist()) if row in self.shown]
        if keep:
            kept = {name: tensor[keep].contiguous() for name, tensor in self.images.items()}
            _save_tensors(folder / "images" / f"{group.start:08d}.safetensors", kept, None)

    def end_run(self, folder: Path) -> None:
        """Merge the images of all batches."""
        _merge_images(folder, self.search.epsilons)

    def succeeded(self, record: Record) -> bool:
        """Return whether the image was misclassified, or reached its target, at the largest budget."""
        return bool(record["outcomes"][-1]["success"])

    def result(
        self, about: Mapping[str, Any], settings: Mapping[str, Any], records: Sequence[Record]
    ) -> ImageAttackResult:
        """Return the result of a run, one row per budget, from its records alone."""
        target = None if self.goal is None else schema.Target(index=self.goal, name=self.sample.class_names[self.goal])
        own = {key: value for key, value in settings.items() if key not in ("save_images", "redraws", "epsilons")}
        kept = not_skipped(records)
        budgets = [
            replace(
                _budget(kept, place, epsilon, self.redraws, self.goal is not None),
                members=_members(kept, place, self.members),
            )
            for place, epsilon in enumerate(self.search.epsilons)
        ]
        summary = {
            "num_examples": len(kept),
            "num_attacked": sum(record["status"] == "attacked" for record in kept),
            "clean_accuracy": sum(record["prediction"] == record["label"] for record in kept) / len(kept),
            **{field.name: getattr(budgets[-1], field.name) for field in fields(BudgetResult)},
        }
        return ImageAttackResult(**{**own, **about, **summary, "target": target, "budgets": tuple(budgets)})

    def _read(self, group: range) -> tuple[list[Record], "_Batch"]:
        """Return the records of a group, those that can be attacked among them as a batch."""
        records: list[Record] = []
        kept, pixels = [], []
        for position in group:
            record: Record = {"index": self.sample.rows[position], "label": self.sample.labels[position]}
            records.append(record)
            try:
                image = read_pixels(self.sample, position, self.model)
                if image.shape != self.shape:
                    raise ValueError(f"{_size(image.shape)} pixels where this run's images are {_size(self.shape)}")
            except ValueError as error:
                record["status"] = f"skipped: {error}"
                continue
            pixels.append(image)
            kept.append(record)
        device = self.model.mean.device
        stacked = torch.stack(pixels).to(device) if pixels else torch.zeros(0, *self.shape, device=device)
        labels = torch.tensor([record["label"] for record in kept], dtype=torch.long, device=device)
        return records, _Batch(kept, stacked, labels)

    def _perturb(self, batch: "_Batch") -> dict[str, Tensor]:
        """Attack a batch, write what became of it into its records, and return what the figures need of it."""
        images, labels = batch.pixels, batch.labels
        adversary, epsilons = self.search.adversary, self.search.epsilons
        targets = None if self.goal is None else torch.full_like(labels, self.goal)
        perturbed = adversary(self.model, images, labels, epsilons, targets)
        for record in batch.records:
            record["outcomes"] = []
        for epsilon, each in zip(epsilons, perturbed, strict=True):
            columns = {
                "prediction": each.prediction,
                "success": each.success,
                "l2": adversary.distances(images, each.adversarial, 2.0),
                "linf": adversary.distances(images, each.adversarial, float("inf")),
            }
            if self.redraws:
                again = self.model.redraw(each.adversarial, self.redraws)
                turned = again != labels if targets is None else again == targets
                # An image that was left as it was may be misread by chance: no success of the attack.
                turned = turned & (each.adversarial != images).flatten(1).any(dim=1)
                columns["redraws_turned"] = turned.sum(dim=0)
            rows = zip(*(column.tolist() for column in columns.values()), strict=True)
            for record, values, member in zip(batch.records, rows, each.member.tolist(), strict=True):
                outcome = {"epsilon": epsilon, **dict(zip(columns, values, strict=True))}
                if adversary.members:
                    outcome["attack"] = adversary.members[member] if member >= 0 else None
                record["outcomes"].append(outcome)
        if self.redraws:
            wrong = (self.model.redraw(images, self.redraws) != labels).sum(dim=0)
            for record, count in zip(batch.records, wrong.tolist(), strict=True):
                record["redraws_wrong_clean"] = count
        return {
            "index": torch.tensor([record["index"] for record in batch.records]),
            "label": labels.cpu(),
            "original": images.cpu(),
            "adversarial": torch.stack([each.adversarial for each in perturbed], dim=1).cpu(),
            "prediction": torch.stack([each.prediction for each in perturbed], dim=1).cpu(),
            "success": torch.stack([each.success for each in perturbed], dim=1).cpu(),
        }


@dataclass(frozen=True)
class _Batch:
    """Examples that could be read: their records, pixels (batch, channels, height, width) and labels (batch,)."""

    records: list[Record]
    pixels: Tensor
    labels: Tensor

    def only(self, chosen: Tensor) -> "_Batch":
        """Return the examples that a bool tensor (batch,) chooses."""
        rows = chosen.nonzero().squeeze(1)
        return _Batch([self.records[row] for row in rows.tolist()], self.pixels[rows], self.labels[rows])


def _budget(kept: Sequence[Record], place: int, epsilon: float | None, redraws: int, targeted: bool) -> BudgetResult:
    """Return the metrics of one budget, from the records alone."""
    outcomes = [record["outcomes"][place] if record["status"] == "attacked" else None for record in kept]
    wins = [outcome is not None and outcome["success"] for outcome in outcomes]
    before = [record["prediction"] == record["label"] for record in kept]
    after = [
        right if outcome is None or not (targeted or outcome["success"]) else outcome["prediction"] == record["label"]
        for right, outcome, record in zip(before, outcomes, kept, strict=True)
    ]
    attacked = [outcome is not None for outcome in outcomes]
    metrics = attack_summary(before, after, attacked, wins)
    tried = [record for record in kept if record["status"] == "attacked"]
    return BudgetResult(
        epsilon=epsilon,
        accuracy_under_attack=metrics["accuracy_under_attack"],
        attack_success_rate=metrics["attack_success_rate"],
        attack_success_interval=wilson_interval(metrics["num_successes"], metrics["num_attacked"]),
        num_successes=metrics["num_successes"],
        **l2_summary([0.0 if outcome is None else outcome["l2"] for outcome in outcomes], wins),
        redraws=_redrawn(tried, place, redraws) if redraws and tried else None,
    )


def _members(kept: Sequence[Record], place: int, names: Sequence[str]) -> tuple[MemberResult, ...] | None:
    """Return what each member of an ensemble did at one budget; None for a single attack."""
    if not names:
        return None
    winners = [record["outcomes"][place]["attack"] for record in kept if record["status"] == "attacked"]
    left, results = len(winners), []
    for name in names:
        count = winners.count(name)
        results.append(MemberResult(attack=name, num_attacked=left, num_successes=count))
        left -= count
    return tuple(results)


def _redrawn(tried: Sequence[Record], place: int, draws: int) -> ImageRedraws:
    """Return success over fresh draws; its interval is over examples, the share of whose draws is one observation."""
    shares = [record["outcomes"][place]["redraws_turned"] / draws for record in tried]
    return ImageRedraws(
        draws=draws,
        attack_success_rate=sum(shares) / len(shares),
        attack_success_interval=share_interval(shares),
        clean_error_rate=sum(record["redraws_wrong_clean"] for record in tried) / (draws * len(tried)),
    )


def _merge_images(folder: Path, epsilons: Budgets) -> None:
    """Merge the images that the batches left into one file."""
    from safetensors.torch import load_file

    parts = [load_file(part) for part in sorted((folder / "images").glob("*.safetensors"))]
    # The merged file is written once all parts are there; a run killed after that may have removed some of them.
    if parts and not (folder / "images.safetensors").exists():
        merged = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        _save_tensors(folder / "images.safetensors", merged, {"epsilons": repr(list(epsilons))})
    shutil.rmtree(folder / "images", ignore_errors=True)


def _save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
