"""Train, add a bottleneck and attack, in minutes: offline and on built-in data.

    python scripts/quickstart.py

Two small classifiers are trained from scratch: a timm network on scikit-learn's handwritten digits, and a transformer
on generated film reviews that are hard enough to keep a linear bag of words below 90%. Each is then frozen, and a VIB
and a VUB head are trained on its features, as in the paper. One table per task compares the three on the test rows:
accuracy, negative log-likelihood, calibration (ECE), the rate in nats, and attacks: the success rate of the fast
gradient sign method (FGS), DeepWordBug and PWWS, and the mean L2 distance at which Carlini-Wagner (CW) succeeds. The
attacks on texts show two rates: searching by the model's own score, and by that of the vanilla classifier.
An attack is skipped, with the reason, if something that it needs is missing. --output_dir gets the checkpoints with
their result files and cards, results.json, information_plane.png, and examples of each attack on the VUB models.
"""

import logging
import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from hf_vub import VUBTrainingArguments
from hf_vub.attacks import attack_image, attack_text_heads, shared_heads
from hf_vub.attacks.text.nltk_resources import ResourceError
from hf_vub.command_line import command, parse
from hf_vub.data import synthetic
from hf_vub.reports import plots
from hf_vub.reports.examples import write_examples
from hf_vub.reports.model_cards import write_model_card
from hf_vub.reports.rendering import share
from hf_vub.reports.tables import Table
from hf_vub.runs.files import read_records
from hf_vub.runs.schema import ImageAttackResult, Quickstart, TextAttackResult, TrainResult
from hf_vub.training.fine_tuning import DataArguments, ModelArguments, fine_tune

Attacks = dict[str, TextAttackResult] | dict[str, ImageAttackResult]
"""Results of one attack, by classifier."""


@dataclass
class Arguments:
    """Options of the quick start."""

    output_dir: str = field(default="outputs/quickstart", metadata={"help": "Folder for everything."})
    beta: float = field(default=1e-3, metadata={"help": "Weight of the rate in VIB and VUB."})
    num_examples: int = field(default=32, metadata={"help": "Test rows attacked."})
    seed: int = field(default=0, metadata={"help": "Seed of data, weights, noise and attacks."})


@dataclass(frozen=True)
class Plan:
    """One task: its data, the training of the vanilla classifier and of the heads, and the attacks by column title."""

    caption: str
    dataset: str
    vanilla: dict[str, Any]
    heads: dict[str, Any]
    attacks: dict[str, dict[str, Any]]


OBJECTIVES = ("vanilla", "vib", "vub")
TASKS = {
    "image": Plan(
        caption="test digits (rate in nats; attacks: success, CW with its mean L2)",
        dataset="digits",
        vanilla={"num_train_epochs": 8, "learning_rate": 3e-3, "per_device_train_batch_size": 32},
        heads={"num_train_epochs": 20, "learning_rate": 1e-3, "per_device_train_batch_size": 32},
        attacks={"FGS 8/255": {"attack": "fgs", "epsilon": "8/255"}, "CW": {"attack": "cw", "steps": 100}},
    ),
    "text": Plan(
        caption="generated test reviews (rate in nats; attacks: success by own score / guided by vanilla's)",
        dataset="synthetic-reviews",
        vanilla={"num_train_epochs": 8, "learning_rate": 1e-3, "per_device_train_batch_size": 32},
        heads={"num_train_epochs": 10, "learning_rate": 1e-3, "per_device_train_batch_size": 64},
        attacks={"DeepWordBug": {"recipe": "deepwordbug"}, "PWWS": {"recipe": "pwws"}},
    ),
}
MAX_LENGTH = 96


def train(task: str, objective: str, model: str, arguments: Arguments) -> TrainResult:
    """Train one classifier and test it."""
    plan, folder = TASKS[task], Path(arguments.output_dir)
    print(f"training {task}-{objective}", file=sys.stderr)
    vanilla = objective == "vanilla"
    training = VUBTrainingArguments(
        str(folder / f"{task}-{objective}"),
        seed=arguments.seed,
        per_device_eval_batch_size=256,
        eval_strategy="no" if vanilla else "epoch",
        save_strategy="no",
        logging_strategy="no",
        log_level="error",
        report_to=[],
        **(plan.vanilla if vanilla else plan.heads),
    )
    options = ModelArguments(
        model, objective, beta=arguments.beta, from_scratch=vanilla, freeze_backbone=not vanilla,
        image_size=32 if vanilla and task == "image" else None,
    )  # fmt: skip
    data = DataArguments(plan.dataset, max_length=MAX_LENGTH, feature_cache=str(folder / "features"))
    return fine_tune(task, options, data, training)


def attack(task: str, title: str, arguments: Arguments) -> Attacks:
    """Attack a task's three classifiers; on texts they share the features of their backbone."""
    plan = TASKS[task]
    models = [Path(arguments.output_dir) / f"{task}-{objective}" for objective in OBJECTIVES]
    folder = Path(arguments.output_dir) / "attacks" / title.replace("/", "-").replace(" ", "-").lower()
    options = {**plan.attacks[title], "num_examples": arguments.num_examples, "seed": arguments.seed}
    results: Attacks
    if task == "text":
        shared, heads = shared_heads(models)
        options |= {"tokenizer": models[0], "max_length": MAX_LENGTH, "output_dir": folder}
        options |= {"guide": heads[models[0].name], "search": "both"}  # by each head's own score and by vanilla's
        results = attack_text_heads(shared, heads, plan.dataset, **options)
    else:
        results = {
            model.name: attack_image(model, plan.dataset, output_dir=folder / model.name, **options) for model in models
        }
    write_examples(folder / models[-1].name)
    return results


def table(task: str, rows: dict[str, TrainResult], attacks: dict[str, Attacks]) -> Table:
    """Return one task's three classifiers side by side."""
    made = Table(task, TASKS[task].caption, ["model", "accuracy", "NLL", "ECE", "rate", *attacks])
    for name, row in rows.items():
        metrics = row.metrics
        cells = [row.objective, share(metrics["accuracy"]), f"{metrics['nll']:.3f}", f"{metrics['ece']:.3f}"]
        cells.append(f"{metrics['rate']:.1f}" if "rate" in metrics else "-")
        for title, results in attacks.items():
            success, distance = _success(results[name]), results[name].get("l2_mean")
            cells.append(f"{distance:.2f}, {success}" if title == "CW" and distance is not None else success)
        made.rows.append(cells)
    return made


def _success(result: TextAttackResult | ImageAttackResult) -> str:
    """Return the success rate of an attack; of two searches both, by the model's own score and guided."""
    searches = result.get("searches")
    if searches is None:
        return share(result.attack_success_rate)
    return " / ".join(share(searches[search].attack_success_rate) for search in ("own", "guided"))


def run_task(task: str, model: str, arguments: Arguments, skipped: dict[str, str]) -> tuple[Table, list[TrainResult]]:
    """Train and attack a task's classifiers, write their cards, and return their table and results."""
    folder = Path(arguments.output_dir)
    rows: dict[str, TrainResult] = {}
    for objective in OBJECTIVES:
        rows[f"{task}-{objective}"] = train(task, objective, model, arguments)
        model = str(folder / f"{task}-vanilla")  # the backbone of the heads
    attacks: dict[str, Attacks] = {}
    for title in TASKS[task].attacks:
        try:
            attacks[title] = attack(task, title, arguments)
        except (ImportError, ResourceError) as error:
            skipped[title] = str(error)
    results = [replace(row, attacks=tuple(attack[name] for attack in attacks.values())) for name, row in rows.items()]
    for name, result in zip(rows, results, strict=True):
        write_model_card(folder / name, result, result.attacks or ())
    return table(task, rows, attacks), results


@command
def main() -> None:
    """Train, freeze, add bottlenecks, attack, and show the tables."""
    (arguments,) = parse(Arguments)
    from rich.console import Console

    set_verbosity_error()
    disable_progress_bar()
    disable_progress_bars()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # models this small gain nothing from more threads, and lose time on busy cores
    folder = Path(arguments.output_dir)
    reviews = synthetic.reviews(seed=arguments.seed)["train"]["text"]
    starts = {"image": "timm/test_resnet", "text": synthetic.small_transformer(folder / "text-backbone", reviews)}
    results: list[TrainResult] = []
    skipped: dict[str, str] = {}
    for task, model in starts.items():
        shown, of_task = run_task(task, model, arguments, skipped)
        results += of_task
        Console().print(shown.rich())
    for title, reason in skipped.items():
        print(f"skipped: {title}: {reason}")
    Quickstart(rows=tuple(results), skipped=skipped).save(folder / "results.json")
    planes = {
        f"{task}, {objective}": list(read_records(folder / f"{task}-{objective}" / "information_plane.jsonl"))
        for task in starts
        for objective in OBJECTIVES
    }
    plots.save(plots.trajectories(planes), folder / "information_plane")
    print(f"{folder} holds checkpoints, cards, results.json, examples of attacks and information_plane.png")


if __name__ == "__main__":
    main()
