"""Images in folders, one folder per class, and images that rows name by their paths.

Local rows may name regular files inside the data set's own folder and nothing else.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Image, concatenate_datasets
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from .columns import arrow_column
from .preprocessing import disable_ghostscript
from .tables import split_of


def has_class_folders(folders: Sequence[Path]) -> bool:
    """Return whether images lie in at least two folders, none of which is called like a split."""
    holders = set()
    for folder in folders:
        for file in _images(folder):
            if file.parent == folder and split_of(folder.name):
                return False
            holders.add(file.parent)
            if len(holders) > 1:
                return True
    return False


def _images(folder: Path) -> Iterator[Path]:
    """Yield the image files of a folder and of the folders in it, through links too; hidden ones are left out."""
    visited = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        if os.path.realpath(parent) in visited:
            folders.clear()  # a link that leads back
            continue
        visited.add(os.path.realpath(parent))
        for name in sorted(files):
            file = Path(parent, name)
            if not name.startswith((".", "__")) and file.suffix.lower() in ImageFolder.EXTENSIONS and file.is_file():
                yield file


def read_images(roots: Mapping[str, Path]) -> dict[str, Dataset]:
    """Return images with the name of the folder that each lies in as its label."""
    found = {split: sorted(map(str, _images(root.resolve()))) for split, root in roots.items()}
    for split, paths in found.items():
        if not paths:
            raise ValueError(f"{roots[split]} must hold folders of images, one per class, but holds no image")
        loose = [path for path in paths if Path(path).parent == roots[split].resolve()]
        if loose:
            raise ValueError(f"{loose[0]} must lie in a folder named like its class, as all images of {roots[split]}")
    names = sorted({Path(path).parent.name for paths in found.values() for path in paths})
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    numbers = {name: number for number, name in enumerate(names)}
    return {
        split: Dataset.from_dict(
            {"image": paths, "label": [numbers[Path(path).parent.name] for path in paths]}, features=features
        )
        for split, paths in found.items()
    }


def anchor_images(dataset: Dataset, where: str, resolve: Callable[[str], str] | None) -> Dataset:
    """Return rows whose column ``image`` holds decodable images; a path must name a file inside the data set's folder.

    Raises:
        ValueError: a row names another file, an address on the network, or something that is no regular file.
    """
    disable_ghostscript()
    feature = dataset.features["image"]
    if not isinstance(feature, Image):
        try:
            dataset = dataset.cast_column("image", Image())
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{where}: the image column must hold images, but holds {feature}") from error
    if resolve is None:
        return dataset
    column = arrow_column(dataset, "image")
    paths = pc.struct_field(column, "path")
    rows = np.flatnonzero(pc.and_(pc.struct_field(column, "bytes").is_null(), paths.is_valid()).to_numpy())
    anchored = {}
    for row, path in zip(rows.tolist(), paths.take(pa.array(rows)).to_pylist(), strict=True):
        try:
            anchored[row] = resolve(path)
        except (ValueError, OSError) as error:
            raise ValueError(f"{where}: row {row} names the image {path!r}, {error}") from None
    if not anchored:
        return dataset
    values = column.to_pylist()
    for row, path in anchored.items():
        values[row] = {"bytes": None, "path": path}
    images = Dataset.from_dict({"image": values}, features=Features({"image": dataset.features["image"]}))
    return concatenate_datasets([dataset.remove_columns("image"), images], axis=1)


def inside(root: Path, path: str) -> str:
    """Return the absolute path of a file that a row names, from ``root`` or from where the process runs.

    Raises:
        ValueError: it is not a regular file inside ``root``.
    """
    found = [file for file in (root / path, Path.cwd() / path) if "\0" not in path and file.is_file()]
    if not found or not found[0].resolve().is_relative_to(root):
        raise ValueError(f"which is not a file in the data set's own folder {root}")
    return str(found[0])


def allow_remote(path: str) -> str:
    """Return the path of a file on the network or in the caches of the Hub and of `datasets`."""
    from datasets import config
    from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

    if re.match(r"(https?|hf)://", path):
        return path
    file = Path(path)
    caches = [Path(cache).resolve() for cache in (HF_HOME, HF_HUB_CACHE, config.HF_DATASETS_CACHE)]
    if "\0" in path or not file.is_file() or not any(file.resolve().is_relative_to(cache) for cache in caches):
        raise ValueError("which is not a file of the data set")
    return path
