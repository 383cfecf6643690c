"""Calibrate a classifier of texts or images, ours or a stock one, and store its probabilities with the checkpoint.

    python scripts/calibrate.py --model outputs/vub-bert-imdb --dataset stanfordnlp/imdb
    python scripts/calibrate.py --model user/vub-bert-imdb --dataset reviews.parquet --split dev --output_dir calibrated
    python scripts/calibrate.py --model outputs/bert-imdb --dataset stanfordnlp/imdb --report_test

Which rows: those that the checkpoint was selected on, as its training record says, or those of --split. Rows that it
was trained on are left out, and test rows stay untouched without --report_test. Half of the rows fit the temperature,
the others fit the thresholds of abstention and measure the calibration.

What is written, into the model's folder or a copy of the checkpoint in --output_dir: calibration.json, a reliability
diagram (calibration.png and .pdf) and a new model card. A VUB checkpoint also gets its probabilities, temperature and
thresholds in config.json. Its logits stay; `output.probabilities` and `hf_vub.uncertainty.classifier_pipeline` follow.
"""

from dataclasses import dataclass, field

from hf_vub.command_line import command, parse


@dataclass
class Arguments:
    """The options of the command."""

    model: str = field(metadata={"help": "Folder or Hub id of a classifier."})
    dataset: str = field(metadata={"help": "Hub name, parquet/CSV/JSON file or folder."})
    split: str | None = field(
        default=None, metadata={"help": "Split to calibrate on; the validation rows of the checkpoint by default."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "New folder for a calibrated copy; the model's own folder by default."}
    )
    probabilities: str = field(
        default="auto", metadata={"help": "softmax, posterior (the link of VUB), or auto: the one of lower NLL."}
    )
    miscoverage: list[float] = field(
        default_factory=lambda: [0.05, 0.1],
        metadata={"help": "Shares of rows whose set of classes may miss the label; abstain_at takes one of them."},
    )
    refit: bool = field(default=False, metadata={"help": "Replace the calibration that the checkpoint has."})
    report_test: bool = field(default=False, metadata={"help": "Measure the calibration on the test rows too."})
    task: str | None = field(default=None, metadata={"help": "text or image; by default what the model's class says."})
    text_column: str | None = field(default=None, metadata={"help": "Column of texts, if it has no usual name."})
    label_column: str | None = field(default=None, metadata={"help": "Column of labels, if it has no usual name."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images, if it has no usual name."})
    column_names: list[str] | None = field(
        default=None, metadata={"help": "Names of the columns of a CSV file without a header."}
    )
    match_labels: str = field(
        default="name", metadata={"help": "Match the classes of data and model by name or by number."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens per text, as in training; the tokenizer's own limit by default."}
    )
    batch_size: int | None = field(default=None, metadata={"help": "Rows per forward pass."})
    seed: int = field(default=0, metadata={"help": "Seed of the division of the rows in two."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that comes with a stock model."})


@command
def main() -> None:
    """Parse, calibrate, print."""
    (arguments,) = parse(Arguments)
    from hf_vub.uncertainty import calibrate

    result = calibrate(**vars(arguments))
    print(f"{'rows':16}{result.data_rows}")
    print(f"{'probabilities':16}{result.probabilities}, temperature {result.calibration_temperature:.4g}")
    for miscoverage, threshold in result.conformal_thresholds.items():
        print(f"{'abstain_at':16}{miscoverage}: classes of at least {threshold:.4g} enter the set")
    for measured in result.measurements:
        print(f"\nbefore and after, with 95 % intervals, on {measured.data_rows}")
        for name in ("accuracy", "nll", "brier", "ece", "classwise_ece"):
            both = (measured.before[name], measured.after[name])
            print(f"{name:16}{'  '.join(f'{each.value:.4f} ({each.low:.4f} to {each.high:.4f})' for each in both)}")
        for each in measured.abstention or ():
            errors = "none" if each.error_answered is None else f"{each.error_answered:.2%} of them wrong"
            print(f"at {each.miscoverage:<13g}{each.coverage:.2%} covered, {each.answered:.2%} answered, {errors}")


if __name__ == "__main__":
    main()
