"""Trainings that go wrong: told at once, in numbers that lead to the cause, and with the last good state kept."""

import json
import logging
import shutil

import pytest
import torch
from transformers import TrainerCallback

from helpers.models import build_model
from helpers.saving_trainer import POISON, rows, trainer
from hf_vub.runs.files import read_records
from hf_vub.training.safeguards import last_checkpoint


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
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_a_checkpoint_that_was_not_finished_is_passed_over(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    job = trainer(tmp_path)
    with pytest.raises(ValueError, match="has no whole checkpoint"):
        job.train(resume_from_checkpoint=True)
    for step, content in ((2, None), (10, {"global_step": 10}), (20, {"global_step": 2}), (30, "{"), (40, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if content is not None:
            (folder / "trainer_state.json").write_text(content if isinstance(content, str) else json.dumps(content))
    (tmp_path / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


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


def test_a_dead_bottleneck_is_told_of_once(tmp_path, caplog):
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
