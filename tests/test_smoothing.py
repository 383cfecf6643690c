"""Training under noise: what the trainer sees, what it stores, and that a resumed run ends with the same bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification, TrainerCallback, ViTImageProcessor

from helpers.image_attacks import dataset_of, vub
from helpers.models import backbone_config
from hf_vub import VUBConfig, VUBForSequenceClassification, VUBTrainer, VUBTrainingArguments
from hf_vub.certify import certify
from hf_vub.certify.arguments import CertifyTextArguments, certify_and_print
from hf_vub.data import synthetic
from hf_vub.data.noisy_rows import NoisyImages, NoisyTexts
from hf_vub.data.preprocessing import image_transform, tokenize
from hf_vub.paper.certificate_study import StudyOptions, certificate_study, differences
from hf_vub.runs.schema import read_result
from hf_vub.training import DataArguments, ModelArguments, fine_tune


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """A folder of reviews and a tiny stock classifier of them."""
    folder = tmp_path_factory.mktemp("reviews")
    splits = synthetic.reviews(num_train=64, num_test=24)
    (folder / "data").mkdir()
    for name, split in splits.items():
        split.to_parquet(folder / "data" / f"{name}.parquet")
    tokenizer = synthetic.word_tokenizer(splits["train"]["text"], vocab_size=400)
    tokenizer.model_max_length = 64
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 64
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder, splits, tokenizer


def arguments(folder, **options):
    defaults = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "report_to": [], "use_cpu": True}
    return VUBTrainingArguments(str(folder), **{**defaults, "save_strategy": "no", "logging_steps": 1, **options})


def small(tokenizer, **options):
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 64
    torch.manual_seed(0)
    return VUBForSequenceClassification(VUBConfig(config, **options))


@pytest.mark.parametrize("objective", ["vanilla", "vub"])
def test_a_training_under_noise_is_certified_without_naming_it(reviews, objective, tmp_path):
    folder, _, _ = reviews
    result = fine_tune(
        "text",
        ModelArguments(str(folder / "model"), objective=objective),
        DataArguments(str(folder / "data"), max_length=32),
        arguments(tmp_path, num_train_epochs=1, smoothing="delete:0.500"),
    )
    assert result.smoothing == "delete:0.5"
    assert read_result(tmp_path / "result.json").smoothing == "delete:0.5"
    certificate = certify(
        tmp_path, str(folder / "data"), n0=5, n=20, alpha=0.1, num_examples=8, output_dir=tmp_path / "certificate"
    )
    assert certificate.noise == "delete:0.5"
    assert certificate.rows_seen_in_training == 0
    card = (tmp_path / "README.md").read_text()
    assert "### Certified under delete:0.5" in card
    assert "| word edits | certified accuracy | 95 % interval |" in card


def test_a_resumed_training_sees_the_noise_of_an_undisturbed_one(reviews, tmp_path):
    _, splits, tokenizer = reviews

    def train(name, **options):
        trainer = VUBTrainer(
            model=small(tokenizer),
            args=arguments(tmp_path / name, smoothing="mask:0.5", save_strategy="epoch", **options),
            train_dataset=splits["train"],
            processing_class=tokenizer,
        )
        return trainer

    whole = train("whole")
    whole.train()
    killed = train("killed")
    killed.add_callback(_StopAfterAnEpoch())
    killed.train()
    resumed = train("killed")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 8
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class _StopAfterAnEpoch(TrainerCallback):
    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_training_stop = True


def test_a_trainer_draws_anew_in_training_and_the_same_in_evaluation(reviews, tmp_path):
    _, splits, tokenizer = reviews
    trainer = VUBTrainer(
        model=small(tokenizer),
        args=arguments(tmp_path, smoothing="delete:0.5"),
        train_dataset=splits["train"],
        eval_dataset={"test": splits["test"]},
        processing_class=tokenizer,
    )
    assert isinstance(trainer.train_dataset, NoisyTexts)
    assert isinstance(trainer.eval_dataset["test"], NoisyTexts)
    assert trainer.model.config.smoothing == {"noise": "delete:0.5"}
    before = trainer.evaluate()
    first = trainer.train_dataset[0]["input_ids"]
    trainer.train()
    assert trainer.train_dataset[0]["input_ids"] != first
    assert (
        trainer.eval_dataset["test"][0]
        == NoisyTexts(splits["test"], trainer.train_dataset.tokens, trainer.train_dataset.noise, trainer.args.seed)[0]
    )
    assert before["eval_test_nll"] != trainer.evaluate()["eval_test_nll"]


def test_consistency_pulls_the_answers_to_two_noisy_copies_together(reviews, tmp_path):
    _, splits, tokenizer = reviews
    distances = {}
    for weight in (0.0, 50.0):
        trainer = VUBTrainer(
            model=small(tokenizer, objective="ce", num_train_samples=1),
            args=arguments(
                tmp_path / str(weight),
                smoothing="delete:0.5",
                consistency=weight,
                num_train_epochs=6,
                learning_rate=3e-3,
            ),
            train_dataset=splits["train"],
            processing_class=tokenizer,
        )
        assert trainer.train_dataset.copies == (2 if weight else 1)
        trainer.train()
        rows = NoisyTexts(splits["test"], trainer.train_dataset.tokens, trainer.train_dataset.noise, 9, copies=2)
        batch = trainer.data_collator(rows.__getitems__(range(24)))
        assert batch["labels"].tolist() == list(splits["test"]["label"][:24]) * 2
        trainer.model.eval()
        one, other = trainer.model(**batch).logits.log_softmax(-1).chunk(2)
        distances[weight] = (one - other).abs().mean().item()
    assert distances[50.0] < 0.5 * distances[0.0]


def test_images_get_their_noise_on_pixels(tmp_path):
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    pictures = dataset_of(torch.rand(12, 3, 8, 8), torch.arange(12) % 3, ["ant", "bee", "soccer ball"])
    rows = pictures.with_transform(image_transform(processor))
    trainer = VUBTrainer(
        model=vub(),
        args=arguments(tmp_path, smoothing="gaussian:0.25", consistency=1.0, remove_unused_columns=False),
        train_dataset=rows,
        processing_class=processor,
    )
    assert isinstance(trainer.train_dataset, NoisyImages)
    drawn = trainer.train_dataset.__getitems__([3])
    difference = torch.stack([each["pixel_values"] - rows[3]["pixel_values"] for each in drawn])
    assert difference.std().item() == pytest.approx(0.25 / 0.5, rel=0.15)
    assert not torch.equal(difference[0], difference[1])
    trainer.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": "delete"}, "noise is 'delete'"),
        ({"smoothing": "delete:0.5", "perturb": "typos:0.1"}, "both set"),
        ({"consistency": 1.0}, "nothing to compare"),
    ],
)
def test_arguments_that_cannot_be_are_one_sentence(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **options)


def test_rows_that_cannot_be_drawn_are_one_sentence(reviews, tmp_path):
    _, splits, tokenizer = reviews
    tokens = tokenize(splits["train"], tokenizer)
    for options, message in (
        ({"train_dataset": tokens, "processing_class": tokenizer}, "columns text and label"),
        ({"train_dataset": splits["train"]}, "processing_class is None"),
    ):
        with pytest.raises(ValueError, match=message):
            VUBTrainer(model=small(tokenizer), args=arguments(tmp_path, smoothing="delete:0.5"), **options)


def test_a_study_certifies_heads_of_every_objective_on_the_same_texts(reviews, tmp_path):
    folder, _, _ = reviews
    options = StudyOptions(
        str(folder / "model"), str(folder / "data"), str(tmp_path / "study"), noise="delete:0.5", seeds=2, copies=2,
        epochs=1, num_examples=10, n0=5, n=20, alpha=0.1, radii=(0, 1), max_length=32,
    )  # fmt: skip
    study = certificate_study(options)
    assert [(each.objective, len(each.certified)) for each in study.objectives] == [("ce", 2), ("vib", 2), ("vub", 2)]
    assert [(each.objective, each.radius) for each in study.differences] == [
        ("vib", 0), ("vib", 1), ("vub", 0), ("vub", 1),
    ]  # fmt: skip
    assert all(each.p_value <= each.p_holm for each in study.differences)
    heads = [read_result(path) for path in sorted((tmp_path / "study" / "certificates").glob("*/result.json"))]
    assert {head.head for head in heads} == {f"{name}-{seed}" for name in ("ce", "vib", "vub") for seed in range(2)}
    ce = [head.curve[0].accuracy for head in heads if head.head.startswith("ce")]
    assert study.objectives[0].certified[0] == pytest.approx(sum(ce) / 2)
    path = study.save(tmp_path / "study.json")
    assert read_result(path) == study


def test_differences_are_paired_by_example():
    ce = np.array([[2, -1, 0, 3]] * 3, dtype=float)
    found = differences({"ce": ce, "vub": ce + 1, "vib": ce}, (1,))
    by_name = {each.objective: each for each in found}
    assert by_name["vib"].difference == 0
    assert by_name["vib"].p_value == 1
    assert by_name["vub"].difference == 0.25  # the third example alone


def test_the_command_prints_the_curve(reviews, tmp_path, capsys):
    folder, _, _ = reviews
    arguments = CertifyTextArguments(
        str(folder / "model"), str(folder / "data"), "delete:0.5", str(tmp_path / "run"), n0=5, n=20, alpha=0.1,
        num_examples=6,
    )  # fmt: skip
    result = certify_and_print(arguments)
    shown = capsys.readouterr().out
    assert f"certified at 0          {result.curve[0].accuracy:.3f}" in shown
    assert str(tmp_path / "run" / "result.json") in shown
    certify_and_print(replace(arguments, output_dir=None))
    assert "nothing was saved" in capsys.readouterr().err
