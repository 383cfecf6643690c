"""The whole story in minutes, offline and on built-in data: train, put a bottleneck on, and attack.

    python scripts/quickstart.py

Two small classifiers are trained from scratch: a timm network on scikit-learn's handwritten digits, and a transformer
on generated film reviews, hard enough that a linear bag of words stays under 90% of them. Each is then frozen, and a
VIB and a VUB head are trained on its features, as in the paper. A table for each compares the three on held-out data:
accuracy, negative log-likelihood, calibration (ECE), the rate in nats, and attacks: how often the fast gradient sign
(FGS), DeepWordBug and PWWS succeed, and the mean L2 distance at which Carlini-Wagner (CW) does.
An attack for which something is missing is skipped, with the reason. Everything is kept in --output_dir: checkpoints
with their result files and cards, information_plane.png, and examples of each attack on the VUB models.
"""

import logging
import warnings
from dataclasses import dataclass, field
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
from hf_vub.paper.report import write_model_card
from hf_vub.reports import plots
from hf_vub.reports.examples import write_examples
from hf_vub.reports.tables import Table
from hf_vub.runs.files import read_records, write_json
from hf_vub.training.fine_tuning import DataArguments, ModelArguments, fine_tune


@dataclass
class Arguments:
    """What a quick start lets one choose."""

    output_dir: str = field(default="outputs/quickstart", metadata={"help": "Folder for all that is made."})
    beta: float = field(default=1e-3, metadata={"help": "Weight of the rate in VIB and VUB."})
    num_examples: int = field(default=32, metadata={"help": "Held-out examples under attack."})
    seed: int = field(default=0, metadata={"help": "Of data, weights, noise and attacks."})


OBJECTIVES = ("vanilla", "vib", "vub")
# Per task: the data, the training of the vanilla model and of the heads, and the attacks by the titles of columns.
TASKS: dict[str, dict[str, Any]] = {
    "image": {
        "caption": "held-out digits (rate in nats; attacks: success, CW with its mean L2)",
        "dataset": "digits",
        "vanilla": {"num_train_epochs": 8, "learning_rate": 3e-3, "per_device_train_batch_size": 32},
        "heads": {"num_train_epochs": 20, "learning_rate": 1e-3, "per_device_train_batch_size": 32},
        "attacks": {"FGS 8/255": {"attack": "fgs", "epsilon": "8/255"}, "CW": {"attack": "cw", "steps": 100}},
    },
    "text": {
        "caption": "held-out generated reviews (rate in nats; attacks: success)",
        "dataset": "synthetic-reviews",
        "vanilla": {"num_train_epochs": 8, "learning_rate": 1e-3, "per_device_train_batch_size": 32},
        "heads": {"num_train_epochs": 10, "learning_rate": 1e-3, "per_device_train_batch_size": 64},
        "attacks": {"DeepWordBug": {"recipe": "deepwordbug"}, "PWWS": {"recipe": "pwws"}},
    },
}
MAX_LENGTH = 96


def train(task: str, objective: str, model: str, arguments: Arguments) -> dict[str, Any]:
    """Train one classifier, and test it."""
    plan, folder = TASKS[task], Path(arguments.output_dir)
    vanilla = objective == "vanilla"
    training = VUBTrainingArguments(
        str(folder / f"{task}-{objective}"),
        seed=arguments.seed,
        per_device_eval_batch_size=256,
        eval_strategy="no" if vanilla else "epoch",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        **plan["vanilla" if vanilla else "heads"],
    )
    options = ModelArguments(
        model, objective, beta=arguments.beta, from_scratch=vanilla, freeze_backbone=not vanilla, image_size=32
    )
    data = DataArguments(plan["dataset"], max_length=MAX_LENGTH, feature_cache=str(folder / "features"))
    return fine_tune(task, options, data, training)


def attack(task: str, title: str, arguments: Arguments) -> dict[str, dict[str, Any]]:
    """The results of one attack on a task's three classifiers; on texts they share what their backbone computes."""
    models = [Path(arguments.output_dir) / f"{task}-{objective}" for objective in OBJECTIVES]
    place = Path(arguments.output_dir) / "attacks" / title.replace("/", "-").replace(" ", "-").lower()
    options = {**TASKS[task]["attacks"][title], "num_examples": arguments.num_examples, "seed": arguments.seed}
    data = TASKS[task]["dataset"]
    if task == "text":
        shared, heads = shared_heads(models)
        options |= {"max_length": MAX_LENGTH, "output_dir": place}
        found = attack_text_heads(shared, heads, data, tokenizer=models[0], **options)
    else:
        found = {
            model.name: attack_image(model, data, output_dir=place / model.name, **options)
            for model in models
        }
    write_examples(place / models[-1].name)
    return found


def table(task: str, rows: dict[str, dict[str, Any]], attacks: dict[str, dict[str, dict[str, Any]]]) -> Table:
    """One task's three classifiers side by side."""
    made = Table(task, TASKS[task]["caption"], ["model", "accuracy", "NLL", "ECE", "rate", *attacks])
    for name, row in rows.items():
        metrics = row["metrics"]
        cells = [row["objective"], f"{metrics['accuracy']:.1%}", f"{metrics['nll']:.3f}", f"{metrics['ece']:.3f}"]
        cells.append(f"{metrics['rate']:.1f}" if "rate" in metrics else "-")
        for title, found in attacks.items():
            rate, distance = found[name]["attack_success_rate"], found[name].get("l2_mean")
            shown = "-" if rate is None else f"{rate:.1%}"
            cells.append(f"{distance:.2f}, {shown}" if title == "CW" and distance is not None else shown)
        made.rows.append(cells)
    return made


@command
def main() -> None:
    """Train, freeze, put bottlenecks on, attack, and show."""
    (arguments,) = parse(Arguments)
    from rich.console import Console

    set_verbosity_error()
    disable_progress_bar()
    disable_progress_bars()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # models as small as these gain nothing from more, and lose where cores are busy
    folder = Path(arguments.output_dir)
    reviews = synthetic.reviews(seed=arguments.seed)["train"]["text"]
    starts = {"image": "timm/test_resnet", "text": synthetic.small_transformer(folder / "text-backbone", reviews)}
    everything, skipped, planes = [], {}, {}
    for task, model in starts.items():
        rows, attacks = {}, {}
        for objective in OBJECTIVES:
            rows[f"{task}-{objective}"] = train(task, objective, model, arguments)
            lines = read_records(folder / f"{task}-{objective}" / "information_plane.jsonl")
            planes[f"{task}, {objective}"] = list(lines)
            model = str(folder / f"{task}-vanilla")  # what the heads are put on
        for title in TASKS[task]["attacks"]:
            try:
                attacks[title] = attack(task, title, arguments)
            except (ImportError, ResourceError) as error:
                skipped[title] = str(error)
        for name, row in rows.items():
            everything.append({**row, "attacks": [found[name] for found in attacks.values()]})
            write_model_card(folder / name, row, everything[-1]["attacks"])
        Console().print(table(task, rows, attacks).rich())
    for title, reason in skipped.items():
        print(f"skipped: {title}: {reason}")
    write_json(folder / "results.json", {"rows": everything, "skipped": skipped})
    plots.save(plots.trajectories(planes), folder / "information_plane")
    print(f"checkpoints, cards, results.json, examples of attacks and information_plane.png are in {folder}")


if __name__ == "__main__":
    main()
