"""Projected gradient ascent on pixels against closed forms on linear losses."""

import pytest
import torch

from hf_vub.compute.perturbation import direction, perturb, project, random_start


def linear(count=3):
    weight = torch.randn(1, 2, 4, 4)
    return weight, lambda pixels: (pixels * weight).flatten(1).sum(dim=1), torch.rand(count, 2, 4, 4) * 0.2 + 0.4


def test_linf_ascent_of_a_linear_loss_ends_in_the_corner():
    weight, loss, pixels = linear()
    found = perturb(loss, pixels, 0.1, steps=5)
    assert torch.allclose(found, pixels + 0.1 * weight.sign(), atol=1e-6)
    assert not found.requires_grad


def test_l2_ascent_of_a_linear_loss_ends_on_the_sphere_along_the_gradient():
    weight, loss, pixels = linear()
    found = perturb(loss, pixels, 0.1, steps=60, step_size=0.05, norm="l2")
    assert torch.allclose(found, pixels + 0.1 * weight / weight.norm(), atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_step_of_given_size_from_the_image_itself(norm):
    weight, loss, pixels = linear()
    found = perturb(loss, pixels, 0.1, steps=1, step_size=0.02, norm=norm, start=pixels)
    unit = weight.sign() if norm == "linf" else weight / weight.norm()
    assert torch.allclose(found, pixels + 0.02 * unit, atol=1e-6)


def test_it_takes_one_pass_per_step_and_leaves_parameters_alone():
    layer = torch.nn.Linear(32, 2)
    calls = []

    def loss(pixels):
        calls.append(len(pixels))
        return layer(pixels.flatten(1))[:, 0]

    with torch.no_grad():  # gradients of the pixels are taken all the same
        perturb(loss, torch.rand(3, 2, 4, 4), 0.1, steps=7)
    assert calls == [3] * 7
    assert layer.weight.grad is None
    assert layer.weight.requires_grad


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_fill_the_ball_and_follow_their_generator(norm):
    pixels = torch.full((400, 1, 2, 2), 0.5)
    first, second, other = (random_start(pixels, 0.2, norm, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    sizes = torch.linalg.vector_norm((first - pixels).flatten(1), ord=float("inf") if norm == "linf" else 2, dim=1)
    assert sizes.max() <= 0.2 + 1e-6
    # The size over the radius, to the power of the dimension, is uniform in a ball.
    assert torch.allclose((sizes / 0.2).pow(4).mean(), torch.tensor(0.5), atol=0.05)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_keeps_what_is_inside_and_clips_to_pixels(norm):
    pixels = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)
    inside = torch.tensor([0.55, 0.5]).view(1, 1, 1, 2)
    assert torch.allclose(project(pixels, inside, 0.1, norm), inside)
    outside = project(pixels, torch.tensor([3.5, 4.5]).view(1, 1, 1, 2), 0.1, norm).flatten()
    assert torch.allclose(outside, torch.tensor([0.6, 0.6] if norm == "linf" else [0.56, 0.58]))
    assert project(pixels, pixels + 9, 5.0, norm).max() == 1


def test_gradients_that_are_not_finite_count_as_zero():
    gradient = torch.tensor([float("nan"), float("inf"), 3.0, -float("inf")]).view(1, 1, 2, 2)
    assert direction(gradient, "linf").flatten().tolist() == [0, 0, 1, 0]
    assert direction(gradient, "l2").flatten().tolist() == [0, 0, 1, 0]
