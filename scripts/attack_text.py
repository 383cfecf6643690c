"""Attack a text classifier, ours or a stock one, and write its accuracy under attack as one JSON.

    python scripts/attack_text.py --model user/vub-bert-imdb --dataset imdb --recipe deepwordbug --output_dir runs/dwb
    python scripts/attack_text.py --model runs/my-model --dataset reviews.parquet --recipe pwws --num_examples 100
    python scripts/attack_text.py --model runs/stock runs/vib runs/vub --dataset imdb --output_dir runs/pwws --bf16
    python scripts/attack_text.py --model runs/vub --dataset imdb --guide runs/stock --search both --output_dir runs/dwb
    python scripts/attack_text.py --model runs/vub --dataset imdb --guide runs/stock --report_card --output_dir runs/vub
    accelerate launch scripts/attack_text.py --model ... --dataset ... --output_dir runs/pwws --recipe pwws

What is attacked: texts of the test split, of a file without splits all texts. If the model was trained on that very
file, only the texts held out from its training are attacked. The rows are printed first, and a warning if the model has
seen some of them. Classes of model and data are matched by name; --match_labels number matches them by number.

What is written: result.json, records.jsonl (one line per text), run.json, and examples.html and .md, which show texts
that were misclassified after the attack with the changed words marked. The same command resumes a run that was killed,
and ends with the same result. Several processes share the texts. Several models on one frozen backbone are attacked
together, at little more than the cost of one, each in its own folder.

Guide: a recipe climbs the score of the model that it attacks, and gives up where that score is flat, whatever the
model's decisions do. --guide names another classifier, best the stock model: the search climbs its score, and the model
decides. --search both makes both searches of every text and counts the worse outcome.

Report card: --report_card checks instead whether the model's score hides its mistakes, and writes report_card.json.

Recipes: deepwordbug, pwws, or the class name of any TextAttack recipe against classifiers. DeepWordBug reads NLTK's
stopwords, and PWWS reads its WordNet too: --prefetch downloads both, and says what to do without a network.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_vub.command_line import command, parse

SHOWN = (
    *("model", "dataset", "split", "attack", "noise", "num_examples", "num_skipped", "rows_seen_in_training"),
    *("clean_accuracy", "accuracy_under_attack", "attack_success_rate", "attack_success_interval"),
    *("words_perturbed_mean", "queries_mean", "stopwords", "seconds"),
)
SHOWN_IF_KNOWN = ("guide", "search", "num_unconfirmed")
VERDICTS = {True: "pass", False: "FAIL", None: "open"}
CARD_EXAMPLES, EXAMPLES = 64, 200


@dataclass
class Arguments:
    """The options of the command."""

    model: list[str] = field(
        default_factory=list, metadata={"help": "Folders or Hub ids of text classifiers (required)."}
    )
    dataset: str = field(default="", metadata={"help": "Hub name, parquet/CSV/JSON file or folder (required)."})
    recipe: str = field(default="deepwordbug", metadata={"help": "deepwordbug, pwws or a TextAttack class name."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder of the run; nothing is saved without it."})
    num_examples: int | None = field(
        default=None, metadata={"help": "Texts to attack: 200 by default, 64 for a report card."}
    )
    how: str = field(default="stratified", metadata={"help": "stratified (seeded, by class) or first (as the paper)."})
    seed: int = field(default=0, metadata={"help": "Seed of the choice of texts and of the attack."})
    noise: str = field(default="mean", metadata={"help": "Declared predictor: mean, sampled or averaged:K."})
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens per text, as in training; the tokenizer's own limit by default."}
    )
    batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Texts of max_length tokens per forward pass; by default 2,048 tokens on a CPU, else 16,384."
        },
    )
    bf16: bool = field(default=False, metadata={"help": "Run the backbone in bfloat16."})
    query_budget: int | None = field(default=None, metadata={"help": "Queries per text; no limit by default."})
    max_words: int = field(default=4000, metadata={"help": "Words per text; longer texts are skipped."})
    guide: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the classifier whose score the search climbs."}
    )
    search: str | None = field(
        default=None,
        metadata={"help": "own, guided (the default with a guide), or both, the worse outcome of each text."},
    )
    report_card: bool = field(
        default=False, metadata={"help": "Check if the model's score hides its mistakes instead."}
    )
    transfer_from: list[str] = field(
        default_factory=list,
        metadata={"help": "Further checkpoints whose adversarial texts the report card tries, next to the guide's."},
    )
    query_factor: int | None = field(
        default=None,
        metadata={"help": "The report card's stronger searches may ask so many times as often; 10 by default."},
    )
    split: str | None = field(default=None, metadata={"help": "Split of the data set; its test split by default."})
    text_column: str | None = field(
        default=None,
        metadata={"help": "Column of texts, if it has no usual name; of a pair 'first,second', the first is attacked."},
    )
    label_column: str | None = field(default=None, metadata={"help": "Column of labels, if it has no usual name."})
    column_names: str | None = field(
        default=None, metadata={"help": "Names of the columns of a CSV file without a header, such as 'label,text'."}
    )
    config_name: str | None = field(default=None, metadata={"help": "Configuration of a data set on the Hub."})
    match_labels: str = field(
        default="name", metadata={"help": "Match the classes of data and model by name or by number."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that comes with the model."})
    prefetch: bool = field(
        default=False, metadata={"help": "Only download what DeepWordBug and PWWS read; attack nothing."}
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
    options = {name: value for name, value in vars(arguments).items() if name not in ("prefetch", "bf16", "model")}
    report_card = options.pop("report_card")
    if options["num_examples"] is None:
        options["num_examples"] = CARD_EXAMPLES if report_card else EXAMPLES
    if report_card:
        _card(arguments, options)
    else:
        _attack(arguments, options)
    if arguments.output_dir is None:
        sys.stderr.write("nothing was saved: name an --output_dir to keep the result and its records\n")


def _card(arguments: Arguments, options: dict[str, Any]) -> None:
    """Make the report card and print its checks."""
    from hf_vub.attacks.text.report_card import make_text_card
    from hf_vub.runs.processes import processes

    if len(arguments.model) != 1:
        raise ValueError(f"--report_card checks one model, but got {', '.join(arguments.model)}")
    for name in ("search", "query_budget", "bf16"):
        if value := getattr(arguments, name):
            raise ValueError(f"--{name} has no meaning for --report_card, but got {value}")
        options.pop(name, None)
    if options["query_factor"] is None:
        options.pop("query_factor")
    card = make_text_card(arguments.model[0], **options)
    if not processes().is_main_process:
        return
    print(f"{'rows':18}{card.data_rows}")
    print(f"{'guide':18}{card.guide}")
    for check in card.checks:
        print(f"{check.name:18}{VERDICTS[check.passed] if check.applies else '-':6}{check.why}")
    print(f"{'all':18}{VERDICTS[card.passed]}")


def _attack(arguments: Arguments, options: dict[str, Any]) -> None:
    """Attack the models and print what became of them."""
    from hf_vub.attacks import attack_text, attack_text_heads, shared_heads
    from hf_vub.reports.examples import write_examples
    from hf_vub.runs.processes import processes

    for name in ("transfer_from", "query_factor"):
        if options.pop(name):
            raise ValueError(f"--{name} belongs to --report_card")
    options["dtype"] = "bfloat16" if arguments.bf16 else None
    if len(arguments.model) == 1:
        results = [attack_text(arguments.model[0], **options)]
    else:
        trusted = {"revision": arguments.revision, "trust_remote_code": arguments.trust_remote_code}
        backbone, heads = shared_heads(arguments.model, **trusted)
        results = list(attack_text_heads(backbone, heads, tokenizer=arguments.model[0], **options).values())
    if not processes().is_main_process:
        return
    print(f"{'rows':24}{results[0].data_rows}")
    for name in (*SHOWN, *(name for name in SHOWN_IF_KNOWN if any(result.get(name) is not None for result in results))):
        print(f"{name:24}{'  '.join(f'{_shown(result.get(name)):24}' for result in results).rstrip()}")
    for search in ("own", "guided"):
        if outcomes := [result.searches[search] for result in results if result.searches]:
            rates = [f"{_shown(each.attack_success_rate)} ({each.num_alone} alone)" for each in outcomes]
            print(f"{f'success, {search}':24}{'  '.join(f'{rate:24}' for rate in rates).rstrip()}")
    if arguments.output_dir is not None:
        for result in results:
            for path in write_examples(Path(arguments.output_dir) / (result.head or "")):
                print(f"{'examples':24}{path}")


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " to ".join(map(_shown, value))
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
