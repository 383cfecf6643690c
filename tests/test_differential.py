"""The same data through the training script, the Python API and the pipeline: the same labels, weights and logits."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, DataCollatorWithPadding, default_data_collator, pipeline

from helpers import fuzzing, odd_data
from helpers.tables import write_table
from hf_vub import (
    VUBForImageClassification,
    VUBForSequenceClassification,
    VUBTrainer,
    VUBTrainingArguments,
)
from hf_vub.data.preprocessing import image_transform, tokenize
from hf_vub.data.splits import label_names, load_splits
from hf_vub.model.information import label_entropy
from hf_vub.model.loading import load_classifier

OPTIONS = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "seed": 5, "save_strategy": "no"}
WORDS = [
    "good",
    "bad",
    "fine",
    "awful",
    "film",
    "plot",
    "dull",
    "été",
    "naïve",
    "漢字",
    "👍",
    "don't",
    "3.5",
    "--",
    "a",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return odd_data.World(tmp_path_factory.mktemp("world"))


def text_table(folder, seed):
    """Write generated texts of odd words and lengths, with three classes whose names are in no order."""
    rng = random.Random(seed)
    names = rng.sample(["zebra", "Ape", "10", "9", "ünder"], 3)
    for split, rows in (("train", 24), ("test", 9)):
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(rows)]
        labels = [names[row % 3] for row in range(rows)]
        write_table(folder / f"{split}.parquet", text=texts, label=labels)
    return folder


def image_folder(folder, seed):
    """Write generated pictures of different sizes and modes."""
    rng = np.random.default_rng(seed)
    for split, rows in (("train", 8), ("test", 3)):
        for name in ("warm", "cold", "10"):
            (folder / split / name).mkdir(parents=True)
            for row in range(rows):
                height, width = rng.integers(5, 40, 2)
                mode, channels = [("RGB", 3), ("L", 1), ("RGBA", 4)][row % 3]
                pixels = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
                Image.fromarray(pixels.squeeze(), mode).save(folder / split / name / f"{row}.png")
    return folder


def through_api(task, model, data, output, objective):
    """Train with the classes of the package as a user would, and return the trainer with the rows it is tested on."""
    splits = load_splits(data, medium=task, validation=0.1, seed=OPTIONS["seed"])
    names = label_names(splits)
    torch.manual_seed(OPTIONS["seed"])
    kind = VUBForSequenceClassification if task == "text" else VUBForImageClassification
    network = kind.from_pretrained(
        model,
        objective=objective,
        label_entropy=label_entropy(torch.tensor(splits["train"]["label"][:]), len(names)),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    if task == "text":
        processor = AutoTokenizer.from_pretrained(model)
        rows = {name: tokenize(split, processor, 16) for name, split in splits.items()}
        collator = DataCollatorWithPadding(processor)
    else:
        processor = AutoImageProcessor.from_pretrained(model)
        rows = {name: split.with_transform(image_transform(processor)) for name, split in splits.items()}
        collator = default_data_collator
    arguments = VUBTrainingArguments(
        str(output), use_cpu=True, report_to=[], remove_unused_columns=task == "text", disable_tqdm=True, **OPTIONS
    )
    trainer = VUBTrainer(
        model=network, args=arguments, train_dataset=rows["train"], data_collator=collator, processing_class=processor
    )
    trainer.train()
    return trainer, rows["test"], splits["test"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
@pytest.mark.parametrize("task", ["text", "image"])
def test_script_api_and_pipeline_agree(task, seed, world, tmp_path):
    data = (text_table if task == "text" else image_folder)(tmp_path / "data", seed)
    model = world.bert if task == "text" else world.resnet
    objective = ["vub", "vib"][seed % 2]
    options = [word for name, value in OPTIONS.items() for word in (f"--{name}", str(value))]
    lengths = ["--max_length", "16"] if task == "text" else []
    ended = fuzzing.run(
        [
            *(f"train_{task}.py", "--model", str(model), "--dataset", str(data), "--objective", objective),
            *("--use_cpu", "--report_to", "none", "--output_dir", "out", *options, *lengths),
        ],
        tmp_path,
    )
    assert ended.code == 0, ended.err
    trainer, rows, test = through_api(task, model, data, tmp_path / "api", objective)
    by_api = trainer.model.state_dict()
    loaded = load_classifier(tmp_path / "out", task).network
    assert loaded.state_dict().keys() == by_api.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, by_api[name]), name
    predicted = torch.from_numpy(trainer.predict(rows).predictions)

    kind = f"{task}-classification" if task == "image" else "text-classification"
    options = {"truncation": True, "max_length": 16} if task == "text" else {}
    inputs = test["text"][:] if task == "text" else [image.convert("RGB") for image in test["image"][:]]
    served = pipeline(kind, model=str(tmp_path / "out"), device="cpu")(
        inputs, top_k=3, function_to_apply="none", **options
    )
    names = label_names(test)
    logits = torch.tensor([[{each["label"]: each["score"] for each in row}[name] for name in names] for row in served])
    torch.testing.assert_close(logits, predicted, rtol=1e-4, atol=1e-5)
    assert [row[0]["label"] for row in served] == [names[number] for number in predicted.argmax(1)]


def test_the_generated_data_differ_by_seed(tmp_path):
    first, second = (text_table(tmp_path / str(seed), seed) for seed in (0, 1))
    assert (first / "train.parquet").read_bytes() != (second / "train.parquet").read_bytes()
