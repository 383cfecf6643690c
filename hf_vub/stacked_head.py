r"""Many heads of one shape as stacked tensors, trained a step at a time with gradients in closed form.

The forward pass is :class:`~hf_vub.head.VUBHead`'s with a leading run dimension, the losses are those of
:mod:`hf_vub.objectives`. With logits :math:`l`, :math:`c = \mathrm{softmax}(l)`, H its entropy and B rows in the batch,
the gradients that start the backward pass are

.. math::
    \partial L/\partial l_k &= (c_k - [k = y] + w [H \le H(Y)] c_k (\log c_k + H)) / B \\
    \partial L/\partial \mu &= \partial L/\partial z + \beta \mu / B \\
    \partial L/\partial \sigma &= \epsilon\, \partial L/\partial z + \beta (\sigma - 1/\sigma) / B

A step is bound by memory: Adam reads and writes three numbers per weight. So every block of a gradient goes into Adam
as soon as it is there, while it is still in the cache, and no gradient ever exists as a whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .head import VUBHead
from .information import gaussian_entropy
from .objectives import objective_terms, weighted_loss

W1, B1 = "bottleneck_encoder.0.weight", "bottleneck_encoder.0.bias"
W2, B2 = "bottleneck_encoder.2.weight", "bottleneck_encoder.2.bias"
W3, B3 = "bottleneck_decoder.weight", "bottleneck_decoder.bias"

MEASURES = ("loss", "cross_entropy", "rate", "entropy", "posterior_entropy")
"""What a step reports of every run, in this order; nats, means over the batch."""

BLOCK_BYTES = 2 * 2**20
"""Of a gradient on a CPU: about what the second-level caches hold of it beside the weights and the moments."""

ONEDNN_SIZE = 512
"""Features from which one product by oneDNN per run beats a batched one by the BLAS library."""


@dataclass
class Objectives:
    """The weights of the common formula for every run, each of shape (runs, 1), and the cap H(Y) in nats."""

    rate_weight: Tensor
    entropy_weight: Tensor
    label_entropy: float


@dataclass
class Forward:
    """What the backward pass needs of a forward pass; every tensor starts with (runs, batch)."""

    features: Tensor
    hidden: Tensor
    mean: Tensor
    raw_scale: Tensor
    scale: Tensor
    noise: Tensor
    latent: Tensor
    logits: Tensor


class StackedHeads:
    """Heads with a leading run dimension, and their Adam moments.

    Args:
        heads: of one shape, dtype and device.
        objectives: one weight of each kind per head.

    Attributes:
        weights: the parameters by their name in ``VUBHead``, each (runs, *shape).
        first, second: Adam's moments, likewise.
        step: steps taken, a float32 scalar.
    """

    def __init__(self, heads: Sequence[VUBHead], objectives: Objectives):
        named = [dict(head.named_parameters()) for head in heads]
        self.objectives = objectives
        self.weights = {name: torch.stack([own[name].detach() for own in named]) for name in named[0]}
        self.first = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.second = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.step = torch.zeros((), device=self.weights[W1].device)
        self._onednn = _has_onednn(self.weights[W1])
        self._blocks = {name: _blocks(self.weights[name]) for name in (W1, W2, W3)}

    @torch.no_grad()
    def train_step(self, features: Tensor, labels: Tensor, noise: Tensor, learning_rate: float) -> Tensor:
        """One step of Adam for every run on its own batch.

        Args:
            features: shape (runs, batch, feature_size).
            labels: shape (runs, batch).
            noise: standard normal, shape (runs, batch, latent_size).
            learning_rate: of this step, for all runs.

        Returns:
            MEASURES before the step, shape (len(MEASURES), runs).
        """
        passed = self.forward(features, noise)
        self.step += 1
        for name, block, gradient in self.gradients(passed, labels):
            torch._fused_adam_(
                [self.weights[name][block]],
                [gradient],
                [self.first[name][block]],
                [self.second[name][block]],
                [],
                [self.step],
                lr=learning_rate,
                beta1=0.9,
                beta2=0.999,
                weight_decay=0.0,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )
        return self.measure(passed, labels)

    def forward(self, features: Tensor, noise: Tensor) -> Forward:
        """Stochastic pass of (runs, batch, feature_size), the noise given."""
        hidden = self._linear(features, W1, B1).relu_()
        mean, raw_scale = self._linear(hidden, W2, B2).chunk(2, dim=-1)
        scale = F.softplus(raw_scale)
        latent = torch.addcmul(mean, scale, noise)
        logits = self._linear(latent, W3, B3)
        return Forward(features, hidden, mean, raw_scale, scale, noise, latent, logits)

    def measure(self, passed: Forward, labels: Tensor) -> Tensor:
        """MEASURES of every run, shape (len(MEASURES), runs)."""
        terms = objective_terms(passed.mean, passed.scale, passed.logits.unsqueeze(0), labels)
        own = self.objectives
        loss = weighted_loss(terms, own.rate_weight, own.entropy_weight, own.label_entropy)
        assert terms.cross_entropy is not None
        posterior_entropy = gaussian_entropy(passed.scale)
        return torch.stack([loss, terms.cross_entropy, terms.rate, terms.entropy, posterior_entropy]).mean(-1)

    def gradients(self, passed: Forward, labels: Tensor) -> Iterator[tuple[str, tuple[slice, ...], Tensor]]:
        """The gradients of the mean losses as (name, block, value), to be used before the next is asked for.

        The weights of a layer may be changed once their first block is there: nothing after it reads them.
        """
        own = self.objectives
        batch = labels.shape[-1]
        log_c = F.log_softmax(passed.logits, dim=-1)
        c = log_c.exp()
        entropy = -(c * log_c).sum(-1, keepdim=True)
        weight = own.entropy_weight.unsqueeze(-1) * (entropy <= own.label_entropy)
        d_logits = c * (1 + weight * (log_c + entropy))
        d_logits.scatter_add_(-1, labels.unsqueeze(-1), d_logits.new_full((), -1.0).expand(*labels.shape, 1))
        d_logits /= batch

        d_latent = self._multiply(d_logits, self.weights[W3])
        yield from self._layer(W3, B3, d_logits, passed.latent)

        rate = own.rate_weight.unsqueeze(-1) / batch
        d_encoded = torch.empty(*labels.shape, 2 * d_latent.shape[-1], dtype=d_latent.dtype, device=d_latent.device)
        d_mean, d_raw = d_encoded.chunk(2, dim=-1)
        torch.addcmul(d_latent, passed.mean, rate, out=d_mean)
        # An underflowed scale has a constant logarithm in the rate, see information.gaussian_rate.
        inverse = passed.scale.reciprocal()
        inverse.masked_fill_(passed.scale < torch.finfo(inverse.dtype).tiny, 0.0)
        d_scale = torch.addcmul(d_latent * passed.noise, passed.scale - inverse, rate)
        torch.mul(d_scale, passed.raw_scale.sigmoid(), out=d_raw)

        d_hidden = self._multiply(d_encoded, self.weights[W2])
        yield from self._layer(W2, B2, d_encoded, passed.hidden)
        d_hidden.masked_fill_(passed.hidden <= 0, 0.0)
        yield from self._layer(W1, B1, d_hidden, passed.features)

    def head(self, run: int) -> VUBHead:
        """One of the heads as a module of its own, on the CPU."""
        size, (classes, latent) = self.weights[W1].shape[-1], self.weights[W3].shape[1:]
        with torch.device("meta"):
            head = VUBHead(size, classes, latent)
        head.load_state_dict({name: own[run].detach().cpu().clone() for name, own in self.weights.items()}, assign=True)
        return head.requires_grad_(True)

    def state(self, run: int) -> dict[str, Tensor]:
        """Weights and moments of one run on the CPU, by "weights.", "first." or "second." and the parameter's name."""
        groups = {"weights": self.weights, "first": self.first, "second": self.second}
        return {f"{group}.{name}": own[run].cpu() for group, stacked in groups.items() for name, own in stacked.items()}

    def load_state(self, run: int, state: dict[str, Tensor], step: int) -> None:
        """Take one run back to a former ``state``, reached after ``step`` steps; all runs are at the same step."""
        for name, tensor in state.items():
            group, parameter = name.split(".", 1)
            getattr(self, group)[parameter][run].copy_(tensor)
        self.step.fill_(step)

    def _layer(self, weight: str, bias: str, d_output: Tensor, entered: Tensor) -> Iterator[tuple]:
        transposed = d_output.mT
        for block in self._blocks[weight]:
            yield weight, block, self._multiply(transposed[block], entered[block[0]])
        yield bias, (slice(None),), d_output.sum(1)

    def _linear(self, entered: Tensor, weight: str, bias: str) -> Tensor:
        return self._multiply(entered, self.weights[weight].mT, self.weights[bias])

    def _multiply(self, left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
        """Products of all runs' matrices, plus a row each: the same bits whatever runs there are beside one."""
        if self._onednn:
            product = torch.ops.mkldnn._linear_pointwise
            biases = [None] * len(left) if bias is None else bias
            rows = [product(a, b.mT, c, "none", [], "") for a, b, c in zip(left, right, biases, strict=True)]
            return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)
        return torch.bmm(left, right) if bias is None else torch.baddbmm(bias.unsqueeze(1), left, right)


def _has_onednn(weight: Tensor) -> bool:
    """Whether products of this size go to oneDNN, which has the wide vector kernels on every make of CPU."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.shape[-1] >= ONEDNN_SIZE
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _blocks(weight: Tensor) -> list[tuple[slice, ...]]:
    """Contiguous parts of (runs, rows, columns): some runs whole, or some rows of one run."""
    runs, rows, columns = weight.shape
    if weight.device.type != "cpu":
        return [(slice(0, runs), slice(0, rows))]
    row_bytes = columns * weight.element_size()
    if rows * row_bytes <= BLOCK_BYTES:
        together = BLOCK_BYTES // (rows * row_bytes)
        return [(slice(r, min(r + together, runs)), slice(0, rows)) for r in range(0, runs, together)]
    together = max(1, BLOCK_BYTES // row_bytes)
    return [(slice(r, r + 1), slice(i, min(i + together, rows))) for r in range(runs) for i in range(0, rows, together)]
