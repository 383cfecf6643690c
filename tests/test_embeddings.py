import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from helpers.feature_models import VOCABULARY, PixelModel, TextModel, token_rows
from hf_vub.embeddings import cache
from hf_vub.embeddings import extraction as embeddings
from hf_vub.embeddings.extraction import Features, extract
from hf_vub.runs.files import append_record


def word_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {f"w{i}": i + 2 for i in range(VOCABULARY - 2)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture
def tokens() -> datasets.Dataset:
    return datasets.Dataset.from_dict(token_rows())


def one_by_one(model: TextModel, dataset: datasets.Dataset) -> torch.Tensor:
    with torch.no_grad():
        names = [name for name in ("input_ids", "token_type_ids") if name in dataset.column_names]
        rows = [model.eval().features(**{name: torch.tensor([row[name]]) for name in names}) for row in dataset]
    return torch.cat(rows)


def test_features_are_the_models_row_by_row_in_the_order_of_the_data(tokens, tmp_path):
    model = TextModel()
    cached = extract(model, tokens, tmp_path, dtype="float32", batch_size=4)
    torch.testing.assert_close(cached.features, one_by_one(model, tokens), rtol=1e-5, atol=1e-6)
    assert cached.labels.tolist() == tokens["labels"][:]
    assert cached.features.dtype == torch.float32
    assert cached.labels.dtype == torch.int64


def test_the_cache_is_a_safetensors_file(tokens, tmp_path):
    cached = extract(TextModel(), tokens, tmp_path, dtype="float32")
    tensors = load_file(cached.path)
    assert torch.equal(tensors["features"], cached.features)
    assert torch.equal(tensors["labels"], cached.labels)
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".safetensors", ".lock")]


def test_a_second_call_reads_the_cache_without_running_the_model(tokens, tmp_path):
    model = TextModel()
    first = extract(model, tokens, tmp_path, dtype="float32")
    model.calls.clear()
    second = extract(model, tokens, tmp_path, dtype="float32")
    assert not model.calls
    assert torch.equal(first.features, second.features)


def test_texts_are_tokenised_with_the_given_tokenizer(tmp_path):
    tokenizer = word_tokenizer()
    texts = [" ".join(f"w{j % 40}" for j in range(i, i + 3 + i % 7)) for i in range(20)]
    raw = datasets.Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(20)]})
    model = TextModel()
    cached = extract(model, raw, tmp_path, processing_class=tokenizer, max_length=6, dtype="float32")
    encoded = tokenizer(texts, truncation=True, max_length=6)
    tokenised = datasets.Dataset.from_dict({"input_ids": encoded["input_ids"]})
    torch.testing.assert_close(cached.features, one_by_one(model, tokenised), rtol=1e-5, atol=1e-6)
    # The tokenizer remembers its last call; the key must not.
    assert extract(model, raw, tmp_path, processing_class=tokenizer, max_length=6, dtype="float32").key == cached.key
    assert extract(model, raw, tmp_path, processing_class=tokenizer, max_length=5, dtype="float32").key != cached.key


def test_pairs_of_texts_and_empty_ones_are_tokenised_as_in_training(tmp_path):
    from hf_vub.data.preprocessing import tokenize

    tokenizer = word_tokenizer()
    tokenizer.sep_token = "[UNK]"
    rows = {"text": ["w1 w2", "", "w3"], "text_pair": ["w4", "", "w5 w6"], "label": [0, 1, 0]}
    for names in (("text", "label"), ("text", "text_pair", "label")):
        raw = datasets.Dataset.from_dict({name: rows[name] for name in names})
        found = extract(TextModel(), raw, tmp_path, processing_class=tokenizer, dtype="float32")
        tokenised = tokenize(raw, tokenizer, max_length=32)
        torch.testing.assert_close(found.features, one_by_one(TextModel(), tokenised), rtol=1e-5, atol=1e-6)
        assert found.features.isfinite().all()


def test_columns_are_found_by_the_rule_of_all_data(tmp_path):
    tokenizer = word_tokenizer()
    plain = datasets.Dataset.from_dict({"text": ["w1 w2", "w3"], "label": [0, 1]})
    expected = extract(TextModel(), plain, tmp_path, processing_class=tokenizer, dtype="float32").features
    renamed = plain.rename_columns({"text": "review", "label": "category"})
    found = extract(TextModel(), renamed, tmp_path, processing_class=tokenizer, dtype="float32")
    assert torch.equal(found.features, expected)
    odd = plain.rename_columns({"text": "a", "label": "b"}).add_column("other", ["w5", "w6"])
    with pytest.raises(ValueError, match="text_column"):
        extract(TextModel(), odd, tmp_path, processing_class=tokenizer, label_column="b")
    named = {"text_column": "a", "label_column": "b"}
    found = extract(TextModel(), odd, tmp_path, processing_class=tokenizer, dtype="float32", **named)
    assert torch.equal(found.features, expected)


def test_the_pooling_of_a_model_is_a_part_of_the_key(tokens, tmp_path):
    keys = set()
    for pooling in ("cls", "mean"):
        model = TextModel()
        model.config = SimpleNamespace(pooling=pooling, backbone_config=model.config)
        keys.add(extract(model, tokens, tmp_path, dtype="float32").key)
    assert len(keys) == 2


def test_rows_padded_to_a_fixed_length_cost_no_more_than_unpadded_ones(tokens, tmp_path):
    padded = tokens.map(
        lambda row: {
            "input_ids": row["input_ids"] + [0] * (30 - len(row["input_ids"])),
            "attention_mask": row["attention_mask"] + [0] * (30 - len(row["attention_mask"])),
        }
    )
    plain, trimmed = TextModel(), TextModel()
    expected = extract(plain, tokens, tmp_path / "a", dtype="float32", batch_size=8)
    found = extract(trimmed, padded, tmp_path / "b", dtype="float32", batch_size=8)
    assert trimmed.calls == plain.calls
    assert torch.equal(found.features, expected.features)


def test_batches_keep_to_the_budget_and_waste_little(tokens, tmp_path):
    model = TextModel()
    extract(model, tokens, tmp_path, dtype="float32", batch_size=8, batch_tokens=40)
    calls = model.calls[1:]  # the first is the probe for the feature size
    assert all(rows <= 8 and (rows * width <= 40 or rows == 1) for rows, width in calls)
    widths = [width for _, width in calls]
    assert widths == sorted(widths, reverse=True)
    useful = sum(map(len, tokens["input_ids"][:]))
    assert useful / sum(rows * width for rows, width in calls) > 0.85


def pixels(rows: int = 10) -> datasets.Dataset:
    def transform(batch):
        return {
            "pixel_values": [torch.full((3, 2, 2), float(seed)) for seed in batch["seed"]],
            "labels": batch["labels"],
        }

    raw = datasets.Dataset.from_dict({"seed": list(range(rows)), "labels": [i % 3 for i in range(rows)]})
    return raw.with_transform(transform)


def test_transformed_images_need_no_processor(tmp_path):
    model = PixelModel()
    cached = extract(model, pixels(), tmp_path, dtype="float32", batch_size=3)
    with torch.no_grad():
        expected = model.features(torch.arange(10.0)[:, None, None, None].expand(-1, 3, 2, 2))
    torch.testing.assert_close(cached.features, expected)
    assert cached.labels.tolist() == [i % 3 for i in range(10)]


def test_raw_images_go_through_the_processor(tmp_path):
    image = pytest.importorskip("PIL.Image")
    from transformers import ViTImageProcessor

    images = [image.fromarray(np.full((5, 4), 40 * i, dtype=np.uint8)) for i in range(4)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    raw = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}, features=features)
    processor = ViTImageProcessor(size={"height": 2, "width": 2})
    model = PixelModel()
    cached = extract(model, raw, tmp_path, processing_class=processor, dtype="float32")
    inputs = processor([picture.convert("RGB") for picture in images], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(cached.features, model.features(inputs).detach())
    paths = datasets.Dataset.from_dict({"image": ["a.png"] * 4, "label": [0] * 4})
    with pytest.raises(ValueError, match="image_column 'image' holds .*, not images"):
        extract(model, paths, tmp_path, processing_class=processor)
    other = ViTImageProcessor(size={"height": 2, "width": 2}, image_mean=[0.1] * 3)
    assert extract(model, raw, tmp_path, processing_class=other, dtype="float32").key != cached.key


def change_weight(model, dataset):
    with torch.no_grad():
        next(model.backbone.parameters()).view(-1)[0] += 1e-3
    return model, dataset, {}


def change_config(model, dataset):
    model.config.layer_norm_eps = 1e-3
    return model, dataset, {}


def change_token(model, dataset):
    rows = dataset.to_dict()
    rows["input_ids"][7][1] = (rows["input_ids"][7][1] + 1) % VOCABULARY
    return model, datasets.Dataset.from_dict(rows), {}


def change_label(model, dataset):
    rows = dataset.to_dict()
    rows["labels"][3] = 1 - rows["labels"][3]
    return model, datasets.Dataset.from_dict(rows), {}


def change_order(model, dataset):
    return model, dataset.shuffle(seed=1), {}


def change_arithmetic(model, dataset):
    return model, dataset, {"dtype": "bfloat16"}


def change_batches(model, dataset):
    return model, dataset, {"batch_size": 3}


@pytest.mark.parametrize(
    "change",
    [change_weight, change_config, change_token, change_label, change_order, change_arithmetic, change_batches],
)
def test_whatever_changes_the_features_changes_the_key(change, tokens, tmp_path):
    first = extract(TextModel(), tokens, tmp_path, dtype="float32")
    model, dataset, options = change(TextModel(), tokens)
    assert extract(model, dataset, tmp_path, **({"dtype": "float32"} | options)).key != first.key


def test_what_changes_nothing_keeps_the_key(tokens, tmp_path):
    first = extract(TextModel(), tokens, tmp_path, dtype="float32")
    model = TextModel().train()
    torch.nn.init.zeros_(model.head.weight)
    model.config._name_or_path = "elsewhere"
    tokens.save_to_disk(tmp_path / "saved")
    same = datasets.load_from_disk(tmp_path / "saved").add_column("comment", ["no"] * len(tokens))
    assert extract(model, same, tmp_path, dtype="float32").key == first.key
    picked = datasets.concatenate_datasets([tokens, tokens]).select(range(len(tokens)))
    assert extract(model, picked, tmp_path, dtype="float32").key == first.key


def test_the_model_is_left_as_it_was(tokens, tmp_path):
    model = TextModel().train()
    model.backbone.encoder.eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    extract(model, tokens, tmp_path, dtype="float32")
    extract(model, tokens, tmp_path, dtype="bfloat16")
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_bfloat16_features_are_near_and_stored_in_float32(tokens, tmp_path):
    model = TextModel()
    exact = extract(model, tokens, tmp_path, dtype="float32").features
    fast = extract(model, tokens, tmp_path, dtype="bfloat16").features
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, exact, rtol=0, atol=0.03)
    assert not torch.equal(fast, exact)


class Killed(Exception):
    pass


def test_a_killed_pass_goes_on_from_its_finished_shards(tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "SHARD_BATCHES", 2)
    expected = extract(TextModel(), tokens, tmp_path / "undisturbed", dtype="float32", batch_size=4)
    finished = iter(range(3))

    def record_or_die(path, record):
        if next(finished, None) is None:
            raise Killed
        append_record(path, record)

    model = TextModel()
    with monkeypatch.context() as patched:
        patched.setattr(cache, "append_record", record_or_die)
        with pytest.raises(Killed):
            extract(model, tokens, tmp_path, dtype="float32", batch_size=4)
    assert len(model.calls) == 1 + 4 * 2  # the probe, three finished shards and the one that was lost
    assert not list(tmp_path.glob("*.safetensors"))
    model.calls.clear()
    resumed = extract(model, tokens, tmp_path, dtype="float32", batch_size=4)
    assert len(model.calls) == 10 - 3 * 2
    assert torch.equal(resumed.features, expected.features)
    assert resumed.path.read_bytes() == expected.path.read_bytes()


def test_the_log_of_a_deleted_file_is_not_believed(tokens, tmp_path):
    cached = extract(TextModel(), tokens, tmp_path / "first", dtype="float32")
    (tmp_path / "second").mkdir()
    append_record(tmp_path / "second" / f"{cached.key}.0.jsonl", {"shard": 0})
    again = extract(TextModel(), tokens, tmp_path / "second", dtype="float32")
    assert torch.equal(again.features, cached.features)


JOB = """
import sys
sys.path.insert(0, {tests!r})
import datasets
from helpers.feature_models import TextModel, token_rows
from hf_vub.embeddings import extraction as embeddings
embeddings.SHARD_BATCHES = 1
slow = {slow}
if slow:
    import time
    forward = TextModel.features
    def features(self, **inputs):
        time.sleep(0.05)
        return forward(self, **inputs)
    TextModel.features = features
model = TextModel()
cached = embeddings.extract(
    model, datasets.Dataset.from_dict(token_rows()), {cache!r}, dtype="float32", batch_size=2, device="cpu"
)
sys.stdout.write(f"{{len(model.calls)}} {{cached.key}}")
"""


def job(cache: Path, slow: bool = False, launcher: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
    script = cache.parent / f"job{int(slow)}.py"
    script.write_text(textwrap.dedent(JOB.format(tests=str(Path(__file__).parent), cache=str(cache), slow=slow)))
    paths = os.pathsep.join([str(Path(embeddings.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *launcher, str(script)],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_two_jobs_one_computes_and_the_other_waits(tmp_path):
    jobs = [job(tmp_path / "cache", slow=True) for _ in range(2)]
    outputs = [process.communicate(timeout=600)[0].split() for process in jobs]
    assert sorted(int(calls) for calls, _ in outputs) == [0, 21]
    assert len({key for _, key in outputs}) == 1


def test_a_job_killed_outright_leaves_nothing_that_blocks_or_misleads(tmp_path):
    killed = job(tmp_path / "cache", slow=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cache").glob("*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    assert not list((tmp_path / "cache").glob("*.safetensors"))
    calls, key = job(tmp_path / "cache").communicate(timeout=600)[0].split()
    assert int(calls) < 21
    fresh = extract(TextModel(), datasets.Dataset.from_dict(token_rows()), tmp_path, dtype="float32", batch_size=2)
    assert torch.equal(Features.load(tmp_path / "cache" / f"{key}.safetensors").features, fresh.features)


@pytest.mark.slow
def test_three_processes_share_the_rows_and_change_no_bit(tmp_path):
    """Two of them do so in ``test_distributed``."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3")
    launched = job(tmp_path / "cache", launcher=launcher, ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="")
    output, errors = launched.communicate(timeout=600)
    assert launched.returncode == 0, errors
    fresh = extract(TextModel(), datasets.Dataset.from_dict(token_rows()), tmp_path, dtype="float32", batch_size=2)
    shared = Features.load(tmp_path / "cache" / fresh.path.name)
    assert torch.equal(shared.features, fresh.features)
    assert output.count(fresh.key) == 3


MEMORY = """
import resource, sys
sys.path.insert(0, {tests!r})
import datasets, torch
from helpers.feature_models import PixelModel
from hf_vub.embeddings.extraction import extract
resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, 4 * 2**30))
rows = 128_117
raw = datasets.Dataset.from_generator(
    lambda: ({{"seed": i, "label": i % 1000}} for i in range(rows)), cache_dir={cache!r}
)
def transform(batch):
    return {{"pixel_values": [torch.full((3, 2, 2), i / rows) for i in batch["seed"]]}}
cached = extract(PixelModel(2048), raw.with_transform(transform), {cache!r}, dtype="float32", label_column="label")
assert cached.features.shape == (rows, 2048)
total = sum(block.sum(dtype=torch.float64) for block in cached.features.split(1000))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
sys.stdout.write(f"{{peak}} {{cached.path.stat().st_size}} {{float(total)}}")
"""


@pytest.mark.slow
def test_a_tenth_of_imagenet_needs_no_memory_for_its_features(tmp_path):
    """The process may take 4 GB of its own; beside the pages of the mapped file, which it reads whole, it needs less.

    Those pages count in its peak, but the system takes them back when it wants them.
    """
    script = tmp_path / "memory.py"
    script.write_text(MEMORY.format(tests=str(Path(__file__).parent), cache=str(tmp_path / "cache")))
    paths = os.pathsep.join([str(Path(embeddings.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    peak, size, _ = map(float, done.stdout.split())
    assert size > 128_117 * 2048 * 4
    assert peak - size < 1.5 * 2**30


@pytest.mark.parametrize(
    ("dataset", "options", "error", "message"),
    [
        ([1, 2], {}, TypeError, "dataset is a list"),
        (datasets.Dataset.from_dict({"a": []}), {}, ValueError, "dataset is empty"),
        (datasets.Dataset.from_dict({"text": ["a"], "label": [0]}), {}, ValueError, "give processing_class"),
        (datasets.Dataset.from_dict({"input_ids": [[1]]}), {}, ValueError, "name one with label_column"),
        (datasets.Dataset.from_dict(token_rows(3)), {"label_column": "y"}, ValueError, "label_column is 'y'"),
        (datasets.Dataset.from_dict(token_rows(3)), {"dtype": "float8"}, ValueError, "dtype is 'float8'"),
        (datasets.Dataset.from_dict(token_rows(3)), {"batch_size": 0}, ValueError, "batch_size is 0"),
        (datasets.Dataset.from_dict(token_rows(3) | {"labels": [0.5] * 3}), {}, ValueError, "one whole number per row"),
        (
            datasets.Dataset.from_dict({"input_ids": [[1] * 33], "label": [0]}),
            {},
            ValueError,
            "row 0 .* positions for 32",
        ),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(dataset, options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        extract(TextModel(), dataset, tmp_path, **options)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_model_without_features_is_refused(tokens, tmp_path):
    with pytest.raises(TypeError, match="Linear without features"):
        extract(nn.Linear(2, 2), tokens, tmp_path)


def test_features_that_are_not_finite_name_their_row(tmp_path):
    model = PixelModel()
    torch.nn.init.constant_(model.backbone.weight, 1e38)
    with pytest.raises(ValueError, match="features of row 2 are not finite"):
        extract(model, pixels(3), tmp_path, dtype="float32")


def test_a_full_disk_is_noticed_before_the_pass(tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(OSError, match="GiB free"):
        extract(TextModel(), tokens, tmp_path)


class SmallMemory(TextModel):
    """Runs out of memory with more than three rows, as accelerators and the system say it."""

    error: Exception = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def features(self, input_ids, **inputs):
        if len(input_ids) > 3:
            raise self.error
        return super().features(input_ids=input_ids, **inputs)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_a_batch_too_large_for_memory_is_halved(error, tokens, tmp_path, caplog):
    expected = extract(TextModel(), tokens, tmp_path / "large", dtype="float32", batch_size=8)
    model = SmallMemory()
    model.error = error
    found = extract(model, tokens, tmp_path / "small", dtype="float32", batch_size=8)
    torch.testing.assert_close(found.features, expected.features)
    assert max(len(call) for call in model.calls) <= 3
    assert "out of memory with 8 rows; continuing with 4 at a time" in caplog.text


def test_other_errors_are_not_taken_for_a_lack_of_memory(tokens, tmp_path):
    model = SmallMemory()
    model.error = RuntimeError("shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        extract(model, tokens, tmp_path, dtype="float32", batch_size=8)


def test_a_cut_cache_file_is_refused(tokens, tmp_path):
    cached = extract(TextModel(), tokens, tmp_path, dtype="float32")
    with open(cached.path, "r+b") as file:
        file.truncate(cached.path.stat().st_size - 1)
    with pytest.raises(ValueError, match="not a whole one.*; delete it"):
        Features.load(cached.path)


def test_a_flipped_bit_is_seen_wherever_it_is(tokens, tmp_path):
    cached = extract(TextModel(), tokens, tmp_path, dtype="float32")
    content = cached.path.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(header), header, len(content) - 1, *rng.integers(header, len(content), 40)]
    for number, place in enumerate(places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"damaged-{number}.safetensors"
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path.name} is (damaged|not a feature cache).*; delete it"):
            Features.load(path)


def test_a_damaged_cache_is_not_taken_for_features(tokens, tmp_path):
    cached = extract(TextModel(), tokens, tmp_path, dtype="float32")
    content = bytearray(cached.path.read_bytes())
    content[-1000] ^= 1
    cached.path.write_bytes(content)
    os.utime(cached.path, (0, 0))  # clocks of file systems are coarse
    with pytest.raises(ValueError, match=r"is damaged: its checksum is not \w{8}; delete it"):
        extract(TextModel(), tokens, tmp_path, dtype="float32")
    cached.path.unlink()
    again = extract(TextModel(), tokens, tmp_path, dtype="float32")
    torch.testing.assert_close(again.features, load_file(cached.path)["features"])


def test_a_cache_is_read_once_per_process(tokens, tmp_path, monkeypatch):
    cached = extract(TextModel(), tokens, tmp_path, dtype="float32")
    checksum = mock.Mock(side_effect=cache._crc32)
    monkeypatch.setattr(cache, "_crc32", checksum)
    cache._checksum.cache_clear()
    for _ in range(3):
        Features.load(cached.path)
    assert checksum.call_count == 1


def test_writes_to_cached_features_do_not_reach_the_file(tokens, tmp_path):
    cached = extract(TextModel(), tokens, tmp_path, dtype="float32")
    before = cached.path.read_bytes()
    cached.features.zero_()
    assert cached.path.read_bytes() == before


def test_files_that_a_kill_left_beside_a_finished_one_are_removed(tokens, tmp_path):
    cached = extract(TextModel(), tokens, tmp_path, dtype="float32")
    unfinished = cache.UnfinishedFeatures(cached.path)
    unfinished.create(40, 16)
    append_record(tmp_path / f"{cached.key}.0.jsonl", {"shard": 0})
    again = extract(TextModel(), tokens, tmp_path, dtype="float32")
    assert torch.equal(again.features, cached.features)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".safetensors"]


def test_a_pass_killed_before_its_file_was_finished_only_finishes_it(tokens, tmp_path, monkeypatch):
    expected = extract(TextModel(), tokens, tmp_path / "undisturbed", dtype="float32")
    with monkeypatch.context() as patched:
        patched.setattr(cache, "save_file", mock.Mock(side_effect=Killed))
        with pytest.raises(Killed):
            extract(TextModel(), tokens, tmp_path, dtype="float32")
    model = TextModel()
    assert extract(model, tokens, tmp_path, dtype="float32").path.read_bytes() == expected.path.read_bytes()
    assert not model.calls
