"""The stochastic head: features to a Gaussian posterior, samples of it, and logits."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .information import at_least_float32, log_mean_probability


@dataclass
class HeadOutput(ModelOutput):
    """Output of the head.

    Attributes:
        mean: posterior means, shape (batch, latent_size).
        scale: posterior standard deviations, same shape.
        logits: the prediction, shape (batch, num_labels): through the mean, or averaged over the draws.
        draws: logits of each draw, shape (draws, batch, num_labels); one draw, through the mean, without sampling.
    """

    mean: Tensor | None = None
    scale: Tensor | None = None
    logits: Tensor | None = None
    draws: Tensor | None = None


class Float32Linear(nn.Linear):
    """A linear layer that computes in at least float32, whatever the dtype of its weights and of autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features), in float32 or float64."""
        bias = None if self.bias is None else at_least_float32(self.bias)
        return F.linear(at_least_float32(input), at_least_float32(self.weight), bias)


class VUBHead(nn.Module):
    r"""The paper's stochastic classifier (section 4): encoder, reparameterised sample, linear classifier.

    .. math::
        (\mu, \rho) = W_2\,\mathrm{ReLU}(W_1 f), \quad \sigma = \mathrm{softplus}(\rho), \quad
        z = \mu + \sigma\odot\epsilon,\ \epsilon\sim N(0, I), \quad \mathrm{logits} = W_3 z

    While training, z is sampled ``num_train_samples`` times; in evaluation it is the mean unless ``num_eval_samples``
    asks for draws; their probabilities are then averaged.

    Args:
        feature_size: number of features.
        num_labels: number of classes.
        latent_size, num_train_samples, num_eval_samples, encoder_relu: as in :class:`VUBConfig`.

    Example:
        >>> head = VUBHead(feature_size=768, num_labels=2).eval()
        >>> head(torch.randn(8, 768)).logits.shape
        torch.Size([8, 2])
    """

    def __init__(
        self,
        feature_size: int,
        num_labels: int,
        latent_size: int | None = None,
        num_train_samples: int = 1,
        num_eval_samples: int = 0,
        encoder_relu: bool = False,
    ):
        super().__init__()
        latent_size = latent_size or max(1, feature_size // 2)
        self.feature_size, self.latent_size, self.num_labels = feature_size, latent_size, num_labels
        self.num_train_samples, self.num_eval_samples = num_train_samples, num_eval_samples
        # No backbone has parts of these names: by them a loading checkpoint keeps the head in float32.
        self.bottleneck_encoder = nn.Sequential(
            Float32Linear(feature_size, feature_size),
            nn.ReLU(),
            Float32Linear(feature_size, 2 * latent_size),
            nn.ReLU() if encoder_relu else nn.Identity(),
        )
        self.bottleneck_decoder = Float32Linear(latent_size, num_labels)

    def reset_parameters(self) -> None:
        """Initialise every weight as torch does for a linear layer: uniform within 1/sqrt(fan_in)."""
        for module in self.modules():
            if isinstance(module, Float32Linear):
                module.reset_parameters()

    def posterior(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of e(z|x), each (batch, latent_size), of features (batch, feature_size).

        Raises:
            ValueError: for another number of features.
        """
        if features.shape[-1] != self.feature_size:
            raise ValueError(
                f"features have {features.shape[-1]} columns, this head was built for feature_size={self.feature_size}"
            )
        mean, raw_scale = self.bottleneck_encoder(features).chunk(2, dim=-1)
        return mean, F.softplus(raw_scale)

    def classify(self, latent: Tensor) -> Tensor:
        """Return the logits (..., num_labels) of latent codes (..., latent_size)."""
        logits: Tensor = self.bottleneck_decoder(latent)
        return logits

    def forward(self, features: Tensor, num_samples: int | None = None) -> HeadOutput:
        """Return posterior, draws and logits of features (batch, feature_size).

        Args:
            features: of any floating dtype; the head computes in at least float32.
            num_samples: draws of z, 0 for the mean; None follows the training mode.
        """
        if num_samples is None:
            num_samples = self.num_train_samples if self.training else self.num_eval_samples
        with torch.autocast(device_type=features.device.type, enabled=False):
            mean, scale = self.posterior(features)
            latent = mean.unsqueeze(0)
            if num_samples > 0:
                noise = torch.randn(num_samples, *mean.shape, dtype=mean.dtype, device=mean.device)
                latent = latent + scale * noise
            draws = self.classify(latent)
            return HeadOutput(mean=mean, scale=scale, logits=log_mean_probability(draws), draws=draws)
