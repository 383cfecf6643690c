"""Seeded hostile checkpoints and files: none may run code, reach out of its folder, fetch anything or hang."""

import json
import math
import os
import pickle
import random
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Image

from helpers.odd_data import Canary, World, odd_pictures, odd_texts
from hf_vub import VUBForSequenceClassification
from hf_vub.data.record import TrainingRecord
from hf_vub.data.splits import load_splits
from hf_vub.embeddings.extraction import Features
from hf_vub.embeddings.pixels import PixelModel
from hf_vub.model.loading import load_classifier, load_processor
from hf_vub.runs.schema import read_result
from hf_vub.training.checkpoints import last_checkpoint
from hf_vub.uncertainty import calibrate, classifier_pipeline

CLEAR = (ValueError, OSError, ImportError)
"""What the package promises for a file that it cannot use, in one line."""

Spoil = Callable[[Path, random.Random], None]


class Attempt(NamedTuple):
    """One hostile file: what it is, and what reads it."""

    name: str
    read: Callable[[], object]


class Watch:
    """An audit hook that notes what no file may make a process do.

    Attributes:
        deeds: connections, look-ups of hosts, programs started, and files opened below ``secrets``.
    """

    def __init__(self, secrets: Path):
        self.secrets, self.deeds, self.watching = str(secrets), [], False
        sys.addaudithook(self._note)

    def __enter__(self) -> "Watch":
        self.deeds.clear()
        self.watching = True
        return self

    def __exit__(self, *error: object) -> None:
        self.watching = False

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.fork"):
            self.deeds.append(f"{event} {args[:2]}")
        named = event == "open" and isinstance(args[0], (str, bytes, os.PathLike))
        if named and os.path.realpath(os.fsdecode(args[0])).startswith(self.secrets):
            self.deeds.append(f"opened {args[0]!r}")


class Checkpoints:
    """Checkpoints to spoil: a stock text and image model, and one of ours."""

    def __init__(self, world: World):
        self.world, self.ours = world, world.ours
        self.calibrated = [world.root / "calibrated", world.root / "calibrated_ours"]
        for model, folder in zip((world.bert, world.ours), self.calibrated, strict=True):
            calibrate(model, world.texts, split="train", output_dir=folder, miscoverage=[0.3])
        (self.ours / "evil.py").write_text(f"open({str(world.canary)!r}, 'w').close()\nclass Evil: pass\n")


def put(folder: Path, file: str, place: str, value: Any) -> None:
    """Set one value of a JSON file, at a place such as "backbone_config.hidden_act"."""
    path = folder / file
    content = json.loads(path.read_text()) if path.exists() else {}
    inner = content
    *outer, last = place.split(".")
    for key in outer:
        inner = inner.setdefault(key, {})
    inner[last] = value
    path.write_text(json.dumps(content))


EVIL = "evil.Evil"
CODE: list[tuple[str, str, Any]] = [
    ("config.json", "auto_map", {"AutoModelForSequenceClassification": EVIL, "AutoConfig": EVIL}),
    ("config.json", "auto_map", {"AutoConfig": f"attacker/repo--{EVIL}"}),
    ("config.json", "trust_remote_code", True),
    ("config.json", "attn_implementation", "attacker/repo"),
    ("config.json", "_attn_implementation", "attacker/repo:function"),
    ("config.json", "_attn_implementation_internal", "attacker/repo"),
    ("config.json", "_experts_implementation", "attacker/repo"),
    ("config.json", "attribute_map", {"hidden_size": "_attn_implementation"}),
    ("config.json", "custom_pipelines", {"text-classification": {"impl": EVIL, "pt": ["AutoModel"]}}),
    ("config.json", "quantization_config", {"quant_method": "evil"}),
    ("config.json", "quantization_config", {"quant_method": "gptq", "bits": 4}),
    ("config.json", "transformers_weights", "../../secrets"),
    ("config.json", "_name_or_path", "attacker/repo"),
    ("config.json", "backbone", "attacker/repo"),
    ("tokenizer_config.json", "auto_map", {"AutoTokenizer": [EVIL, EVIL]}),
    ("tokenizer_config.json", "trust_remote_code", True),
    ("tokenizer_config.json", "tokenizer_class", "os.system"),
    ("tokenizer_config.json", "tokenizer_class", EVIL),
    ("tokenizer_config.json", "chat_template", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    ("tokenizer_config.json", "vocab_file", "SECRET"),
    ("tokenizer_config.json", "tokenizer_file", "SECRET"),
    ("tokenizer_config.json", "processor_class", EVIL),
    ("tokenizer_config.json", "added_tokens_decoder", {"-1": {"content": "x"}, "9" * 30: {"content": "y"}}),
    ("preprocessor_config.json", "auto_map", {"AutoImageProcessor": EVIL}),
    ("preprocessor_config.json", "image_processor_type", "os.system"),
    ("preprocessor_config.json", "feature_extractor_type", EVIL),
    ("preprocessor_config.json", "size", {"height": 10**9, "width": 10**9}),
    ("preprocessor_config.json", "resample", 10**9),
    ("adapter_config.json", "base_model_name_or_path", "attacker/repo"),
    ("adapter_config.json", "auto_mapping", {"base_model_class": "Evil", "parent_library": "evil"}),
    ("adapter_config.json", "peft_type", EVIL),
    ("generation_config.json", "custom_generate", "attacker/repo"),
]
ODD: list[tuple[str, Any]] = [
    ("dtype", "os.system"), ("torch_dtype", "__import__"), ("dtype", 17), ("dtype", ["float32"]), ("dtype", "float8"),
    ("hidden_act", "os.system"), ("hidden_act", EVIL), ("hidden_act", 3), ("hidden_act", None), ("model_type", "../x"),
    ("model_type", 3), ("model_type", None), ("architectures", ["os.system"]), ("architectures", 3), ("id2label", 3),
    ("id2label", {"x": "y"}), ("label2id", [1]), ("num_labels", -1), ("num_labels", "x"), ("problem_type", "x"),
    ("num_hidden_layers", 10**9), ("num_hidden_layers", 1e300), ("num_hidden_layers", -1), ("num_hidden_layers", "x"),
    ("num_hidden_layers", [10**9]), ("num_hidden_layers", None), ("depths", [10**9, 1]), ("num_attention_heads", 0),
    ("num_attention_heads", 3), ("hidden_size", 10**9), ("hidden_size", 0), ("hidden_size", -8), ("hidden_size", "x"),
    ("vocab_size", 10**12), ("vocab_size", 2), ("vocab_size", -1), ("max_position_embeddings", 10**12),
    ("max_position_embeddings", 0), ("intermediate_size", 10**12), ("pad_token_id", 10**9), ("pad_token_id", -7),
    ("layer_norm_eps", "x"), ("layer_norm_eps", -1), ("initializer_range", "x"), ("tie_word_embeddings", {"a": 1}),
    ("pruned_heads", {"0": [99]}), ("chunk_size_feed_forward", 3), ("is_decoder", True), ("use_return_dict", "x"),
    ("output_hidden_states", "x"), ("attention_probs_dropout_prob", 7), ("hidden_dropout_prob", "x"),
]  # fmt: skip
OF_OURS: list[tuple[str, Any]] = [
    ("backbone_config", None), ("backbone_config", 3), ("backbone_config", {}), ("backbone_config", []), ("beta", "x"),
    ("backbone_config", {"model_type": "vub"}), ("backbone_config", {"model_type": EVIL}), ("objective", "os.system"),
    ("latent_size", 10**12), ("latent_size", -1), ("latent_size", "x"), ("num_eval_samples", 10**12), ("pooling", EVIL),
    ("num_train_samples", -1), ("label_entropy", "x"), ("label_entropy", 1e308), ("beta", 1e400),
]  # fmt: skip
SHARES: list[Any] = [
    "x",
    "",
    None,
    -1,
    2,
    math.nan,
    math.inf,
    "nan",
    [0.5],
    {"a": 1},
    True,
    "0.5",
    10**400,
    0,
    1,
    1e-300,
]


def _pickled(file: str) -> Callable[["Checkpoints"], Spoil]:
    """Return what replaces the weights by a file that runs code where it is unpickled."""

    def make(checkpoints: "Checkpoints") -> Spoil:
        def spoil(folder: Path, rng: random.Random) -> None:
            (folder / "model.safetensors").unlink(missing_ok=True)
            (folder / file).write_bytes(pickle.dumps(Canary(checkpoints.world.canary)))
            if file.endswith(".index.json"):
                (folder / "evil.bin").write_bytes(pickle.dumps(Canary(checkpoints.world.canary)))
                (folder / file).write_text(json.dumps({"metadata": {}, "weight_map": {"a": "evil.bin"}}))

        return spoil

    return make


PICKLES = [
    *("pytorch_model.bin", "model.safetensors", "model.pt", "tf_model.h5", "flax_model.msgpack", "training_args.bin"),
    *("pytorch_model.bin.index.json", "adapter_model.bin", "tokenizer.json", "config.json", "vocab.txt"),
]


def _index(weight_map: Any) -> Spoil:
    def spoil(folder: Path, rng: random.Random) -> None:
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    return spoil


def _header(make: Callable[[dict[str, Any]], bytes]) -> Spoil:
    """Return what replaces the header of the weights, by bytes made from the right header."""

    def spoil(folder: Path, rng: random.Random) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        path.write_bytes(make(json.loads(content[8 : 8 + size])) + content[8 + size :])

    return spoil


def _packed(header: Any) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def _offset(header: dict[str, Any], value: list[int]) -> dict[str, Any]:
    name = next(name for name in header if name != "__metadata__")
    return {**header, name: {**header[name], "data_offsets": value}}


HEADERS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "length beyond all": lambda header: struct.pack("<Q", 2**63),
    "length of a gigabyte": lambda header: struct.pack("<Q", 2**30),
    "offsets backwards": lambda header: _packed(_offset(header, [9, 3])),
    "offsets outside": lambda header: _packed(_offset(header, [0, 2**62])),
    "negative offsets": lambda header: _packed(_offset(header, [-8, 0])),
    "deep": lambda header: struct.pack("<Q", 200_000) + b"[" * 200_000,
    "no object": lambda header: _packed([1]),
    "no tensor": lambda header: _packed({}),
    "unknown dtype": lambda header: _packed(
        {name: {**entry, "dtype": "X9"} for name, entry in header.items() if name[0] != "_"}
    ),
    "huge shape": lambda header: _packed(
        {name: {**entry, "shape": [2**40]} for name, entry in header.items() if name[0] != "_"}
    ),
}


def _file(name: str, content: bytes | None) -> Spoil:
    def spoil(folder: Path, rng: random.Random) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(rng.randbytes(rng.randrange(1, 300)) if content is None else content)

    return spoil


def _pipe(name: str) -> Spoil:
    def spoil(folder: Path, rng: random.Random) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return spoil


def _tokenizer(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(folder: Path, rng: random.Random) -> None:
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return spoil


SPLIT = {"type": "Split", "pattern": {"Regex": "(((("}, "behavior": "Isolated", "invert": False}
CUT = {"max_length": 0, "strategy": "LongestFirst", "stride": 9, "direction": "Right"}
ENDLESS = {"strategy": {"Fixed": 10**18}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
TOKENIZERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no model": lambda content: {**content, "model": None},
    "unknown model": lambda content: {**content, "model": {"type": "Evil"}},
    "no vocabulary": lambda content: {**content, "model": {**content["model"], "vocab": {}}},
    "huge ids": lambda content: {**content, "model": {**content["model"], "vocab": {"a": 2**31, "[UNK]": 2**32 - 1}}},
    "negative ids": lambda content: {**content, "model": {**content["model"], "vocab": {"a": -1}}},
    "spoilt regex": lambda content: {**content, "pre_tokenizer": SPLIT},
    "unknown version": lambda content: {**content, "version": "99"},
    "truncation of 0": lambda content: {**content, "truncation": CUT},
    "padding without end": lambda content: {**content, "padding": {**ENDLESS, "pad_to_multiple_of": None}},
    "a list": lambda content: [content],
}


def _settings(checkpoints: Checkpoints, rng: random.Random) -> tuple[str, Path, Spoil]:
    """Return a configuration that asks for code or makes no sense: what it is, the checkpoint, and how it is made."""
    secret = str(checkpoints.world.secret)
    kind = rng.random()
    if kind < 0.45:
        file, place, value = rng.choice(CODE)
        base = (
            checkpoints.world.resnet
            if file.startswith("pre")
            else rng.choice([checkpoints.world.bert, checkpoints.ours])
        )
        if file == "config.json":
            place = (
                rng.choice(["", "backbone_config.", "backbone_config.text_config.", "a.b.c.", "vision_config."]) + place
            )
        value = secret if value == "SECRET" else value
    elif kind < 0.85:
        place, value = rng.choice(ODD)
        base = rng.choice([checkpoints.world.bert, checkpoints.ours, checkpoints.world.resnet])
        file, place = "config.json", f"backbone_config.{place}" if base == checkpoints.ours else place
    else:
        (place, value), base, file = rng.choice(OF_OURS), checkpoints.ours, "config.json"
    return f"{base.name}: {file} with {place}={value}", base, lambda folder, rng: put(folder, file, place, value)


def _files(checkpoints: Checkpoints, rng: random.Random) -> tuple[str, Path, Spoil]:
    """Return a file that is a pickle, a pipe, rubbish, or has an absurd content; as `_settings`."""
    base = rng.choice([checkpoints.world.bert, checkpoints.ours])
    secret = checkpoints.world.root / "secrets" / "model.safetensors"
    usual = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "special_tokens_map.json"]
    maps = [
        {"a": str(secret)},
        {"a": "../secrets/model.safetensors"},
        {"a": "..\\x"},
        {"a": 3},
        [1],
        None,
        {"a": "none.safetensors"},
        {"a": ""},
    ]
    weight_map = rng.choice(maps)
    file, pickled = rng.choice(usual), rng.choice(PICKLES)
    header, tokenizer = rng.choice(sorted(HEADERS)), rng.choice(sorted(TOKENIZERS))
    spoils: dict[str, Spoil] = {
        f"pickle as {pickled}": _pickled(pickled)(checkpoints),
        f"index of {weight_map}": _index(weight_map),
        f"weights, {header}": _header(HEADERS[header]),
        f"pipe as {file}": _pipe(file),
        f"rubbish as {file}": _file(file, None),
        f"nothing in {file}": _file(file, b""),
        f"null in {file}": _file(file, b"null"),
        f"deep {file}": _file(file, b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        f"numbers in {file}": _file(file, b'{"a": ' + b"9" * 100_000 + b"}"),
        f"tokenizer.json, {tokenizer}": _tokenizer(TOKENIZERS[tokenizer]),
    }
    what = rng.choice(sorted(spoils))
    return f"{base.name}: {what}", base, spoils[what]


def _checkpoint(checkpoints: Checkpoints, at: Path, rng: random.Random) -> Attempt:
    name, base, spoil = rng.choice([_settings, _settings, _files])(checkpoints, rng)
    shutil.copytree(base, at)
    if base != checkpoints.ours:
        shutil.copy(checkpoints.ours / "evil.py", at)
    spoil(at, rng)
    if base == checkpoints.world.resnet:
        return Attempt(name, lambda: load_classifier(at, "image"))
    readers: list[Callable[[], object]] = [
        lambda: load_classifier(at, "text"),
        lambda: load_classifier(at, "text"),
        lambda: VUBForSequenceClassification.from_pretrained(at),
        lambda: load_processor(at, "text"),
    ]
    return Attempt(name, rng.choice(readers))


def _change(content: dict[str, Any], rng: random.Random) -> str:
    """Spoil one field of a calibration, and return what was done."""
    name = rng.choice(
        ["probabilities", "calibration_temperature", "conformal_thresholds", "thresholds", "calibrated_logits"]
    )
    value: Any = rng.choice([*SHARES, *(word for _, word in OF_OURS), EVIL, "softmax", "posterior"])
    if name == "thresholds":
        name, value = "conformal_thresholds", rng.choice([{str(rng.choice(SHARES)): 0.5}, {"0.3": rng.choice(SHARES)}])
    content[name] = value
    return f"{name}={value!r}"


def _calibration(checkpoints: Checkpoints, at: Path, rng: random.Random) -> Attempt:
    """A calibrated checkpoint, ours or a stock one, whose calibration is odd, and a pipeline that answers with it."""
    base = rng.choice(checkpoints.calibrated)
    shutil.copytree(base, at)
    ours = base.name == "calibrated_ours"
    file = at / ("config.json" if ours and rng.random() < 0.8 else "calibration.json")
    if rng.random() < 0.8:
        content = json.loads(file.read_text())
        what = _change(content, rng)
        file.write_text(json.dumps(content))
    else:
        what = rng.choice(["pickle", "rubbish", "nothing", "deep", "pipe"])
        file = at / "calibration.json"
        file.unlink()
        spoilt = {"rubbish": rng.randbytes(200), "nothing": b"", "deep": b'{"a":' * 50_000 + b"1" + b"}" * 50_000}
        if what == "pipe":
            os.mkfifo(file)
        else:
            file.write_bytes(spoilt.get(what) or pickle.dumps(Canary(checkpoints.world.canary)))

    def read() -> None:
        classify = classifier_pipeline(at)
        scores = [answer["score"] for answer in classify("a good film", top_k=None)]
        assert all(0 <= score <= 1 for score in scores), scores
        assert abs(sum(scores) - 1) < 1e-3, scores
        (answer,) = classifier_pipeline(at, abstain_at=0.3)("a good film")
        assert 0 <= answer["score"] <= 1, answer

    return Attempt(f"{base.name}: {file.name} with {what}", read)


def _data(checkpoints: Checkpoints, at: Path, rng: random.Random) -> Attempt:
    medium = rng.choice(["text", "image", "image"])
    (at / "data").mkdir(parents=True)
    found = (odd_texts if medium == "text" else odd_pictures)(checkpoints.world, rng, at / "data")
    what = rng.choice(sorted(found))
    name, _ = found[what]()
    network = PixelModel(torch.nn.Flatten())

    def read() -> None:
        rows = load_splits(name, medium=medium)["train"]
        if medium == "image":
            for row in rows.cast_column("image", Image(decode=False)):
                network.read(row["image"])

    return Attempt(f"{medium} data: {what}", read)


def _saved(checkpoints: Checkpoints, at: Path, rng: random.Random) -> Attempt:
    """A result, a record of training rows, cached features, or the checkpoint of a training."""
    at.mkdir(parents=True)
    pickled, rubbish = pickle.dumps(Canary(checkpoints.world.canary)), rng.randbytes(rng.randrange(200))
    content = rng.choice([pickled, rubbish, b"", b"[" * 10**5, struct.pack("<Q", 2**62), b'{"kind": "train"}', b"null"])
    (at / "training_rows.safetensors").write_bytes(content)
    (at / "result.json").write_bytes(content)
    (at / "features.safetensors").write_bytes(content)
    step = at / "checkpoint-1"
    shutil.copytree(checkpoints.world.bert, step)
    (step / "trainer_state.json").write_text('{"global_step": 1}')
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (step / name).write_bytes(content)
    readers: dict[str, Callable[[], object]] = {
        "training_rows.safetensors": lambda: TrainingRecord.load(at),
        "result.json": lambda: read_result(at / "result.json"),
        "features.safetensors": lambda: Features.load(at / "features.safetensors"),
        "checkpoint": lambda: last_checkpoint(at),
    }
    what = rng.choice(sorted(readers))
    return Attempt(f"{what} of {content[:12]!r}", readers[what])


KINDS = (_checkpoint, _checkpoint, _data, _calibration, _saved)


def attempts(checkpoints: Checkpoints, folder: Path, count: int, seed: int) -> Iterator[tuple[Attempt, Path]]:
    """Yield so many hostile files, each with the folder that it lies in."""
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        at = folder / f"{number}"
        yield KINDS[number % len(KINDS)](checkpoints, at, rng), at
