"""Ratios of speed: two ways to do the same work, measured in turns, beside what the machine can do.

In turns, so that whatever else the machine does meets both ways alike; of the repeats the medians and the quartiles are
kept. The limit is the time that the work's arithmetic or its memory traffic would take at the rates measured in the
same run, whichever is longer: its share of our own time says how much there is still to gain.
"""

import contextlib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_vub.compute.cores import one_thread
from hf_vub.compute.kernels import has_onednn, product
from victims import TextVictim, text_victim

Way = Callable[[], float]
"""Does some work and says how many units of it."""


@dataclass
class Bench:
    """What all stages share: sizes, repeats, the machine's rates and the models.

    Args:
        repeats: measurements of every way, after one that is not counted.
        quick: tiny sizes, to see that everything works.
        model: folder or Hub id of a text classifier; by default a random one of MiniLM's shape.
        dataset: of texts, for ``hf_vub.data.splits``; by default generated reviews as long as IMDB's.
        device: where to run.
    """

    repeats: int = 5
    quick: bool = False
    model: str | None = None
    dataset: str | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}; it must be at least 1")
        self._bandwidths: dict[int, float] = {}

    def size(self, full: int, quick: int) -> int:
        """One of two sizes."""
        return quick if self.quick else full

    @property
    def lanes(self) -> int:
        """Runs of a sweep that train at the same time: one per thread of a CPU, thirty on a GPU."""
        return torch.get_num_threads() if self.device.type == "cpu" else 30

    @cached_property
    def victim(self) -> TextVictim:
        """The text classifier that the stages on texts share."""
        return text_victim(self.model, self.dataset, self.size(256, 12), self.quick, self.device)

    @cached_property
    def flop_rates(self) -> dict[str, float]:
        """Floating point operations per second in large matrix products, by the name of the dtype."""
        size = self.size(2048 if self.device.type == "cpu" else 8192, 256)
        return {
            str(dtype).removeprefix("torch."): 2 * size**3 / self._fastest(_products(size, dtype, self.device))
            for dtype in (torch.float32, torch.bfloat16)
        }

    def bandwidth(self, working_set: int) -> float:
        """Bytes per second, read and written, in copying within a working set of so many bytes."""
        size = max(1, working_set // 8)
        if size not in self._bandwidths:
            source, target = (torch.ones(size, device=self.device) for _ in range(2))
            times = max(1, 2**26 // size)

            def copy() -> float:
                for _ in range(times):
                    target.copy_(source)
                return 8 * size * times

            self._bandwidths[size] = 1 / self._fastest([copy], work_is_one=False)
        return self._bandwidths[size]

    def limits(self) -> dict[str, Any]:
        """The rates measured so far, for the record."""
        return {
            "flops_per_second": self.flop_rates,
            "bytes_per_second": {str(8 * size): rate for size, rate in sorted(self._bandwidths.items())},
        }

    def compare(
        self,
        name: str,
        against: str,
        ours: Way,
        alternative: Way,
        *,
        unit: str,
        targets: Mapping[str, float],
        flops: float,
        dtype: str = "float32",
        traffic: float = 0.0,
        working_set: int = 2**28,
        others: Mapping[str, Way] | None = None,
        profiled: Way | None = None,
    ) -> dict[str, Any]:
        """Measure one entry.

        Args:
            name: of the entry.
            against: what the alternative is.
            ours, alternative: the two ways.
            unit: of the work.
            targets: ratio to reach, by "cpu" and "cuda".
            flops: of one unit.
            dtype: of the arithmetic.
            traffic: bytes that one unit must move at least.
            working_set: bytes among which they move.
            others: further ways measured in the same turns.
            profiled: a short form of ours to profile.

        Returns:
            The entry: ``seconds`` per unit of every way, the ``ratio`` of the alternative's to ours (both as median
            and quartiles), whether it reaches the target, the ``limit``, and, where it does not, a ``profile``.
        """
        seconds = self.in_turns({"ours": ours, "alternative": alternative, **(others or {})})
        ratio = spread([slow / fast for slow, fast in zip(seconds["alternative"], seconds["ours"], strict=True)])
        spreads = {way: spread(found) for way, found in seconds.items()}
        bounds = {
            "arithmetic": flops / self.flop_rates[dtype],
            "memory": traffic / self.bandwidth(working_set) if traffic else 0.0,
        }
        bound = max(bounds, key=lambda key: bounds[key])
        target = targets.get(self.device.type)
        entry = {
            "name": name,
            "against": against,
            "unit": unit,
            "seconds": spreads,
            "ratio": ratio,
            "target": target,
            "reached": None if target is None else ratio["median"] >= target,
            "limit": {
                "bound": f"{bound} ({dtype})" if bound == "arithmetic" else bound,
                "seconds": bounds[bound],
                "share": bounds[bound] / spreads["ours"]["median"],
            },
        }
        if entry["reached"] is False and not self.quick:
            entry["profile"] = profile(profiled or ours)
        return entry

    def in_turns(self, ways: Mapping[str, Way]) -> dict[str, list[float]]:
        """Seconds per unit of every way and repeat; the first turn fills caches and is not counted."""
        found: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(self.repeats + 1):
            for name in list(ways)[:: 1 if turn % 2 else -1]:
                elapsed = self.seconds(ways[name])
                if turn:
                    found[name].append(elapsed)
        return found

    def seconds(self, way: Way) -> float:
        """Seconds per unit of a way."""
        self._wait()
        began = time.perf_counter()
        work = way()
        self._wait()
        return (time.perf_counter() - began) / work

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _fastest(self, ways: Sequence[Way], work_is_one: bool = True) -> float:
        """Seconds of the fastest of some ways in the best of its repeats: a rate is what the machine can do."""
        for way in ways:
            way()
        return min(self.seconds(way) for way in ways for _ in range(5))


def profile(way: Way, rows: int = 6) -> dict[str, float]:
    """The operators that a way spends most of its time in on one core, with their shares of the operators' time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    options: dict[str, Any] = {}
    with contextlib.suppress(TypeError):  # an older torch sees the calling thread only
        options["experimental_config"] = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    # A profile sees the operators of this process alone.
    with one_thread(), record(activities=activities, **options) as found:
        way()
    kind = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    times = {event.key: float(getattr(event, kind)) for event in found.key_averages()}
    total = sum(times.values()) or 1.0
    return {key: times[key] / total for key in sorted(times, key=lambda key: -times[key])[:rows]}


def machine(bench: Bench) -> dict[str, Any]:
    """What was measured on."""
    device = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        device = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    found: dict[str, Any] = {"cpu": device, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": None}
    if bench.device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(bench.device)
    return found


def _products(size: int, dtype: torch.dtype, device: torch.device) -> list[Way]:
    """A large matrix product, by every library that torch has for it."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def default() -> float:
        torch.mm(left, right)
        return 1

    def onednn() -> float:
        product(left, right)
        return 1

    return [default, onednn] if device.type == "cpu" and has_onednn() else [default]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    lower, middle, upper = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(middle), "lower": float(lower), "upper": float(upper)}
