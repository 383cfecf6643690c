"""Single examples of an attack for people to look at: images as in the paper's Figures 4 and 5, texts as in Table 3.

```python
from hf_vub.reports import write_examples

write_examples("runs/fgs")  # examples.png and examples.pdf; for an attack on texts examples.html and examples.md
```
"""

import base64
import difflib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.preprocessing import clean_text
from ..runs.files import read_records, write_text
from ..runs.provenance import public_name
from ..runs.schema import ImageAttackResult, ImageExample, TextAttackResult, TextExample, read_result
from . import plots
from .rendering import environment, escape_markdown

logger = logging.getLogger(__name__)

_SIDE = 160  # most pixels per side of a picture
_IMAGES, _BUDGETS, _TEXTS = 8, 4, 20  # most examples shown
_CONTEXT = 12  # words shown around a change


def write_examples(folder: str | Path) -> list[Path]:
    """Show some examples of a finished attack in its own folder.

    Args:
        folder: ``output_dir`` of ``attack_image`` or ``attack_text``.

    Returns:
        The files written: ``examples.png`` and ``examples.pdf`` for images, ``examples.html`` and ``examples.md`` for
        texts. None are written if no image was attacked, if no attack on a text succeeded, or, with a warning, if an
        optional package is missing: the attack has already taken its hours.

    Raises:
        ValueError: the folder holds a result of another kind.
    """
    folder = Path(folder)
    result = read_result(folder / "result.json")
    if not isinstance(result, (TextAttackResult, ImageAttackResult)):
        raise ValueError(f"{folder} holds a result of kind {result.kind!r}; it must be of text_attack or image_attack")
    try:
        return _write_texts(folder, result) if isinstance(result, TextAttackResult) else _write_images(folder, result)
    except ImportError as error:
        logger.warning("the examples in %s are not shown: %s", folder, error)
        return []


def _write_images(folder: Path, result: ImageAttackResult) -> list[Path]:
    attack, model, dataset = map(public_name, (result.attack, result.model, result.dataset))
    pictures = image_examples(folder, result.class_names, _IMAGES, attack=attack, objective=model)
    if not pictures:
        return []
    figure = plots.adversarial_images({f"{attack}: {model} on {dataset}": pictures})
    return plots.save(figure, folder / "examples")


def _write_texts(folder: Path, result: TextAttackResult) -> list[Path]:
    attack, dataset = map(public_name, (result.attack, result.dataset))
    model = public_name(result.head or result.model)
    texts = text_examples(folder, result.class_names, _TEXTS, attack=attack, head=model)
    if not texts:
        return []
    template = environment().get_template("texts.html.jinja")
    page = template.render(attack=attack, model=model, dataset=dataset, result=result, texts=marked_texts(texts))
    return [
        write_text(folder / "examples.html", page),
        write_text(folder / "examples.md", marked_texts_markdown(texts)),
    ]


def text_examples(folder: Path, class_names: Sequence[str], limit: int, *, attack: str, head: str) -> list[TextExample]:
    """Return the successes with the fewest words changed, the shortest texts first among equals.

    Args:
        folder: of the attack.
        class_names: by number.
        limit: most examples.
        attack: name of the attack to show.
        head: name of the classifier to show.
    """
    wins = [record for record in read_records(folder / "records.jsonl") if record.get("success")]
    wins.sort(key=lambda record: (record["words_perturbed"], record["words"], record["index"]))
    return [
        TextExample(
            attack=attack,
            head=head,
            index=record["index"],
            original=clean_text(record["original_text"]),
            perturbed=clean_text(record["perturbed_text"]),
            label=_class_name(class_names, record["label"]),
            prediction=_class_name(class_names, record["perturbed_prediction"]),
        )
        for record in wins[:limit]
    ]


def image_examples(
    folder: Path, class_names: Sequence[str], limit: int, *, attack: str, objective: str
) -> list[ImageExample]:
    """Return images before and after an attack, one example per image and budget, for at most four budgets.

    The images misclassified at the most budgets come first. The perturbation is shown over mid-grey, multiplied by a
    ``magnification`` at which its largest value just fits.

    Args:
        folder: of the attack.
        class_names: by number.
        limit: most images.
        attack: name of the attack to show.
        objective: name of the classifier to show.
    """
    from safetensors.torch import load_file

    path = folder / "images.safetensors"
    if not path.exists():
        return []
    tensors = load_file(path)
    records = {record["index"]: record for record in read_records(folder / "records.jsonl")}
    chosen = tensors["success"].sum(dim=1).argsort(descending=True, stable=True)[:limit].tolist()
    budgets = tensors["success"].shape[1]
    places = np.linspace(0, budgets - 1, min(budgets, _BUDGETS)).round().astype(int).tolist()
    examples = []
    for row in chosen:
        index, original, label = int(tensors["index"][row]), tensors["original"][row], int(tensors["label"][row])
        for place in places:
            outcome, adversarial = records[index]["outcomes"][place], tensors["adversarial"][row, place]
            change = adversarial - original
            largest = float(change.abs().max())
            magnification = float(f"{0.5 / largest:.2g}") if largest > 1e-6 else 1.0  # nothing to see otherwise
            examples.append(
                ImageExample(
                    attack=attack,
                    objective=objective,
                    index=index,
                    epsilon=outcome["epsilon"],
                    l2=outcome["l2"],
                    success=outcome["success"],
                    label=_class_name(class_names, label),
                    prediction=_class_name(class_names, outcome["prediction"]),
                    magnification=magnification,
                    original=_png(original),
                    perturbation=_png((0.5 + magnification * change).clamp(0, 1)),
                    adversarial=_png(adversarial),
                )
            )
    return examples


@dataclass(frozen=True)
class MarkedText:
    """A text before and after an attack, with its changes.

    Attributes:
        attack: its name.
        label: the right class.
        prediction: the wrong class.
        parts: runs of words, each of a kind: "same", "removed" or "inserted".
    """

    attack: str
    label: str
    prediction: str
    parts: list[tuple[str, str]]


def marked_texts(examples: Sequence[TextExample]) -> list[MarkedText]:
    """Return attacked texts with their changes marked, as in the paper's Table 3."""
    return [MarkedText(each.attack, each.label, each.prediction, _parts(each)) for each in examples]


def marked_texts_markdown(examples: Sequence[TextExample]) -> str:
    """Return Table 3 in Markdown: inserted words bold and underlined, removed ones struck through."""
    marks = {"same": ("", ""), "removed": ("<del>", "</del>"), "inserted": ("<u>**", "**</u>")}
    lines = ["| attack | class | predicted | text |", "|---|---|---|---|"]
    for example in marked_texts(examples):
        cells = [escape_markdown(name) for name in (example.attack, example.label, example.prediction)]
        parts = [f"{marks[kind][0]}{escape_markdown(text)}{marks[kind][1]}" for kind, text in example.parts]
        lines.append("| " + " | ".join([*cells, " ".join(parts)]) + " |")
    return "\n".join(lines) + "\n"


def _parts(example: TextExample) -> list[tuple[str, str]]:
    """Return the words of two texts as runs of same, removed and inserted ones; long unchanged runs are cut."""
    before, after = example.original.split(), example.perturbed.split()
    parts: list[tuple[str, str]] = []
    blocks = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    for place, (kind, a, b, c, d) in enumerate(blocks):
        if kind == "equal":
            words = before[a:b]
            first = [] if place == 0 else words[:_CONTEXT]
            last = [] if place == len(blocks) - 1 else words[-_CONTEXT:]
            shown = words if len(words) <= len(first) + len(last) else [*first, "[...]", *last]
            parts.append(("same", " ".join(shown)))
            continue
        if b > a:
            parts.append(("removed", " ".join(before[a:b])))
        if d > c:
            parts.append(("inserted", " ".join(after[c:d])))
    return parts


def _class_name(class_names: Sequence[str], number: int) -> str:
    """Return the name of a class, or its number if it has no name; logits that are not numbers predict no class."""
    if number < 0:
        return "none"
    return class_names[number] if number < len(class_names) else str(number)


def _png(pixels: Tensor) -> str:
    """Return pixels (channels, height, width) in [0, 1] as a PNG in base64; large images are reduced."""
    from PIL import Image

    values = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(values.squeeze(-1) if values.shape[-1] == 1 else values)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
