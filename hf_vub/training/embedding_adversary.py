"""FreeLB: adversarial training of text classifiers by shifts of their word embeddings."""

import torch
from torch import Tensor

from ..compute.perturbation import direction
from .adversary import Adversary


class EmbeddingAdversary:
    r"""Climb the training loss over shifts of the embeddings, as FreeLB does (Zhu et al. 2020, Algorithm 1).

    A step of training averages the gradients of K passes over one batch. Each pass has the shift

    .. math:: \delta_{t+1} = \Pi_{\|\delta\|_2 \le \epsilon}
        \left(\delta_t + \alpha \frac{\nabla_\delta L}{\|\nabla_\delta L\|_2}\right)

    per text, over all its tokens together, with the gradient from the same backward pass that trains the weights. So
    what is climbed is the objective itself. Padding is never shifted.

    Args:
        adversary: epsilon, steps K and length of a step.
    """

    def __init__(self, adversary: Adversary):
        self.adversary = adversary

    def start(self, mask: Tensor, size: int) -> Tensor:
        """Return a random shift, uniform in each number, of an L2 norm below epsilon.

        Args:
            mask: 1 for tokens and 0 for padding, shape (batch, length).
            size: numbers in an embedding.
        """
        tokens = mask.unsqueeze(-1).float()
        numbers = (tokens.sum(1, keepdim=True) * size).clamp_min(1.0)
        draws = torch.empty(*mask.shape, size, device=mask.device).uniform_(-1, 1)
        shift: Tensor = tokens * draws * self.adversary.epsilon / numbers.sqrt()
        return shift

    def climb(self, shift: Tensor, gradient: Tensor, mask: Tensor) -> Tensor:
        """Return the shift after one step, within epsilon, shape (batch, length, size)."""
        climbed = shift.detach() + self.adversary.step * direction(gradient * mask.unsqueeze(-1), "l2")
        norms: Tensor = torch.linalg.vector_norm(climbed.flatten(1), dim=1).clamp_min(1e-12).view(-1, 1, 1)
        return climbed * (self.adversary.epsilon / norms).clamp_max(1.0)
