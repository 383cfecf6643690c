"""Trainings that go wrong: reported at once with what leads to the cause, the last good state kept."""

import logging
import shutil
import zipfile

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from helpers.models import build_model
from helpers.saving_trainer import POISON, rows, texts, trainer
from hf_vub import VUBTrainer, VUBTrainingArguments
from hf_vub.data.record import TrainingRecord
from hf_vub.runs.files import read_records
from hf_vub.training.checkpoints import damage, last_checkpoint


@pytest.mark.parametrize("options", [{"dataloader_num_workers": 1}, {"gradient_accumulation_steps": 2}])
def test_a_loss_that_is_no_number_names_step_term_and_rows(options, tmp_path):
    job = trainer(tmp_path, rows(poisoned=[13]), **options)
    with torch.no_grad():
        job.model.get_input_embeddings().weight[POISON] = 3e38  # its square is infinite
    order = [trainer(tmp_path / "order", **options).get_train_dataloader()]
    batches = [[int(token) - 3 for token in batch["input_ids"][:, 0]] for batch in order[0]]
    number, batch = next((number, batch) for number, batch in enumerate(batches) if 13 in batch)
    step = number // options.get("gradient_accumulation_steps", 1)
    with pytest.raises(FloatingPointError) as caught:
        job.train()
    said = str(caught.value)
    assert f"the loss is nan at step {step + 1}: rate is nan for rows 13 in a batch of rows" in said
    assert f"rows {', '.join(map(str, batch))} of train_dataset" in said
    if step:
        assert f"the last good checkpoint is {tmp_path / f'checkpoint-{step}'}" in said
    else:
        assert "there is no checkpoint yet" in said


class Spoil(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 3:
            with torch.no_grad():
                model.head.bottleneck_decoder.bias[0] = torch.nan


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"head\.bottleneck_decoder\.bias is not finite after step 3.*checkpoint-2;"
    ):
        trainer(tmp_path, callbacks=[Spoil()], save_total_limit=1).train()
    assert last_checkpoint(tmp_path) == (tmp_path / "checkpoint-2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished training with checkpoints 1 to 6, and its weights."""
    folder = tmp_path_factory.mktemp("trained")
    job = trainer(folder, num_train_epochs=1)
    job.train()
    return folder, {name: weight.clone() for name, weight in job.model.state_dict().items()}


def spoil(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        middle = len(content) // 2
        path.write_bytes(
            content[:middle] + bytes(255 - byte for byte in content[middle : middle + 64]) + content[middle + 64 :]
        )
    else:
        path.write_bytes(b"not what it was")


DAMAGES = [
    ("optimizer.pt", "empty", "optimizer.pt is damaged"),
    ("optimizer.pt", "missing", "it lacks optimizer.pt"),
    ("optimizer.pt", "flipped", "optimizer.pt is damaged"),
    ("scheduler.pt", "missing", "it lacks scheduler.pt"),
    ("scheduler.pt", "other", "scheduler.pt is damaged"),
    ("rng_state.pth", "missing", "it lacks rng_state.pth"),
    ("rng_state.pth", "cut", "rng_state.pth is damaged"),
    ("model.safetensors", "cut", "model.safetensors is damaged"),
    ("model.safetensors", "missing", "it lacks weights"),
    ("config.json", "cut", "config.json is damaged"),
    ("trainer_state.json", "cut", "it has no readable trainer_state.json"),
    ("trainer_state.json", "missing", "it has no readable trainer_state.json"),
]


@pytest.mark.parametrize(("file", "how", "reason"), DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_named(file, how, reason, trained, tmp_path, caplog):
    for step in (4, 5):
        shutil.copytree(trained[0] / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    spoil(tmp_path / "checkpoint-5" / file, how)
    with caplog.at_level(logging.WARNING, "hf_vub"):
        assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert f"checkpoint-5 is passed over: {reason}" in caplog.text


def test_a_resumed_run_goes_on_from_the_newest_whole_checkpoint(trained, tmp_path):
    folder, weights = trained
    for step in (2, 3):
        shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-3" / "optimizer.pt").write_bytes(b"")
    job = trainer(tmp_path, num_train_epochs=1)
    job.train(resume_from_checkpoint=True)
    assert all(torch.equal(weights[name], weight) for name, weight in job.model.state_dict().items())


def test_a_run_is_not_resumed_from_nowhere(trained, tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    job = trainer(tmp_path)
    with pytest.raises(ValueError, match="has no whole checkpoint"):
        job.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="nowhere', but it is not a folder"):
        job.train(resume_from_checkpoint=str(tmp_path / "nowhere"))
    shutil.copytree(trained[0] / "checkpoint-2", tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / "scheduler.pt").unlink()
    with pytest.raises(ValueError, match="checkpoint-2', but it lacks scheduler.pt"):
        job.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    (tmp_path / "checkpoint-2").rename(tmp_path / "checkpoint-7")
    assert damage(tmp_path / "checkpoint-7") == "its trainer_state.json is of step 2"


def test_an_optimizer_that_is_no_tensors_is_one_sentence(trained, tmp_path):
    """A whole zip file, with a pickle in it that torch refuses."""
    shutil.copytree(trained[0] / "checkpoint-2", tmp_path / "checkpoint-2")
    torch.save(trainer, tmp_path / "checkpoint-2" / "optimizer.pt")
    assert zipfile.is_zipfile(tmp_path / "checkpoint-2" / "optimizer.pt")
    with pytest.raises(ValueError, match="checkpoint-2 has a file that does not hold tensors only"):
        trainer(tmp_path, num_train_epochs=1).train(resume_from_checkpoint=True)


GROUPED = (
    {"train_sampling_strategy": "group_by_length"}
    if "train_sampling_strategy" in TrainingArguments.__dataclass_fields__
    else {"group_by_length": True}
)


def test_grouping_by_length_resumes_exactly(tmp_path):
    """In the middle of an epoch, whose order must not come from the random state of the moment."""
    options = {"num_train_epochs": 2, "learning_rate": 1e-2, **GROUPED}
    whole = trainer(tmp_path / "whole", **options)
    whole.train()
    folder = tmp_path / "resumed"
    shutil.copytree(tmp_path / "whole" / "checkpoint-8", folder / "checkpoint-8")
    again = trainer(folder, **options)
    again.train(resume_from_checkpoint=True)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    orders = []
    for epoch in (0, 1):
        sampler = whole._get_train_sampler()
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] != orders[1]


def test_every_checkpoint_has_a_record_of_its_rows(tmp_path):
    """Where the data set still has its texts; what the best checkpoint was chosen on counts as seen."""
    train, selected = texts(0, 24), texts(24, 32)
    best = {"load_best_model_at_end": True, "save_strategy": "epoch"}
    for name, options in (("plain", {}), ("best", best)):
        job = trainer(tmp_path / name, train, eval_dataset=selected, num_train_epochs=1, **options)
        job.train()
        job.save_model(str(tmp_path / name / "final"))
        for place in ("checkpoint-6", "final"):
            record = TrainingRecord.load(tmp_path / name / place)
            assert record.seen(train).all()
            assert record.seen(selected).all() == (name == "best")
        assert TrainingRecord.load(job.model).seen(train).all()
    assert TrainingRecord.load(tmp_path / "best" / "final").rows == {"train": 24, "validation": 8}


def test_rows_that_are_tokens_alone_leave_no_record(tmp_path):
    job = trainer(tmp_path, num_train_epochs=1, save_strategy="no")
    job.train()
    job.save_model(str(tmp_path / "final"))
    assert TrainingRecord.load(tmp_path / "final") is None


def test_a_misspelt_keyword_names_this_trainer(tmp_path):
    with pytest.raises(TypeError, match="VUBTrainer got an unexpected keyword argument 'train_data'; did you mean"):
        VUBTrainer(model=build_model("bert"), args=VUBTrainingArguments(str(tmp_path), report_to=[]), train_data=rows())
    with pytest.raises(TypeError, match="'tokenizer'; did you mean 'processing_class'"):
        VUBTrainer(model=build_model("bert"), args=VUBTrainingArguments(str(tmp_path), report_to=[]), tokenizer=None)


def test_a_training_without_an_accelerator_pins_no_memory(tmp_path):
    assert trainer(tmp_path).args.dataloader_pin_memory is False


@pytest.mark.parametrize("options", [{"num_train_epochs": 2}, {"max_steps": 8}], ids=["epochs", "steps"])
def test_resumed_from_any_checkpoint_it_ends_the_same(options, tmp_path):
    """Also from those at the end of an epoch, which come before its evaluation."""
    job = trainer(tmp_path / "whole", **options)
    job.train()
    lines = list(read_records(tmp_path / "whole" / "information_plane.jsonl"))
    assert [line["held_out"] is not None for line in lines] == [True, True]
    checkpoints = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    assert len(checkpoints) == options.get("max_steps", 12)
    for checkpoint in checkpoints[-2:] if "max_steps" in options else checkpoints[5:7]:
        folder = tmp_path / "resumed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(checkpoint, folder / checkpoint.name)
        (folder / "information_plane.jsonl").write_bytes((tmp_path / "whole" / "information_plane.jsonl").read_bytes())
        again = trainer(folder, **options)
        again.train(resume_from_checkpoint=True)
        assert again.state.global_step == job.state.global_step
        assert list(read_records(folder / "information_plane.jsonl")) == lines, checkpoint.name
        for name, weight in job.model.state_dict().items():
            assert torch.equal(weight, again.model.state_dict()[name]), (checkpoint.name, name)


def test_a_collapsed_bottleneck_warns_once(tmp_path, caplog):
    model = build_model("bert", objective="vub", beta=0.1)
    torch.nn.init.zeros_(model.head.bottleneck_encoder[2].weight)
    half = model.head.latent_size
    with torch.no_grad():
        model.head.bottleneck_encoder[2].bias[:half] = 0.0
        model.head.bottleneck_encoder[2].bias[half:] = 0.5413  # softplus of it is 1
        torch.nn.init.zeros_(model.head.bottleneck_decoder.weight)
        torch.nn.init.zeros_(model.head.bottleneck_decoder.bias)
    with caplog.at_level(logging.WARNING, "hf_vub"):
        trainer(tmp_path, model=model, learning_rate=1e-9, save_strategy="no").train()
    told = [record.getMessage() for record in caplog.records if record.name.startswith("hf_vub")]
    assert len(told) == 2
    assert any(line.startswith("KL collapse: the mean rate is") and "lower beta" in line for line in told)
    assert any(line.startswith("saturation: the mean entropy is 1.1 nats of at most") for line in told)


def test_a_bottleneck_at_work_is_left_alone(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "hf_vub"):
        trainer(tmp_path, save_strategy="no", model=build_model("bert", objective="ce")).train()
    assert not [record for record in caplog.records if record.name.startswith("hf_vub")]


def test_workers_and_batch_sizes_change_nothing(tmp_path):
    """The same command gives the same bits; it does not count who loads the rows and how many are measured at once."""
    weights, metrics = [], []
    for number, options in enumerate(
        [{}, {}, {"dataloader_num_workers": 2}, {"per_device_eval_batch_size": 3}, {"per_device_eval_batch_size": 24}]
    ):
        torch.manual_seed(number)
        job = trainer(tmp_path / str(number), save_strategy="no", **options)
        job.train()
        weights.append(torch.cat([weight.flatten() for weight in job.model.state_dict().values()]))
        metrics.append(job.evaluate())
    assert all(torch.equal(weights[0], other) for other in weights[1:])
    for other in metrics[1:]:
        for name in metrics[0]:
            if not name.endswith(("runtime", "per_second")):
                assert other[name] == pytest.approx(metrics[0][name], abs=1e-6), name
