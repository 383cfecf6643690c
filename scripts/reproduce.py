r"""Reproduce section 4 of the paper on any backbone and data set: embed, sweep, evaluate, attack, test, report.

    python scripts/reproduce.py imdb --model runs/my-model --dataset reviews/ --output_dir runs/imdb
    python scripts/reproduce.py cifar10 --model runs/my-resnet --dataset cifar10/ --runs 5 --epochs 50
    python scripts/reproduce.py imagenet --paper
    python scripts/reproduce.py imagenet --dataset sample/ --from_config --runs 2 --epochs 2 --num_examples 4

The first word is a preset: imdb, cifar10 or imagenet. --paper takes the paper's own numbers (Inception-v3 or BERT-base
by their Hub names, 100 or 150 epochs, 5 runs, its sample of attacked texts). --from_config loads no weights.
Of the options below, what the presets take is in brackets.

The output folder holds one JSON per stage, results.json with everything, report.html, tables/, figures/ and
model_cards/. The same command after a kill goes on where it stopped and ends with the same results.json.
"""

import logging
from dataclasses import dataclass, field

from hf_vub.command_line import command, parse


@dataclass
class Arguments:
    """What to reproduce, and where to leave it; what is not given is the preset's."""

    experiment: str = field(default="imdb", metadata={"help": "Preset: imdb, cifar10 or imagenet."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the results; runs/EXPERIMENT by default."}
    )
    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of the backbone."})
    dataset: str | None = field(default=None, metadata={"help": "Name on the Hub, built-in name, file or folder."})
    paper: bool = field(default=False, metadata={"help": "The paper's runs, epochs, examples and choice of beta."})
    from_config: bool = field(default=False, metadata={"help": "Random weights: nothing is loaded."})
    runs: int | None = field(default=None, metadata={"help": "Seeds per point of the grid (10; paper 5)."})
    epochs: int | None = field(default=None, metadata={"help": "Epochs of the heads (imdb 150, images 100)."})
    objectives: list[str] | None = field(default=None, metadata={"help": "Of ce, vib and vub (vib vub)."})
    betas: list[float] | None = field(default=None, metadata={"help": "Weights of the rate (1e-3 1e-2 1e-1)."})
    entropy_weights: list[float] | None = field(default=None, metadata={"help": "Weights of VUB's min term (1)."})
    attacks: list[str] | None = field(default=None, metadata={"help": "Attacks by name (deepwordbug pwws; fgs cw)."})
    num_examples: int | None = field(default=None, metadata={"help": "Test rows attacked (200)."})
    cw_examples: int | None = field(default=None, metadata={"help": "Of these, rows for Carlini-Wagner (16)."})
    cw_steps: int | None = field(default=None, metadata={"help": "Its steps per weight (200; paper 1000)."})
    how: str | None = field(default=None, metadata={"help": "stratified or first: how rows to attack are chosen."})
    epsilons: list[str] | None = field(default=None, metadata={"help": "Budgets of FGS (8/255 0.1 0.5)."})
    target: str | None = field(default=None, metadata={"help": "Class that Carlini-Wagner reaches for."})
    stress: list[str] | None = field(
        default=None, metadata={"help": "More attacks on the best head of each objective, or none."}
    )
    stress_examples: int | None = field(default=None, metadata={"help": "Test rows for the stress suite (100)."})
    validation: float | None = field(default=None, metadata={"help": "Share of training rows held out (0.1)."})
    max_train: int | None = field(default=None, metadata={"help": "Training rows used; all by default."})
    max_test: int | None = field(default=None, metadata={"help": "Test rows used; all by default."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens per text (512)."})
    batch_size: int | None = field(default=None, metadata={"help": "Of the heads (imdb 16, images 32)."})
    learning_rate: float | None = field(default=None, metadata={"help": "Of the heads in the first epoch (1e-4)."})
    seed: int | None = field(default=None, metadata={"help": "Of splits, samples and, counting up, of runs (0)."})


@command
def main() -> None:
    """Parse, reproduce, print the claims."""
    (arguments,) = parse(Arguments, positional="experiment")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hf_vub").setLevel(logging.INFO)
    from hf_vub.paper.experiments import experiment
    from hf_vub.paper.reproduction import reproduce

    options = dict(vars(arguments))
    name, output_dir = options.pop("experiment"), options.pop("output_dir")
    if options["stress"] == ["none"]:
        options["stress"] = []
    folder = output_dir or f"runs/{name}"
    results = reproduce(experiment(name, **options), folder)
    for row in results["claims"]:
        p_value = "" if row["p_value"] is None else f", p = {row['p_value']:.2g}"
        print(f"{row['verdict']}: {row['claim']} ({row['ours']}{p_value})")
    print(f"report: {folder}/report.html")


if __name__ == "__main__":
    main()
