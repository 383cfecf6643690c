"""Stages of a long run: each leaves one JSON file, and a stage whose file is still valid is not run again."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ..runs.digests import digest
from ..runs.files import read_json, write_json
from ..runs.schema import Part

logger = logging.getLogger(__name__)

FORMAT = 5  # part of every key: raise it when a stage would give other content under the same key

Content = TypeVar("Content", bound=Part)


class Stages:
    """The stages of one run in one folder.

    Each stage is written atomically to ``NAME.json``, with a key that digests everything that decides its content.

    Attributes:
        seconds: time each finished stage took, in the run that did the work.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.seconds: dict[str, float] = {}

    def run(
        self,
        name: str,
        kind: type[Content],
        inputs: Mapping[str, object],
        make: Callable[[str], Content],
        complete: Callable[[Content], bool] = lambda content: True,
    ) -> Content:
        """Return the content of a stage, computed only if its file is missing, stale or incomplete.

        Args:
            name: of the stage and its file.
            kind: the dataclass that the file holds.
            inputs: everything that decides the content, as JSON can hold it.
            make: computes the content. It gets a short form of the key, for the names of files of its own.
            complete: returns whether the other files that the content names are still there.
        """
        path = self.folder / f"{name}.json"
        key = digest(FORMAT, name, dict(inputs))
        saved = read_json(path) if path.exists() else {}
        if saved.get("key") == key:
            content = self._content(name, kind, saved)
            if complete(content):
                logger.info("%s: already done", name)
                return content
        logger.info("%s: started", name)
        began = time.perf_counter()
        made = make(key[:16])
        write_json(path, {"key": key, "content": made, "seconds": time.perf_counter() - began})
        content = self._content(name, kind, read_json(path))  # what a later run will see
        logger.info("%s: %.1f s", name, self.seconds[name])
        return content

    def _content(self, name: str, kind: type[Content], saved: Mapping[str, object]) -> Content:
        content, seconds = saved["content"], saved["seconds"]
        assert isinstance(content, Mapping)
        assert isinstance(seconds, float)
        self.seconds[name] = seconds
        return kind.from_json(content, str(self.folder / f"{name}.json"))
