"""Streams (``datasets.IterableDataset``) for embeddings and attacks, which need rows by their number."""

import shutil
import tempfile
import weakref
from itertools import islice
from pathlib import Path
from typing import TypeVar

import datasets

D = TypeVar("D")


def materialize(dataset: D | datasets.IterableDataset, rows: int | None = None) -> D | datasets.Dataset:
    """Copy the rows of a stream to disk and return them as a data set; return anything else as it is.

    Training reads a stream row by row. An embedding or an attack needs all labels first and reads rows more than once,
    so it works on a copy (of the first ``rows``) in the cache folder of `datasets`, which is removed with the stream.

    Example:
        >>> materialize(stream.take(100)).num_rows  # doctest: +SKIP
        100
    """
    if not isinstance(dataset, datasets.IterableDataset):
        return dataset
    stream = dataset.with_format(None)
    features = stream.features
    for name, feature in (features or {}).items():
        if hasattr(feature, "decode"):  # a decoded image would be encoded again, and differ
            undecoded = type(feature)(decode=False)
            stream = stream.cast_column(name, undecoded)
    parent = Path(datasets.config.HF_DATASETS_CACHE)
    parent.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="stream-", dir=parent)
    weakref.finalize(dataset, shutil.rmtree, folder, ignore_errors=True)
    return datasets.Dataset.from_generator(lambda: islice(stream, rows), features=features, cache_dir=folder)
