r"""Ask of a text classifier if it is robust or only hides the way: let one head decide and another guide the search.

    python scripts/guided_search.py --model textattack/bert-base-uncased-imdb --dataset stanfordnlp/imdb
    python scripts/guided_search.py --model runs/my-model --dataset reviews/ --num_examples 100 --recipes pwws

VIB and VUB heads and controls (a plain head, the same head with VUB's reward for entropy and no bottleneck, weaker
rewards) are trained on the frozen features of the stock classifier --model. The same test rows are then attacked on
every head, the search climbing the head's own score or the stock classifier's, and on the stock classifier by the score
of the VUB head. A head on which guided success is far above own success is not robust.

The output folder gets results.json (written anew after every 20 texts), table-RECIPE.md and plateau.png. The same
command resumes a run that was killed; more examples, heads or recipes extend it.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from hf_vub.command_line import command, parse


@dataclass
class Arguments:
    """What to measure, and where to save it."""

    model: str = field(metadata={"help": "Folder or Hub id of a stock text classifier."})
    dataset: str = field(metadata={"help": "Built-in name, file, folder or name on the Hub."})
    output_dir: str = field(default="runs/guided", metadata={"help": "Folder of the results."})
    recipes: list[str] = field(default_factory=lambda: ["deepwordbug"], metadata={"help": "TextAttack recipes."})
    heads: list[str] | None = field(default=None, metadata={"help": "Names of heads to attack (all)."})
    num_examples: int = field(default=200, metadata={"help": "Test rows attacked."})
    min_words: int = field(default=30, metadata={"help": "Fewest words of an attacked row."})
    max_words: int = field(default=80, metadata={"help": "Most words of an attacked row."})
    max_train: int = field(default=4000, metadata={"help": "Most training rows, a tenth of them held out."})
    measured: int = field(default=2000, metadata={"help": "Test rows on which calibration and margins are measured."})
    epochs: int = field(default=40, metadata={"help": "Epochs of the heads."})
    max_length: int = field(default=256, metadata={"help": "Most tokens per text."})
    seed: int = field(default=0, metadata={"help": "Seed of the drawn rows, the heads and the attacks."})


@command
def main() -> None:
    """Parse, run and print the tables."""
    (arguments,) = parse(Arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hf_vub").setLevel(logging.INFO)
    from hf_vub.paper.guided import GuidedSettings, guided_search
    from hf_vub.paper.guided_report import write_guided_report

    options = {name: value for name, value in vars(arguments).items() if value is not None}
    folder = Path(options.pop("output_dir"))
    for path in write_guided_report(guided_search(GuidedSettings(**options), folder), folder):
        print(path)


if __name__ == "__main__":
    main()
