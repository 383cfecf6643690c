"""Seeded bad input for the scripts: command lines, data sets and files of options, and what may come of them."""

import contextlib
import dataclasses
import io
import json
import math
import os
import random
import runpy
import shutil
import sys
import traceback
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file

from helpers import odd_data
from helpers.odd_data import World
from hf_vub.runs.schema import read_result
from hf_vub.training.arguments import DataArguments, ModelArguments, VUBTrainingArguments

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
WRITTEN_LAST = ("result.json", "results.json", "report_card.json", "README.md", "embed.json", "calibration.json")
TRAINING = ["--use_cpu", "--report_to", "none", "--max_steps", "1", "--per_device_train_batch_size", "4"]


class Case(NamedTuple):
    """One start of a script.

    Attributes:
        name: what is bad about it.
        args: the script and its options; the working directory is the case's own folder.
        works: True where it must work, False where it must be refused, None where either is right.
        labels: of the classes that a training must find.
        spoilt: name of a file in the output folder that is no JSON from the start.
    """

    name: str
    args: list[str]
    works: bool | None = None
    labels: tuple[str, ...] | None = None
    spoilt: str | None = None


class Outcome(NamedTuple):
    """How a script ended: its exit code (None for an exception that it let through) and what it wrote."""

    code: int | None
    out: str
    err: str


def command(world: World, script: str) -> list[str]:
    """Return a good command of a script, a second or so of work."""
    texts = ["--model", str(world.bert), "--dataset", str(world.texts)]
    pictures = ["--model", str(world.resnet), "--dataset", str(world.images)]
    few = ["--runs", "1", "--epochs", "1", "--betas", "1e-2", "--num_examples", "2", "--attacks", "none"]
    few += ["--max_train", "12", "--max_test", "8"]
    return {
        "train_text": ["train_text.py", *texts, *TRAINING, "--max_length", "16"],
        "train_image": ["train_image.py", *pictures, *TRAINING],
        "attack_text": ["attack_text.py", *texts, "--num_examples", "1", "--query_budget", "5"],
        "attack_image": ["attack_image.py", *pictures, "--attack", "fgs", "--num_examples", "2"],
        "report_card": ["attack_image.py", *pictures, "--report_card", "--steps", "1", "--num_examples", "2"],
        "reproduce": ["reproduce.py", "cifar10", *pictures, *few, "--stress", "none"],
        "compare": ["reproduce.py", "compare", *texts, *few],
        "calibrate": ["calibrate.py", *texts, "--split", "train"],
        "guided": [
            *("attack_text.py", *texts, "--guide", str(world.guide), "--search", "both", "--num_examples", "1"),
            *("--query_budget", "5"),
        ],
    }[script] + ["--output_dir", "out"]


def run(args: list[str], folder: Path) -> Outcome:
    """Run a script in this process, in a working directory of its own."""
    out, err = io.StringIO(), io.StringIO()
    argv, here, path = sys.argv, Path.cwd(), list(sys.path)
    sys.argv = [str(SCRIPTS / args[0]), *args[1:]]
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    code: int | None = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
    except BaseException:
        code = None
        err.write(traceback.format_exc())
    finally:
        os.chdir(here)
        sys.argv, sys.path[:] = argv, path
    return Outcome(code, out.getvalue(), err.getvalue())


def fault(case: Case, outcome: Outcome, folder: Path) -> str | None:
    """Return what is wrong with the way a script ended, or None: refused in one sentence, or rightly done."""
    output = folder / "out"
    lines = outcome.err.strip().splitlines() or [""]
    last = lines[-1]
    if outcome.code not in (0, 2):
        return f"exit code {outcome.code}: {last}"
    for path in output.rglob("*"):
        if path.name.endswith(".tmp"):
            return f"{path.name} was left behind"
        if path.suffix == ".json" and path.is_file() and path.name != case.spoilt:
            try:
                json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                return f"{path.name} is not JSON: {error}"
    if outcome.code == 2:
        if case.works:
            return f"refused what must work: {last}"
        if "Traceback" in outcome.err:
            return "a traceback"
        if "error: " not in last or (not last.startswith("error: ") and "usage: " not in outcome.err):
            return f"the last line is no error: {last!r}"
        if len(last) > 900:
            return f"a sentence of {len(last)} characters: {last[:200]}"
        if "HF_VUB_DEBUG" in last or len(last) < len("error: ") + 8:
            return f"no clear sentence: {last}"
        kept = [path.name for path in output.rglob("*") if path.name in WRITTEN_LAST and path.name != case.spoilt]
        # Numbers that stop being finite are seen in training only.
        diverged = "try a smaller" in last or "below infinity" in last
        return f"refused, and yet wrote {kept}" if kept and not diverged else None
    if case.works is False:
        return "accepted what must be refused"
    return _unsound(case, outcome, output)


def _unsound(case: Case, outcome: Outcome, output: Path) -> str | None:
    """Return what is wrong with the files of a run that ended well."""
    if "--help" in case.args or not output.exists():
        return None if "usage" in outcome.out else "exit code 0 without a result"
    for path in output.rglob("*.safetensors"):
        for name, tensor in load_file(path).items():
            if tensor.is_floating_point() and not name.startswith("second.") and not bool(tensor.isfinite().all()):
                return f"{path.name} has {name} that is not finite"
    if "--report_card" in case.args or case.args[0] == "reproduce.py":
        written = {path.name for path in output.glob("*.json")} & {"report_card.json", "results.json"}
        return None if written else "no result"
    if case.args[0] == "calibrate.py":
        return _unsound_calibration(read_result(output / "calibration.json"))
    result = read_result(output / "result.json")
    if case.labels is not None and tuple(result["labels"]) != case.labels:
        return f"trained on the classes {result['labels']}"
    if result["kind"] == "train":
        accuracy, trained = result["metrics"]["accuracy"], result["steps"]
        if not trained and not any(word in ("0", "0.0", "-0.0", "1e-99999999") for word in case.args):
            return "nothing was trained"
    else:
        accuracy = result["clean_accuracy"]
    return None if math.isfinite(accuracy) and 0 <= accuracy <= 1 else f"an accuracy of {accuracy}"


def _unsound_calibration(result: Any) -> str | None:
    """Return what is wrong with a calibration that was written."""
    numbers = [result.calibration_temperature, *result.conformal_thresholds.values()]
    for measured in result.measurements:
        for metrics in (measured.before, measured.after):
            numbers += [metrics.nll.value, metrics.ece.value, metrics.accuracy.value, metrics.accuracy.high]
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or result.calibration_temperature == 0:
        return f"a calibration with the numbers {numbers}"
    return None if result.num_temperature + result.num_thresholds >= 4 else "a calibration on almost no rows"


# Numbers and words

NUMBERS = ["-1", "0", "0.5", "nan", "inf", "-inf", "1e400", "1e-99999999", "x", "", "1_0", "0x10", "½", "1,5", "2 3"]
HUGE = ["9" * 30, "1e30", "4294967296", "-9223372036854775809"]
LONG = {"num_train_epochs", "max_steps", "runs", "epochs", "steps", "cw_steps", "dataloader_num_workers", "num_samples"}
"""Options of which a huge value is honest work without an end."""
SCARCE = {"latent_size", "num_train_samples", "num_eval_samples", "dataloader_prefetch_factor", "beta_cycles"}
WORDS = ["", "vanila", "None", "a b", "é", "../..", "%s", "{0}", "x" * 5000, "first\nsecond", "*", "[", "0.1.2"]
CHOICES = {
    "train_text": ["objective", "pooling", "lr_decay", "beta_schedule", "feature_dtype", "lr_scheduler_type", "optim"],
    "train_image": ["objective", "eval_strategy", "metric_for_best_model", "train_split", "label_column"],
    "attack_text": ["recipe", "noise", "how", "match_labels", "split", "text_column"],
    "attack_image": ["attack", "noise", "how", "match_labels", "target", "image_column", "epsilons", "split"],
    "report_card": ["noise", "transfer_from", "epsilons", "how"],
    "reproduce": ["attacks", "objectives", "epsilons", "how", "match_labels", "stress", "target"],
    "compare": ["attacks", "objectives", "task", "text_column", "match_labels"],
    "calibrate": ["probabilities", "split", "match_labels", "task", "text_column", "label_column", "revision"],
    "guided": ["guide", "search", "recipe", "split", "match_labels", "noise"],
}


def numeric_options(script: str, world: World) -> list[str]:
    """Return the names of a script's options that take numbers."""
    if script.startswith("train"):
        kinds: list[Any] = [ModelArguments, DataArguments, VUBTrainingArguments]
    else:
        kinds = [runpy.run_path(str(SCRIPTS / command(world, script)[0]))["Arguments"]]
    names = []
    for kind in kinds:
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            parts = {hints[field.name], *typing.get_args(hints[field.name])}
            if parts & {int, float, list[float]} and bool not in parts and field.init:
                names.append(field.name)
    return sorted({*names} - {"local_rank", "ddp_timeout", "past_index", "tpu_num_cores"})


def bad_number(world: World, rng: random.Random, folder: Path) -> Case:
    script = rng.choice(list(CHOICES))
    name = rng.choice(numeric_options(script, world))
    value = rng.choice(NUMBERS + ([] if name in LONG else HUGE))
    works = False if value in ("nan", "x", "", "½", "1,5", "0x10", "2 3") else None
    return Case(f"{script} --{name} {value}", [*command(world, script), f"--{name}={value}"], works)


BUDGETS = ["1e-99999999", "1e99999999", "0", "-1", "nan", "inf", "1/0", "8/", "/", "1e400", "2", "x", "9" * 5000]
SHARES = ["0", "1", "-0.1", "1.5", "nan", "inf", "1e400", "x", "", "5%", "1/20", "0,05", "9" * 400]


def bad_budget(world: World, rng: random.Random, folder: Path) -> Case:
    script = rng.choice(["attack_image", "report_card", "reproduce"])
    value = rng.choice(BUDGETS)
    more = ["--attacks", "fgs"] if script == "reproduce" else []
    return Case(f"{script} --epsilons {value[:20]}", [*command(world, script), *more, f"--epsilons={value}"], False)


def bad_share(world: World, rng: random.Random, folder: Path) -> Case:
    value = rng.choice(SHARES)
    good = rng.choice([[], ["0.1"]])
    return Case(
        f"calibrate --miscoverage {value[:20]}", [*command(world, "calibrate"), "--miscoverage", *good, value], False
    )


def bad_word(world: World, rng: random.Random, folder: Path) -> Case:
    script = rng.choice(list(CHOICES))
    name, value = rng.choice(CHOICES[script]), rng.choice(WORDS)
    return Case(f"{script} --{name} {value[:20]!r}", [*command(world, script), f"--{name}={value}"])


def bad_form(world: World, rng: random.Random, folder: Path) -> Case:
    """An option without its value, one that does not exist, or a word too many."""
    script = rng.choice(list(CHOICES))
    good = command(world, script)
    more = rng.choice([["--seed"], ["--sead", "1"], ["word"], ["--"], ["-x"], ["--seed", "1", "2"], ["--model"]])
    more = rng.choice([more, ["--see", "1"], ["--seed=1=2"]])
    if rng.random() < 0.2:
        place = good.index("--dataset")
        return Case(
            f"{script} without --dataset", good[:place] + good[place + 2 :], None if script == "reproduce" else False
        )
    return Case(f"{script} {' '.join(more)}", [*good, *more], None if more == ["--"] else False)


# Files of options

# Eight times eight texts, in lists in lists: a megabyte for each level.
BOMB = (
    "objective: "
    + "".join(f"&{name} [" for name in "hgfedcba")
    + "x"
    + "".join(f"{f', *{name}' * 9 if name != 'z' else ', x' * 9}]" for name in "zabcdefg")
)
OPTIONS = [
    ("scalar for a list", "{epsilons: 0.1}", "attack_image", True),
    ("scalar for a list", "{epsilons: 8/255}", "attack_image", True),
    ("scalar for a list", "{transfer_from: nowhere}", "report_card", False),
    ("scalar for a list", "{betas: 1e-2, objectives: vib}", "reproduce", None),
    ("list for a scalar", "{seed: [1, 2]}", "attack_image", False),
    ("list for a scalar", "{learning_rate: [1e-3]}", "train_text", False),
    ("mapping for a scalar", "{objective: {a: 1}}", "train_text", False),
    ("mapping for a list", "{epsilons: {a: 1}}", "attack_image", False),
    ("list of lists", "{epsilons: [[0.1]]}", "attack_image", False),
    ("unknown name", "{sead: 1}", "train_text", False),
    ("number for a name", "{1: 2}", "train_text", False),
    ("not a mapping", "[1, 2]", "train_text", False),
    ("not a mapping", "word", "attack_image", False),
    ("nothing", "", "train_text", None),
    ("broken", "{seed: ", "train_text", False),
    ("broken", "a: b: c", "attack_image", False),
    ("code", "!!python/object/apply:pathlib.Path.touch [{canary}]", "train_text", False),
    ("code", "seed: !!python/object/apply:os.system ['touch {canary}']", "attack_image", False),
    ("nothing for a number", "{seed: null}", "train_text", None),
    ("date for a number", "{seed: 2020-01-01}", "train_text", False),
    ("truth for a number", "{max_train: true}", "train_text", None),
    ("truth for a word", "{objective: yes}", "train_text", False),
    ("not a number", "{learning_rate: .nan}", "train_text", False),
    ("infinite", "{num_train_epochs: .inf}", "train_text", False),
    ("infinite", "{learning_rate: 1e400}", "train_text", False),
    ("text for a truth", "{augment: maybe}", "train_image", False),
    ("fraction for a count", "{num_examples: 1.5}", "attack_image", False),
    ("endless", "{objective: &a [*a]}", "train_text", False),
    ("bomb", BOMB, "train_text", False),
    ("bomb for a list", BOMB.replace("objective", "epsilons"), "attack_image", False),
]


def bad_options(world: World, rng: random.Random, folder: Path) -> Case:
    what, text, script, works = rng.choice(OPTIONS)
    good = command(world, script)
    for name in [
        name for name in good if name.startswith("--") and f"{name[2:]}:" in text
    ]:  # the command line would override it
        place = good.index(name)
        good[place : place + 2] = []
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "options.yaml"
    path.write_text(text.replace("{canary}", str(world.canary)), encoding="utf-8")
    kind = rng.randrange(10)
    if kind == 0:
        path, works = folder / rng.choice(["absent.yaml", "absent.json"]), False
    elif kind == 1:
        path, works = folder / "options.json", False
        path.write_bytes(rng.choice([b"\xff\xfe\0", b"{", b"[]", b'{"seed": [}', b"null", b'{"seed": "\xff"}', b"NaN"]))
    elif kind == 2:
        path, works = folder / "folder.yaml", False
        path.mkdir()
    return Case(f"{script}: options, {what if kind > 2 else path.name}", [good[0], path.name, *good[1:]], works)


# Data sets


def odd_text_data(world: World, rng: random.Random, folder: Path) -> Case:
    found = odd_data.odd_texts(world, rng, folder / "data")
    what = rng.choice(sorted(found))
    name, works = found[what]()
    script = rng.choice(["train_text", "train_text", "train_text", "compare", "attack_text", "calibrate"])
    if script != "train_text":  # they look at other splits, and need other numbers of rows
        works = None
    return Case(f"{script}: texts, {what}", [*command(world, script), f"--dataset={name}"], works)


def odd_image_data(world: World, rng: random.Random, folder: Path) -> Case:
    (folder / "data").mkdir(parents=True)
    found = odd_data.odd_pictures(world, rng, folder / "data")
    what = rng.choice(sorted(found))
    name, works = found[what]()
    script = rng.choice(["train_image", "train_image", "attack_image", "report_card"])
    if script != "train_image" and works:
        works = None
    return Case(f"{script}: pictures, {what}", [*command(world, script), f"--dataset={name}"], works)


PATTERNS = ["reviews[1].csv", "reviews?.csv", "reviews*.csv", "reviews{1}.csv", "[r]eviews1.csv", "d[1]/train.csv"]


def bracketed(world: World, rng: random.Random, folder: Path) -> Case:
    """A file or folder whose name would be a pattern, next to files that the pattern matches."""
    make = odd_data.Maker(world, folder / "data")
    make.csv("reviews1.csv", label=["wrong", "file"] * 4)
    name = rng.choice(PATTERNS)
    path = make.csv(name, label=["right", "rows"] * 4)
    if path.name == "train.csv":
        path = path.parent
    args = [*command(world, "train_text"), f"--dataset={path}"]
    return Case(f"train_text: brackets, {name}", args, True, ("right", "rows"))


# Models and folders of earlier runs


def odd_model(world: World, rng: random.Random, folder: Path) -> Case:
    """A model of the other medium, a damaged one, or none."""
    script = rng.choice(list(CHOICES))
    text = script in ("train_text", "attack_text", "compare", "calibrate", "guided")
    right, other = (world.bert, world.resnet) if text else (world.resnet, world.bert)
    model = folder / "model"
    shutil.copytree(right, model)
    file = rng.choice(sorted(path.name for path in right.iterdir() if path.name != "special_tokens_map.json"))
    content = (model / file).read_bytes()
    change = rng.randrange(6)
    if change == 0:
        return Case(f"{script}: other medium", [*command(world, script), f"--model={other}"], False)
    if change == 1:
        name = rng.choice(["", "nowhere", "./nowhere", "/dev/null", str(right / "config.json"), "a/b/c", "..", "\n"])
        return Case(f"{script}: model {name[-12:]!r}", [*command(world, script), f"--model={name}"], False)
    if change == 2:
        (model / file).unlink()
    elif change == 3:
        (model / file).write_bytes(content[: rng.randrange(len(content))])
    elif change == 4:
        (model / file).write_bytes(rng.choice([b"", b"{}", b"[]", b"null", b"\0" * 64, rng.randbytes(99)]))
    else:
        changes: list[dict[str, Any]] = [
            {"dtype": "floaty"}, {"torch_dtype": 7}, {"hidden_act": "nonsense"}, {"vocab_size": 3}, {"num_labels": -1},
            {"hidden_size": "x"}, {"model_type": "nonsense"}, {"hidden_size": 7}, {"id2label": 3}, {"depths": []},
            {"num_hidden_layers": 10**9}, {"depths": [10**9]}, {"num_hidden_layers": -1}, {"hidden_sizes": "x"},
        ]  # fmt: skip
        changed = rng.choice(changes)
        file = f"config.json {changed}"
        (model / "config.json").write_text(json.dumps({**json.loads((right / "config.json").read_text()), **changed}))
    option = "guide" if script == "guided" and rng.random() < 0.7 else "model"
    return Case(
        f"{script}: {option}, {['', '', 'no', 'cut', 'spoilt', 'odd'][change]} {file}",
        [*command(world, script), f"--{option}={model}"],
    )


def earlier_run(world: World, rng: random.Random, folder: Path) -> Case:
    """A folder that holds the run of something else, or rubbish under its names."""
    script = rng.choice(list(CHOICES))
    out = folder / "out"
    out.mkdir(parents=True)
    names = ["result.json", "run.json", "records.jsonl", "settings.json", "checkpoint-1", "_lock", "", "README.md"]
    name = rng.choice([*names, "calibration.json", "config.json"] if script == "calibrate" else names)
    if name == "checkpoint-1":
        (out / name).mkdir()
        (out / name / "trainer_state.json").write_bytes(rng.choice([b"", b"{}", b'{"global_step": 1}', b"[1]"]))
    elif name:
        content = [b"", b"{}", b"[]", b"{", b'{"kind": "train"}', b'{"schema": 9}', b"\xff\xfe", b'{"index": "x"}\n{']
        (out / name).write_bytes(rng.choice(content))
    else:
        shutil.rmtree(out)
        out.write_bytes(b"a file")
    return Case(
        f"{script}: out holds {name or 'nothing: it is a file'}",
        command(world, script),
        spoilt="trainer_state.json" if name == "checkpoint-1" else name,
    )


def odd_calibration(world: World, rng: random.Random, folder: Path) -> Case:
    """A calibrated checkpoint whose calibration is damaged, or that is calibrated again."""
    model, ours = folder / "model", rng.random() < 0.7
    shutil.copytree(world.ours if ours else world.bert, model)
    good = {"probabilities": "posterior", "calibration_temperature": 1.5, "conformal_thresholds": {"0.1": 0.4}}
    bad = rng.choice(sorted(ODD_CALIBRATION, key=str))
    if ours:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, **good, bad[0]: bad[1]}))
    else:
        content = rng.choice(
            [b"", b"{}", b"[]", b'{"kind": "calibration"}', json.dumps({**good, bad[0]: bad[1]}).encode()]
        )
        (model / "calibration.json").write_bytes(content)
    script = rng.choice(["calibrate", "calibrate", "attack_text", "guided", "train_text"])
    more = rng.choice([[], ["--refit"]]) if script == "calibrate" else []
    args = [*command(world, script), *more, f"--{'guide' if script == 'guided' else 'model'}={model}"]
    works = False if ours else None
    return Case(f"{script}: calibrated with {bad}", args, works, spoilt="calibration.json")


ODD_CALIBRATION: list[tuple[str, Any]] = [
    *(("calibration_temperature", value) for value in (0, -1, "x", None, True, [1.0], 1e400, math.nan, -1e-300)),
    *(("probabilities", value) for value in ("", "Softmax", None, 1, ["softmax"], "os.system", {"a": 1})),
    *(("conformal_thresholds", value) for value in (3, "x", [0.1], [[0.1, 0.2, 0.3]], {"x": 0.1}, {"0.1": "x"})),
    *(("conformal_thresholds", value) for value in ({"2": 0.1}, {"0.1": 2}, {"0.1": None}, {"nan": 0.1}, {"-1": 0})),
    *(("calibrated_logits", value) for value in ("x", 2, None, [], {})),
]


def resumed(world: World, rng: random.Random, folder: Path) -> Case:
    """A training that goes on from what is not there."""
    name = rng.choice(["nowhere", "out/checkpoint-9", "True", str(world.bert), "", "/dev/null"])
    args = [*command(world, "train_text"), f"--resume_from_checkpoint={name}"]
    return Case(f"train_text: resume from {name[-12:]!r}", args, None if name == "" else False)


CATEGORIES = (
    *(bad_number, odd_text_data, odd_model, bad_options, odd_image_data, bad_word, bad_budget, earlier_run, bad_form),
    *(bracketed, bad_number, odd_text_data, resumed, bad_share, odd_calibration),
)


def cases(world: World, folder: Path, count: int, seed: int) -> Iterator[tuple[Case, Path]]:
    """Yield so many cases, each with the folder that it runs in."""
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        at = folder / f"{number}"
        yield CATEGORIES[number % len(CATEGORIES)](world, rng, at), at
