"""The objectives: their formulas, their order as bounds on exactly known information, and the cap."""

import math

import pytest
import torch

from hf_vub.model.information import categorical_entropy, cross_entropy
from hf_vub.model.objectives import Terms, objective_loss, objective_terms, objective_weights


def information(joint):
    """Mutual information of a joint distribution (rows, columns), in nats."""
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return torch.special.xlogy(joint, joint / independent).nansum()


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("classes", [2, 5])
def test_vub_lies_between_the_bottleneck_and_vib(seed, classes):
    """L_IB <= L_VUB <= L_VIB on random discrete x -> z and x -> y, where both informations are exact sums."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.distributions.Dirichlet(torch.full(shape[-1:], 0.5, dtype=torch.float64)).sample(shape[:-1])

    torch.manual_seed(seed)
    p_x, p_z_x, p_y_x = random(6), random(6, 4), random(6, classes)
    prior, logits = random(4), torch.randn(4, classes, dtype=torch.float64, generator=generator) * 2
    beta = float(torch.rand(1, generator=generator))

    joint_xz, joint_xy = p_x[:, None] * p_z_x, p_x[:, None] * p_y_x
    joint_zy = joint_xz.T @ p_y_x
    bottleneck = beta * information(joint_xz) - information(joint_zy)
    label_entropy = torch.special.entr(joint_xy.sum(0)).sum().item()

    # One row for each (x, z, y), weighted by its probability: what a mean over samples estimates.
    rate = (torch.special.xlogy(p_z_x, p_z_x / prior)).sum(1)
    losses = {}
    for name in ("vib", "vub"):
        total = torch.zeros((), dtype=torch.float64)
        for x in range(6):
            for y in range(classes):
                # The expectation over z is inside a sample: terms are means over the draws, here exact ones.
                distortion = (p_z_x[x] * cross_entropy(logits, torch.full((4,), y))).sum()
                entropy = (p_z_x[x] * categorical_entropy(logits)).sum()
                terms = Terms(rate[x], distortion, entropy)
                total += joint_xy[x, y] * objective_loss(name, terms, beta=beta, label_entropy=label_entropy)
        losses[name] = total.item()
    assert bottleneck.item() <= losses["vub"] + 1e-9
    assert losses["vub"] <= losses["vib"] + 1e-12


def test_each_objective_by_hand():
    terms = Terms(torch.tensor([2.0]), torch.tensor([0.5]), torch.tensor([0.3]))
    settings = {"beta": 0.1, "label_entropy": math.log(2)}
    assert objective_loss("ce", terms, **settings).item() == pytest.approx(0.5)
    assert objective_loss("vib", terms, **settings).item() == pytest.approx(0.7)
    assert objective_loss("vub", terms, **settings).item() == pytest.approx(0.4)
    assert objective_loss("vub", terms, entropy_weight=2.0, **settings).item() == pytest.approx(0.1)


def test_the_cap_switches_at_the_label_entropy():
    """Below H(Y) the classifier's entropy is rewarded, above it is a constant without gradient."""
    cap = 0.5
    entropy = torch.tensor([cap - 1e-6, cap, cap + 1e-6, 2.0], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(4, dtype=torch.float64)
    losses = objective_loss("vub", Terms(zero, zero, entropy), beta=1.0, label_entropy=cap)
    torch.testing.assert_close(losses, -torch.tensor([cap - 1e-6, cap, cap, cap], dtype=torch.float64))
    losses.sum().backward()
    assert entropy.grad[0] == -1.0
    assert (entropy.grad[2:] == 0.0).all()


def test_terms_are_means_over_draws_and_keep_leading_dimensions():
    mean, scale = torch.randn(3, 5, 4), torch.rand(3, 5, 4) + 0.1
    draws, labels = torch.randn(7, 3, 5, 2), torch.randint(2, (3, 5))
    terms = objective_terms(mean, scale, draws, labels)
    assert terms.rate.shape == terms.cross_entropy.shape == terms.entropy.shape == (3, 5)
    torch.testing.assert_close(terms.cross_entropy, cross_entropy(draws, labels).mean(0))
    alone = objective_terms(mean[1], scale[1], draws[:, 1], labels[1])
    torch.testing.assert_close(terms.rate[1], alone.rate)
    weights = torch.tensor([[0.0], [0.1], [0.2]])
    assert (terms.rate * weights).shape == (3, 5)


def test_per_sample_losses_do_not_depend_on_how_they_are_batched():
    """The min on the batch mean would: this is why it is taken per sample."""
    draws, labels = torch.randn(1, 8, 2) * 3, torch.randint(2, (8,))
    mean, scale = torch.randn(8, 4), torch.rand(8, 4)
    settings = {"beta": 1e-2, "label_entropy": 0.3}
    whole = objective_loss("vub", objective_terms(mean, scale, draws, labels), **settings).mean()
    halves = [
        objective_loss("vub", objective_terms(mean[part], scale[part], draws[:, part], labels[part]), **settings).mean()
        for part in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(whole, sum(halves) / 2)


def test_gradients_against_finite_differences():
    mean = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    scale = (torch.rand(3, 4, dtype=torch.float64) + 0.2).requires_grad_()
    draws = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 4, 2])

    def loss(mean, scale, draws):
        return objective_loss("vub", objective_terms(mean, scale, draws, labels), beta=0.1, label_entropy=1.0)

    assert torch.autograd.gradcheck(loss, (mean, scale, draws))


def test_bad_names_and_missing_labels_are_one_sentence():
    with pytest.raises(ValueError, match="objective is 'VUBB'; it must be one of 'ce', 'vib', 'vub'"):
        objective_weights("VUBB", 0.1)
    terms = objective_terms(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1, 1, 2))
    with pytest.raises(ValueError, match="terms have no cross-entropy"):
        objective_loss("vib", terms, beta=0.1, label_entropy=0.6)
