"""Certify a checkpoint on a sample: one JSON per run, one record per example.

| file in ``output_dir`` | content |
|---|---|
| ``run.json`` | the settings that decide the records; records of another run are never resumed |
| ``records.jsonl`` | one line per example, which is what resuming reads |
| ``result.json`` | the result, computed from the records alone |

Every example has its own random state: a run that was killed, or split over processes with ``accelerate launch``, ends
with the same certificates as an undisturbed one.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ..compute.contexts import frozen
from ..data.labels import class_names
from ..data.record import TrainingRecord
from ..data.sample import Sample, SampleOptions, check_counts, open_sample
from ..model.loading import LoadedClassifier, Task, backbone_dtype, backbone_of, load_classifier
from ..reports.model_cards import refresh_model_card
from ..runs.digests import weights_digest
from ..runs.files import read_json
from ..runs.processes import processes
from ..runs.provenance import provenance
from ..runs.run_log import Record, RunLog
from ..runs.schema import Certificate
from .smoothing import Smoothing, choose_smoothing, stored_smoothing
from .summary import summary
from .tally import Tally
from .voters import Voter, as_head, make_voter

logger = logging.getLogger(__name__)


def certify(
    model: nn.Module | str | Path,
    dataset: object,
    noise: str | None = None,
    *,
    n0: int | None = None,
    n: int | None = None,
    alpha: float | None = None,
    processor: Any = None,
    num_examples: int | None = 500,
    how: str = "stratified",
    seed: int = 0,
    max_length: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    output_dir: str | Path | None = None,
    split: str | None = None,
    column: str | None = None,
    label_column: str | None = None,
    match_labels: str = "name",
    column_names: str | Sequence[str] | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Certificate:
    r"""Certify how far texts or images may move before a smoothed classifier changes its decision.

    The smoothed classifier answers with the class that most noisy copies of an input get. ``n0`` copies choose the
    class, ``n`` others bound its vote from below at the level ``alpha`` (Clopper and Pearson), and the bound gives the
    radius (:mod:`hf_vub.certify.radii`); docs/certify.md has the proofs. Train the model under the same noise
    (``VUBTrainingArguments(smoothing=...)``), or few inputs are certified.

    Args:
        model: a text or image classifier (ours or a stock one), or the folder or Hub id of one. Of ours, z is its mean.
        dataset: a name or path for ``hf_vub.data.splits.load_evaluation``, or a ``datasets.Dataset`` or stream. A data
            set of one file is certified whole; if ``model`` was trained on it, only its held-out rows are.
        noise: ``"delete:p"`` (each word deleted with probability p: any r word edits), ``"mask:share"`` (a fixed share
            of the words masked: r substitutions of words) or ``"gaussian:sigma"`` (images: L2 norm r of [0, 1] pixels
            at the size that the processor makes). None for what the checkpoint's configuration stores.
        n0: copies that choose the class; None for what the configuration stores, else 100.
        n: copies that bound its vote, likewise, else 1,000; more give larger radii.
        alpha: probability that the certificate of an example is wrong, at most; likewise, else 0.001.
        processor: tokenizer or image processor, or the folder or Hub id of one; None takes the saved one.
        num_examples: how many rows; None for all.
        how: ``"stratified"`` (drawn with ``seed``, each class in its share) or ``"first"``.
        seed: of the sample and, together with an example's row, of its noisy copies.
        max_length: tokens that a noisy copy is cut to; by default the limit of tokenizer and model.
        batch_size: noisy copies per forward pass; of texts, copies of ``max_length`` tokens, of shorter ones as many
            more as have their tokens.
        dtype: ``"bfloat16"`` or ``"float32"`` for the backbone; None leaves it as it is. The certificate is that of the
            classifier in this dtype.
        output_dir: folder for the result and records; a run found there is resumed. None saves nothing. In a subfolder
            of the checkpoint, the checkpoint's model card shows the result.
        split: split of a named data set; its test split by default.
        column: column of texts or images; the usual names are recognised.
        label_column: column of labels; the usual names are recognised.
        match_labels: match the classes of data and model by ``"name"`` or by ``"number"``.
        column_names: names of the columns of a CSV file without a header.
        config_name: configuration of a data set on the Hub.
        revision: revision of ``model`` on the Hub.
        trust_remote_code: run code that comes with ``model``.
        device: where to compute; None leaves a module where it is and puts a loaded one on the accelerator.
        progress: say which rows are certified, and show a bar with the running certified accuracy if stderr is a
            terminal.

    Returns:
        The result: ``smoothed_accuracy``, and ``curve``, the certified accuracy at each radius, for which abstentions
        and wrong decisions count as not certified.

    Raises:
        ValueError: an argument is out of range, the texts are pairs, classes cannot be matched, or ``output_dir`` holds
            another run.
        FloatingPointError: a logit is not finite.

    Source: Huang et al., "RS-Del", NeurIPS 2023; Zeng et al., RanMASK, 2023; Cohen et al., ICML 2019.

    Example:
        >>> result = certify("outputs/vub-delete", "imdb", "delete:0.95", n=1000)  # doctest: +SKIP
        >>> result.curve[3].accuracy  # certified at 3 word edits  # doctest: +SKIP
    """
    rows = SampleOptions(
        dataset, num_examples, how, seed, split, column, label_column, match_labels, column_names, config_name
    )
    source = Source(model, processor, max_length, batch_size, dtype, revision, trust_remote_code, device)
    return _certify(source, rows, (noise, n0, n, alpha), None, output_dir, progress)[""]


def certify_heads(
    model: nn.Module | str | Path,
    heads: Mapping[str, nn.Module],
    dataset: object,
    noise: str | None = None,
    *,
    output_dir: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> dict[str, Certificate]:
    """Certify many heads on one frozen backbone, each as `certify` would alone, on the same noisy copies.

    The backbone, which takes nearly all of the time, runs once per copy.

    Args:
        model: has ``features(**inputs)``, as ours do, or the folder or Hub id of one that has.
        heads: from features to logits, by name; their files go to the folders ``output_dir/name``.
        dataset, noise, options: as for `certify`.

    Returns:
        One result per head, by name.

    Raises:
        TypeError: ``model`` has no ``features``, or an option is unknown.
        ValueError: as for `certify`, or for a name that is no file name.
    """
    if not heads:
        raise ValueError("heads is empty: give at least one head")
    for name in heads:
        if not name or Path(name).name != name:
            raise ValueError(f"a head's name must be a file name, but is {name!r}")
    of_source = {name: options.pop(name) for name in Source.options() if name in options}
    smoothing = (noise, *(options.pop(name, None) for name in ("n0", "n", "alpha")))
    rows = SampleOptions(dataset, **{"num_examples": 500, **options})
    return _certify(Source(model, **of_source), rows, smoothing, heads, output_dir, progress)


@dataclass(frozen=True)
class Source:
    """The classifier to certify, and how it computes: the arguments of `certify`."""

    model: nn.Module | str | Path
    processor: Any = None
    max_length: int | None = None
    batch_size: int | None = None
    dtype: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    device: str | torch.device | None = None

    def __post_init__(self) -> None:
        check_counts(max_length=self.max_length, batch_size=self.batch_size)

    @classmethod
    def options(cls) -> list[str]:
        """Return the names of all arguments but the model."""
        return [field.name for field in fields(cls)][1:]

    def load(self, task: Task) -> LoadedClassifier:
        """Return the network on its device, its tokenizer or image processor, and its name."""
        loaded = load_classifier(
            self.model,
            task,
            processor=self.processor,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            dtype=self.dtype,
        )
        device = self.device or (None if isinstance(self.model, nn.Module) else processes().device)
        return loaded if device is None else loaded._replace(network=loaded.network.to(device))


def _certify(
    source: Source,
    options: SampleOptions,
    wanted: tuple[str | None, int | None, int | None, float | None],
    heads: Mapping[str, nn.Module] | None,
    output_dir: str | Path | None,
    progress: bool,
) -> dict[str, Certificate]:
    """Certify a model, or the heads that share its features; return one result for each."""
    stored = stored_smoothing(source.model, source.revision, source.trust_remote_code)
    smoothing = choose_smoothing(stored, *wanted)
    record = TrainingRecord.load(source.model, source.revision)
    task = smoothing.noise.medium
    sample = open_sample(options, task, [] if record is None else [record])
    if task == "text" and sample.second_texts() is not None:
        raise ValueError("the data set has pairs of texts; a certificate is about single texts")
    loaded = source.load(task)
    network = loaded.network
    if heads is not None and not hasattr(network, "features"):
        raise TypeError(f"model must have features(**inputs), but {type(network).__name__} has none: use certify")
    own = getattr(network, "head", None) if hasattr(network, "features") else None
    modules: dict[str, nn.Module | None] = {"": own} if heads is None else dict(heads)
    with ExitStack() as stack:
        for part in (network, *(each for each in modules.values() if each is not None)):
            stack.enter_context(frozen(part))
        device = next(network.parameters()).device
        named = {name: as_head(None if each is None else each.to(device)) for name, each in modules.items()}
        voter, about = make_voter(loaded, smoothing, named, options.seed, source.max_length, source.batch_size)
        raw = _raw(sample)
        counts = _count_classes(voter, raw, len(sample))
        sample = sample.aligned(class_names(getattr(network, "config", None), counts))
        # The head that a shared backbone came with is never asked.
        backbone = weights_digest(network if heads is None else backbone_of(network))
        settings = {
            "kind": "certificate",
            "task": task,
            "model": loaded.name,
            "dataset": sample.name,
            "rows": sample.digest(*([sample.texts()] if task == "text" else [])),
            "how": options.how,
            "seed": options.seed,
            "match_labels": options.match_labels,
            **smoothing.settings(),
            "dtype": str(backbone_dtype(network)).removeprefix("torch."),
            **about,
        }
        runs = {}
        for name, module in modules.items():
            own_settings = {"weights": (backbone, *(() if module is own else (weights_digest(module),)))}
            folder = None if output_dir is None else Path(output_dir) / name
            _refuse_other_result(folder)
            log = RunLog(folder, {**settings, **({"head": name} if name else {}), **own_settings}, processes())
            runs[name] = stack.enter_context(log)
        _certify_examples(voter, smoothing, counts, sample, raw, runs, progress)
        seen = sample.seen_in_training(record)
        return _finish(runs, sample, seen)


def _raw(sample: Sample) -> Callable[[int], Any]:
    """Return a function from a position in the sample to its text or undecoded image."""
    if sample.task == "text":
        return sample.texts().__getitem__
    return lambda position: sample.dataset[sample.rows[position]]["image"]


def _count_classes(voter: Voter, raw: Callable[[int], Any], examples: int) -> int:
    """Return how many classes the heads have, the same for each."""
    reason: object = "there is none"
    for position in range(examples):
        try:
            example = voter.prepare(raw(position))
            break
        except ValueError as error:
            reason = reason if position else error
    else:
        raise ValueError(f"none of {examples} examples can be read: {reason}")
    counts = {name: voter.num_classes(head, example) for name, head in voter.heads.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"heads must have equally many classes, but have {counts}")
    (count, *_) = counts.values()
    if count < 2:
        raise ValueError(f"the model must have at least 2 classes, but has {count}")
    return count


def _certify_examples(
    voter: Voter, smoothing: Smoothing, classes: int, sample: Sample, raw: Callable[[int], Any],
    runs: Mapping[str, RunLog], progress: bool,
) -> None:  # fmt: skip
    """Certify this process's share of the examples and save a record for each."""
    state = processes()
    shown = progress and state.is_main_process
    if shown:
        tqdm.write(f"certifying {sample.description}", file=sys.stderr)
    logger.info("certifying %s", sample.description)
    mine = range(state.process_index, len(sample), state.num_processes)
    with tqdm(total=len(mine), unit=voter.unit, desc="certify", disable=None if shown else True) as bar:
        for position in mine:
            row = sample.rows[position]
            missing = {name: smoothing.tally(classes) for name, run in runs.items() if row not in run.records}
            if missing:
                record = {"index": row, "label": sample.labels[position]}
                for name, certified in _certify_example(voter, smoothing, raw(position), record, missing).items():
                    runs[name].add(certified)
            bar.set_postfix_str(_running(runs), refresh=False)
            bar.update()


def _certify_example(
    voter: Voter, smoothing: Smoothing, raw: Any, record: Record, tallies: dict[str, Tally]
) -> dict[str, Record]:
    """Return the record of one example for each head, from its row and label."""
    began = time.perf_counter()
    try:
        example = voter.prepare(raw)
    except ValueError as error:
        return {name: {**record, "status": f"skipped: {error}", "seconds": 0.0} for name in tallies}
    voter.count(example, record["index"], smoothing, tallies)
    seconds = (time.perf_counter() - began) / len(tallies)
    records = {}
    for name, tally in tallies.items():
        radius = voter.radius(tally.p_lower, example)
        records[name] = {
            **record,
            "status": "abstained" if radius < 0 else "certified",
            "prediction": tally.prediction,
            "decision": None if radius < 0 else tally.chosen,
            "radius": radius,
            "p_lower": tally.p_lower,
            "first_votes": tally.first.tolist(),
            "votes": tally.second.tolist(),
            "draws": tally.draws,
            **voter.size(example),
            "seconds": seconds,
        }
    return records


def _running(runs: Mapping[str, RunLog]) -> str:
    """Return the certified accuracy so far, at radius 0 of the first head."""
    records = [each for each in next(iter(runs.values())).records.values() if "radius" in each]
    right = [each["radius"] for each in records if each["decision"] == each["label"]]
    return f"certified {len(right)}/{len(records)}, median radius {np.median(right) if right else 0:.3g}"


def _refuse_other_result(folder: Path | None) -> None:
    """Raise ValueError before a run would overwrite the result of a training or an attack."""
    path = None if folder is None else folder / "result.json"
    if path is not None and path.exists() and (kind := read_json(path).get("kind")) != "certificate":
        raise ValueError(f"output_dir {folder} holds a result of the kind {kind!r}: give a folder inside it")


def _finish(runs: Mapping[str, RunLog], sample: Sample, seen: int | None) -> dict[str, Certificate]:
    """Return the results, and write them."""
    origin, results = provenance(), {}
    for name, run in runs.items():
        records = run.finish(sample.rows)
        own: dict[str, Any] = dict(run.settings)
        results[name] = Certificate(
            **origin,
            **own,
            split=sample.split,
            data_rows=sample.description,
            class_names=tuple(sample.class_names),
            rows_seen_in_training=seen,
            has_training_record=seen is not None,
            **summary(records),
        )
        if run.path is not None and run.state.is_main_process:
            results[name].save(run.path / "result.json")
            refresh_model_card(run.path.absolute().parent)
    return results
