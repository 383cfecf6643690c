"""Rubbish in files, images and texts: the right result or an error that says what is wrong, and nothing else.

The default run draws a few inputs of each kind, ``-m slow`` some thousands.
"""

import contextlib
import io
import json
import math
import random
import warnings

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.feature_models import TextModel, token_rows
from helpers.models import build_model
from hf_vub import VUBConfig, VUBForSequenceClassification
from hf_vub.data.preprocessing import clean_text, to_rgb, tokenize
from hf_vub.data.splits import load_splits
from hf_vub.data.synthetic import word_tokenizer
from hf_vub.embeddings.extraction import Features, extract
from hf_vub.embeddings.pixels import PixelModel
from hf_vub.runs import files as results

TOLD = (ValueError, TypeError, OSError)
"""What the package promises for bad input."""
FEW, MANY = 8, 2000

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["vub", "vib", "bert", "timm_wrapper", "vit", "../x", "single_label_classification", "", "\ud800"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def fuzz(*strategies, slow=MANY):
    """A pair of tests: a few inputs by default, and ``slow`` of them in the slow run."""

    def make(check):
        def sized(examples):
            def test(tmp_path_factory, drawn):
                folder = tmp_path_factory.getbasetemp()
                check(folder, *drawn)

            test.__doc__ = check.__doc__
            quiet = settings(
                max_examples=examples, deadline=None, database=None, derandomize=True,
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            return quiet(given(drawn=st.tuples(*strategies))(test))

        name = check.__name__
        globals()[f"{name}_thousandfold"] = pytest.mark.slow(sized(slow))
        return sized(FEW)

    return make


# Configurations


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    build_model("bert").save_pretrained(folder)
    return folder


fields = ["backbone_config", "objective", "beta", "entropy_weight", "label_entropy", "latent_size", "num_train_samples"]
fields += ["num_eval_samples", "freeze_backbone", "encoder_relu", "num_labels", "id2label", "problem_type"]


@fuzz(st.dictionaries(st.sampled_from(fields), values, max_size=4))
def test_any_configuration_is_made_or_refused(folder, changes):
    known = build_config()
    try:
        config = VUBConfig.from_dict({**known, **changes})
    except TOLD:
        return
    assert 0 <= config.beta < math.inf
    assert config.num_labels >= 2
    assert 0 <= config.entropy_cap <= math.log(config.num_labels) + 1e-6


def build_config():
    global _CONFIG
    if _CONFIG is None:
        _CONFIG = json.dumps(build_model("bert").config.to_dict())
    return json.loads(_CONFIG)


_CONFIG = None


@fuzz(st.binary(max_size=200), st.integers(0, 10_000), st.integers(0, 200), slow=1000)
def test_a_spoilt_config_file_is_refused(folder, rubbish, place, cut):
    text = json.dumps(build_config()).encode()
    place %= len(text)
    path = folder / "spoilt"
    path.mkdir(exist_ok=True)
    (path / "config.json").write_bytes(text[:place] + rubbish + text[place + cut :])
    with contextlib.suppress(*TOLD):
        VUBConfig.from_pretrained(path)


# Caches and records


@fuzz(st.binary(max_size=64), st.integers(0, 2**20), st.integers(0, 64), st.booleans())
def test_a_spoilt_cache_is_refused(folder, rubbish, place, cut, in_header):
    whole = cache(folder)
    content = whole.path.read_bytes()
    place %= 400 if in_header else len(content)
    spoilt = content[:place] + rubbish + content[place + cut :]
    path = folder / "spoilt.safetensors"
    path.write_bytes(spoilt)
    try:
        found = Features.load(path)
    except TOLD:
        return
    # Only what was not touched at all.
    assert spoilt == content
    assert torch.equal(found.features, whole.features)


def cache(folder):
    known = list((folder / "features").glob("*.safetensors"))
    if known:
        return Features.load(known[0])
    return extract(TextModel(), Dataset.from_dict(token_rows(6)), folder / "features", dtype="float32")


@fuzz(st.lists(st.binary(max_size=40) | values.map(lambda value: json.dumps(value).encode()), max_size=6))
def test_records_are_whole_or_passed_over(folder, lines):
    path = folder / "records.jsonl"
    path.write_bytes(b"\n".join(lines))
    for record in results.read_records(path):
        assert isinstance(record, dict)
    results.append_record(path, {"last": "\ud800"})
    assert list(results.read_records(path))[-1] == {"last": "\ud800"}
    path.write_bytes(b"".join(lines))
    with contextlib.suppress(ValueError):
        assert isinstance(results.read_json(path), dict)


@fuzz(
    st.sampled_from(["parquet", "jsonl", "csv"]),
    st.binary(max_size=60),
    st.integers(0, 10**6),
    st.integers(0, 60),
    slow=300,
)
def test_a_spoilt_table_is_read_or_refused(folder, kind, rubbish, place, cut):
    datasets.disable_progress_bars()
    source = folder / f"table.{kind}"
    if not source.exists():
        rows = Dataset.from_dict({"text": [f"text {row}" for row in range(20)], "label": [0, 1] * 10})
        {"parquet": rows.to_parquet, "jsonl": rows.to_json, "csv": rows.to_csv}[kind](source)
    content = source.read_bytes()
    place %= len(content)
    path = folder / f"spoilt-{random.Random(content + rubbish + bytes([cut])).random()}.{kind}"
    path.write_bytes(content[:place] + rubbish + content[place + cut :])
    try:
        splits = load_splits(path)
    except TOLD:
        return
    assert all(isinstance(text, str) for text in splits["train"]["text"][:])
    assert min(splits["train"]["label"][:]) >= 0


names = st.sampled_from(["text", "label", "labels", "image", "review", "category", "a", "", "0"])
words = st.text(max_size=6)
kinds = [
    words,
    words,
    st.integers(-1, 3),
    st.integers(0, 1),
    st.floats(),
    st.booleans(),
    st.binary(max_size=3),
    st.none(),
]
columns = st.one_of(*(st.lists(kind, min_size=6, max_size=6) for kind in [*kinds, words | st.none(), st.just([1, 2])]))
named = st.sampled_from(
    [{}, {"text_column": "a"}, {"text_column": "a+text"}, {"label_column": "0"}, {"validation": 0.5}]
)


@fuzz(
    st.fixed_dictionaries({}, optional={"text": st.lists(words, min_size=6, max_size=6)}),
    st.dictionaries(names, columns, max_size=4),
    st.sampled_from(["train.parquet", "test.csv", "rows.tsv", "rows.jsonl"]),
    named,
    slow=500,
)
def test_any_table_is_read_or_refused_in_one_sentence(folder, texts, others, file, options):
    datasets.disable_progress_bars()
    path = folder / f"{random.Random(repr((texts, others, file))).random()}" / file
    path.parent.mkdir(exist_ok=True)
    with contextlib.suppress(TypeError, ValueError):  # no file takes lone surrogates, and JSON no bytes
        rows = Dataset.from_dict({**texts, **others})
        {"parquet": rows.to_parquet, "jsonl": rows.to_json}.get(file.partition(".")[2], rows.to_csv)(path)
    reason = None
    try:
        splits = load_splits(path, **options)
    except TOLD as error:
        reason = str(error)
    if reason is not None:
        assert "\n" not in reason
        assert len(reason) < 600
        return
    for split in splits.values():
        assert all(isinstance(text, str) for text in split["text"][:])
        assert 0 <= min(split["label"][:]) <= max(split["label"][:]) < split.features["label"].num_classes
    assert len(splits.digest) == 64


# Images


def picture(mode, width, height, seed):
    rng = np.random.default_rng(seed)
    channels = {"RGB": 3, "RGBA": 4, "CMYK": 4, "LA": 2, "YCbCr": 3, "HSV": 3, "LAB": 3}.get(mode)
    shape = (height, width) if channels is None else (height, width, channels)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, shape, dtype=np.uint16))
    if mode == "I":
        return Image.fromarray(rng.integers(0, 65536, shape, dtype=np.int32))
    if mode == "F":
        return Image.fromarray((rng.random(shape) * rng.choice([1.0, 255.0, 1e30])).astype(np.float32))
    if mode in ("1", "P", "PA"):
        return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).convert(mode)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode if mode != "LAB" else "LAB")


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"]
KINDS = ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "ICO"]
sides = st.sampled_from([1, 2, 3, 7, 16, 65, 300])


@fuzz(st.sampled_from(MODES), sides, sides, st.integers(0, 99), st.integers(0, 10))
def test_any_picture_becomes_upright_rgb(folder, mode, width, height, seed, orientation):
    image = picture(mode, width, height, seed)
    if orientation:
        image.getexif()[0x0112] = orientation
    found = to_rgb(image)
    assert found.mode == "RGB"
    turned = orientation in (5, 6, 7, 8)
    assert found.size == tuple(max(4, side) for side in ((height, width) if turned else (width, height)))


@fuzz(
    st.sampled_from(MODES), st.sampled_from(KINDS), sides, st.integers(1, 3), st.integers(0, 10**5),
    st.integers(0, 30), st.binary(max_size=20),
)  # fmt: skip
def test_any_file_is_an_image_or_a_reason(folder, mode, kind, side, frames, place, cut, rubbish):
    """Cut, overwritten and animated files: finite pixels in [0, 1], or a ValueError to skip the row with."""
    image = picture(mode, side, 9, 0)
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": [image] * (frames - 1)} if kind in ("GIF", "TIFF", "WEBP") else {}
    try:
        image.save(buffer, kind, **more)
    except (OSError, ValueError, KeyError):
        return  # the format has no such mode
    content = buffer.getvalue()
    place %= len(content)
    if rubbish:
        content = content[:place] + rubbish + content[place + cut :]
    model = PixelModel(torch.nn.Flatten())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = model.read({"bytes": content, "path": None})
        except ValueError:
            return
    assert pixels.shape[0] == 3
    assert bool(((pixels >= 0) & (pixels <= 1)).all())


def test_a_bomb_is_a_reason(monkeypatch):
    """More pixels than pillow agrees to decode."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    buffer = io.BytesIO()
    Image.new("L", (100, 100)).save(buffer, "PNG")
    with pytest.raises(ValueError, match=r"not a readable image: .*decompression bomb"):
        PixelModel(torch.nn.Flatten()).read({"bytes": buffer.getvalue(), "path": None})


# Texts


ODD = [
    "",
    " ",
    "\0",
    "\ud800",
    "\udfff\ud800",
    "مرحبا بالعالم",
    "\u202eabc",
    "👩‍👩‍👧‍👦" * 3,
    "e\u0301" * 50,
    "\n\r\t\u2028",
    "𝕬" * 9,
]
texts = st.text(alphabet=st.characters(codec=None), max_size=60) | st.sampled_from([*ODD, "word " * 3000, "x" * 10**5])


@fuzz(st.lists(texts, min_size=1, max_size=4))
def test_any_text_is_classified(folder, drawn):
    tokenizer, model = reader()
    cleaned = [clean_text(text) for text in drawn]
    for text in cleaned:
        text.encode("utf-8")
    encoded = tokenizer(cleaned, truncation=True, max_length=16)
    assert all(len(ids) <= 16 for ids in encoded["input_ids"])
    batch = tokenizer.pad(encoded, return_tensors="pt")
    if batch["input_ids"].shape[1] == 0:
        return
    with torch.no_grad():
        found = model(input_ids=batch["input_ids"].long(), attention_mask=batch["attention_mask"].long())
    assert found.logits.isfinite().all()
    assert (found.rate >= 0).all()


@fuzz(
    st.lists(texts.filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)), min_size=1, max_size=4),
    slow=500,
)
def test_any_text_is_a_row_of_tokens(folder, drawn):
    datasets.disable_progress_bars()
    tokenizer, _ = reader()
    rows = tokenize(Dataset.from_dict({"text": drawn, "label": [0] * len(drawn)}), tokenizer, 16)
    assert all(0 < length <= 16 for length in rows["length"][:])
    assert max(map(max, rows["input_ids"][:])) < len(tokenizer)


def test_a_text_of_a_megabyte_is_classified():
    tokenizer, model = reader()
    text = ("good film \0 \u202e " * 75_000)[: 2**20]
    batch = tokenizer([text], truncation=True, max_length=16, return_tensors="pt")
    assert model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.isfinite().all()


_READER = []


def reader():
    if not _READER:
        tokenizer = word_tokenizer(["good film", "bad film"], vocab_size=120, max_length=16)
        model = build_model("bert")
        model.resize_token_embeddings(len(tokenizer))
        _READER.append((tokenizer, model))
    return _READER[0]


def test_a_checkpoint_with_a_spoilt_header_is_refused(saved, tmp_path):
    from safetensors import SafetensorError

    content = (saved / "model.safetensors").read_bytes()
    rng = random.Random(0)
    refused = 0
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    for _ in range(10):
        place = rng.randrange(200)
        (tmp_path / "model.safetensors").write_bytes(content[:place] + rng.randbytes(5) + content[place + 5 :])
        try:
            VUBForSequenceClassification.from_pretrained(tmp_path)
        except (*TOLD, RuntimeError, SafetensorError):
            refused += 1
    assert refused == 10
    (tmp_path / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises((*TOLD, SafetensorError)):
        VUBForSequenceClassification.from_pretrained(tmp_path)
