"""Ask if a bottleneck helps a smoothed text classifier: heads of ce, vib and vub on one frozen backbone, certified.

    python scripts/certify_heads.py --model outputs/ce-delete --dataset data/imdb --output_dir runs/certify-heads
    python scripts/certify_heads.py --model outputs/ce-delete --dataset data/imdb --max_train 4000 \\
        --num_examples 100 --n 400 --output_dir runs/certify-heads-small

The heads are trained on cached features of noisy copies of the training texts. All are certified on the same noisy
copies of the test texts, so that the backbone runs once for all of them. The result, study.json, has the certified
accuracy of each objective, and its difference from that of ce with an interval over examples and seeds. Each head has
its own result.json below certificates/. The same command resumes a run that was killed.

The backbone should have been trained under the same noise (`scripts/train_text.py --smoothing delete:0.95`).
"""

from dataclasses import dataclass, field
from pathlib import Path

from hf_vub.command_line import command, parse


@dataclass
class Arguments:
    """The options of the command."""

    model: str = field(metadata={"help": "Folder or Hub id of the classifier whose backbone stays frozen."})
    dataset: str = field(metadata={"help": "Hub name, parquet/CSV/JSON file or folder of texts, with a test split."})
    output_dir: str = field(metadata={"help": "Folder of the results."})
    noise: str = field(default="delete:0.95", metadata={"help": "delete:P or mask:SHARE."})
    seeds: int = field(default=3, metadata={"help": "Heads per objective."})
    vib_beta: float = field(default=1e-3, metadata={"help": "Weight of the rate in VIB."})
    vub_beta: float = field(default=1e-3, metadata={"help": "Weight of the rate in VUB."})
    max_train: int | None = field(default=None, metadata={"help": "Training rows; all by default."})
    copies: int = field(default=1, metadata={"help": "Noisy copies of each training row."})
    epochs: int = field(default=20, metadata={"help": "Epochs of the heads."})
    batch_size: int = field(default=64, metadata={"help": "Batch size of the heads."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the heads in the first epoch."})
    num_examples: int = field(default=500, metadata={"help": "Test texts to certify."})
    n0: int = field(default=100, metadata={"help": "Noisy copies that choose the class."})
    n: int = field(default=1000, metadata={"help": "Noisy copies that bound its vote."})
    alpha: float = field(default=0.001, metadata={"help": "Probability of a wrong certificate, at most."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens of a noisy copy."})


@command
def main() -> None:
    """Parse, train, certify, compare, print."""
    (arguments,) = parse(Arguments)
    from hf_vub.paper.certificate_study import StudyOptions, certificate_study

    study = certificate_study(StudyOptions(**vars(arguments)))
    path = study.save(Path(arguments.output_dir) / "study.json")
    print(f"certified accuracy at {study.radii} edits, {study.num_examples} texts, {study.seeds} heads each")
    for each in study.objectives:
        shown = "  ".join(f"{value:.1%}" for value in each.certified)
        print(f"{each.objective:6}smoothed {each.smoothed_accuracy:.1%}, certified {shown}")
    for each in study.differences:
        low, high = each.interval
        print(
            f"{each.objective:6}at {each.radius}: {each.difference:+.1%} from ce ({low:+.1%} to {high:+.1%}), "
            f"p {each.p_holm:.3f} (Holm)"
        )
    print(f"result: {path}")


if __name__ == "__main__":
    main()
