"""Attack image classifiers: one JSON per run, one record per example.

```python
from hf_vub.attacks import attack_image

result = attack_image("user/vub-resnet18-cifar10", "cifar10", "pgd_linf", epsilon=["2/255", "8/255"])
result.accuracy_under_attack
```

An output folder also holds ``images.safetensors``: originals and adversarial images of some examples, for figures.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...compute.contexts import frozen
from ...data.record import TrainingRecord
from ...data.sample import Sample, check_counts, open_sample
from ...embeddings.pixels import PixelModel
from ...metrics.intervals import share_interval, wilson_interval
from ...metrics.robustness import attack_summary, l2_summary
from ...runs import schema
from ...runs.digests import weights_digest
from ...runs.files import replacing
from ...runs.schema import BudgetResult, ImageAttackResult, ImageRedraws, MemberResult
from ..runner import Method, Record, Target, not_skipped, run
from ..victim import Victim
from .adversaries import make, parse_epsilons
from .adversary import Attack
from .auto_attack import AutoAttack
from .examples import class_index, fit_sample, read_pixels
from .options import Job, read_job

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import ImageOptions

Budgets = Sequence[float | None]


def attack_image(
    model: nn.Module | str | Path,
    dataset: object,
    attack: str | Attack = "pgd_linf",
    *,
    epsilon: float | str | Sequence[float | str] | None = None,
    target: int | str | None = None,
    steps: int | None = None,
    queries: int | None = None,
    save_images: int = 32,
    **options: "Unpack[ImageOptions]",
) -> ImageAttackResult:
    """Attack the images that a classifier gets right, and return how many it still gets right.

    Args:
        model: an image classifier (ours or a stock one), or the folder or Hub id of one.
        dataset: a name or path for ``hf_vub.data.splits.load_evaluation``, or a ``datasets.Dataset`` or stream with
            images and labels. A data set without splits is attacked whole; if ``model`` was trained on it, only its
            held-out rows are.
        attack: a name of ``hf_vub.attacks.image.adversaries.ATTACKS`` or an adversary with its own hyperparameters.
        epsilon: one or several budgets in [0, 1] pixels, as numbers or fractions such as "8/255"; None for the
            attack's own (8/255 for most). The top level of the result is the largest one's row of ``budgets``.
        target: class to reach, by name or index, for attacks that have a targeted form. Inputs of that class are left
            alone.
        steps: steps of the attack, replacing its default.
        queries: queries of Square in ``"autoattack"``, replacing its default.
        save_images: number of examples, evenly spread over the run, whose images are kept (where attacked).
        options: keywords that all attacks on images share:

            - ``processor`` (None): the image processor, or the folder or Hub id of one; None takes the one saved with
              ``model``. A module that was never saved then takes [0, 1] pixels as they are.
            - ``num_examples`` (500): how many images; None for all.
            - ``how`` ("stratified"): drawn with ``seed``, each class in its share; or "first".
            - ``seed`` (0): of the sample and of the attack.
            - ``noise`` ("mean"): the declared predictor, "mean", "sampled" or "averaged:k".
            - ``redraws`` (20): fresh draws over which each adversarial example of a random predictor is scored again.
            - ``batch_size`` (32): images attacked together; part of what the run is, as attacks may look at them all.
            - ``output_dir`` (None): folder for results, records and images; a run found there is resumed. None saves
              nothing. In a subfolder of the checkpoint that is attacked, the checkpoint's model card shows the result.
            - ``split`` (None): of a named data set; its test split by default.
            - ``image_column``, ``label_column`` (None): the usual names are recognised.
            - ``match_labels`` ("name"): match the classes of data and model by name (by number where one side has no
              names) or by "number".
            - ``column_names`` (None): of the columns of a CSV file without a header, in order or between commas.
            - ``config_name`` (None): configuration of a data set on the Hub.
            - ``revision`` (None): of ``model`` on the Hub.
            - ``trust_remote_code`` (False): run code that comes with ``model``.
            - ``device`` (None): where to compute; None leaves a module where it is and puts a loaded one on the
              accelerator.
            - ``progress`` (True): say which rows are attacked, and show a bar with the running success rate if stderr
              is a terminal.

    Returns:
        The result: ``clean_accuracy`` over all readable inputs, ``accuracy_under_attack``, ``attack_success_rate`` over
        the inputs attacked with its 95 % Wilson interval, ``l2_mean`` and ``l2_median`` over successes alone in [0, 1]
        pixels, one row of these per budget in ``budgets``; for a random predictor ``redraws``; ``skipped``, the reasons
        why inputs were skipped; ``data_rows``, which rows were attacked, and ``rows_seen_in_training``, how many of
        them the checkpoint was trained or selected on.

    Raises:
        ValueError: an argument is out of range, classes cannot be matched, or ``output_dir`` holds another run.
        ImportError: a package is missing; the sentence has the command that installs it.

    Example:
        >>> attack_image(model, dataset, "cw", target="soccer ball", num_examples=100).l2_mean  # doctest: +SKIP
    """
    job = read_job(model, dataset, options)
    name, adversary = make(attack, steps, queries)
    search = _Search(name, adversary, parse_epsilons(adversary, epsilon), target, save_images)
    return _attack(job, search)


@dataclass(frozen=True)
class _Search:
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


def _attack(job: Job, search: _Search) -> ImageAttackResult:
    victim, options = job.victim, job.rows
    record = TrainingRecord.load(victim.model, victim.revision)
    sample = open_sample(options, "image", [record] if record is not None else [])
    network, processor, model_name = victim.load("image")
    with frozen(network):
        model = PixelModel(network, processor, noise=victim.noise)
        sample, shape = fit_sample(sample, model)
        goal = None if search.target is None else class_index(search.target, sample.class_names)
        method = _ImageMethod(sample, shape, model, search, goal, victim)
        settings = {
            "kind": "image_attack",
            "dataset": sample.name,
            "attack": search.name,
            "attack_options": asdict(search.adversary),
            "epsilons": list(search.epsilons),
            "target": goal,
            "noise": victim.noise,
            "seed": options.seed,
            "how": options.how,
            "num_examples": len(sample),
            "batch_size": method.group_size,
            "redraws": method.redraws,
            "save_images": search.save_images,
            "weights": weights_digest(network),
            "rows": sample.digest(),
        }
        target = Target(model_name, {}, job.folder, record)
        return run(method, sample, {"": target}, settings, job.progress)[""]


class _ImageMethod(Method[ImageAttackResult]):
    """Attack images batch by batch."""

    unit = "image"

    def __init__(
        self, sample: Sample, shape: torch.Size, model: PixelModel, search: _Search, goal: int | None, victim: Victim
    ):
        self.sample, self.shape, self.model, self.search, self.goal = sample, shape, model, search, goal
        self.group_size = victim.batch_size or len(sample)
        self.redraws = victim.redraws if model.random else 0
        self.members: tuple[str, ...] = ()
        if isinstance(search.adversary, AutoAttack):
            self.members = search.adversary.members_for(len(sample.class_names), model.random)
        count = search.save_images
        self.shown = {sample.rows[place * len(sample) // count] for place in range(count)}
        self.images: dict[str, Tensor] = {}

    def seed_key(self, group: range) -> int:
        return group.start

    def attack(self, target: str, group: range) -> list[Record]:
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
        if not self.images:
            return
        keep = [place for place, row in enumerate(self.images["index"].tolist()) if row in self.shown]
        if keep:
            kept = {name: tensor[keep].contiguous() for name, tensor in self.images.items()}
            _save_tensors(folder / "images" / f"{group.start:08d}.safetensors", kept, None)

    def end_run(self, folder: Path) -> None:
        _merge_images(folder, self.search.epsilons)

    def succeeded(self, record: Record) -> bool:
        return bool(record["outcomes"][-1]["success"])

    def result(
        self, about: Mapping[str, Any], settings: Mapping[str, Any], records: Sequence[Record]
    ) -> ImageAttackResult:
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
