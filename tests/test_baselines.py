"""Baselines: solutions of what they claim to minimise, chosen on validation rows."""

import math

import pytest
import torch
from torch.nn import functional as F

from helpers.sweeps import LABELS, problem
from hf_vub.metrics.classification import accuracy, negative_log_likelihood

pytest.importorskip("sklearn")

from hf_vub.sweep.baselines import early_stopped_mlp, logistic_regression

SMALL = {"max_epochs": 5, "dropout": (0.2,), "weight_decay": (0.0, 0.1)}
BOTH = pytest.mark.parametrize(
    "fit", [logistic_regression, lambda *rows, **options: early_stopped_mlp(*rows, **SMALL, **options)]
)


def uneven(features):
    """Give the features scales and offsets far from 0 and 1."""
    size = features.shape[1]
    return features * torch.logspace(-3, 3, size) + torch.linspace(-50, 50, size)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_regression_is_a_stationary_point_of_its_objective(classes):
    features, labels = problem(200)
    labels = labels % classes
    layer = logistic_regression(uneven(features), labels, num_labels=classes, regularization=(0.05,)).module
    deviation, mean = torch.std_mean(uneven(features).double(), dim=0, correction=0)
    standardised = (uneven(features).double() - mean) / deviation
    weight = (layer.weight.double() * deviation).requires_grad_()
    bias = (layer.bias.double() + layer.weight.double() @ mean).requires_grad_()
    log_p = F.log_softmax(standardised @ weight.T + bias, -1)
    # Of two classes, scikit-learn penalises the difference of the weights, which are plus and minus half of it.
    penalty = weight.square().sum() * (1.0 if classes == 2 else 0.5)
    loss = penalty + 0.05 * F.nll_loss(log_p, labels, reduction="sum")
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert gradient.abs().max() < 5e-3 * loss.item()


@BOTH
def test_the_choice_is_the_best_on_the_validation_rows(fit):
    features, labels = problem(60, seed=1)
    held_out = problem(400, seed=2)
    found = fit(features, labels, num_labels=LABELS, validation_features=held_out[0], validation_labels=held_out[1])
    logits = found.module(held_out[0])
    assert found.validation_nll == pytest.approx(negative_log_likelihood(logits, held_out[1]), rel=1e-5)
    assert found.validation_accuracy == accuracy(logits, held_out[1])
    assert found.validation_nll == min(trial["validation_nll"] for trial in found.trials)
    chosen = min(found.trials, key=lambda trial: trial["validation_nll"])
    assert found.hyperparameters.items() <= chosen.items()
    assert found.validation == "400 validation rows"
    assert not found.module.training
    assert not any(parameter.requires_grad for parameter in found.module.parameters())


def test_a_validated_regression_beats_an_unregularised_one():
    """Few rows, many features: the maximum of the likelihood is sure of everything."""
    features, labels = problem(80, size=60, seed=3)
    test = problem(2000, size=60, seed=4)
    tuned = logistic_regression(features, labels, num_labels=LABELS)
    loose = logistic_regression(features, labels, num_labels=LABELS, regularization=(1e4,))
    assert tuned.hyperparameters["C"] < 1
    nll = [negative_log_likelihood(found.module(test[0]), test[1]) for found in (tuned, loose)]
    assert nll[0] < 0.5 * nll[1]
    assert accuracy(tuned.module(test[0]), test[1]) > accuracy(loose.module(test[0]), test[1])


def test_without_validation_rows_folds_choose_and_all_rows_train():
    features, labels = problem(90, seed=5)
    found = logistic_regression(features, labels, num_labels=LABELS)
    assert found.validation == "5 stratified folds of the 90 training rows"
    refitted = logistic_regression(
        features, labels, num_labels=LABELS, regularization=(found.hyperparameters["C"],)
    ).module
    torch.testing.assert_close(found.module.weight, refitted.weight, rtol=1e-3, atol=1e-4)


def test_the_network_learns_what_no_linear_layer_can():
    features = torch.randn(600, 4)
    labels = (features[:, 0] * features[:, 1] > 0).long()
    options = {"num_labels": 2, "validation_features": features[400:], "validation_labels": labels[400:]}
    rows = uneven(features[:400]), labels[:400]
    options["validation_features"] = uneven(features[400:])
    network = early_stopped_mlp(*rows, **options, hidden=32, learning_rate=1e-2, batch_size=32, max_epochs=30)
    assert network.validation_accuracy > 0.85 > 0.65 > logistic_regression(*rows, **options).validation_accuracy


def test_the_network_stops_early_and_holds_a_fifth_out():
    features, labels = torch.randn(100, 30), torch.arange(100) % 2  # noise: every epoch after the first few is worse
    found = early_stopped_mlp(features, labels, num_labels=2, learning_rate=1e-2, patience=2)
    assert found.hyperparameters["epochs"] < 20
    assert found.validation == "a stratified fifth (20) of the 100 training rows"


@BOTH
def test_a_seed_gives_the_same_bits_and_leaves_the_generators_alone(fit):
    rows, before = problem(60), torch.get_rng_state()
    one, same, other = (fit(*rows, num_labels=LABELS, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    features = problem(10, seed=9)[0]
    assert torch.equal(one.module(features), same.module(features))
    assert one.validation_nll != other.validation_nll


@BOTH
def test_rare_and_absent_classes_get_low_but_finite_probabilities(fit):
    features, labels = problem(60)
    labels[labels == 2] = 1
    labels[0] = 2
    found = fit(features, labels, num_labels=5)
    assert math.isfinite(found.validation_nll)
    probabilities = found.module(features).softmax(-1)
    assert probabilities.isfinite().all()
    if fit is logistic_regression:
        assert probabilities[:, 3:].max() < 0.02


@BOTH
def test_a_constant_feature_does_nothing(fit):
    features, labels = problem(60)
    widened = torch.cat([features, torch.full((60, 1), 7.3)], dim=1)
    module = fit(widened, labels, num_labels=LABELS).module
    moved = torch.cat([features, torch.full((60, 1), 7.3001)], dim=1)
    torch.testing.assert_close(module(moved), module(widened), rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("fit", "options", "message"),
    [
        (logistic_regression, {"regularization": ()}, r"regularization is \(\)"),
        (logistic_regression, {"regularization": (1.0, 0.0)}, "all above 0"),
        (logistic_regression, {"labels": torch.ones(60).long()}, "all 60 labels are 1"),
        (logistic_regression, {"validation_labels": [0]}, "validation_features and validation_labels must be given"),
        (
            logistic_regression,
            {"validation_features": torch.zeros(2, 3), "validation_labels": [0, 1]},
            "validation_features have 3 columns",
        ),
        (logistic_regression, {"num_labels": 2}, "labels span 0 to 2"),
        (early_stopped_mlp, {"dropout": (1.0,)}, r"dropout is \(1.0,\); .* each in \[0, 1\)"),
        (early_stopped_mlp, {"label_smoothing": (1.0,)}, r"label_smoothing is \(1.0,\); .* each in \[0, 1\)"),
        (early_stopped_mlp, {"confidence_penalty": (-1.0,)}, r"confidence_penalty is \(-1.0,\); .* at least 0"),
        (early_stopped_mlp, {"weight_decay": ()}, "at least one"),
        (early_stopped_mlp, {"patience": 0}, "patience is 0"),
        (early_stopped_mlp, {"learning_rate": math.nan}, "learning_rate is nan"),
        (early_stopped_mlp, {"hidden": -3}, "hidden is -3"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(fit, options, message):
    features, labels = problem(60)
    with pytest.raises(ValueError, match=message):
        fit(**{"features": features, "labels": labels, "num_labels": LABELS} | options)


@pytest.mark.parametrize("penalty", ["label_smoothing", "confidence_penalty"])
def test_penalties_of_confident_predictions_make_them_less_confident(penalty):
    features, labels = problem(200)
    held_out = problem(200, seed=2)
    options = {"num_labels": LABELS, "dropout": (0.0,), "weight_decay": (0.0,), "max_epochs": 30, "patience": 30}
    rows = {"validation_features": held_out[0], "validation_labels": held_out[1], "learning_rate": 1e-2}
    plain = early_stopped_mlp(features, labels, **options, **rows)
    found = early_stopped_mlp(features, labels, **options, **rows, **{penalty: (0.5,)})
    entropies = [
        torch.distributions.Categorical(logits=fitted.module(features)).entropy().mean() for fitted in (plain, found)
    ]
    assert entropies[1] > entropies[0] + 0.05
    assert found.hyperparameters[penalty] == 0.5
    assert penalty not in plain.hyperparameters


def test_no_two_rows_of_a_class_need_validation_rows():
    with pytest.raises(ValueError, match="give validation_features"):
        logistic_regression(torch.randn(3, 4), [0, 1, 2], num_labels=3)
