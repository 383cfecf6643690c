"""Independent jobs on the cores of a CPU: in processes forked for them, as threads of one wait for one interpreter."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.multiprocessing import ProcessExitedException, start_processes

Job = Callable[[int, Callable[[int], Any]], None]
"""Takes the number of the job, and what it calls with every bit of progress."""


def usable_cores(jobs: int) -> int:
    """Processes to divide so many jobs among: one per thread of torch; 1, this one, where forking is not safe."""
    can_fork = sys.platform == "linux" and not multiprocessing.current_process().daemon
    return max(1, min(torch.get_num_threads(), jobs)) if can_fork else 1


def divide(jobs: int, job: Job, processes: int, progress: Callable[[int], Any]) -> None:
    """Do jobs 0 to ``jobs - 1``, each process taking the next one when it is done with another; torch has one thread.

    Args:
        jobs: how many.
        job: is called with a job's number; what it finds it must leave in files where there are several processes.
        processes: as :func:`usable_cores` says; with 1 the jobs are done here.
        progress: is called in this process with what jobs report.

    Raises:
        RuntimeError: a process was killed.
        Exception: whatever a job raises; all others are stopped then, as they are by an interrupt or by the end of
            this process.
    """
    if processes == 1:
        with one_thread():
            for number in range(jobs):
                job(number, progress)
        return
    taken, done = multiprocessing.Value("q", 0), multiprocessing.RawArray("q", processes)
    failures: Any = multiprocessing.SimpleQueue()
    told = 0

    def work(place: int) -> None:
        # The end of the first process comes as an interrupt, which a shell's background jobs are born to ignore.
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
            progress(sum(done) - told)
            told = sum(done)
    except ProcessExitedException as error:
        raise RuntimeError(
            f"a process was lost ({error.signal_name or error.exit_code}), perhaps for want of memory; what had been "
            "saved is kept, and the same call goes on from there"
        ) from error
    finally:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGINT)
            process.join()
    if not failures.empty():
        raise failures.get()
    progress(sum(done) - told)


def _keep_memory() -> None:
    """Let this process keep what it frees: memory given back to the system comes again page by page, with every step.

    Gradients of a few megabytes are freed in every step: whether the allocator gives them back is chance, and costs up
    to half of a step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # the GNU C library's; others have no such switch
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # as malloc.h numbers them
        mallopt(m_trim_threshold, -1)  # never
        mallopt(m_mmap_max, 0)  # no allocation gets a map of its own, which would go when it is freed


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
