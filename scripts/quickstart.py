"""The whole story in minutes, offline and on built-in data: train, put a bottleneck on, and attack.

    python scripts/quickstart.py

Two small classifiers are trained from scratch: a timm network on scikit-learn's handwritten digits, and a transformer
on generated film reviews, hard enough that a linear bag of words stays under 90% of them. Each is then frozen, and a
VIB and a VUB head are trained on its features, as in the paper. One table compares the three on held-out data:
accuracy, negative log-likelihood, calibration (ECE), the rate in nats, and how often attacks succeed: the fast
gradient sign at 8/255 on images, DeepWordBug on texts. Everything is kept in --output_dir: the checkpoints with their
result files and cards, and information_plane.png.
"""

import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from transformers import BertConfig
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from hf_vub import VUBTrainingArguments, attack_image, attack_text, figures, synthetic
from hf_vub.command_line import command, parse
from hf_vub.fine_tuning import DataArguments, ModelArguments, fine_tune
from hf_vub.report import write_model_card
from hf_vub.results import read_records, write_json


@dataclass
class Arguments:
    """What a quick start lets one choose."""

    output_dir: str = field(default="outputs/quickstart", metadata={"help": "Folder for all that is made."})
    beta: float = field(default=1e-3, metadata={"help": "Weight of the rate in VIB and VUB."})
    num_examples: int = field(default=40, metadata={"help": "Held-out examples under attack."})
    seed: int = field(default=0, metadata={"help": "Of data, weights, noise and attacks."})


# Per task: the data, and the options and the training of the vanilla model and of the heads.
TASKS: dict[str, dict[str, Any]] = {
    "image": {
        "dataset": "digits",
        "vanilla": {"num_train_epochs": 8, "learning_rate": 3e-3, "per_device_train_batch_size": 32},
        "heads": {"num_train_epochs": 20, "learning_rate": 1e-3, "per_device_train_batch_size": 32},
    },
    "text": {
        "dataset": "synthetic-reviews",
        "vanilla": {"num_train_epochs": 8, "learning_rate": 1e-3, "per_device_train_batch_size": 32},
        "heads": {"num_train_epochs": 10, "learning_rate": 1e-3, "per_device_train_batch_size": 64},
    },
}


def text_backbone(folder: Path, seed: int) -> str:
    """Write the configuration and the tokenizer of a small transformer, and name the folder."""
    tokenizer = synthetic.word_tokenizer(synthetic.reviews(seed=seed)["train"]["text"])
    tokenizer.save_pretrained(folder)
    BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
    return str(folder)


def train(task: str, objective: str, model: str, arguments: Arguments) -> dict[str, Any]:
    """Train one classifier, unless an earlier start has already finished it, and describe it in a card."""
    plan, folder = TASKS[task], Path(arguments.output_dir) / f"{task}-{objective}"
    vanilla = objective == "vanilla"
    training = VUBTrainingArguments(
        str(folder),
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
    data = DataArguments(plan["dataset"], max_length=96, feature_cache=str(Path(arguments.output_dir) / "features"))
    result = fine_tune(task, options, data, training)
    write_model_card(str(folder), result)
    return result


def success_rate(task: str, folder: Path, arguments: Arguments) -> float | None:
    """Share of rightly classified examples that the task's attack turns."""
    options = {"num_examples": arguments.num_examples, "seed": arguments.seed, "output_dir": folder / "attack"}
    dataset = TASKS[task]["dataset"]
    if task == "image":
        result = attack_image.attack(folder, None, dataset, "fgs", epsilon="8/255", **options)
    else:
        result = attack_text.attack(folder, None, dataset, "DeepWordBugGao2018", max_length=96, **options)
    return result["attack_success_rate"]


def print_table(rows: list[dict[str, Any]]) -> None:
    """One table of all models."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Held-out data; attacks: fast gradient sign 8/255 (images), DeepWordBug (texts)")
    for name in ("task", "model", "accuracy", "NLL", "ECE", "rate (nats)", "attack success"):
        table.add_column(name, justify="left" if name in ("task", "model") else "right")
    for row in rows:
        metrics = row["metrics"]
        rate = f"{metrics['rate']:.1f}" if "rate" in metrics else "-"
        turned = "-" if row["attack_success_rate"] is None else f"{row['attack_success_rate']:.1%}"
        figures = (f"{metrics['accuracy']:.1%}", f"{metrics['nll']:.3f}", f"{metrics['ece']:.3f}", rate, turned)
        table.add_row(row["task"], row["objective"], *figures, end_section=row["objective"] == "vub")
    Console().print(table)


@command
def main() -> None:
    """Train, freeze, put bottlenecks on, attack, and show."""
    (arguments,) = parse(Arguments)
    set_verbosity_error()
    disable_progress_bar()
    disable_progress_bars()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # models as small as these gain nothing from more, and lose where cores are busy
    folder = Path(arguments.output_dir)
    rows, planes = [], {}
    for task in TASKS:
        model = "timm/test_resnet" if task == "image" else text_backbone(folder / "text-backbone", arguments.seed)
        for objective in ("vanilla", "vib", "vub"):
            result = train(task, objective, model, arguments)
            rows.append({**result, "attack_success_rate": success_rate(task, folder / result["model"], arguments)})
            planes[f"{task}, {objective}"] = list(read_records(folder / result["model"] / "information_plane.jsonl"))
            model = str(folder / f"{task}-vanilla")  # what the heads are put on
    print_table(rows)
    write_json(folder / "results.json", {"rows": rows})
    figures.save(figures.trajectories(planes), folder / "information_plane")
    print(f"checkpoints, cards, results.json and information_plane.png are in {folder}")


if __name__ == "__main__":
    main()
