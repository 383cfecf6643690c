"""Bad input, hostile files: one sentence and exit code 2, or the right result; nothing runs, nothing is fetched.

The default run tries a few, the full one (``pytest -m slow tests/test_fuzz.py``) 720 bad inputs and 400 hostile files.
Every case is drawn from its number alone, so that a fault can be seen again.
"""

import importlib.util
import io
import logging
import shutil
import sys
from collections import Counter

import datasets
import pytest

from helpers import fuzzing, hostile
from helpers.odd_data import World

pytest.importorskip("foolbox")
pytest.importorskip("matplotlib", reason="the report needs matplotlib")
TEXT_ATTACKS = importlib.util.find_spec("textattack") is not None
SEED = 18


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def checkpoints(world):
    return hostile.Checkpoints(world)


@pytest.fixture(scope="module")
def watch(world):
    return hostile.Watch(world.secret.parents[1])


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch):
    """Cache data sets in a folder of the test, draw no bars, and answer yes to whatever asks."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    datasets.disable_progress_bars()
    logging.disable(logging.CRITICAL)


def told(capsys, line):
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")


@pytest.mark.parametrize("count", [45, pytest.param(720, marks=pytest.mark.slow)])
def test_bad_input_is_refused_in_one_sentence_or_works(world, tmp_path, count, capsys):
    faults, ended = [], Counter()
    for number, (case, folder) in enumerate(fuzzing.cases(world, tmp_path / "cases", count, SEED)):
        if case.args[0] == "attack_text.py" and not TEXT_ATTACKS:
            ended["not tried"] += 1
            continue
        outcome = fuzzing.run(case.args, folder)
        ended["worked" if outcome.code == 0 else "refused"] += 1
        fault = "it ran code" if world.canary.exists() else fuzzing.fault(case, outcome, folder)
        if fault is not None:
            faults.append(f"{number} {case.name}: {fault}")
        world.canary.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    if count > 100:
        told(capsys, f"{count} bad inputs: {dict(ended)}, {len(faults)} faults")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_hostile_files_run_nothing_and_fetch_nothing(world, checkpoints, watch, tmp_path, count, capsys):
    faults, ended = [], Counter()
    for number, (attempt, folder) in enumerate(hostile.attempts(checkpoints, tmp_path / "files", count, SEED)):
        fault = None
        try:
            with watch:
                attempt.read()
            ended["read"] += 1
        except hostile.CLEAR as error:
            ended["refused"] += 1
            if len(str(error)) > 900:
                fault = f"an error of {len(str(error))} characters"
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        if world.canary.exists():
            fault = "it ran code"
        if watch.deeds:
            fault = f"it {watch.deeds}"
        if fault is not None:
            faults.append(f"{number} {attempt.name[:100]}: {fault}")
        world.canary.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    if count > 100:
        told(capsys, f"{count} hostile files: {dict(ended)}, {len(faults)} faults")
    assert not faults, "\n".join(faults)


def test_the_watch_sees_what_it_watches_for(world, watch):
    with watch:
        world.secret.read_bytes()
    assert watch.deeds
    assert hostile.Canary(world.canary).__reduce__()[0] is open


OPTIONS_TOLD_BEFORE_ANY_WORK = ["--epsilons=x", "--attacks=pwws", "--stress=x", "--learning_rate=0", "--how=x"]


@pytest.mark.parametrize("option", [*OPTIONS_TOLD_BEFORE_ANY_WORK, "--match_labels=x", "--runs=0", "--betas=-1"])
def test_a_reproduction_says_what_is_wrong_before_any_work(world, tmp_path, option):
    outcome = fuzzing.run([*fuzzing.command(world, "reproduce"), "--attacks", "fgs", option], tmp_path)
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_a_report_card_says_what_is_wrong_before_any_attack(world, tmp_path, monkeypatch):
    from hf_vub.attacks.image.adversary import Attack

    monkeypatch.setattr(Attack, "__call__", lambda *args: pytest.fail("something was attacked"))
    command = [*fuzzing.command(world, "report_card"), "--transfer_from", str(tmp_path / "nowhere")]
    outcome = fuzzing.run(command, tmp_path)
    assert outcome.code == 2
    assert "nowhere" in outcome.err.splitlines()[-1]


def test_a_report_card_goes_on_from_the_batches_it_has(world, tmp_path, monkeypatch):
    """Stopped in the middle, it attacks only what is missing and ends with the same card; other settings fail."""
    from hf_vub.attacks import report_card
    from hf_vub.attacks.image.trial import Trial

    options = {"num_examples": 8, "batch_size": 4, "steps": 2, "square_steps": 5, "progress": False}
    whole = report_card(world.resnet, world.images, **options, output_dir=tmp_path / "whole")
    measured = []
    survival = Trial.survival

    def stop_at(number):
        def stopped(*args):
            if len(measured) == number:
                raise KeyboardInterrupt
            measured.append(args)
            return survival(*args)

        return stopped

    monkeypatch.setattr(Trial, "survival", stop_at(2))
    with pytest.raises(KeyboardInterrupt):
        report_card(world.resnet, world.images, **options, output_dir=tmp_path / "stopped")
    monkeypatch.setattr(Trial, "survival", survival)
    records = tmp_path / "stopped" / "report_card" / "records.jsonl"
    done = records.read_text()
    resumed = report_card(world.resnet, world.images, **options, output_dir=tmp_path / "stopped")
    assert records.read_text().startswith(done)
    assert done.count("\n") > 1
    assert {**dict(resumed), "seconds": 0} == {**dict(whole), "seconds": 0}
    assert (whole.steps, whole.has_training_record) == ({"pgd": 2, "square": 5}, False)
    with pytest.raises(ValueError, match="holds a run with epsilon"):
        report_card(world.resnet, world.images, **options, epsilon=0.5, output_dir=tmp_path / "stopped")
