r"""Many heads of one shape as stacked tensors, trained a step at a time with gradients in closed form.

The forward pass is :class:`~hf_vub.model.head.VUBHead`'s with a leading run dimension, the losses are those of
:mod:`hf_vub.model.objectives`. With logits :math:`l`, :math:`c = \mathrm{softmax}(l)`, H its entropy and B rows in the
batch, the gradients that start the backward pass are

.. math::
    \partial L/\partial l_k &= (c_k - [k = y] + w [H \le H(Y)] c_k (\log c_k + H)) / B \\
    \partial L/\partial \mu &= \partial L/\partial z + \beta \mu / B \\
    \partial L/\partial \sigma &= \epsilon\, \partial L/\partial z + \beta (\sigma - 1/\sigma) / B

Memory bandwidth limits a step: Adam reads and writes three numbers per weight. So the gradient of a layer goes into
Adam as soon as it is computed, and the gradients of all layers never exist together. (Smaller blocks of a gradient,
which stay in the second-level cache, were tried: their many small products cost more than they save.)

A single head has no run dimension inside: its matrices take part in plain matrix products, and the many small
operations of a step, a quarter of its time on a CPU, have no dimension to add and remove.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..compute.kernels import onednn_linear, suits_onednn
from ..model.head import VUBHead
from ..model.information import gaussian_entropy
from ..model.objectives import objective_terms, weighted_loss

W1, B1 = "bottleneck_encoder.0.weight", "bottleneck_encoder.0.bias"
W2, B2 = "bottleneck_encoder.2.weight", "bottleneck_encoder.2.bias"
W3, B3 = "bottleneck_decoder.weight", "bottleneck_decoder.bias"

MEASURES = ("loss", "cross_entropy", "rate", "entropy", "posterior_entropy")
"""Values reported for every run and row, in this order; nats."""

SMALL = 2**14
"""Gradients with fewer numbers share one call of Adam, which costs more than its arithmetic."""


@dataclass
class Objectives:
    """The weights of the common formula for every run, each of shape (runs, 1), and the cap H(Y) in nats."""

    rate_weight: Tensor
    entropy_weight: Tensor
    label_entropy: float


@dataclass
class Forward:
    """Results of a forward pass that the backward pass needs, each of shape (runs, batch, ...), or (batch, ...)."""

    features: Tensor
    hidden: Tensor
    mean: Tensor
    raw_scale: Tensor
    scale: Tensor
    noise: Tensor
    latent: Tensor
    logits: Tensor


class StackedHeads:
    """Heads with a leading run dimension, and their Adam moments; a single head has no such dimension.

    Args:
        heads: of one shape, dtype and device.
        objectives: one weight of each kind per head.

    Attributes:
        weights: the parameters by their name in ``VUBHead``, each (runs, *shape), a single run's (*shape).
        first, second: Adam's moments, likewise.
        step: steps taken, a float32 scalar.
    """

    def __init__(self, heads: Sequence[VUBHead], objectives: Objectives):
        named = [dict(head.named_parameters()) for head in heads]
        self.single = len(heads) == 1
        self.objectives = objectives
        if self.single:
            one_run = (objectives.rate_weight[0], objectives.entropy_weight[0])
            self.objectives = Objectives(*one_run, objectives.label_entropy)
        stacked = {name: torch.stack([head[name].detach() for head in named]) for name in named[0]}
        self.weights = {name: weights[0] if self.single else weights for name, weights in stacked.items()}
        self.first = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.second = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.step = torch.zeros((), device=self.weights[W1].device)
        self._onednn = {name for name in (W1, W2, W3) if suits_onednn(self.weights[name])}
        self._minus_one = torch.full((), -1.0, dtype=self.weights[W1].dtype, device=self.step.device)

    @torch.inference_mode()
    def train_block(self, features: Tensor, labels: Tensor, noise: Tensor, learning_rate: float) -> Tensor:
        """Take one step of Adam for every run and batch. Each run has its own batches; the last may be smaller.

        Args:
            features: shape (runs, rows, feature_size), batch after batch.
            labels: shape (runs, rows).
            noise: standard normal, shape (runs, steps, batch, latent_size).
            learning_rate: of these steps, for all runs.

        Returns:
            MEASURES of every run and row before the step on that row, shape (len(MEASURES), runs, rows).
        """
        if self.single:
            features, labels, noise = features[0], labels[0], noise[0]
        size = noise.shape[-2]
        batches = zip(features.split(size, -2), labels.split(size, -1), noise.unbind(-3), strict=False)
        passed = [self.train_step(x, y, drawn[..., : y.shape[-1], :], learning_rate) for x, y, drawn in batches]
        log = self.measure(passed, labels)
        return log.unsqueeze(1) if self.single else log

    def train_step(self, features: Tensor, labels: Tensor, noise: Tensor, learning_rate: float) -> Forward:
        """Take one step on one batch, without the run dimension for a single run; return the forward pass before it."""
        passed = self.forward(features, noise)
        self.step += 1
        small: dict[str, Tensor] = {}
        for name, gradient in self.gradients(passed, labels):
            if gradient.numel() < SMALL:
                small[name] = gradient
            else:
                self._adam({name: gradient}, learning_rate)
        self._adam(small, learning_rate)
        return passed

    def forward(self, features: Tensor, noise: Tensor) -> Forward:
        """Pass features (runs, batch, feature_size) through the heads, with the given noise."""
        hidden = self._linear(features, W1, B1, relu=True)
        mean, raw_scale = self._linear(hidden, W2, B2).chunk(2, dim=-1)
        scale = F.softplus(raw_scale)
        latent = torch.addcmul(mean, scale, noise)
        logits = self._linear(latent, W3, B3)
        return Forward(features, hidden, mean, raw_scale, scale, noise, latent, logits)

    def measure(self, passed: Sequence[Forward], labels: Tensor) -> Tensor:
        """Return MEASURES of every run and row of some forward passes, shape (len(MEASURES), runs, rows)."""
        mean, scale, logits = (
            torch.cat([getattr(one, name) for one in passed], dim=-2) for name in ("mean", "scale", "logits")
        )
        terms = objective_terms(mean, scale, logits.unsqueeze(0), labels)
        weights = self.objectives
        loss = weighted_loss(terms, weights.rate_weight, weights.entropy_weight, weights.label_entropy)
        assert terms.cross_entropy is not None
        return torch.stack([loss, terms.cross_entropy, terms.rate, terms.entropy, gaussian_entropy(scale)])

    def gradients(self, passed: Forward, labels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the gradients of the mean losses by parameter; once one is yielded, its parameter may be changed."""
        weights = self.objectives
        batch = labels.shape[-1]
        log_c = F.log_softmax(passed.logits, dim=-1)
        c = log_c.exp()
        negative_entropy = (c * log_c).sum(-1, keepdim=True)
        entropy_weight = weights.entropy_weight.unsqueeze(-1) * (negative_entropy >= -weights.label_entropy)
        d_logits = torch.addcmul(c, c, entropy_weight * (log_c - negative_entropy))
        d_logits.scatter_add_(-1, labels.unsqueeze(-1), self._minus_one.expand(*labels.shape, 1))
        d_logits /= batch

        d_latent = self._back(d_logits, W3)
        yield from self._layer(W3, B3, d_logits, passed.latent)

        rate_weight = weights.rate_weight.unsqueeze(-1) / batch
        d_encoded = passed.mean.new_empty(*labels.shape, 2 * d_latent.shape[-1])
        d_mean, d_raw = d_encoded.chunk(2, dim=-1)
        torch.addcmul(d_latent, passed.mean, rate_weight, out=d_mean)
        # An underflowed scale has a constant logarithm in the rate, see information.gaussian_rate.
        inverse = F.threshold(passed.scale, torch.finfo(passed.scale.dtype).tiny, math.inf).reciprocal_()
        d_scale = torch.addcmul(d_latent * passed.noise, passed.scale - inverse, rate_weight)
        torch.ops.aten.softplus_backward.grad_input(d_scale, passed.raw_scale, 1.0, 20.0, grad_input=d_raw)

        d_hidden = self._back(d_encoded, W2)
        yield from self._layer(W2, B2, d_encoded, passed.hidden)
        d_hidden = torch.ops.aten.threshold_backward(d_hidden, passed.hidden, 0.0)
        yield from self._layer(W1, B1, d_hidden, passed.features)

    def head(self, run: int) -> VUBHead:
        """Return one of the heads as a separate module, on the CPU."""
        size, (classes, latent) = self.weights[W1].shape[-1], self.weights[W3].shape[-2:]
        with torch.device("meta"):
            head = VUBHead(size, classes, latent)
        weights = {name: self._of(run, stacked).detach().cpu().clone() for name, stacked in self.weights.items()}
        head.load_state_dict(weights, assign=True)
        return head.requires_grad_(True)

    def state(self, run: int) -> dict[str, Tensor]:
        """Return weights and moments of one run on the CPU, as "weights.", "first." or "second." plus the parameter."""
        groups = {"weights": self.weights, "first": self.first, "second": self.second}
        return {
            f"{group}.{name}": self._of(run, stacked).cpu()
            for group, by_name in groups.items()
            for name, stacked in by_name.items()
        }

    def load_state(self, run: int, state: dict[str, Tensor], step: int) -> None:
        """Set one run to a saved ``state``, reached after ``step`` steps; all runs are at the same step."""
        for name, tensor in state.items():
            group, parameter = name.split(".", 1)
            self._of(run, getattr(self, group)[parameter]).copy_(tensor)
        self.step.fill_(step)

    def _of(self, run: int, stacked: Tensor) -> Tensor:
        return stacked if self.single else stacked[run]

    def _adam(self, gradients: dict[str, Tensor], learning_rate: float) -> None:
        torch._fused_adam_(
            [self.weights[name] for name in gradients],
            list(gradients.values()),
            [self.first[name] for name in gradients],
            [self.second[name] for name in gradients],
            [],
            [self.step] * len(gradients),
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    def _linear(self, entered: Tensor, weight: str, bias: str, relu: bool = False) -> Tensor:
        """Return the output of a layer."""
        weights, offset = self.weights[weight], self.weights[bias]
        if weight in self._onednn:
            return onednn_linear(entered, weights, offset, "relu" if relu else "none")
        if self.single:
            output = torch.addmm(offset, entered, weights.mT)
        else:
            output = torch.baddbmm(offset.unsqueeze(1), entered, weights.mT)
        return output.relu_() if relu else output

    def _back(self, d_output: Tensor, weight: str) -> Tensor:
        """Return the gradient of a layer's input."""
        if weight in self._onednn:
            return onednn_linear(d_output, self.weights[weight].mT)
        return torch.matmul(d_output, self.weights[weight])

    def _layer(self, weight: str, bias: str, d_output: Tensor, entered: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the gradients of a layer's parameters."""
        if weight in self._onednn:
            yield weight, onednn_linear(d_output.mT, entered.mT)
        else:
            yield weight, torch.matmul(d_output.mT, entered)
        yield bias, d_output.sum(-2)
