"""Rows of another origin than a data set's, to test which score tells them apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, Value

from ..data.splits import load_splits, subset
from ..model.loading import Task

ROWS = 300


def unfamiliar_rows(task: Task, test: Dataset, further: Sequence[str] = (), seed: int = 0) -> dict[str, Dataset]:
    """Return data sets of another origin by name, at most ROWS rows each, with labels that mean nothing.

    For texts: reviews written by a grammar, and the test texts with their words in random order. For images:
    scikit-learn's digits and uniform noise of the size of the first test image.

    Args:
        task: "text" or "image".
        test: familiar rows, with the column text or image.
        further: names or paths of more data sets, of whose test rows all count as unfamiliar.
        seed: draws rows, orders and noise.
    """
    few = subset(test, ROWS, seed)
    rng = np.random.default_rng(seed)
    found: dict[str, Dataset] = {}
    if task == "text":
        reviews = load_splits("synthetic-reviews", medium="text")["test"]
        found["generated reviews"] = _texts(subset(reviews, ROWS, seed)["text"])
        found["shuffled words"] = _texts([" ".join(rng.permutation(text.split())) for text in few["text"]])
    else:
        found["digits"] = _unlabelled(subset(load_splits("digits", medium="image")["test"], ROWS, seed))
        width, height = few[0]["image"].size
        noise = rng.integers(0, 256, (len(few), height, width, 3), dtype=np.uint8)
        features = Features({"image": Image(), "label": Value("int64")})
        found["uniform noise"] = Dataset.from_dict({"image": list(noise), "label": [0] * len(few)}, features=features)
    for name in further:
        rows = load_splits(name, medium=task)["test"]
        found[Path(name).name] = _unlabelled(subset(rows, ROWS, seed))
    return found


def _texts(texts: Sequence[str]) -> Dataset:
    return Dataset.from_dict({"text": list(texts), "label": [0] * len(texts)})


def _unlabelled(rows: Dataset) -> Dataset:
    """Return the rows with label 0 everywhere: theirs are of other classes."""
    return rows.remove_columns("label").add_column("label", [0] * len(rows))
