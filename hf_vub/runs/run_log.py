"""The folder of a run: its settings, and one record per example as it finishes, which is what resuming reads.

| file | content |
|---|---|
| ``run.json`` | the settings that decide the records |
| ``records.jsonl`` | one line per example; ``records-1.jsonl`` and so on from further processes until the run ends |
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import append_record, json_text, lock_folder, read_json, read_records, write_json, write_text

if TYPE_CHECKING:
    from accelerate import PartialState

Record = dict[str, Any]
"""One example: ``index`` is its row in the data set."""


class RunLog:
    """The files of one run, which one or several processes of one job write until the block ends.

    ``settings`` are those that decide the records. Without a ``path`` (the folder) everything stays in memory.

    Raises:
        ValueError: ``path`` holds a run with other settings, another job writes to it, or it is None although there are
            several processes.
    """

    def __init__(self, path: str | Path | None, settings: Mapping[str, object], state: "PartialState"):
        self.path = None if path is None else Path(path)
        self.settings = settings
        self.state = state
        self.records: dict[int, Record] = {}
        self._lock = ExitStack()
        if self.path is None:
            if state.num_processes > 1:
                raise ValueError("output_dir is None, but several processes exchange records in files: give a folder")
            return
        if state.is_main_process:
            self._lock.enter_context(lock_folder(self.path))
        saved = self.path / "run.json"
        if saved.exists():
            self._check(read_json(saved))
        elif state.is_main_process:
            write_json(saved, settings)
        self._read()
        state.wait_for_everyone()

    def _check(self, saved: Mapping[str, object]) -> None:
        """Refuse a run with other settings; a model may have moved, as the digest of its weights is a setting too."""
        wanted = json.loads(json_text(self.settings))
        for key, value in wanted.items():
            if saved.get(key) != value and key != "model":
                raise ValueError(
                    f"{self.path} holds a run with {key}={saved.get(key)!r}, and this one has {key}={value!r}: "
                    "give another output_dir, or remove that folder"
                )

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def add(self, record: Record) -> None:
        """Save the record of a finished example."""
        self.records[record["index"]] = record
        if self.path is not None:
            rank = self.state.process_index
            append_record(self.path / (f"records-{rank}.jsonl" if rank else "records.jsonl"), record)

    def finish(self, rows: Sequence[int]) -> list[Record]:
        """Merge the records of all processes into one file, and return them in the order of ``rows``."""
        if self.path is not None:
            self.state.wait_for_everyone()
            self._read()
            self.state.wait_for_everyone()
        ordered = [self.records[row] for row in rows]
        if self.path is not None and self.state.is_main_process:
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in ordered)
            write_text(self.path / "records.jsonl", "".join(lines))
            for part in self.path.glob("records-*.jsonl"):
                part.unlink()
        return ordered

    def _read(self) -> None:
        assert self.path is not None
        for part in sorted(self.path.glob("records*.jsonl")):
            self.records.update((record["index"], record) for record in read_records(part) if "index" in record)
