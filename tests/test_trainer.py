"""The trainer: the objective, its schedules, exact resuming, and what must not bypass it."""

import json
import math
import socket

import datasets
import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from helpers.models import build_model
from helpers.training import Features, Tokens, arguments, pad, trainer
from hf_vub import VUBTrainer, VUBTrainingArguments
from hf_vub.runs.schema import read_result
from hf_vub.training import feature_rows
from hf_vub.training.bounds import bound_metrics
from hf_vub.training.information_plane import InformationPlane
from hf_vub.training.schedules import scheduled_beta


def weights(run):
    return {name: value.detach().clone() for name, value in run.model.state_dict().items()}


def logged(run, name):
    return [entry[name] for entry in run.state.log_history if name in entry]


def test_training_learns_and_logs_every_term(tmp_path):
    run = trainer(tmp_path, num_train_epochs=20, learning_rate=1e-2)
    run.train()
    metrics = run.evaluate()
    assert metrics["eval_accuracy"] > 0.95
    for name in ("loss", "cross_entropy", "rate", "entropy", "beta"):
        assert len(logged(run, name)) == 40, name
    expected = {"accuracy", "nll", "brier", "ece", "cross_entropy", "rate", "entropy"}
    expected |= {"bound_vib", "bound_vub", "bound_ib", "bound_vub_bits", "rate_bits"}
    assert expected <= {name.removeprefix("eval_") for name in metrics}
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_bound_vub"], abs=1e-5)
    assert metrics["eval_bound_ib"] <= metrics["eval_bound_vub"] <= metrics["eval_bound_vib"]
    assert metrics["eval_rate_bits"] == pytest.approx(metrics["eval_rate"] / math.log(2))
    assert metrics["eval_nll"] == pytest.approx(metrics["eval_cross_entropy"], abs=1e-5)


def test_the_logged_terms_make_the_logged_loss(tmp_path):
    run = trainer(tmp_path, model=build_model("bert", objective="vib", beta=0.25), logging_steps=1)
    run.train()
    for loss, rate, distortion in zip(
        logged(run, "loss"), logged(run, "rate"), logged(run, "cross_entropy"), strict=True
    ):
        assert loss == pytest.approx(0.25 * rate + distortion, abs=2e-4)  # transformers rounds the loss it logs


def test_a_recorded_trajectory(tmp_path):
    """Seeded training on a CPU goes the way it went when this was written, to the precision of float32."""
    run = trainer(tmp_path, logging_steps=2, max_steps=8)
    run.train()
    torch.testing.assert_close(
        torch.tensor(logged(run, "cross_entropy")),
        torch.tensor([1.2705, 1.2266, 1.1747, 1.1733]),
        atol=2e-3,
        rtol=0,
    )
    torch.testing.assert_close(
        torch.tensor(logged(run, "rate")), torch.tensor([2.5287, 2.0174, 2.2462, 2.6301]), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("objective", ["ce", "vib", "vub"])
def test_accumulation_gives_the_gradient_of_the_whole_batch(tmp_path, objective):
    """Batch 8 equals batch 2 x 4; plain SGD, so that weights show gradients, and no noise."""
    found = []
    for batch, steps in ((8, 1), (2, 4)):
        model = build_model("bert", objective=objective, beta=0.1, label_entropy=0.6)
        model.head.num_train_samples = 0
        run = trainer(
            tmp_path,
            model=model,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            optim="sgd",
            learning_rate=0.5,
            max_grad_norm=0.0,
            max_steps=5,
        )
        run.train()
        found.append((weights(run), logged(run, "loss")))
    for name, value in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], value, atol=1e-6, rtol=0, msg=name)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-4)


def test_the_plain_trainer_trains_the_same_objective(tmp_path):
    found = []
    for cls, args_class in ((VUBTrainer, VUBTrainingArguments), (Trainer, TrainingArguments)):
        args = arguments(tmp_path).to_dict()
        names = set(args_class.__dataclass_fields__)
        args = args_class(**{key: value for key, value in args.items() if key in names and not key.startswith("_")})
        run = cls(model=build_model("bert"), args=args, train_dataset=Features())
        run.train()
        found.append(weights(run))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


class StopAt(TrainerCallback):
    """Stops a run as an interruption would: after a step, between checkpoints."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("schedule", ["constant", "cyclic"])
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path, schedule):
    options = {
        "num_train_epochs": 3,
        "save_strategy": "steps",
        "save_steps": 5,
        "eval_strategy": "epoch",
        "beta_schedule": schedule,
        "lr_decay": "paper",
        "logging_steps": 3,
    }
    whole = trainer(tmp_path / "whole", **options)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "parts", callbacks=[StopAt(13)], **options).train()
    resumed = trainer(tmp_path / "parts", model=build_model("bert", beta=0.01), **options)
    resumed.train(resume_from_checkpoint=True)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    for name in ("rate", "beta", "eval_rate", "eval_loss"):
        assert logged(whole, name) == logged(resumed, name), name
    lines = [(tmp_path / part / "information_plane.jsonl").read_text() for part in ("whole", "parts")]
    assert lines[0] == lines[1]


def test_the_information_plane_has_a_line_per_epoch(tmp_path):
    run = trainer(tmp_path, num_train_epochs=3, eval_strategy="epoch")
    run.train()
    lines = [json.loads(line) for line in (tmp_path / "information_plane.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [8, 16, 24]
    for line in lines:
        for point in (line, line["held_out"]):
            assert point["information_y"] == pytest.approx(1 / point["cross_entropy"])
            # The paper's estimate is the rate less its quadratic terms: both are of one order, and finite.
            assert math.isfinite(point["information_x"])
    off = trainer(tmp_path / "off", information_plane=False)
    off.train()
    assert not (tmp_path / "off" / "information_plane.jsonl").exists()


def test_the_estimate_of_the_information_plane_by_hand():
    plane = InformationPlane(latent_size=2)
    scale = torch.tensor([[0.5, 0.25], [1.0, 2.0]])
    entropy = scale.log().sum(1) + math.log(2 * math.pi * math.e)
    terms = {"rate": torch.tensor([1.0, 3.0]), "cross_entropy": torch.tensor([0.5, 1.5]), "entropy": torch.zeros(2)}
    plane.add({**terms, "posterior_entropy": entropy})
    point = plane._point(plane.window_means())
    assert point["rate"] == 2.0
    assert point["information_y"] == 1.0
    assert point["information_x"] == pytest.approx(-(math.log(0.5 * 0.25) + math.log(2.0)) / 2)
    assert plane.window_means() == {}


def test_beta_schedules_by_hand():
    def course(schedule, **options):
        return [round(scheduled_beta(schedule, 1.0, step, 8, **options), 4) for step in range(9)]

    assert course("constant") == [1.0] * 9
    assert course("linear") == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert course("cosine") == [0.0, 0.1464, 0.5, 0.8536, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert course("cyclic", cycles=2) == [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    assert course("linear", warmup=1.0)[4] == 0.5


def test_the_schedule_reaches_the_loss_and_the_log_but_not_evaluation(tmp_path):
    run = trainer(
        tmp_path,
        model=build_model("bert", objective="vib", beta=0.5),
        beta_schedule="linear",
        beta_warmup=1.0,  # the first of the two evaluations comes half-way up
        logging_steps=1,
        eval_strategy="epoch",
    )
    run.train()
    betas = logged(run, "beta")
    assert betas == [scheduled_beta("linear", 0.5, step, 16, warmup=1.0) for step in range(1, 17)]
    # The loss of a step was taken at the beta before it.
    losses, rates, distortions = (logged(run, name) for name in ("loss", "rate", "cross_entropy"))
    for step in range(1, 16):
        assert losses[step] == pytest.approx(betas[step - 1] * rates[step] + distortions[step], abs=2e-4)
    for loss, bound in zip(logged(run, "eval_loss"), logged(run, "eval_bound_vib"), strict=True):
        assert loss == pytest.approx(bound, abs=1e-5)


def test_the_papers_learning_rate_decays_every_two_epochs(tmp_path):
    run = trainer(tmp_path, num_train_epochs=6, lr_decay="paper", logging_steps=8)
    run.train()
    rates = [rate / 1e-3 for rate in logged(run, "learning_rate")]
    assert rates == pytest.approx([1, 1, 0.97, 0.97, 0.97**2, 0.97**2], abs=1e-6)


BEST = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}


def test_result_and_card_describe_the_weights_that_are_kept(tmp_path):
    """Those of the best checkpoint, also when it is not the last, before and after another evaluation."""
    run = trainer(tmp_path, num_train_epochs=3, metric_for_best_model="nll", callbacks=[Spoiler()], **BEST)
    run.train()
    logs = logged(run, "eval_nll")
    assert logs[-1] > min(logs) + 0.1
    run.create_model_card()
    written = read_result(tmp_path / "result.json")
    assert written.metrics["nll"] == min(logs)
    assert written.best_step == 8 * (1 + logs.index(min(logs)))
    assert f"{min(logs):.3f}" in (tmp_path / "README.md").read_text()
    assert run.evaluate()["eval_nll"] == pytest.approx(min(logs), abs=1e-6)
    run.create_model_card()
    assert read_result(tmp_path / "result.json").metrics["nll"] == pytest.approx(min(logs), abs=1e-6)


class Spoiler(TrainerCallback):
    """Spoils the model in its last epoch."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 20:
            with torch.no_grad():
                model.head.bottleneck_decoder.weight.mul_(-5)


def test_a_card_after_more_steps_than_were_evaluated_evaluates_again(tmp_path):
    run = trainer(tmp_path, max_steps=12, eval_strategy="steps", eval_steps=8, learning_rate=1e-2)
    run.train()
    stale = logged(run, "eval_nll")[0]  # some versions evaluate at the end too
    run.create_model_card()
    shown = read_result(tmp_path / "result.json").metrics["nll"]
    assert shown != stale
    assert shown == pytest.approx(run.evaluate()["eval_nll"])


@pytest.mark.parametrize("metric", ["nll", "eval_ece", "bound_vub", "loss"])
def test_the_lowest_of_what_should_be_low_is_the_best(metric, tmp_path):
    assert arguments(tmp_path, metric_for_best_model=metric, **BEST).greater_is_better is False
    assert arguments(tmp_path, metric_for_best_model="accuracy", **BEST).greater_is_better is True


def test_an_unknown_metric_for_the_best_model_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="metric_for_best_model is 'f1'; it must be one of loss, accuracy, nll"):
        trainer(tmp_path, metric_for_best_model="f1", **BEST)


@pytest.mark.parametrize(
    "options",
    [{"bf16": True}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}, {"gradient_checkpointing": True}],
    ids=lambda options: next(iter(options)),
)
def test_what_a_trainer_can_do_keeps_working(tmp_path, options):
    run = trainer(
        tmp_path, model=build_model("bert", num_labels=2), dataset=Tokens(), collator=pad, max_steps=4, **options
    )
    before = weights(run)
    run.train()
    assert all(math.isfinite(loss) for loss in logged(run, "loss"))
    moved = [name for name, value in weights(run).items() if not torch.equal(value, before[name])]
    assert any(name.startswith("backbone.") for name in moved)
    assert any(name.startswith("head.") for name in moved)
    assert "eval_accuracy" in run.evaluate()


def test_grouping_by_length_and_tensorboard(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    grouping = (
        {"train_sampling_strategy": "group_by_length"}
        if "train_sampling_strategy" in TrainingArguments.__dataclass_fields__
        else {"group_by_length": True}
    )
    run = trainer(
        tmp_path,
        model=build_model("bert", num_labels=2),
        dataset=Tokens(),
        collator=pad,
        max_steps=4,
        report_to=["tensorboard"],
        **grouping,
    )
    run.train()
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    shown = events.EventAccumulator(str(file)).Reload()
    for name in ("rate", "cross_entropy", "entropy", "beta"):
        points = [(event.step, event.value) for event in shown.Scalars(f"train/{name}")]
        assert points == [(4, pytest.approx(logged(run, name)[-1]))]


def test_predictions_are_logits_and_own_metrics_join(tmp_path):
    seen = {}

    def own(prediction):
        seen["shape"] = prediction.predictions.shape
        return {"answer": 42.0}

    def first_column(logits, labels):
        return logits[:, :]

    run = VUBTrainer(
        model=build_model("bert"),
        args=arguments(tmp_path),
        eval_dataset=Features(20),
        compute_metrics=own,
        preprocess_logits_for_metrics=first_column,
    )
    metrics = run.evaluate()
    assert metrics["eval_answer"] == 42.0
    assert "eval_rate" in metrics
    assert seen["shape"] == (20, 3)
    assert run.predict(Features(20)).predictions.shape == (20, 3)
    several = run.evaluate({"a": Features(8), "b": Features(12)})
    assert {"eval_a_accuracy", "eval_b_rate"} <= several.keys()


def test_the_metrics_function_of_the_tutorials_runs_unchanged(tmp_path):
    def compute_metrics(eval_pred):
        logits, labels = eval_pred
        predictions = np.argmax(logits, axis=-1)
        return {"mine": float((predictions == labels).mean())}

    run = VUBTrainer(
        model=build_model("bert"), args=arguments(tmp_path), eval_dataset=Features(20), compute_metrics=compute_metrics
    )
    metrics = run.evaluate()
    assert metrics["eval_mine"] == pytest.approx(metrics["eval_accuracy"])


def from_trial(trial=None):
    beta = 0.01 if trial is None else trial.suggest_categorical("beta", [0.01, 0.1])
    latent_size = 16 if trial is None else trial.suggest_categorical("latent_size", [4, 8])
    return build_model("bert", beta=beta, latent_size=latent_size)


def test_a_model_init_is_enough(tmp_path):
    """Every training starts from a new model; a loop over trials needs nothing else."""
    run = VUBTrainer(model_init=from_trial, args=arguments(tmp_path), train_dataset=Features(), eval_dataset=Features())
    found = {}
    for rate in (1e-2, 1e-5, 1e-2):
        run.args.learning_rate = rate
        run.train()
        found.setdefault(rate, []).append(run.evaluate()["eval_nll"])
    assert found[1e-2][0] == found[1e-2][1] < found[1e-5][0]
    with pytest.raises(TypeError, match="VUBTrainer needs a model, or a model_init"):
        VUBTrainer(args=arguments(tmp_path))
    with pytest.raises(TypeError, match="model is a Linear"):
        VUBTrainer(model_init=lambda: torch.nn.Linear(2, 2), args=arguments(tmp_path))


def test_hyperparameters_are_searched(tmp_path):
    pytest.importorskip("optuna")
    run = VUBTrainer(
        model_init=from_trial, args=arguments(tmp_path, max_steps=2), train_dataset=Features(), eval_dataset=Features()
    )
    best = run.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)},
        compute_objective=lambda metrics: metrics["eval_nll"],
        direction="minimize",
        backend="optuna",
        n_trials=2,
    )
    assert best.hyperparameters.keys() == {"learning_rate", "beta", "latent_size"}


def test_a_head_gets_defaults_of_its_own(tmp_path):
    """Whatever the user set stays; a whole model has the defaults of transformers."""

    def made(frozen, **options):
        model = build_model("bert", freeze_backbone=frozen)
        args = VUBTrainingArguments(str(tmp_path), report_to=[], **options)
        before = (args.learning_rate, args.num_train_epochs, args.per_device_train_batch_size)
        assert before[0] == options.get("learning_rate", 5e-5)
        run = VUBTrainer(model=model, args=args, train_dataset=Features())
        batch = next(iter(run.get_train_dataloader()))
        return run.args.learning_rate, run.args.num_train_epochs, len(batch["labels"])

    assert made(False) == (5e-5, 3, 8)
    assert made(True) == (1e-3, 20, 32)
    assert made(True, learning_rate=5e-5, num_train_epochs=3, per_device_train_batch_size=8) == (5e-5, 3, 8)
    assert made(True, num_train_epochs=2) == (1e-3, 2, 32)


def test_the_features_of_a_frozen_backbone_are_computed_once(tmp_path):
    """Training on them is training the frozen model, and the record still says which rows they are of."""
    dataset = datasets.Dataset.from_dict(
        {"text": [f"row {row}" for row in range(48)], **{key: [row[key] for row in Tokens()] for key in Tokens()[0]}}
    )
    found = []
    for cached in (False, True):
        model = build_model("bert", num_labels=2, freeze_backbone=True)
        rows = feature_rows(model, dataset, cache_dir=tmp_path / "cache") if cached else dataset
        run = trainer(tmp_path, model=model, dataset=rows, collator=None if cached else pad)
        run.train()
        found.append(weights(run))
        assert model.training_record.seen(dataset).all()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-5, rtol=1e-4, msg=name)
    with pytest.raises(ValueError, match="load the model with freeze_backbone=True"):
        feature_rows(build_model("bert", num_labels=2), dataset, cache_dir=tmp_path / "cache")


def test_evaluation_does_not_depend_on_the_batch_size(tmp_path):
    found = []
    for batch in (1, 7, 64):
        run = VUBTrainer(
            model=build_model("bert"),
            args=arguments(tmp_path, per_device_eval_batch_size=batch),
            eval_dataset=Features(),
        )
        metrics = run.evaluate()
        found.append([metrics[name] for name in ("eval_nll", "eval_rate", "eval_bound_vub", "eval_accuracy")])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0] == pytest.approx(found[2], abs=1e-6)


def test_bounds_by_hand():
    terms = {
        "rate": np.array([1.0, 3.0]),
        "cross_entropy": np.array([0.2, 0.4]),
        "entropy": np.array([0.1, 2.0]),
        "posterior_entropy": np.array([0.0, 0.0]),
    }
    model = build_model("bert", beta=0.5, label_entropy=1.0)
    bounds = bound_metrics(terms, model.config)
    assert bounds["bound_vib"] == pytest.approx(0.5 * 2 + 0.3)
    assert bounds["bound_vub"] == pytest.approx(1.3 - (0.1 + 1.0) / 2)
    assert bounds["bound_ib"] == pytest.approx(0.3)


def test_what_would_bypass_the_objective_raises(tmp_path):
    model = build_model("bert")
    with pytest.raises(ValueError, match="label_smoothing_factor is 0.1"):
        VUBTrainer(model=model, args=arguments(tmp_path, label_smoothing_factor=0.1))
    with pytest.raises(ValueError, match="compute_loss_func would replace the objective"):
        VUBTrainer(model=model, args=arguments(tmp_path), compute_loss_func=lambda *_: 0)
    with pytest.raises(ValueError, match="batch_eval_metrics is True"):
        VUBTrainer(model=model, args=arguments(tmp_path, batch_eval_metrics=True))
    with pytest.raises(TypeError, match="args is a TrainingArguments"):
        VUBTrainer(model=model, args=TrainingArguments(str(tmp_path), report_to=[]))
    with pytest.raises(TypeError, match="model is a BertForSequenceClassification"):
        VUBTrainer(model=BertForSequenceClassification(model.backbone.config), args=arguments(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_schedule": "square"}, "beta_schedule is 'square'; it must be one of 'constant', 'linear'"),
        ({"lr_decay": "papers"}, "lr_decay is 'papers'"),
        ({"beta_warmup": 0.0}, "beta_warmup is 0.0"),
        ({"beta_cycles": 0}, "beta_cycles is 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0; it must be at least 1"),
        ({"gradient_accumulation_steps": -2}, "gradient_accumulation_steps is -2"),
        ({"num_train_epochs": -1}, "num_train_epochs is -1"),
        ({"num_train_epochs": math.nan}, "num_train_epochs is nan"),
        ({"num_train_epochs": math.inf}, "num_train_epochs is inf"),
        ({"max_steps": -2}, "max_steps is -2"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
        ({"adam_beta2": 1.0}, "adam_beta2 is 1.0; it must be at least 0 and less than 1"),
        ({"adam_epsilon": 0.0}, "adam_epsilon is 0.0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0"),
        ({"per_device_eval_batch_size": -1}, "per_device_eval_batch_size is -1"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_bad_arguments_are_one_sentence(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **options)


def test_bad_data_is_one_sentence(tmp_path):
    empty = datasets.Dataset.from_dict({"input_ids": [], "labels": []})
    with pytest.raises(ValueError, match="train_dataset is empty"):
        trainer(tmp_path, dataset=empty)
    wrong = datasets.Dataset.from_dict({"input_ids": [[3], [4]], "labels": [0, 3]})
    with pytest.raises(ValueError, match="3"):
        trainer(tmp_path, dataset=wrong)
    named = datasets.Dataset.from_dict({"input_ids": [[3], [4]], "label": ["good", "bad"]})
    with pytest.raises(ValueError, match="train_dataset: column 'label'") as caught:
        trainer(tmp_path, dataset=named)
    assert "\n" not in str(caught.value)
    unlabelled = [{"features": torch.zeros(32)}]
    with pytest.raises(ValueError, match="the batch has no labels"):
        trainer(tmp_path, dataset=unlabelled).train()


def test_a_trained_checkpoint_loads_with_its_tokenizer_and_predicts_the_same(tmp_path):
    from hf_vub import VUBForSequenceClassification

    run = trainer(tmp_path, model=build_model("bert", num_labels=2), dataset=Tokens(), collator=pad, max_steps=3)
    run.train()
    run.save_model(str(tmp_path / "final"))
    batch = pad([Tokens()[row] for row in range(5)])
    batch.pop("labels")
    again = VUBForSequenceClassification.from_pretrained(tmp_path / "final")
    assert torch.equal(again(**batch).logits, run.model.eval()(**batch).logits)


SECRETS = [name for name in ("hub_token", "push_to_hub_token") if name in TrainingArguments.__dataclass_fields__]


@pytest.mark.parametrize("secret", SECRETS)
def test_saved_arguments_hold_no_token_and_no_host_name(secret, tmp_path, monkeypatch):
    token, host = "hf_" + "Q7" * 16, "a-private-host-name"
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    run = trainer(tmp_path, max_steps=1, save_strategy="steps", save_steps=1, **{secret: token})
    run.train()
    run.save_model(str(tmp_path / "final"))
    assert run.args.hub_token == token
    for path in tmp_path.rglob("*"):
        if path.is_file() and "runs" not in path.parts:
            content = path.read_bytes()
            assert token.encode() not in content, path
            assert host.encode() not in content, path
