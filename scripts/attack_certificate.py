"""Attack a smoothed text classifier: does any change within a certified radius change its decision?

    python scripts/attack_text.py --model outputs/vub-delete --dataset data/imdb --output_dir runs/deepwordbug
    python scripts/attack_text.py --model outputs/vub-delete --dataset data/imdb --recipe pwws --output_dir runs/pwws
    python scripts/attack_certificate.py --model outputs/vub-delete --noise delete:0.95 \\
        --records runs/deepwordbug/records.jsonl runs/pwws/records.jsonl --output runs/certificate-attack.json

The smoothed classifier decides every text that an attack changed, whether or not the attack fooled the base classifier.
Then a search changes words of a few texts one at a time, by the smoothed score itself, until it is past the radius. A
certificate is a proof: a decision that changes within its radius, beyond the level alpha, is an error of the program.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hf_vub.command_line import command, parse


@dataclass
class Arguments:
    """The options of the command."""

    model: str = field(metadata={"help": "Folder or Hub id of the base classifier."})
    records: list[str] = field(metadata={"help": "The records.jsonl of attacks on texts."})
    output: str = field(metadata={"help": "The JSON to write."})
    noise: str = field(default="delete:0.95", metadata={"help": "delete:P or mask:SHARE."})
    n0: int = field(default=100, metadata={"help": "Noisy copies that choose the class."})
    n: int = field(default=1000, metadata={"help": "Noisy copies that bound its vote."})
    alpha: float = field(default=0.001, metadata={"help": "Probability of a wrong certificate, at most."})
    climbed: int = field(default=3, metadata={"help": "Texts on which to search by the smoothed score."})
    most: int = field(default=10, metadata={"help": "Word edits of that search."})
    seed: int = field(default=0, metadata={"help": "Seed of all draws."})


def changed_texts(path: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a text and what an attack made of it."""
    from hf_vub.runs.files import read_records

    for record in read_records(path):
        if record.get("perturbed_text"):
            yield record["original_text"], record["perturbed_text"]


@command
def main() -> None:
    """Parse, attack, save, print."""
    (arguments,) = parse(Arguments)
    from hf_vub.paper.certificate_attack import attack_certificates

    options = dict(vars(arguments))
    output = Path(options.pop("output"))
    texts = {Path(path).parent.name: list(changed_texts(path)) for path in options.pop("records")}
    result = attack_certificates(options.pop("model"), options.pop("noise"), texts, **options)
    result.save(output)
    for each in result.attacks:
        print(
            f"{each.attack}: {each.tried} changed texts of {each.texts}, {each.within} within the radius, of which "
            f"{each.flipped_within} changed the decision; beyond it {each.flipped_beyond}"
        )
    print(f"result: {output}")


if __name__ == "__main__":
    main()
