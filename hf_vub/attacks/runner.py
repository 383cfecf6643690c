"""Run an attack on a sample, for texts and images alike: attack, record, resume, summarise, write the result.

| file in ``output_dir`` | content |
|---|---|
| ``run.json`` | the settings that decide the records; records of another run are never resumed |
| ``records.jsonl`` | one line per example, which is what resuming reads |
| ``result.json`` | the result, computed from the records alone |

Examples are attacked in groups, and every group has its own random state: a run that was killed, or split over
processes with ``accelerate launch``, ends with the same bits as an undisturbed one.
"""

import logging
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from tqdm.auto import tqdm

from ..compute.contexts import seeded
from ..data.record import TrainingRecord
from ..data.sample import Sample
from ..reports.model_cards import refresh_model_card
from ..runs.files import read_json
from ..runs.processes import processes
from ..runs.provenance import provenance
from ..runs.run_log import Record, RunLog
from ..runs.schema import Result

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT", bound=Result)


@dataclass(frozen=True)
class Target:
    """One of the classifiers that a run attacks.

    Attributes:
        model: name of its checkpoint.
        settings: what identifies its run, next to what all targets of a run share.
        folder: where its files go; None keeps everything in memory.
        record: which rows it was trained and selected on; None where that is unknown.
    """

    model: str
    settings: Mapping[str, object]
    folder: Path | None
    record: TrainingRecord | None


class Method(ABC, Generic[ResultT]):
    """How examples of one medium are attacked. The runner calls it; it never calls the runner.

    Attributes:
        unit: singular noun for an example, for the progress bar.
        group_size: examples that are attacked together.
    """

    unit: ClassVar[str]
    group_size: int = 1

    @abstractmethod
    def seed_key(self, group: range) -> int:
        """Return the number that, with the run's seed, starts the random state of a group of positions."""

    @abstractmethod
    def attack(self, target: str, group: range) -> list[Record]:
        """Attack the examples at some positions of the sample and return one record for each."""

    def save_group(self, folder: Path, group: range) -> None:
        """Write what belongs to the last group but is no record; the records, written next, say that it is done."""

    def end_group(self) -> None:
        """Forget what was remembered for the last group, once all targets were attacked on it."""

    def end_run(self, folder: Path) -> None:
        """Complete the files of a run, once all its records are there."""

    def result_path(self, folder: Path) -> Path:
        """Return the file that the result is written to."""
        return folder / "result.json"

    @abstractmethod
    def succeeded(self, record: Record) -> bool:
        """Return whether an attacked example was misclassified after the attack, or reached its target."""

    @abstractmethod
    def result(self, about: Mapping[str, object], settings: Mapping[str, object], records: Sequence[Record]) -> ResultT:
        """Return the result of a run: ``about`` it, from its settings, and computed from its records alone."""


def run(
    method: Method[ResultT], sample: Sample, targets: Mapping[str, Target], common: Mapping[str, object], progress: bool
) -> dict[str, ResultT]:
    """Attack every example with every target, this process's share of them, and return one result per target.

    Args:
        method: attacks the examples.
        sample: the examples, their labels as the model numbers them.
        targets: what is attacked, by name.
        common: the settings that all targets share.
        progress: show what is attacked, and a bar where stderr is a terminal.

    Raises:
        ValueError: an output folder holds another run or the result of a training, or no example could be read.
    """
    state = processes()
    size = method.group_size
    groups = [range(start, min(start + size, len(sample))) for start in range(0, len(sample), size)]
    mine = groups[state.process_index :: state.num_processes]
    shown = progress and state.is_main_process
    seen = {name: sample.seen_in_training(target.record) for name, target in targets.items()}
    if state.is_main_process:
        describe(sample, progress)
        for name, target in targets.items():
            warn_if_seen(seen[name], sample, target.model)
    with ExitStack() as stack:
        logs = {}
        for name, target in targets.items():
            _refuse_training_folder(target.folder)
            settings = {"model": target.model, **common, **target.settings}
            logs[name] = stack.enter_context(RunLog(target.folder, settings, state))
        total = sum(map(len, mine))
        bar = stack.enter_context(tqdm(total=total, unit=method.unit, desc="attack", disable=None if shown else True))
        for group in mine:
            rows = [sample.rows[position] for position in group]
            for name, log in logs.items():
                if all(row in log.records for row in rows):
                    continue
                with seeded(sample.options.seed, method.seed_key(group)):
                    records = method.attack(name, group)
                if log.path is not None:
                    method.save_group(log.path, group)
                for record in records:
                    log.add(record)
            method.end_group()
            bar.set_postfix_str(_running(method, logs.values()), refresh=False)
            bar.update(len(group))
        origin = provenance()  # asks git and the package metadata, so only once
        results = {}
        for name, log in logs.items():
            records = log.finish(sample.rows)
            about = {**origin, **_about(sample, seen[name], records)}
            results[name] = method.result(about, log.settings, records)
            if log.path is not None and state.is_main_process:
                method.end_run(log.path)
                results[name].save(method.result_path(log.path))
                refresh_model_card(log.path.absolute().parent)
    return results


def describe(sample: Sample, progress: bool) -> None:
    """Say which rows are attacked: always in the log, and on stderr where progress is shown."""
    line = f"attacking {sample.description}"
    logger.info(line)
    if progress:
        tqdm.write(line, file=sys.stderr)


def warn_if_seen(seen: int | None, sample: Sample, model: str) -> None:
    """Warn where a checkpoint is attacked on rows that it was trained or selected on."""
    if seen:
        logger.warning(
            "%d of the %d rows attacked were used to train %s or to select it: the numbers say nothing about new data",
            seen,
            len(sample),
            model,
        )


def not_skipped(records: Sequence[Record]) -> list[Record]:
    """Return the records of the examples that could be read.

    Raises:
        ValueError: there is none; the sentence gives the reason of the first one.
    """
    kept = [record for record in records if not record["status"].startswith("skipped")]
    if not kept:
        reason = records[0]["status"] if records else "there was none"
        raise ValueError(f"none of {len(records)} examples could be attacked; {reason}")
    return kept


def _about(sample: Sample, seen: int | None, records: Sequence[Record]) -> dict[str, object]:
    """Return the fields that every result has, whatever the medium."""
    reasons = Counter(record["status"] for record in records if record["status"].startswith("skipped"))
    return {
        "class_names": tuple(sample.class_names),
        "num_skipped": sum(reasons.values()),
        "skipped": {reason.removeprefix("skipped: "): count for reason, count in sorted(reasons.items())},
        "seconds": sum(record["seconds"] for record in records),
        "split": sample.split,
        "data_rows": sample.description,
        "rows_seen_in_training": seen,
        "has_training_record": seen is not None,
        "match_labels": sample.options.match_labels,
    }


def _running(method: Method[ResultT], logs: Iterable[RunLog]) -> str:
    """Return the successes so far, over the examples attacked."""
    outcomes = [
        method.succeeded(record) for log in logs for record in log.records.values() if record["status"] == "attacked"
    ]
    return f"success {sum(outcomes)}/{len(outcomes)}"


def _refuse_training_folder(folder: Path | None) -> None:
    """Raise ValueError before an attack would overwrite the result of a training."""
    path = None if folder is None else folder / "result.json"
    if path is not None and path.exists() and read_json(path).get("kind") == "train":
        raise ValueError(f"output_dir {folder} holds the result of a training: give a folder inside it")
