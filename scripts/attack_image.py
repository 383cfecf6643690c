r"""Attack an image classifier, ours or a stock one, and write one JSON with its accuracy under attack.

    python scripts/attack_image.py --model user/vub-resnet18-cifar10 --dataset cifar10 --attack fgs --epsilons 0.1 0.5
    python scripts/attack_image.py --model runs/my-model --dataset photos/ --attack cw --target "soccer ball" \
        --num_examples 100 --output_dir runs/cw
    python scripts/attack_image.py --model runs/my-model --dataset cifar10 --report_card \
        --transfer_from timm/resnet18.a1_in1k --output_dir runs/card
    accelerate launch scripts/attack_image.py --model ... --dataset ... --attack apgd_ce --output_dir runs/apgd

Attacks: fgs, cw (targeted or not), pgd_linf, pgd_l2, apgd_ce, apgd_dlr and square. Budgets are in [0, 1] pixels at the
model's input size, before normalisation; 8/255 may be written so. A model with a stochastic head is attacked as the
predictor that --noise declares: mean, sampled (one draw) or averaged:K, through whose average the gradients flow.

The output folder holds result.json, records.jsonl (one line per image), run.json, images.safetensors and, drawn from
these, examples.png and .pdf: originals, perturbations and adversarial images. The same command after a kill goes on
where it stopped and ends with the same result. Several processes share the images between them. --report_card runs the
checks for masked gradients instead and writes report_card.json.
"""

import sys
from dataclasses import dataclass, field

from hf_vub.command_line import command, parse


@dataclass
class Arguments:
    """What to attack, and how."""

    model: str = field(metadata={"help": "Folder or Hub id of an image classifier."})
    dataset: str = field(metadata={"help": "Name on the Hub, file, or folder (also of class folders of images)."})
    attack: str = field(default="fgs", metadata={"help": "fgs, cw, pgd_linf, pgd_l2, apgd_ce, apgd_dlr or square."})
    epsilons: list[str] | None = field(default=None, metadata={"help": "Budgets; the attack's usual ones by default."})
    target: str | None = field(default=None, metadata={"help": "Class to reach, by name or number (cw and pgd)."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder of the run; nothing is saved without."})
    num_examples: int = field(default=200, metadata={"help": "Images to attack."})
    how: str = field(default="stratified", metadata={"help": "stratified (seeded, by class) or first (as the paper)."})
    seed: int = field(default=0, metadata={"help": "Of the choice of examples and of the attack."})
    noise: str = field(default="mean", metadata={"help": "Declared predictor: mean, sampled or averaged:K."})
    steps: int | None = field(default=None, metadata={"help": "Steps of the attack; its usual ones by default."})
    batch_size: int = field(default=32, metadata={"help": "Images attacked together; another number, another run."})
    split: str | None = field(default=None, metadata={"help": "Split of the data set; its test split by default."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images, if it has no usual name."})
    label_column: str | None = field(default=None, metadata={"help": "Column of labels, if it has no usual name."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that comes with the model."})
    report_card: bool = field(default=False, metadata={"help": "Check for masked gradients instead."})
    transfer_from: list[str] = field(
        default_factory=list, metadata={"help": "Checkpoints whose adversarial images the report card tries."}
    )


@command
def main() -> None:
    """Parse, attack, print."""
    (arguments,) = parse(Arguments)
    options = dict(vars(arguments))
    card, transfer_from, attack_name, epsilons, target = (
        options.pop(name) for name in ("report_card", "transfer_from", "attack", "epsilons", "target")
    )
    if card:
        from hf_vub.attacks.masking import report_card

        if epsilons is not None and len(epsilons) != 1:
            raise ValueError(f"--report_card takes one of --epsilons, around which it checks, but got {epsilons}")
        if target is not None:
            raise ValueError(f"--report_card is untargeted, but got --target {target}")
        options["steps"] = 40 if options["steps"] is None else options["steps"]
        options["epsilon"] = epsilons[0] if epsilons else "8/255"
        result = report_card(processor=None, transfer_from=transfer_from, **options)
        for check in result["checks"]:
            verdict = {True: "pass", False: "FAIL", None: "-"}[check["passed"]]
            print(f"{check['name']:12}{verdict:6}{check['why']}")
        print(f"{'all':12}{'pass' if result['passed'] else 'FAIL'}")
    else:
        from hf_vub.attacks.image.attack import attack
        from hf_vub.reports.examples import write_examples
        from hf_vub.runs.processes import processes

        if transfer_from:
            raise ValueError("--transfer_from belongs to --report_card")
        result = attack(processor=None, attack=attack_name, epsilon=epsilons, target=target, **options)
        if not processes().is_main_process:
            return
        for name in ("model", "dataset", "attack", "noise", "num_examples", "num_skipped", "clean_accuracy", "seconds"):
            print(f"{name:24}{_shown(result[name])}")
        columns = ("epsilon", "accuracy_under_attack", "attack_success_rate", "l2_mean", "l2_median")
        print("  ".join(f"{name:>21}" for name in columns))
        for row in result["budgets"]:
            print("  ".join(f"{_shown(row[name]):>21}" for name in columns))
        if arguments.output_dir is not None:
            for path in write_examples(arguments.output_dir):
                print(f"{'examples':24}{path}")
    if arguments.output_dir is None:
        sys.stderr.write("nothing was saved: name an --output_dir to keep the result and its records\n")


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
