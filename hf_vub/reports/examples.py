"""What an attack did to single examples, for people to look at: images as in Figures 4 and 5, texts as in Table 3.

```python
from hf_vub.reports.examples import write_examples

write_examples("runs/fgs")  # examples.png and examples.pdf; of an attack on texts examples.html and examples.md
```
"""

import base64
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.preprocessing import clean_text
from ..runs.files import read_json, read_records, write_text
from . import plots
from .model_cards import environment, public_name
from .tables import marked_texts, marked_texts_markdown

logger = logging.getLogger(__name__)

_SIDE = 160  # pixels of a picture at most
_IMAGES, _BUDGETS, _TEXTS = 8, 4, 20  # shown at most


def write_examples(folder: str | Path) -> list[Path]:
    """Show some examples of a finished attack in its own folder.

    Args:
        folder: ``output_dir`` of ``hf_vub.attacks.image.attack.attack`` or ``hf_vub.attacks.text.attack.attack``.

    Returns:
        What was written: ``examples.png`` and ``examples.pdf`` of images, ``examples.html`` and ``examples.md`` of
        texts. Nothing where no image was attacked or no text fell, or, with a warning, where an optional package is
        missing: by now the attack has cost its hours.

    Raises:
        ValueError: the folder's result is of another kind.
    """
    folder = Path(folder)
    result = read_json(folder / "result.json")
    writers = {"image_attack": _write_images, "text_attack": _write_texts}
    if result["kind"] not in writers:
        raise ValueError(f"{folder} holds a result of kind {result['kind']!r}; it must be of {' or '.join(writers)}")
    about = {name: public_name(result[name]) for name in ("attack", "model", "dataset")}
    about["model"] = public_name(result.get("head") or result["model"])
    try:
        return writers[result["kind"]](folder, result, about)
    except ImportError as error:
        logger.warning("the examples in %s are not shown: %s", folder, error)
        return []


def _write_images(folder: Path, result: dict[str, Any], about: dict[str, str]) -> list[Path]:
    found = image_examples(folder, result["class_names"], _IMAGES)
    if not found:
        return []
    drawn = plots.adversarial_images({"{attack}: {model} on {dataset}".format(**about): found})
    return plots.save(drawn, folder / "examples")


def _write_texts(folder: Path, result: dict[str, Any], about: dict[str, str]) -> list[Path]:
    found = [{"attack": about["attack"], **row} for row in text_examples(folder, result["class_names"], _TEXTS)]
    if not found:
        return []
    page = environment().get_template("texts.html.jinja").render(**about, result=result, texts=marked_texts(found))
    return [
        write_text(folder / "examples.html", page),
        write_text(folder / "examples.md", marked_texts_markdown(found)),
    ]


def text_examples(folder: Path, names: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """The successes with the fewest words changed, on the shortest texts.

    Args:
        folder: of the attack.
        names: of the classes.
        limit: of these, at most so many.

    Returns:
        ``index``, the texts ``original`` and ``perturbed``, the class ``label`` and the wrong class ``prediction``.
    """
    wins = [record for record in read_records(folder / "records.jsonl") if record.get("success")]
    wins.sort(key=lambda record: (record["words_perturbed"], record["words"], record["index"]))
    return [
        {
            "index": record["index"],
            "original": clean_text(record["original_text"]),
            "perturbed": clean_text(record["perturbed_text"]),
            "label": _name(names, record["label"]),
            "prediction": _name(names, record["perturbed_prediction"]),
        }
        for record in wins[:limit]
    ]


def image_examples(folder: Path, names: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """Images before and after an attack, those that fell at most budgets first, each at up to four budgets.

    Args:
        folder: of the attack.
        names: of the classes.
        limit: at most so many images.

    Returns:
        One row per image and budget: ``index``, ``epsilon``, ``l2``, ``success``, the classes ``label`` and
        ``prediction``, and as PNG in base64 ``original``, ``adversarial`` and their difference, ``perturbation``, over
        mid-grey and multiplied by ``magnification`` so that its largest value just fits.
    """
    from safetensors.torch import load_file

    path = folder / "images.safetensors"
    if not path.exists():
        return []
    found = load_file(path)
    records = {record["index"]: record for record in read_records(folder / "records.jsonl")}
    chosen = found["success"].sum(dim=1).argsort(descending=True, stable=True)[:limit].tolist()
    budgets = found["success"].shape[1]
    places = np.linspace(0, budgets - 1, min(budgets, _BUDGETS)).round().astype(int).tolist()
    pictures = []
    for row in chosen:
        index, original = int(found["index"][row]), found["original"][row]
        for place in places:
            outcome, adversarial = records[index]["outcomes"][place], found["adversarial"][row, place]
            change = adversarial - original
            largest = float(change.abs().max())
            factor = _two_digits(0.5 / largest) if largest > 1e-6 else 1.0  # there is nothing to see
            pictures.append(
                {
                    "index": index,
                    "epsilon": outcome["epsilon"],
                    "l2": outcome["l2"],
                    "success": outcome["success"],
                    "label": _name(names, int(found["label"][row])),
                    "prediction": _name(names, outcome["prediction"]),
                    "magnification": factor,
                    "original": _png(original),
                    "perturbation": _png((0.5 + factor * change).clamp(0, 1)),
                    "adversarial": _png(adversarial),
                }
            )
    return pictures


def _name(names: Sequence[str], number: int) -> str:
    """A class by name, or by number where it has none; logits that are not numbers predict no class."""
    if number < 0:
        return "none"
    return names[number] if number < len(names) else str(number)


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _png(pixels: Tensor) -> str:
    """Pixels (channels, height, width) in [0, 1] as a PNG in base64, made smaller where they are large."""
    from PIL import Image

    values = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(values.squeeze(-1) if values.shape[-1] == 1 else values)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
