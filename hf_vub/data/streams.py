"""Streams (``datasets.IterableDataset``) where rows are needed by their number: embeddings and attacks."""

import shutil
import tempfile
import weakref
from itertools import islice
from pathlib import Path
from typing import Any

import datasets


def stored(dataset: Any, rows: int | None = None) -> Any:
    """The rows of a stream as a data set on disk; whatever is no stream as it is.

    Training reads a stream row by row. An embedding or an attack has to know all labels and to come back to rows, so
    it keeps a copy in the cache folder of `datasets`, which goes when the stream does.

    Args:
        dataset: a stream, or anything else.
        rows: read no further than that many rows.

    Example:
        >>> stored(stream.take(100)).num_rows  # doctest: +SKIP
        100
    """
    if not isinstance(dataset, datasets.IterableDataset):
        return dataset
    stream = dataset.with_format(None)
    features = stream.features
    for name, feature in (features or {}).items():
        if hasattr(feature, "decode"):  # encoded again, an image would not be the same
            undecoded = type(feature)(decode=False)
            stream = stream.cast_column(name, undecoded)
    parent = Path(datasets.config.HF_DATASETS_CACHE)
    parent.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="stream-", dir=parent)
    weakref.finalize(dataset, shutil.rmtree, folder, ignore_errors=True)
    return datasets.Dataset.from_generator(lambda: islice(stream, rows), features=features, cache_dir=folder)
