"""Map where a bottleneck pays: VIB, VUB and simple rivals at equal tuning budgets, by the number of training rows.

    python scripts/bottleneck_map.py --model outputs/bert-imdb --dataset data/imdb --about "fine-tuned on the data"
    python scripts/bottleneck_map.py --model user/encoder --dataset topics/ --pooling mean --about "untuned, mean"

Rivals: logistic regression with C on validation rows, and early-stopped MLPs with dropout, weight decay, label
smoothing or a confidence penalty. Each tries six settings and is measured after its own best calibration. VUB is
compared with each rival run by run, with Holm's correction. A half of the test rows tunes, the other half measures.

The output folder gets map.json and map.png.
"""

from dataclasses import dataclass, field
from pathlib import Path

from hf_vub.command_line import command, parse


@dataclass
class Arguments:
    """The options of the command."""

    model: str = field(metadata={"help": "Folder or Hub id of the backbone."})
    dataset: str = field(metadata={"help": "Hub name, parquet/CSV/JSON file or folder, with a test split."})
    about: str = field(metadata={"help": "What the features are, in words: a label of the result."})
    task: str = field(default="text", metadata={"help": "text or image."})
    output_dir: str = field(default="outputs/map", metadata={"help": "Folder of the result."})
    feature_cache: str | None = field(default=None, metadata={"help": "Folder of the features (OUTPUT_DIR/features)."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens per text."})
    pooling: str = field(default="auto", metadata={"help": "Features of a text: auto, stock, cls, mean or last token."})
    rows: list[int] = field(
        default_factory=lambda: [100, 300, 1000, 4000], metadata={"help": "Sizes of the training sets."}
    )
    runs: int = field(default=10, metadata={"help": "Training sets of each size."})
    num_validation: int = field(default=500, metadata={"help": "Most rows that tune and calibrate."})
    validation: float = field(default=0.1, metadata={"help": "Share of the training rows left out."})
    max_train: int | None = field(default=None, metadata={"help": "Most rows to draw training sets from (all)."})
    max_test: int | None = field(default=None, metadata={"help": "Most test rows (all)."})


@command
def main() -> None:
    """Parse, measure, save, print the significant differences."""
    (arguments,) = parse(Arguments)
    from hf_vub.reports.calibration_figures import map_figure
    from hf_vub.reports.plots import save
    from hf_vub.uncertainty.regimes import bottleneck_map
    from hf_vub.uncertainty.study import StudySettings

    options = dict(vars(arguments))
    folder = Path(options.pop("output_dir"))
    options["feature_cache"] = options["feature_cache"] or str(folder / "features")
    how = {name: options.pop(name) for name in ("rows", "runs", "about", "num_validation")}
    result = bottleneck_map(StudySettings(**options), **how)
    result.save(folder / "map.json")
    save(map_figure([result]), folder / "map")
    for regime in result.regimes:
        for each in regime.differences:
            if each.p_holm < 0.05:
                found = f"{each.metric} {each.difference:+.4f} (p {each.p_holm:.3f})"
                print(f"{regime.rows:6} rows: VUB minus {each.rival}: {found}")
    print(f"result: {folder / 'map.json'}")


if __name__ == "__main__":
    main()
