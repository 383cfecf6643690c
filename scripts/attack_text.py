"""Attack a text classifier, ours or a stock one, and write one JSON with its accuracy under attack.

    python scripts/attack_text.py --model user/vub-bert-imdb --dataset imdb --recipe deepwordbug --output_dir runs/dwb
    python scripts/attack_text.py --model runs/my-model --dataset reviews.parquet --recipe pwws --num_examples 100
    python scripts/attack_text.py --model runs/stock runs/vib runs/vub --dataset imdb --output_dir runs/pwws --bf16
    accelerate launch scripts/attack_text.py --model ... --dataset ... --output_dir runs/pwws --recipe pwws

The output folder holds result.json, records.jsonl (one line per text), run.json and, written from these, examples.html
and .md: the texts that fell, changed words marked. The same command after a kill goes on where it stopped and ends with
the same result. Several processes share the texts between them. Several models that share one frozen backbone are
attacked together, at little more than the cost of one, each in its own folder.

Recipes: deepwordbug, pwws, or the class name of any TextAttack recipe against classifiers. DeepWordBug reads NLTK's
stopwords and PWWS also its WordNet: --prefetch gets both while there is a network, and says what to do without one.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from hf_vub.command_line import command, parse

SHOWN = (
    *("model", "dataset", "attack", "noise", "num_examples", "num_skipped", "clean_accuracy"),
    *("accuracy_under_attack", "attack_success_rate", "attack_success_interval"),
    *("words_perturbed_mean", "queries_mean", "stopwords", "seconds"),
)


@dataclass
class Arguments:
    """What to attack, and how."""

    model: list[str] = field(
        default_factory=list, metadata={"help": "Folders or Hub ids of text classifiers (required)."}
    )
    dataset: str = field(default="", metadata={"help": "Hub name, parquet/CSV/JSON file or folder (required)."})
    recipe: str = field(default="deepwordbug", metadata={"help": "deepwordbug, pwws or a TextAttack class name."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder of the run; nothing is saved without."})
    num_examples: int = field(default=200, metadata={"help": "Texts to attack."})
    how: str = field(default="stratified", metadata={"help": "stratified (seeded, by class) or first (as the paper)."})
    seed: int = field(default=0, metadata={"help": "Of the choice of examples and of the attack."})
    noise: str = field(default="mean", metadata={"help": "Declared predictor: mean, sampled or averaged:K."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens per text; the tokenizer's own by default."})
    batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Texts of max_length tokens per forward pass; by default 2,048 tokens on a CPU, else 16,384."
        },
    )
    bf16: bool = field(default=False, metadata={"help": "Run the backbone in bfloat16."})
    query_budget: int | None = field(default=None, metadata={"help": "Queries per text; no limit by default."})
    split: str = field(default="test", metadata={"help": "Split of the data set."})
    text_column: str | None = field(default=None, metadata={"help": "Column of texts, if it has no usual name."})
    label_column: str | None = field(default=None, metadata={"help": "Column of labels, if it has no usual name."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that comes with the model."})
    prefetch: bool = field(
        default=False, metadata={"help": "Only fetch what DeepWordBug and PWWS read; attack nothing."}
    )


@command
def main() -> None:
    """Parse, attack, print."""
    (arguments,) = parse(Arguments)
    if arguments.prefetch:
        from hf_vub.attacks.text.nltk_resources import prefetch

        for name, source in prefetch().items():
            print(f"{name}: {source}")
        return
    for name in ("model", "dataset"):
        if not getattr(arguments, name):
            raise ValueError(f"--{name} is missing: see --help")
    from hf_vub.attacks.text.attack import attack, attack_heads, shared_heads
    from hf_vub.reports.examples import write_examples
    from hf_vub.runs.processes import processes

    options = {name: value for name, value in vars(arguments).items() if name not in ("prefetch", "bf16", "model")}
    options["dtype"] = "bfloat16" if arguments.bf16 else None
    if len(arguments.model) == 1:
        results = [attack(arguments.model[0], None, **options)]
    else:
        trusted = {"revision": arguments.revision, "trust_remote_code": arguments.trust_remote_code}
        backbone, heads = shared_heads(arguments.model, **trusted)
        results = list(attack_heads(backbone, heads, arguments.model[0], **options).values())
    if not processes().is_main_process:
        return
    shown = ("head", *SHOWN) if len(results) > 1 else SHOWN
    for name in shown:
        print(f"{name:24}{'  '.join(f'{_shown(result[name]):24}' for result in results).rstrip()}")
    if arguments.output_dir is None:
        sys.stderr.write("nothing was saved: name an --output_dir to keep the result and its records\n")
        return
    for result in results:
        for path in write_examples(Path(arguments.output_dir) / result.get("head", "")):
            print(f"{'examples':24}{path}")


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " to ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
