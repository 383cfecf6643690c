"""The result of the benchmark: time against a named alternative, and how costs grow."""

from dataclasses import dataclass
from typing import Literal

from .part import Part
from .result import Result


@dataclass(frozen=True, kw_only=True, eq=False)
class Spread(Part):
    """Median and quartiles over repeats."""

    median: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Machine(Part):
    """The machine that was measured on."""

    cpu: str
    cores: int | None
    threads: int
    gpu: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Limit(Part):
    """The least time that the machine needs for one unit of work."""

    bound: str
    """What sets it: "memory", or "arithmetic" with its dtype."""
    seconds: float
    share: float
    """Of the time that our code takes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextCounts(Part):
    """Texts that an attack on many heads asks for."""

    queries: float
    """Queries of all heads together."""
    distinct: int
    """Different texts among them."""
    distinct_of_one_head: float
    """Different texts of one head, on average."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BenchmarkEntry(Part):
    """One stage measured against an alternative."""

    stage: str
    name: str
    against: str
    """The alternative."""
    unit: str
    """The unit of work."""
    seconds: dict[str, Spread]
    """Seconds per unit: "ours", "alternative" and others."""
    ratio: Spread
    """Time of the alternative over ours."""
    target: float | None
    """The ratio to reach on this device."""
    reached: bool | None
    limit: Limit
    profile: dict[str, float] | None = None
    """Share of time by operator."""
    share_of_bare_forward: float | None = None
    """Time of the forward pass alone over ours."""
    probe_accuracy: dict[str, float] | None = None
    same_outcomes: bool | None = None
    """Both found the same successes and failures."""
    cost_in_single_attacks: float | None = None
    """Time of the attack on all heads over that on one."""
    texts: TextCounts | None = None
    ratio_if_texts_were_all: float | None = None
    """The ratio if time went with the number of different texts alone."""
    mean_l2: dict[str, float | None] | None = None
    """Mean L2 distance of successes in [0, 1] pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve(Part):
    """How a cost grows with ``x``."""

    x_label: str
    x: tuple[float, ...]
    y_label: str
    series: dict[str, tuple[Spread, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Limits(Part):
    """Rates of the machine, measured in the same run."""

    flops_per_second: dict[str, float]
    """By dtype, in large matrix products."""
    bytes_per_second: dict[str, float]
    """By bytes of the working set, in copying."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Benchmark(Result):
    """All that one run of the benchmark measured."""

    kind: Literal["benchmark"] = "benchmark"
    machine: Machine
    model: str | None
    dataset: str | None
    quick: bool
    """Tiny sizes, which say nothing about speed."""
    entries: tuple[BenchmarkEntry, ...]
    skipped: dict[str, str]
    """Why a stage was not measured, by its name."""
    curves: dict[str, Curve]
    limits: Limits
    seconds: float | None = None
    """Of the whole run; None while it goes on."""
