"""Image classifiers under attack: one call per attack, one JSON per run, one record per example.

```python
from hf_vub.attacks.image.attack import attack

result = attack("user/vub-resnet18-cifar10", None, "cifar10", "pgd_linf", epsilon=["2/255", "8/255"], num_examples=500)
result["accuracy_under_attack"]
```

An output folder holds ``result.json`` (schema 1), ``records.jsonl`` (one line per example, what resuming reads),
``images.safetensors`` (originals and adversarial images, for figures) and ``run.json`` (what the run is, so that
records of another model or attack are never taken for its own). Examples are attacked in fixed batches, each with its
own random state: a run that was killed, or split over processes with ``accelerate launch``, ends with the same bits.
"""

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...compute.contexts import frozen, seeded
from ...metrics.intervals import share_interval, wilson_interval
from ...metrics.robustness import attack_summary, l2_summary
from ...reports.model_cards import refresh_model_card
from ...runs.digests import weights_digest
from ...runs.files import replacing, write_json
from ...runs.processes import processes
from ...runs.provenance import provenance
from ...runs.run_log import RunLog
from ..sample import parse_noise
from .adversaries import Attack, make, parse_epsilons
from .classifier import PixelModel
from .examples import ImageExamples, class_index, load_classifier


def attack(
    model: nn.Module | str | Path,
    processor: Any,
    dataset: Any,
    attack: str | Attack = "fgs",
    *,
    epsilon: float | str | Sequence[float | str] | None = None,
    target: int | str | None = None,
    num_examples: int | None = None,
    how: str = "stratified",
    seed: int = 0,
    noise: str = "mean",
    redraws: int = 20,
    batch_size: int = 32,
    steps: int | None = None,
    output_dir: str | Path | None = None,
    save_images: int = 32,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Attack the examples that a classifier gets right, and say how many it still gets right.

    Args:
        model: an image classifier (ours or a stock one), or the folder or Hub id of one.
        processor: its image processor, or the folder or Hub id of one; None takes the one saved with ``model`` if
            that is a path, and otherwise [0, 1] pixels as they are.
        dataset: a name or path for ``hf_vub.data.splits``, or a ``datasets.Dataset`` or stream with images and labels.
        attack: a name of ``hf_vub.attacks.image.adversaries.ATTACKS`` or an adversary with its own hyperparameters.
        epsilon: one or several budgets in [0, 1] pixels, as numbers or fractions such as "8/255"; the attack's own
            where None. The top level of the result is the largest one's row of ``budgets``.
        target: class to reach, by name or index, for attacks that have a targeted form. Inputs of that class are left
            alone.
        num_examples: how many examples, None for all.
        how: ``"stratified"`` (drawn with ``seed``, every class in its share) or ``"first"``.
        seed: of the sample and of the attack.
        noise: the declared predictor: ``"mean"``, ``"sampled"`` or ``"averaged:k"``.
        redraws: fresh draws over which each adversarial example of a random predictor is scored again.
        batch_size: examples attacked together; part of what the run is, as attacks may look at a whole batch.
        steps: of the attack, in place of its default.
        output_dir: where results, records and images go; a run found there is resumed. None saves nothing. In the
            folder of the checkpoint that is attacked, the model card there shows the result.
        save_images: of how many examples, evenly spread over the run, the images are kept (where attacked).
        split: of ``dataset`` where that is a name or path; its test split where None.
        image_column: where not "image" or "img".
        label_column: where not "label" or "labels".
        revision: of ``model`` on the Hub.
        trust_remote_code: whether code that comes with ``model`` may run.
        device: where to compute; None leaves a model where it is and puts a loaded one on the accelerator.
        progress: whether a bar with the running success rate is shown (never where stderr is no terminal).

    Returns:
        The result JSON: ``clean_accuracy`` over all readable inputs, ``accuracy_under_attack``,
        ``attack_success_rate`` over the inputs attacked with its 95 % Wilson interval, ``l2_mean`` and ``l2_median``
        over successes alone in [0, 1] pixels, one row of these per budget in ``budgets``; for a random predictor
        ``redraws``; and ``skipped``, the reasons why inputs were passed over.

    Raises:
        ValueError: for an argument out of range, classes that do not fit, or an ``output_dir`` of another run.
        ImportError: with the command to install what is missing.

    Example:
        >>> attack(model, processor, dataset, "cw", target="soccer ball", num_examples=100)["l2_mean"]  # doctest: +SKIP
    """
    name, adversary = make(attack, steps)
    epsilons = parse_epsilons(adversary, epsilon)
    parse_noise(noise)
    for argument, value, least in (
        ("batch_size", batch_size, 1),
        ("redraws", redraws, 1),
        ("save_images", save_images, 0),
    ):
        if value < least:
            raise ValueError(f"{argument} must be at least {least}, but is {value}")
    if target is not None:
        adversary.check_targeted()
    state = processes()
    examples = ImageExamples(
        dataset, num_examples, how=how, seed=seed, split=split, image_column=image_column, label_column=label_column
    )
    network, processor, model_name = load_classifier(
        model,
        processor,
        revision=revision,
        trust_remote_code=trust_remote_code,
        device=device,
        default_device=state.device,
    )
    with frozen(network):
        pixel_model = PixelModel(network, processor, noise=noise)
        shape, classes = examples.fit(pixel_model)
        goal = None if target is None else class_index(target, classes)
        settings: dict[str, Any] = {
            "kind": "image_attack",
            "model": model_name,
            "dataset": examples.name,
            "attack": name,
            "attack_options": asdict(adversary),
            "epsilons": list(epsilons),
            "target": goal,
            "noise": noise,
            "seed": seed,
            "how": how,
            "num_examples": len(examples),
            "batch_size": batch_size,
            "redraws": redraws if pixel_model.random else 0,
            "save_images": save_images,
            "weights": weights_digest(network),
            "rows": hashlib.sha256(repr((examples.rows, examples.labels)).encode()).hexdigest()[:16],
        }
        shown = {examples.rows[k * len(examples) // save_images] for k in range(save_images)}
        batches = range(0, len(examples), batch_size)
        mine = [start for start in batches if start // batch_size % state.num_processes == state.process_index]
        shown_bar = _bar(len(examples), progress and state.is_main_process)
        with RunLog(output_dir, settings, state) as log, shown_bar as bar:
            bar.update(len(log.records))
            for start in mine:
                if all(row in log.records for row in examples.rows[start : start + batch_size]):
                    continue
                batch = _Batch(examples, range(start, min(start + batch_size, len(examples))), shape, pixel_model)
                with seeded(seed, start):
                    batch.run(adversary, epsilons, goal, settings["redraws"])
                images = batch.images(shown)
                if images and log.path is not None:  # before the records, which say that the batch is finished
                    _save_tensors(log.path / "images" / f"{start:08d}.safetensors", images, None)
                for record in batch.records:
                    log.add(record)
                bar.set_postfix_str(_running(log.records), refresh=False)
                bar.update(len(batch.records))
            records = log.finish(examples.rows)
            if log.path is not None and state.is_main_process:
                _merge_images(log.path, epsilons)
    result = {
        **provenance(),
        **{key: value for key, value in settings.items() if key not in ("save_images", "redraws", "epsilons")},
        "target": None if goal is None else {"index": goal, "name": classes[goal]},
        "class_names": classes,
        **_summary(records, epsilons, settings["redraws"], targeted=goal is not None),
        "seconds": sum(record["seconds"] for record in records),
    }
    if output_dir is not None and state.is_main_process:
        write_json(Path(output_dir) / "result.json", result)
        refresh_model_card(Path(output_dir).absolute().parent)
    return result


class _Batch:
    """Some examples of a run on their way through one attack."""

    def __init__(self, examples: ImageExamples, positions: range, shape: Sequence[int], model: PixelModel):
        self.model = model
        self.began = time.perf_counter()
        self.records: list[dict[str, Any]] = []
        self.kept: list[dict[str, Any]] = []
        pixels = []
        for position in positions:
            record: dict[str, Any] = {"index": examples.rows[position], "label": examples.labels[position]}
            self.records.append(record)
            try:
                image = examples.read(position, model)
                if image.shape != torch.Size(shape):
                    raise ValueError(f"{_size(image.shape)} pixels where this run's images are {_size(shape)}")
            except ValueError as error:
                record["status"] = f"skipped: {error}"
                continue
            pixels.append(image)
            self.kept.append(record)
        device = model.mean.device
        self.pixels = torch.stack(pixels).to(device) if pixels else torch.zeros(0, *shape, device=device)
        self.labels = torch.tensor([record["label"] for record in self.kept], dtype=torch.long, device=device)
        self.saved: dict[str, Tensor] = {}

    def run(self, adversary: Attack, epsilons: Sequence[float | None], goal: int | None, redraws: int) -> None:
        """Attack what the model gets right and write down what became of every example."""
        clean = self.model.predict(self.pixels) if len(self.kept) else self.labels
        attacked = clean == self.labels
        if goal is not None:
            attacked &= self.labels != goal
        for record, prediction, label, chosen in zip(
            self.kept, clean.tolist(), self.labels.tolist(), attacked.tolist(), strict=True
        ):
            record["prediction"] = prediction
            record["status"] = "attacked" if chosen else "misclassified" if prediction != label else "is the target"
        if bool(attacked.any()):
            self._attack(attacked.nonzero().squeeze(1), adversary, epsilons, goal, redraws)
        seconds = (time.perf_counter() - self.began) / max(1, len(self.records))
        for record in self.records:
            record["seconds"] = seconds

    def _attack(
        self, chosen: Tensor, adversary: Attack, epsilons: Sequence[float | None], goal: int | None, redraws: int
    ) -> None:
        images, labels = self.pixels[chosen], self.labels[chosen]
        targets = None if goal is None else torch.full_like(labels, goal)
        found = adversary(self.model, images, labels, epsilons, targets)
        records = [self.kept[row] for row in chosen.tolist()]
        for record in records:
            record["outcomes"] = []
        for epsilon, perturbed in zip(epsilons, found, strict=True):
            columns = {
                "prediction": perturbed.prediction,
                "success": perturbed.success,
                "l2": adversary.distances(images, perturbed.adversarial, 2.0),
                "linf": adversary.distances(images, perturbed.adversarial, float("inf")),
            }
            if redraws:
                again = self.model.redraw(perturbed.adversarial, redraws)
                turned = again != labels if targets is None else again == targets
                turned = turned & (perturbed.adversarial != images).flatten(1).any(dim=1)
                columns["redraws_turned"] = turned.sum(dim=0)
            rows = zip(*(column.tolist() for column in columns.values()), strict=True)
            for record, values in zip(records, rows, strict=True):
                record["outcomes"].append({"epsilon": epsilon, **dict(zip(columns, values, strict=True))})
        if redraws:
            wrong = (self.model.redraw(images, redraws) != labels).sum(dim=0)
            for record, count in zip(records, wrong.tolist(), strict=True):
                record["redraws_wrong_clean"] = count
        self.saved = {
            "index": torch.tensor([record["index"] for record in records]),
            "label": labels.cpu(),
            "original": images.cpu(),
            "adversarial": torch.stack([perturbed.adversarial for perturbed in found], dim=1).cpu(),
            "prediction": torch.stack([perturbed.prediction for perturbed in found], dim=1).cpu(),
            "success": torch.stack([perturbed.success for perturbed in found], dim=1).cpu(),
        }

    def images(self, rows: set[int]) -> dict[str, Tensor]:
        """What the figures need of those attacked examples of this batch that are among ``rows``."""
        keep = [place for place, row in enumerate(self.saved["index"].tolist()) if row in rows] if self.saved else []
        return {name: tensor[keep].contiguous() for name, tensor in self.saved.items()} if keep else {}


def _merge_images(folder: Path, epsilons: Sequence[float | None]) -> None:
    """One file of images from the parts that the batches left."""
    from safetensors.torch import load_file

    parts = [load_file(part) for part in sorted((folder / "images").glob("*.safetensors"))]
    # The merged file is written once all parts are there; a run killed after that may have removed some of them.
    if parts and not (folder / "images.safetensors").exists():
        merged = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        _save_tensors(folder / "images.safetensors", merged, {"epsilons": repr(list(epsilons))})
    shutil.rmtree(folder / "images", ignore_errors=True)


def _summary(
    records: Sequence[dict[str, Any]], epsilons: Sequence[float | None], redraws: int, targeted: bool
) -> dict[str, Any]:
    """The figures of a run from its records alone."""
    reasons = Counter(record["status"] for record in records if record["status"].startswith("skipped"))
    kept = [record for record in records if not record["status"].startswith("skipped")]
    if not kept:
        raise ValueError(f"no example could be read; {next(iter(reasons), 'there was none')}")
    before = [record["prediction"] == record["label"] for record in kept]
    attacked = [record["status"] == "attacked" for record in kept]
    tried = [record for record in kept if record["status"] == "attacked"]
    budgets = []
    for place, epsilon in enumerate(epsilons):
        outcomes = [
            record["outcomes"][place] if chosen else None for record, chosen in zip(kept, attacked, strict=True)
        ]
        wins = [outcome is not None and outcome["success"] for outcome in outcomes]
        after = [
            right
            if outcome is None or not (targeted or outcome["success"])
            else outcome["prediction"] == record["label"]
            for right, outcome, record in zip(before, outcomes, kept, strict=True)
        ]
        figures = attack_summary(before, after, attacked, wins)
        row = {
            "epsilon": epsilon,
            "accuracy_under_attack": figures["accuracy_under_attack"],
            "attack_success_rate": figures["attack_success_rate"],
            "attack_success_interval": list(wilson_interval(figures["num_successes"], figures["num_attacked"])),
            "num_successes": figures["num_successes"],
            **l2_summary([0.0 if outcome is None else outcome["l2"] for outcome in outcomes], wins),
        }
        if redraws and tried:
            row["redraws"] = _redrawn(
                [record["outcomes"][place]["redraws_turned"] for record in tried],
                [record["redraws_wrong_clean"] for record in tried],
                redraws,
            )
        budgets.append(row)
    return {
        "num_examples": len(kept),
        "num_attacked": len(tried),
        "num_skipped": len(records) - len(kept),
        "skipped": {reason.removeprefix("skipped: "): count for reason, count in sorted(reasons.items())},
        "clean_accuracy": sum(before) / len(before),
        **budgets[-1],
        "budgets": budgets,
    }


def _redrawn(turned: Sequence[int], wrong_clean: Sequence[int], draws: int) -> dict[str, Any]:
    """Success over fresh draws; the interval is over examples, each with the share of its draws as one observation."""
    shares = [count / draws for count in turned]
    return {
        "draws": draws,
        "attack_success_rate": sum(shares) / len(shares),
        "attack_success_interval": list(share_interval(shares)),
        "clean_error_rate": sum(wrong_clean) / (draws * len(wrong_clean)),
    }


def _save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def _running(records: dict[int, dict[str, Any]]) -> str:
    outcomes = [record["outcomes"][-1]["success"] for record in records.values() if "outcomes" in record]
    return f"success {sum(outcomes) / len(outcomes):.1%}" if outcomes else ""


def _size(shape: Sequence[int]) -> str:
    return "x".join(str(side) for side in shape)


def _bar(total: int, shown: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, unit="image", desc="attack", disable=None if shown else True)
