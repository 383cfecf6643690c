r"""Reproduce section 4 of the paper, or compare VIB and VUB with simple baselines on your own data.

    python scripts/reproduce.py imdb --model runs/my-model --dataset reviews/ --output_dir runs/imdb
    python scripts/reproduce.py cifar10 --model runs/my-resnet --dataset cifar10/ --runs 5 --epochs 50
    python scripts/reproduce.py imagenet --paper
    python scripts/reproduce.py imagenet --dataset sample/ --from_config --runs 2 --epochs 2 --num_examples 4
    python scripts/reproduce.py compare --model runs/my-model --dataset my_texts.csv --label_column topic

The first word is a preset of the paper (imdb, cifar10 or imagenet) or "compare". A preset trains a grid of heads on one
frozen backbone, attacks them all and gives a verdict on each claim of the paper. --paper takes the paper's own settings
(Inception-v3 or BERT-base by their Hub names, 100 or 150 epochs, 5 runs, its sample of attacked texts). --from_config
loads no weights.

"compare" works on any --model and --dataset. It chooses the setting of VIB and of VUB by the negative log-likelihood of
validation rows, attacks the two next to the stock classifier, a tuned logistic regression and an early-stopped MLP,
and recommends one of them. The test rows decide nothing.

Defaults are in brackets; of a preset where it has its own. The output folder holds one JSON file per stage,
results.json with everything, report.html, tables/, figures/ and model_cards/. The same command resumes a run that was
killed, and ends with the same results.json.
"""

import logging
from dataclasses import dataclass, field

from hf_vub.command_line import command, parse


@dataclass
class Arguments:
    """What to run, and where to save it."""

    experiment: str = field(default="imdb", metadata={"help": "imdb, cifar10, imagenet or compare."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder of the results (runs/EXPERIMENT)."})
    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of the backbone."})
    dataset: str | None = field(default=None, metadata={"help": "Built-in name, file, folder or name on the Hub."})
    task: str | None = field(default=None, metadata={"help": "text or image; compare reads it from the data."})
    text_column: str | None = field(default=None, metadata={"help": "Column of the texts (the usual names)."})
    image_column: str | None = field(default=None, metadata={"help": "Column of the images (the usual names)."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the labels (the usual names)."})
    column_names: list[str] | None = field(default=None, metadata={"help": "Columns of a CSV file without a header."})
    match_labels: str | None = field(
        default=None, metadata={"help": "Match the classes of data and stock classifier by name or number (name)."}
    )
    paper: bool = field(default=False, metadata={"help": "The paper's runs, epochs, examples and choice of beta."})
    from_config: bool = field(default=False, metadata={"help": "Random weights: nothing is loaded."})
    runs: int | None = field(default=None, metadata={"help": "Seeds per point of the grid (10; paper 5; compare 3)."})
    epochs: int | None = field(
        default=None, metadata={"help": "Epochs of the heads (imdb 150, images 100; compare 40)."}
    )
    objectives: list[str] | None = field(default=None, metadata={"help": "Any of ce, vib and vub (vib vub)."})
    betas: list[float] | None = field(default=None, metadata={"help": "Weights of the rate (1e-3 1e-2 1e-1)."})
    entropy_weights: list[float] | None = field(default=None, metadata={"help": "Weights of VUB's min term (1)."})
    attacks: list[str] | None = field(
        default=None, metadata={"help": "Attacks by name, or none (texts deepwordbug pwws; images fgs pgd_linf cw)."}
    )
    num_examples: int | None = field(default=None, metadata={"help": "Test rows attacked (200; compare 100)."})
    cw_examples: int | None = field(default=None, metadata={"help": "Test rows attacked by Carlini-Wagner (16)."})
    cw_steps: int | None = field(default=None, metadata={"help": "Its steps per weight (200; paper 1000)."})
    how: str | None = field(default=None, metadata={"help": "How the attacked rows are chosen: stratified or first."})
    epsilons: list[str] | None = field(default=None, metadata={"help": "Budgets of FGS (8/255 0.1 0.5)."})
    target: str | None = field(default=None, metadata={"help": "Class that Carlini-Wagner aims at (the last one)."})
    stress: list[str] | None = field(
        default=None, metadata={"help": "Further attacks on the best head of each objective, or none."}
    )
    stress_examples: int | None = field(default=None, metadata={"help": "Test rows for these (100)."})
    validation: float | None = field(default=None, metadata={"help": "Share of training rows held out (0.1)."})
    choose_on: str | None = field(
        default=None, metadata={"help": "Rows that choose beta: validation or 'test half' (presets test half)."}
    )
    max_train: int | None = field(default=None, metadata={"help": "Most training rows (all)."})
    max_test: int | None = field(default=None, metadata={"help": "Most test rows (all)."})
    max_length: int | None = field(default=None, metadata={"help": "Most tokens per text (512)."})
    batch_size: int | None = field(default=None, metadata={"help": "Batch size of the heads (imdb 16, images 32)."})
    learning_rate: float | None = field(default=None, metadata={"help": "Of the heads, in the first epoch (1e-4)."})
    seed: int | None = field(default=None, metadata={"help": "Seed of the sampled rows and of the first run (0)."})


@command
def main() -> None:
    """Parse, run and print what came out."""
    (arguments,) = parse(Arguments, positional="experiment")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hf_vub").setLevel(logging.INFO)
    from hf_vub.paper import experiments
    from hf_vub.paper.report import summary
    from hf_vub.paper.reproduction import reproduce

    options = dict(vars(arguments))
    name, output_dir = options.pop("experiment"), options.pop("output_dir")
    for several in ("attacks", "stress"):
        if options[several] == ["none"]:
            options[several] = []
    if name != experiments.COMPARE:
        settings = experiments.experiment(name, **options)
    elif options.pop("paper") or not (options["model"] and options["dataset"]):
        raise ValueError("compare needs --model and --dataset, and --paper is for the presets only")
    else:
        settings = experiments.comparison(**options)
    folder = output_dir or f"runs/{name}"
    for line in summary(reproduce(settings, folder)):
        print(line)
    print(f"report: {folder}/report.html")


if __name__ == "__main__":
    main()
