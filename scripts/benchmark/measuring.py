"""Compare the time of two workloads that do the same work, and relate it to the limits of the machine.

The workloads take turns, so that whatever else the machine does affects both alike; medians and quartiles are over the
repeats. The limit is the time that the arithmetic or the memory traffic would take at the rates measured in the same
run, whichever is longer.
"""

import contextlib
import math
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
from torch.utils.flop_counter import FlopCounterMode

from hf_vub.compute import kernels
from hf_vub.compute.cores import one_thread
from hf_vub.runs.schema import BenchmarkEntry, Limit, Limits, Machine, Spread
from victims import TextVictim, text_victim

Workload = Callable[[], float]
"""Does some work and returns the number of units done."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two workloads that do the same work.

    Attributes:
        stage: the stage it belongs to.
        name: name of the entry.
        against: description of the alternative.
        unit: unit of the work.
        ours, alternative: the two workloads.
        others: further workloads, measured in the same turns.
        profiled: a short form of ours to profile where the target is missed.
        targets: ratio to reach, by "cpu" and "cuda".
        flops: floating point operations of one unit.
        dtype: dtype of the arithmetic.
        traffic: bytes that one unit must read and write at least.
        working_set: bytes among which they are moved.
    """

    stage: str
    name: str
    against: str
    unit: str
    ours: Workload
    alternative: Workload
    others: Mapping[str, Workload] = field(default_factory=dict)
    profiled: Workload | None = None
    targets: Mapping[str, float] = field(default_factory=dict)
    flops: float
    dtype: str = "float32"
    traffic: float = 0.0
    working_set: int = 2**28


@dataclass
class Bench:
    """Hold what all stages share: sizes, repeats, the rates of the machine and the models.

    Args:
        repeats: measurements of every workload, after one that is not counted.
        quick: take tiny sizes, to see that everything works.
        model: folder or Hub id of a text classifier; by default a random one of MiniLM's shape.
        dataset: name or path of texts; by default generated reviews as long as IMDB's.
        device: device to run on.
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
        """Return one of two sizes."""
        return quick if self.quick else full

    @property
    def parallel_runs(self) -> int:
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
            str(dtype).removeprefix("torch."): 2 * size**3 * self._best_rate(_products(size, dtype, self.device))
            for dtype in (torch.float32, torch.bfloat16)
        }

    def bandwidth(self, working_set: int) -> float:
        """Return the bytes per second, read and written, in copying within a working set of that many bytes."""
        size = max(1, working_set // 8)
        if size not in self._bandwidths:
            source, target = (torch.ones(size, device=self.device) for _ in range(2))
            times = max(1, 2**26 // size)

            def copy() -> float:
                for _ in range(times):
                    target.copy_(source)
                return 8 * size * times

            self._bandwidths[size] = self._best_rate([copy])
        return self._bandwidths[size]

    def limits(self) -> Limits:
        """Return the rates measured so far."""
        bandwidths = {str(8 * size): rate for size, rate in sorted(self._bandwidths.items())}
        return Limits(flops_per_second=self.flop_rates, bytes_per_second=bandwidths)

    def compare(self, comparison: Comparison) -> BenchmarkEntry:
        """Measure the seconds per unit of every workload, the ratio, the target and the limit."""
        workloads = {"ours": comparison.ours, "alternative": comparison.alternative, **comparison.others}
        seconds = self.in_turns(workloads)
        ratio = spread([slow / fast for slow, fast in zip(seconds["alternative"], seconds["ours"], strict=True)])
        spreads = {name: spread(measured) for name, measured in seconds.items()}
        target = comparison.targets.get(self.device.type)
        reached = None if target is None else ratio.median >= target
        missed = reached is False and not self.quick
        return BenchmarkEntry(
            stage=comparison.stage,
            name=comparison.name,
            against=comparison.against,
            unit=comparison.unit,
            seconds=spreads,
            ratio=ratio,
            target=target,
            reached=reached,
            limit=self._limit(comparison, spreads["ours"].median),
            profile=profile(comparison.profiled or comparison.ours) if missed else None,
        )

    def _limit(self, comparison: Comparison, seconds: float) -> Limit:
        arithmetic = comparison.flops / self.flop_rates[comparison.dtype]
        memory = comparison.traffic / self.bandwidth(comparison.working_set) if comparison.traffic else 0.0
        bound = "memory" if memory > arithmetic else f"arithmetic ({comparison.dtype})"
        least = max(arithmetic, memory)
        return Limit(bound=bound, seconds=least, share=least / seconds)

    def in_turns(self, workloads: Mapping[str, Workload]) -> dict[str, list[float]]:
        """Return the seconds per unit of every workload and repeat; a first turn fills caches and is not counted."""
        measured: dict[str, list[float]] = {name: [] for name in workloads}
        for turn in range(self.repeats + 1):
            for name in list(workloads)[:: 1 if turn % 2 else -1]:
                seconds = self.seconds(workloads[name])
                if turn:
                    measured[name].append(seconds)
        return measured

    def seconds(self, workload: Workload) -> float:
        """Return the seconds per unit of a workload."""
        self._synchronize()
        began = time.perf_counter()
        units = workload()
        self._synchronize()
        return (time.perf_counter() - began) / units

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _best_rate(self, workloads: Sequence[Workload]) -> float:
        """Return the units per second of the fastest workload in the best of 5 repeats."""
        for workload in workloads:
            workload()
        return 1 / min(self.seconds(workload) for workload in workloads for _ in range(5))


def profile(workload: Workload, operators: int = 6) -> dict[str, float]:
    """Return the operators that take most time on one core, with their shares of the time of all operators."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    options: dict[str, Any] = {}
    with contextlib.suppress(TypeError):  # an older torch sees the calling thread only
        options["experimental_config"] = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with one_thread(), record(activities=activities, **options) as recorded:  # it sees this process only
        workload()
    kind = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    times = {event.key: float(getattr(event, kind)) for event in recorded.key_averages()}
    total = sum(times.values()) or 1.0
    return {key: times[key] / total for key in sorted(times, key=lambda key: -times[key])[:operators]}


def machine(bench: Bench) -> Machine:
    """Describe the machine."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    gpu = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else None
    return Machine(cpu=cpu, cores=os.cpu_count(), threads=torch.get_num_threads(), gpu=gpu)


def _products(size: int, dtype: torch.dtype, device: torch.device) -> list[Workload]:
    """Return one large matrix product by every library that torch has for it."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def default() -> float:
        torch.mm(left, right)
        return 1

    def onednn() -> float:
        kernels.onednn_linear(left, right)
        return 1

    return [default, onednn] if device.type == "cpu" and kernels.has_onednn() else [default]


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles."""
    lower, middle, upper = np.quantile(values, [0.25, 0.5, 0.75])
    return Spread(median=float(middle), lower=float(lower), upper=float(upper))


def flops_per_unit(workload: Workload) -> float:
    """Return the floating point operations of one unit of a workload, which runs once."""
    products = {torch.ops.mkldnn._linear_pointwise: _product_flops} if kernels.has_onednn() else {}
    with FlopCounterMode(display=False, custom_mapping=products) as counter:
        units = workload()
    return counter.get_total_flops() / units


def _product_flops(inputs: Any, weight: Any, *others: Any, out_shape: Any = None, **options: Any) -> int:
    """Count the operations of oneDNN's product, unknown to torch's counter, which passes shapes instead of tensors."""
    return 2 * math.prod(inputs) * weight[0]
