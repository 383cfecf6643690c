"""A run's folder: what the run is, and one record per example as it finishes, which is what resuming reads.

| file | what it holds |
|---|---|
| ``run.json`` | the settings that decide the records |
| ``records.jsonl`` | one line per example; ``records-1.jsonl`` and so on from further processes until the run ends |
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .files import append_record, claim, read_json, read_records, write_json, write_text


class RunLog:
    """The files of one run, written by one or several processes, and by no other job until the block is left.

    Args:
        path: folder of the run; None keeps everything in memory.
        settings: what the run is: records of a run with other settings are never taken for its own.
        state: of the processes, from ``processes``.

    Raises:
        ValueError: ``path`` holds a run with other settings or is being written by another job, or it is None under
            several processes.
    """

    def __init__(self, path: str | Path | None, settings: dict[str, Any], state: Any):
        self.path = None if path is None else Path(path)
        self.settings = settings
        self.state = state
        self.records: dict[int, dict[str, Any]] = {}
        self._claimed = ExitStack()
        if self.path is None:
            if state.num_processes > 1:
                raise ValueError("output_dir is None, but several processes meet in their files: give a folder")
            return
        if state.is_main_process:
            self._claimed.enter_context(claim(self.path))
        known = self.path / "run.json"
        if known.exists():
            before = read_json(known)
            for key, value in settings.items():
                if before.get(key) != value and key != "model":
                    raise ValueError(
                        f"{self.path} holds a run with {key}={before.get(key)!r}, and this one has {key}={value!r}: "
                        "give another output_dir, or remove that folder"
                    )
        elif state.is_main_process:
            write_json(known, settings)
        self._read()
        state.wait_for_everyone()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error: object) -> None:
        self._claimed.close()

    def add(self, record: dict[str, Any]) -> None:
        """Keep the record of a finished example."""
        self.records[record["index"]] = record
        if self.path is not None:
            rank = self.state.process_index
            append_record(self.path / (f"records-{rank}.jsonl" if rank else "records.jsonl"), record)

    def finish(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The records of all processes in the order of the sample, with their files merged into one."""
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
