"""The inner step of attacks and of adversarial training, against closed forms."""

import pytest
import torch

from hf_vub.compute.perturbation import direction, perturb, project, random_start


def pixels(*shape, low=0.3, high=0.7):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * (high - low) + low


@pytest.mark.parametrize("steps", [1, 4])
def test_a_linear_loss_has_its_closed_form_under_linf(steps):
    x, w = pixels(5, 3, 4, 4), torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = perturb(lambda p: (p * w).flatten(1).sum(1), x, epsilon=0.1, step=0.1, steps=steps)
    assert torch.allclose(found, x + 0.1 * w.sign(), atol=1e-6)


def test_a_linear_loss_has_its_closed_form_under_l2():
    x, w = pixels(5, 3, 4, 4), torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = perturb(lambda p: (p * w).flatten(1).sum(1), x, epsilon=0.2, step=0.05, steps=8, norm="l2")
    assert torch.allclose(found, x + 0.2 * w / w.norm(), atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_everything_stays_in_the_ball_and_in_the_range_of_pixels(norm):
    x = torch.rand(64, 3, 5, 5, generator=torch.Generator().manual_seed(2)).round()  # on the border of [0, 1]
    start = random_start(x, 0.3, norm, torch.Generator().manual_seed(3))
    found = perturb(
        lambda p: (p * torch.linspace(-1, 1, 5)).sum(), x, epsilon=0.3, step=0.2, steps=3, norm=norm, start=start
    )
    for candidate in (start, found):
        change = (candidate - x).flatten(1)
        size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        assert float(size.max()) <= 0.3 + 1e-6
        assert float(candidate.min()) >= 0
        assert float(candidate.max()) <= 1
        assert not torch.equal(candidate, x)


def test_random_starts_fill_the_ball():
    x = torch.full((4000, 1, 2, 2), 0.5)
    uniform = random_start(x, 0.2, "linf", torch.Generator().manual_seed(0)) - x
    assert float(uniform.std()) == pytest.approx(0.4 / 12**0.5, rel=0.03)
    radii = (random_start(x, 0.2, "l2", torch.Generator().manual_seed(0)) - x).flatten(1).norm(dim=1) / 0.2
    assert float((radii <= 0.5).float().mean()) == pytest.approx(0.5**4, abs=0.012)  # the volume of the half ball


def test_the_budget_of_one_example_does_not_depend_on_the_others():
    x, w = pixels(3, 1, 4, 4), torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    options = {"epsilon": 0.2, "step": 0.1, "steps": 3, "norm": "l2"}
    together = perturb(lambda p: (p * w).sum(), x, **options)
    alone = perturb(lambda p: (p * w[1:2]).sum(), x[1:2], **options)
    assert torch.allclose(together[1:2], alone, atol=1e-6)


def test_a_zero_gradient_moves_nothing_and_no_graph_is_left():
    x = pixels(2, 1, 2, 2)
    for norm in ("linf", "l2"):
        found = perturb(lambda p: p.sum() * 0, x, epsilon=0.1, step=0.1, steps=2, norm=norm)
        assert torch.equal(found, x)
        assert not found.requires_grad
        assert torch.equal(direction(torch.zeros(1, 4), norm), torch.zeros(1, 4))
    assert torch.equal(project(x + 9, x, 0.1, "linf"), x + 0.1)


def test_gradients_that_are_not_finite_count_as_zero():
    gradient = torch.tensor([float("nan"), float("inf"), 3.0, -float("inf")]).view(1, 1, 2, 2)
    assert direction(gradient, "linf").flatten().tolist() == [0, 0, 1, 0]
    assert direction(gradient, "l2").flatten().tolist() == [0, 0, 1, 0]
