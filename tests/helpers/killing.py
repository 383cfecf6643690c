"""Real scripts in processes that start at once, to be killed at any moment and at any operation on a file.

A process forks from a server that has imported the heavy libraries already, so a start costs what the script does and
not the seconds of its imports.
"""

import multiprocessing
import os
import random
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULES = [
    "helpers.killing",
    "hf_vub.training.fine_tuning",
    "hf_vub.paper.reproduction",
    "hf_vub.attacks.image.attack",
    "hf_vub.paper.grid_attacks",
]
OPTIONAL = ["matplotlib.pyplot", "sklearn.datasets", "timm", "torchvision"]
PATIENCE = 3600  # seconds, on a machine that others keep busy
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def server(*more: str) -> Any:
    """Return the context of processes that have the libraries of the scripts, and ``more``, from the start."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*MODULES, *OPTIONAL, *more])
    return context


class Runs:
    """Starts of one command of one script in one folder.

    Args:
        context: of ``server``.
        command: the script's name and its options.
        folder: the working directory, which gets ``output.txt`` with what the last start wrote.
    """

    def __init__(self, context: Any, command: list[str], folder: Path):
        self.context, self.command, self.folder = context, command, folder
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, die_at: int | None = None) -> Any:
        """Start a process that runs the script and dies before its change number ``die_at`` of the folder's files."""
        process = self.context.Process(target=run_script, args=(self.command, str(self.folder), die_at), daemon=True)
        process.start()
        return process

    def finish(self) -> float:
        """Run to the end, which must be a good one, and return its seconds."""
        began = time.monotonic()
        process = self.start()
        process.join(PATIENCE)
        assert process.exitcode == 0, self.output()
        return time.monotonic() - began

    def stop(self, process: Any, after: float, how: signal.Signals) -> bool:
        """Send a signal after so many seconds, and return whether the process was still at work."""
        process.join(after)
        if process.exitcode is None:
            os.kill(process.pid, how)
        process.join(PATIENCE)
        assert process.exitcode in (0, -how, 130 if how is signal.SIGINT else 0), self.output()
        return process.exitcode != 0

    def output(self) -> str:
        """Return what the last start wrote to its standard streams."""
        return (self.folder / "output.txt").read_text(encoding="utf-8", errors="replace")

    def changes(self) -> int:
        """Return how many changes the last start made to files."""
        return int((self.folder / "changes.txt").read_text())

    def harass(self, kills: int, seconds: float, changes: int, rng: random.Random) -> dict[str, int]:
        """Kill start after start, half of them at a random moment and half at a random change of a file.

        Args:
            kills: at most so many; fewer where the run comes to its end before.
            seconds: that an undisturbed run takes.
            changes: of files, that an undisturbed run makes.
            rng: decides on everything.

        Returns:
            How many starts ended by which means.
        """
        done: dict[str, int] = {}
        while sum(done.values()) < kills:
            if rng.random() < 0.5:
                process = self.start(die_at=rng.randint(1, changes))
                process.join(PATIENCE)
                assert process.exitcode in (0, -signal.SIGKILL), self.output()
                name, killed = "at a change", process.exitcode != 0
            else:
                how = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
                name, killed = how.name, self.stop(self.start(), rng.uniform(0.02, 0.9) * seconds, how)
                if killed and how is signal.SIGINT:
                    assert "run the same command again to resume" in self.output()
            if not killed:
                break
            done[name] = done.get(name, 0) + 1
        return done


def run_script(command: list[str], folder: str, die_at: int | None) -> None:
    """Be the script, in the new process."""
    os.chdir(folder)
    multiprocessing.current_process()._config["daemon"] = False  # a daemon's loaders could have no workers
    multiprocessing.set_start_method("fork", force=True)  # as in a script, not with another server for every worker
    streams = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(streams, 1)
    os.dup2(streams, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [str(ROOT / "scripts" / command[0]), *command[1:]]
    reaper = Reaper(folder, die_at)
    sys.addaudithook(reaper)
    runpy.run_path(sys.argv[0], run_name="__main__")
    reaper.folder = "\0"
    Path("changes.txt").write_text(str(reaper.seen))


class Reaper:
    """An audit hook that counts what the process does to files in a folder, and kills it before a given deed."""

    def __init__(self, folder: str, die_at: int | None):
        self.folder, self.die_at, self.seen = os.path.realpath(folder) + os.sep, die_at, 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            changing = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            changing = event in CHANGES
        named = changing and isinstance(args[0], (str, bytes, os.PathLike))
        if named and os.path.realpath(os.fsdecode(args[0])).startswith(self.folder):
            self.seen += 1
            if self.seen == self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Sleep until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
