"""Small models and data sets, and data sets that are odd, damaged or hostile."""

import math
import os
import pickle
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image

from hf_vub import VUBForSequenceClassification
from hf_vub.data.synthetic import reviews, word_tokenizer

Named = dict[str, Callable[[], tuple[Any, bool | None]]]
"""Data sets by what is odd about them: each makes one, and returns its name and whether it must work (None: either)."""


class World:
    """Small models and data sets in a folder, which cases copy, spoil and name.

    Attributes:
        canary: a file that hostile code would write.
        secret: a picture outside every data set.
    """

    def __init__(self, root: Path):
        from transformers import (
            AutoModelForImageClassification,
            BertConfig,
            BertForSequenceClassification,
            BitImageProcessor,
            ResNetConfig,
        )

        self.root, self.bert, self.resnet = root, root / "bert", root / "resnet"
        self.guide, self.ours = root / "guide", root / "ours"
        self.texts, self.images, self.canary = root / "texts", root / "images", root / "canary"
        rows = reviews(num_train=16, num_test=8)
        self.texts.mkdir(parents=True)
        for name, split in rows.items():
            split.to_parquet(self.texts / f"{name}.parquet")
        self.rows: list[str] = list(rows["train"]["text"])
        tokenizer = word_tokenizer(self.rows, vocab_size=200, max_length=16)
        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=24, num_labels=2, **sizes)
        for folder in (self.bert, self.guide):
            BertForSequenceClassification(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        VUBForSequenceClassification.from_pretrained(self.bert, objective="vub").save_pretrained(self.ours)
        tokenizer.save_pretrained(self.ours)
        shape = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
        torch.manual_seed(0)
        AutoModelForImageClassification.from_config(ResNetConfig(num_labels=2, **shape)).save_pretrained(self.resnet)
        size = {"do_center_crop": False, "size": {"height": 16, "width": 16}}
        BitImageProcessor(**size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(self.resnet)
        write_pictures(self.images)
        self.secret = next(write_pictures(root / "secrets", size=12).rglob("*.png"))


def write_pictures(folder: Path, size: int = 10, each: int = 8) -> Path:
    """Write a folder of two classes of small pictures."""
    for label, colour in (("cold", (20, 40, 220)), ("warm", (230, 60, 10))):
        (folder / label).mkdir(parents=True)
        for row in range(each):
            Image.new("RGB", (size, size), tuple(value + row for value in colour)).save(folder / label / f"{row}.png")
    return folder


class Canary:
    """An object whose unpickling writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.path), "w")


class Maker:
    """Make files and folders of one data set.

    Args:
        world: gives the texts of good rows.
        at: where everything goes.
    """

    def __init__(self, world: World, at: Path):
        self.world, self.at = world, at

    def table(self, **columns: Any) -> dict[str, list[Any]]:
        """Return the columns of a good table of 8 rows, some of them replaced or, with None, left out."""
        good: dict[str, Any] = {"text": self.world.rows[:8], "label": [0, 1] * 4, **columns}
        return {name: values for name, values in good.items() if values is not None}

    def path(self, name: str) -> Path:
        """Return a path whose folder exists."""
        path = self.at / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def csv(self, name: str = "a.csv", **columns: Any) -> Path:
        """Write a CSV file of a table."""
        path = self.path(name)
        Dataset.from_dict(self.table(**columns)).to_csv(path, index=False)
        return path

    def parquet(self, **columns: Any) -> Path:
        """Write a parquet file of a table."""
        path = self.path("a.parquet")
        Dataset.from_dict(self.table(**columns)).to_parquet(path)
        return path

    def raw(self, name: str, content: bytes) -> Path:
        """Write a file of these bytes."""
        path = self.path(name)
        path.write_bytes(content)
        return path

    def folder(self, name: str) -> Path:
        """Make an empty folder."""
        self.path(name).mkdir()
        return self.at / name

    def fifo(self, name: str) -> Path:
        """Make a pipe that nobody writes to."""
        os.mkfifo(self.path(name))
        return self.at / name

    def link(self, name: str, target: Path) -> Path:
        """Make a symbolic link."""
        self.path(name).symlink_to(target)
        return self.at / name

    def pickle(self, name: str) -> Path:
        """Write a pickle that runs code."""
        return self.raw(name, pickle.dumps(Canary(self.world.canary)))


NAMES = [
    *("", " ", ".", "/", "..", "-", "~nobody/x", "/dev/null", "/dev/zero", "a/b/c", "nobody/none", "x" * 300, "a\nb"),
    *("http://localhost:9/a.csv", "hf://datasets/x/y", "s3://bucket/a.csv", "file:///etc/passwd"),
]


def odd_texts(world: World, rng: random.Random, at: Path) -> Named:
    """Return data sets that are odd for a text classifier."""
    return {**_odd_columns(Maker(world, at)), **_odd_files(world, rng, Maker(world, at))}


def _odd_columns(make: Maker) -> Named:
    return {
        "no rows, parquet": lambda: (make.parquet(text=[], label=[]), False),
        "negative labels": lambda: (make.parquet(label=[0, -1] * 4), False),
        "labels with gaps": lambda: (make.parquet(label=[0, 7] * 4), None),
        "fractions as labels": lambda: (make.parquet(label=[0.5, 1.5] * 4), False),
        "labels not a number": lambda: (make.parquet(label=[math.nan, 1.0] * 4), False),
        "a missing label": lambda: (make.parquet(label=[None, 1, 0, 1, 0, 1, 0, 1]), False),
        "lists as labels": lambda: (make.parquet(label=[[0, 1]] * 8), False),
        "huge labels": lambda: (make.parquet(label=[0, 2**62] * 4), None),
        "truths as labels": lambda: (make.parquet(label=[True, False] * 4), None),
        "one class": lambda: (make.csv(label=[1] * 8), None),
        "one row": lambda: (make.csv(text=["good"], label=[1]), None),
        "two rows": lambda: (make.csv(text=["good", "bad"], label=[1, 0]), None),
        "no label": lambda: (make.csv(label=None), False),
        "no text": lambda: (make.csv(text=None, number=[0, 1] * 4), False),
        "texts missing": lambda: (make.parquet(text=[None] * 8), None),
        "numbers as texts": lambda: (make.parquet(text=[0, 1] * 4), None),
        "bytes as texts": lambda: (make.parquet(text=[b"\xff"] * 8), False),
        "empty texts": lambda: (make.csv(text=[""] * 8), None),
        "a long text": lambda: (make.csv(text=["good " * 10**5, *make.world.rows[:7]]), True),
        "each row its class": lambda: (make.csv(label=list("abcdefgh")), None),
        "labels that disagree": lambda: (make.csv(labels=[1, 0] * 4), False),
    }


def _odd_files(world: World, rng: random.Random, make: Maker) -> Named:
    rubbish = rng.randbytes(rng.randrange(1, 400))
    parquet = (world.texts / "train.parquet").read_bytes()
    cut = rng.randrange(len(parquet))
    script = f"open({str(world.canary)!r}, 'w')".encode()
    mixed = b'{"text": 1, "label": 0}\n{"text": "a", "label": "b"}\n'
    return {
        "only a test file": lambda: (make.csv("d/test.csv").parent, False),
        "empty folder": lambda: (make.folder("d"), False),
        "no byte": lambda: (make.raw("a.csv", b""), False),
        "no row": lambda: (make.raw("a.csv", b"text,label\n"), False),
        "a column twice": lambda: (make.raw("a.csv", b"text,text,label\na,b,0\nc,d,1\n"), None),
        "no header": lambda: (make.raw("a.csv", b"0,a good film\n1,a bad film\n" * 4), False),
        "an open quote": lambda: (make.raw("a.csv", b'text,label\n"good,0\nbad,1\n'), None),
        "rows of many lengths": lambda: (make.raw("a.csv", b"text,label\na,0,1,2\nb\nc,1\n"), None),
        "a mark of byte order": lambda: (make.raw("a.csv", b"\xef\xbb\xbftext,label\n" + b"a,0\nb,1\n" * 5), True),
        "UTF-16": lambda: (make.raw("a.csv", "text,label\ngood,0\nbad,1\n".encode("utf-16")), False),
        "Latin-1": lambda: (make.raw("a.csv", "text,label\ncafé,0\nbad,1\n".encode("latin-1") * 4), False),
        "NUL bytes": lambda: (make.raw("a.csv", b"text,label\n\0a,0\nb\0,1\n"), None),
        "rubbish, CSV": lambda: (make.raw("a.csv", rubbish), False),
        "rubbish, parquet": lambda: (make.raw("a.parquet", rubbish), False),
        "rubbish, JSON": lambda: (make.raw("a.json", rubbish), False),
        "rubbish, JSON lines": lambda: (make.raw("a.jsonl", rubbish), False),
        "cut parquet": lambda: (make.raw("a.parquet", parquet[:cut]), False),
        "spoilt parquet": lambda: (make.raw("a.parquet", parquet[:cut] + rubbish + parquet[cut + 9 :]), None),
        "an object in JSON": lambda: (make.raw("a.json", b'{"text": "good", "label": 0}'), None),
        "a number in JSON": lambda: (make.raw("a.json", b"17"), False),
        "deep JSON": lambda: (make.raw("a.json", b"[" * 10**5 + b"]" * 10**5), False),
        "mixed JSON lines": lambda: (make.raw("a.jsonl", mixed), None),
        "pickle, parquet": lambda: (make.pickle("a.parquet"), False),
        "pickle, CSV": lambda: (make.pickle("a.csv"), False),
        "a folder's own script": lambda: (make.raw("d/d.py", script).parent, False),
        "another ending": lambda: (make.raw("a.txt", b"text,label\na,0\n"), False),
        "no ending": lambda: (make.raw("a", b"text,label\na,0\n"), False),
        "a pattern": lambda: (make.csv("a2.csv").parent / "a?.csv", False),
        "a star": lambda: (make.csv("a2.csv").parent / "*.csv", False),
        "a chain of archives": lambda: (make.csv("x::a.csv"), False),
        "a pipe": lambda: (make.fifo("a.csv"), False),
        "a pipe in a folder": lambda: (make.fifo("d/train.csv").parent, False),
        "a broken link": lambda: (make.link("a.csv", make.at / "nowhere.csv"), False),
        "a link to itself": lambda: (make.link("a.csv", make.at / "a.csv"), False),
        "a folder as file": lambda: (make.folder("a.csv"), False),
        "pictures": lambda: (world.images, False),
        "a damaged save": lambda: (make.raw("d/state.json", rng.choice([b"{}", b"[]", rubbish])).parent, False),
        "damaged splits": lambda: (make.raw("d/dataset_dict.json", rng.choice([b"{}", b"[1]"])).parent, False),
        "a name": lambda: (rng.choice(NAMES), False),
    }


def bomb(side: int) -> bytes:
    """Return a PNG file that says that it has so many rows and columns, and is 100 bytes long."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


ADDRESSES = ["http://127.0.0.1:9/a.png", "hf://datasets/a/b/c.png", "file:///etc/passwd", "s3://bucket/a.png"]


def odd_pictures(world: World, rng: random.Random, at: Path) -> Named:
    """Return data sets that are odd for an image classifier."""
    make = Maker(world, at)
    png = (world.images / "cold" / "0.png").read_bytes()
    size = rng.choice([20_000, 60_000, 2**31 - 1])
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"

    def among(name: str, content: bytes) -> Path:
        shutil.copytree(world.images, at / "d")
        make.raw(f"d/{name}", content)
        return at / "d"

    def row(**image: Any) -> Path:
        good = [{"bytes": path.read_bytes(), "path": None} for path in sorted(world.images.rglob("*.png"))[1:]]
        images = [*good, {"bytes": None, "path": None, **image}]
        return make.parquet(text=None, image=images, label=[0, 1] * (len(images) // 2))

    return {
        "a stray JSON": lambda: (among("classes.json", b'{"a": 1}'), True),
        "a stray note": lambda: (among("notes.txt", b"cold and warm"), True),
        "a loose picture": lambda: (among("loose.png", png), None),
        "a cut picture": lambda: (among("cold/3.png", png[: rng.randrange(len(png))]), None),
        "a text as picture": lambda: (among("cold/3.png", b"no picture"), None),
        "PostScript as picture": lambda: (among("cold/3.png", script), None),
        "no byte": lambda: (among("cold/3.png", b""), None),
        "a bomb": lambda: (among("cold/3.png", bomb(size)), None),
        "an empty class": lambda: (among("empty/.keep", b""), None),
        "no class": lambda: (make.raw("d/0.png", png).parent, False),
        "one picture": lambda: (make.raw("d/a/0.png", png).parents[1], None),
        "texts": lambda: (world.texts, False),
        "an absolute path": lambda: (row(path=str(world.secret)), False),
        "an escaping path": lambda: (row(path=os.path.relpath(world.secret, at)), False),
        "an address": lambda: (row(path=rng.choice(ADDRESSES)), False),
        "a pipe": lambda: (row(path=str(make.fifo("pipe.png"))), False),
        "a device": lambda: (row(path="/dev/zero"), False),
        "a link out": lambda: (row(path=str(make.link("link.png", world.secret))), False),
        "a chain": lambda: (row(path=f"zip://a.png::{world.secret}"), False),
        "bytes of nothing": lambda: (row(bytes=b""), None),
        "bytes of rubbish": lambda: (row(bytes=rng.randbytes(60)), None),
        "bytes of a bomb": lambda: (row(bytes=bomb(size)), None),
        "neither bytes nor path": lambda: (row(), None),
        "numbers": lambda: (make.parquet(text=None, image=[0, 1] * 4), False),
    }
