"""Measure how good the probabilities of the stock model, VIB and VUB are, and what the link and a temperature repair.

    python scripts/calibration_study.py --model outputs/bert-imdb --dataset data/imdb --task text --max_length 256
    python scripts/calibration_study.py --model outputs/resnet18 --dataset data/cifar10 --task image --runs 3

Heads of VIB and VUB are trained on the cached features of the frozen model, for every beta and seed. On all test rows
they are measured as trained, through the posterior link, and each with and without a temperature that was fitted on the
other half of the test rows. The result also holds conformal sets over 20 random splits, risk-coverage curves, and how
well each score tells rows of another origin apart. The same command resumes a run that was stopped.

`--parts study suggestion` also suggests a setting on half of the test rows and checks it on the other half. The output
folder gets study.json, suggestion.json, and their figures: reliability, risk over coverage, and the frontier.
"""

from dataclasses import dataclass, field
from pathlib import Path

from hf_vub.command_line import command, parse


@dataclass
class Arguments:
    """The options of the command."""

    model: str = field(metadata={"help": "Folder or Hub id of a stock classifier."})
    dataset: str = field(metadata={"help": "Hub name, parquet/CSV/JSON file or folder, with a test split."})
    task: str = field(default="text", metadata={"help": "text or image."})
    output_dir: str = field(default="outputs/calibration", metadata={"help": "Folder of the result."})
    feature_cache: str | None = field(default=None, metadata={"help": "Folder of the features (OUTPUT_DIR/features)."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens per text."})
    betas: list[float] = field(default_factory=lambda: [1e-3, 1e-2, 1e-1], metadata={"help": "Weights of the rate."})
    entropy_weight: float = field(default=1.0, metadata={"help": "Weight of VUB's min term."})
    runs: int = field(default=10, metadata={"help": "Seeds per setting."})
    epochs: int = field(default=20, metadata={"help": "Epochs of the heads."})
    batch_size: int = field(default=32, metadata={"help": "Batch size of the heads."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the heads in the first epoch."})
    validation: float = field(default=0.1, metadata={"help": "Share of the training rows left out."})
    max_train: int | None = field(default=None, metadata={"help": "Most training rows (all)."})
    max_test: int | None = field(default=None, metadata={"help": "Most test rows (all)."})
    unfamiliar: list[str] = field(
        default_factory=list, metadata={"help": "Further data sets, all of whose rows are of another origin."}
    )
    parts: list[str] = field(default_factory=lambda: ["study"], metadata={"help": "study, suggestion, or both."})


@command
def main() -> None:
    """Parse, measure, save, print the aims."""
    (arguments,) = parse(Arguments)
    from hf_vub.reports.calibration_figures import frontier_figure, reliability_figure, risk_coverage_figure
    from hf_vub.reports.plots import save
    from hf_vub.uncertainty.study import StudySettings, calibration_study
    from hf_vub.uncertainty.suggestion_check import check_suggestion

    options = dict(vars(arguments))
    folder, parts = Path(options.pop("output_dir")), options.pop("parts")
    if not parts or set(parts) - {"study", "suggestion"}:
        raise ValueError(f"parts is {parts}; it must hold 'study', 'suggestion' or both")
    options["feature_cache"] = options["feature_cache"] or str(folder / "features")
    options |= {"betas": tuple(options["betas"]), "unfamiliar": tuple(options["unfamiliar"])}
    settings = StudySettings(checkpoints=str(folder / "heads"), **options)
    if "study" in parts:
        study = calibration_study(settings)
        study.save(folder / "study.json")
        save(reliability_figure(study), folder / "reliability")
        save(risk_coverage_figure(study), folder / "risk-coverage")
        for aim in study.aims:
            print(f"{'met' if aim.met else 'NOT MET':8}{aim.aim}: {aim.measured}")
    if "suggestion" in parts:
        checked = check_suggestion(settings)
        checked.save(folder / "suggestion.json")
        save(frontier_figure(checked.suggestion), folder / "frontier")
        about = (
            f"{checked.suggestion.objective} at beta {checked.suggestion.beta:g}: within one standard error of the best"
        )
        print(f"{'met' if checked.within else 'NOT MET':8}{about}: {checked.chosen_nll:.4f} and {checked.best_nll:.4f}")
    print(f"results: {folder}")


if __name__ == "__main__":
    main()
