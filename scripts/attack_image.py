r"""Attack an image classifier, ours or a stock one, and write its accuracy under attack as one JSON.

    python scripts/attack_image.py --model user/vub-resnet18-cifar10 --dataset cifar10 --attack fgs --epsilons 0.1 0.5
    python scripts/attack_image.py --model runs/my-model --dataset photos/ --attack cw --target "soccer ball" \
        --num_examples 100 --output_dir runs/cw
    python scripts/attack_image.py --model runs/my-model --dataset cifar10 --report_card \
        --transfer_from timm/resnet18.a1_in1k --output_dir runs/card
    python scripts/attack_image.py --model runs/my-model --dataset cifar10 --attack autoattack --epsilons 8/255 \
        --output_dir runs/autoattack
    accelerate launch scripts/attack_image.py --model ... --dataset ... --attack apgd_ce --output_dir runs/apgd

Attacks: fgs, cw (targeted or not), pgd_linf, pgd_l2, apgd_ce, apgd_dlr, square, and the standard ensemble autoattack
(autoattack_l2 under the L2 norm). Budgets are in [0, 1] pixels at the
model's input size, before normalisation; 8/255 may be written so. A model with a stochastic head is attacked as the
predictor that --noise declares: mean, sampled (one draw) or averaged:K, through whose average the gradients flow.

What is attacked: images of the test split, of a folder without splits all images. If the model was trained on that very
folder, only the images held out from its training are attacked. The rows are printed first, and a warning if the model
has seen some of them. Classes of model and data are matched by name; --match_labels number matches them by number.

What is written: result.json, records.jsonl (one line per image), run.json, images.safetensors, and examples.png and
.pdf, which show originals, perturbations and adversarial images. The same command resumes a run that was killed, and
ends with the same result. Several processes share the images. --report_card runs the checks for masked gradients
instead and writes report_card.json.
"""

import sys
from dataclasses import dataclass, field
from typing import Any

from hf_vub.command_line import command, parse

SHOWN = (
    *("model", "dataset", "split", "attack", "noise", "num_examples", "num_skipped", "rows_seen_in_training"),
    *("clean_accuracy", "seconds"),
)
VERDICTS = {True: "pass", False: "FAIL", None: "open"}


@dataclass
class Arguments:
    """The options of the command."""

    model: str = field(metadata={"help": "Folder or Hub id of an image classifier."})
    dataset: str = field(metadata={"help": "Name on the Hub, file, or folder (also of class folders of images)."})
    attack: str = field(
        default="pgd_linf",
        metadata={"help": "fgs, cw, pgd_linf, pgd_l2, apgd_ce, apgd_dlr, square, autoattack or autoattack_l2."},
    )
    epsilons: list[str] | None = field(default=None, metadata={"help": "Budgets; the attack's usual ones by default."})
    target: str | None = field(default=None, metadata={"help": "Class to reach, by name or number (cw and pgd)."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder of the run; nothing is saved without it."})
    num_examples: int | None = field(
        default=None, metadata={"help": "Images to attack; 500 by default, 64 for the report card."}
    )
    how: str = field(default="stratified", metadata={"help": "stratified (seeded, by class) or first (as the paper)."})
    seed: int = field(default=0, metadata={"help": "Seed of the choice of images and of the attack."})
    noise: str = field(default="mean", metadata={"help": "Declared predictor: mean, sampled or averaged:K."})
    steps: int | None = field(default=None, metadata={"help": "Steps of the attack; its usual ones by default."})
    queries: int | None = field(default=None, metadata={"help": "Queries of Square in autoattack; 5,000 by default."})
    batch_size: int = field(default=32, metadata={"help": "Images attacked together; another number is another run."})
    split: str | None = field(default=None, metadata={"help": "Split of the data set; its test split by default."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images, if it has no usual name."})
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
    report_card: bool = field(default=False, metadata={"help": "Check for masked gradients instead."})
    transfer_from: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Checkpoints whose adversarial images the report card tries; without any it makes surrogates."
        },
    )


@command
def main() -> None:
    """Parse, attack, print."""
    (arguments,) = parse(Arguments)
    options = dict(vars(arguments))
    if arguments.num_examples is None:
        options["num_examples"] = 64 if arguments.report_card else 500
    if options.pop("report_card"):
        _card(options)
    else:
        _attack(options)
    if arguments.output_dir is None:
        sys.stderr.write("nothing was saved: name an --output_dir to keep the result and its records\n")


def _card(options: dict[str, Any]) -> None:
    from hf_vub.attacks.image.report_card import make_image_card
    from hf_vub.runs.processes import processes

    epsilons, target, queries, _ = (options.pop(name) for name in ("epsilons", "target", "queries", "attack"))
    if epsilons is not None and len(epsilons) != 1:
        raise ValueError(f"--report_card takes one of --epsilons, around which it checks, but got {epsilons}")
    if target is not None:
        raise ValueError(f"--report_card is untargeted, but got --target {target}")
    if queries is not None:
        raise ValueError(f"--queries belongs to --attack autoattack, but got --queries {queries} with --report_card")
    options["steps"] = 40 if options["steps"] is None else options["steps"]
    card = make_image_card(epsilon=epsilons[0] if epsilons else "8/255", **options)
    if not processes().is_main_process:
        return
    print(f"{'rows':14}{card.data_rows}")
    for check in card.checks:
        print(f"{check.name:14}{VERDICTS[check.passed] if check.applies else '-':6}{check.why}")
    print(f"{'all':14}{VERDICTS[card.passed]}")


def _attack(options: dict[str, Any]) -> None:
    from hf_vub.attacks import attack_image
    from hf_vub.reports.examples import write_examples
    from hf_vub.runs.processes import processes

    if options.pop("transfer_from"):
        raise ValueError("--transfer_from belongs to --report_card")
    result = attack_image(epsilon=options.pop("epsilons"), **options)
    if not processes().is_main_process:
        return
    print(f"{'rows':24}{result.data_rows}")
    for name in SHOWN:
        print(f"{name:24}{_shown(result.get(name), 'unknown')}")
    columns = ("epsilon", "accuracy_under_attack", "attack_success_rate", "l2_mean", "l2_median")
    print("  ".join(f"{name:>21}" for name in columns))
    for row in result.budgets:
        print("  ".join(f"{_shown(row[name]):>21}" for name in columns))
        for member in row.members or ():
            print(f"  {member.attack:10} misclassified {member.num_successes} of {member.num_attacked} images")
    if options["output_dir"] is not None:
        for path in write_examples(options["output_dir"]):
            print(f"{'examples':24}{path}")


def _shown(value: object, absent: str = "-") -> str:
    return absent if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
