"""The fields that every result has: what made it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..files import plain
from ..provenance import SCHEMA
from .part import Part

Metrics = dict[str, float | None]
"""Metrics by name, None where one is not finite: accuracy and ece are shares, nll, rate and bounds are in nats."""


def split_metrics(metrics: Mapping[str, object]) -> tuple[Metrics, dict[str, object]]:
    """Return the metrics that are one number, and the others, which a user's ``compute_metrics`` may add."""
    values = {name: plain(value) for name, value in metrics.items()}
    numbers: Metrics = {}
    others: dict[str, object] = {}
    for name, value in values.items():
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            numbers[name] = value
        else:
            others[name] = value
    return numbers, others


@dataclass(frozen=True, kw_only=True, eq=False)
class Result(Part):
    """A result file: ``Result(**provenance(), ...)``."""

    schema: Literal[1] = SCHEMA
    """Version of the file's layout."""
    versions: dict[str, str]
    """Versions of Python and of the packages that can change a number."""
    command: str
    """The shell command that made it, its secrets masked."""
    commit: str | None
    """The checkout's commit, with "+" where it had changes; None outside a checkout."""
    kind: str
