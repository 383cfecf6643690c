"""Independent jobs on the cores of a CPU, in forked processes: threads would wait for one interpreter."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import SimpleQueue

import torch
from torch.multiprocessing import ProcessExitedException, start_processes

Job = Callable[[int, Callable[[int], object]], None]
"""Takes the number of the job, and a function that it calls with its progress."""


def usable_cores(jobs: int) -> int:
    """Return how many processes to use for so many jobs: one per thread of torch, or 1 where forking is not safe."""
    can_fork = sys.platform == "linux" and not multiprocessing.current_process().daemon
    return max(1, min(torch.get_num_threads(), jobs)) if can_fork else 1


def divide(jobs: int, job: Job, processes: int, progress: Callable[[int], object]) -> None:
    """Run jobs 0 to ``jobs - 1``; each process takes the next one when it is done, and gives torch one thread.

    With several processes a job must write its results to files; with one (see :func:`usable_cores`) the jobs run in
    this process. ``progress`` is called in this process with the progress that jobs report.

    Raises:
        RuntimeError: a process was killed.
        Exception: whatever a job raises. All others are then stopped, as by an interrupt or the end of this process.
    """
    if processes == 1:
        with one_thread():
            for number in range(jobs):
                job(number, progress)
        return
    taken, done = multiprocessing.Value("q", 0), multiprocessing.RawArray("q", processes)
    failures: SimpleQueue[Exception] = multiprocessing.SimpleQueue()
    reported = 0

    def work(place: int) -> None:
        # The parent stops this process by an interrupt, which background jobs of a shell ignore by default.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        _keep_memory()

        def advance(by: int) -> None:
            done[place] += by

        try:
            while True:
                with taken:
                    number = taken.value
                    taken.value += 1
                if number >= jobs:
                    break
                job(number, advance)
        except KeyboardInterrupt:
            return
        except Exception as error:
            failures.put(error)

    context = start_processes(work, nprocs=processes, join=False, start_method="fork")
    try:
        while not context.join(timeout=0.2) and failures.empty():
            progress(sum(done) - reported)
            reported = sum(done)
    except ProcessExitedException as error:
        raise RuntimeError(
            f"a process was killed ({error.signal_name or error.exit_code}), perhaps because memory ran out; finished "
            "work is saved, and the same call resumes from it"
        ) from error
    finally:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGINT)
            process.join()
    if not failures.empty():
        raise failures.get()
    progress(sum(done) - reported)


def _keep_memory() -> None:
    """Stop the allocator from returning freed memory to the system.

    Every step frees gradients of a few megabytes. Whether the allocator returns them is chance, and getting them back
    page by page costs up to half of a step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only the GNU C library has it
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # as malloc.h numbers them
        mallopt(m_trim_threshold, -1)  # never
        mallopt(m_mmap_max, 0)  # no allocation in a mapping of its own, which would be unmapped when freed


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
