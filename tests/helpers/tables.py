"""Small data sets on disk: tables and folders of images."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image


def write_table(path: Path, **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = Dataset.from_dict(columns)
    if path.suffix == ".parquet":
        dataset.to_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        dataset.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False)
    else:
        dataset.to_json(path, lines=path.suffix == ".jsonl")
    return path


def write_images(folder: Path, classes: dict[str, int], seed: int = 0) -> None:
    """Write so many PNG files of noise per class, no two alike."""
    noise = np.random.default_rng(seed)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for row in range(count):
            pixels = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{row}.png")
