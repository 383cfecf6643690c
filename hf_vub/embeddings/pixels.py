"""Images as pixels in [0, 1] at a model's input size, and classifiers that take them."""

import inspect
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..compute.memory import halving
from ..compute.predictor import parse_noise
from ..data.preprocessing import ImageProcessor, disable_ghostscript, to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image


class PixelModel(nn.Module):
    r"""A classifier of pixels in [0, 1] under a declared predictor, normalisation included.

    .. math::
        \mathrm{logits}(x) = \log \frac1k \sum_{j=1}^{k} p(y \mid (x - m) / s, z_j)

    with k draws of the latent code (``noise="averaged:k"``, through which gradients flow: expectation over
    transformation, Athalye et al. 2018), one draw (``"sampled"``), or the latent mean in their place (``"mean"``).

    Args:
        model: an image classifier of transformers (its output has ``logits``) or any module from a batch to logits.
        processor: its image processor. What it does to colours is measured on a black and a white image, so every
            processor is inverted as it is, timm's included. None: the model takes [0, 1] pixels as they are.
        noise: the declared predictor; anything but ``"mean"`` needs a model whose ``forward`` takes ``num_samples``.

    Raises:
        ValueError: for a predictor that the model does not have, or a processor that is not affine in colour.

    Example:
        >>> pixel_model = PixelModel(model, processor)  # doctest: +SKIP
        >>> logits = pixel_model(pixel_model.read(image)[None])  # doctest: +SKIP
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, processor: ImageProcessor | None = None, noise: str = "mean"):
        super().__init__()
        self.model = model
        self.processor = processor
        self.training = False  # the wrapper alone: see `frozen` for the model in it
        self.noise = noise
        self.num_draws = parse_noise(noise)
        parameters = inspect.signature(model.forward).parameters
        self.samples = "num_samples" in parameters
        self.by_name = "pixel_values" in parameters
        if self.num_draws and not self.samples:
            raise ValueError(
                f"noise={noise!r} needs a model with a stochastic head, and {type(model).__name__} has none: use 'mean'"
            )
        config = getattr(model, "config", None)
        self.channels: int = getattr(getattr(config, "backbone_config", config), "num_channels", 3)
        first = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
        self.dtype = first.dtype
        mean, std = (torch.zeros(1), torch.ones(1)) if processor is None else self._colours()
        self.register_buffer("mean", mean.view(1, -1, 1, 1).to(first.device))
        self.register_buffer("std", std.view(1, -1, 1, 1).to(first.device))

    @property
    def random(self) -> bool:
        """True if two forward passes of the same pixels may differ."""
        return self.num_draws > 0

    @property
    def has_features(self) -> bool:
        """True for a model with a head on features, as all of ours are."""
        features = getattr(self.model, "features", None)
        return hasattr(self.model, "head") and callable(features) and not isinstance(features, nn.Module)

    def features(self, pixels: Tensor) -> Tensor:
        """Return what the head sees (batch, size) of pixels (batch, channels, height, width) in [0, 1]."""
        model: Any = self.model
        features: Tensor = model.features(pixel_values=self._inputs(pixels))
        return features

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (batch, classes) in float32 of pixels (batch, channels, height, width) in [0, 1]."""
        inputs = self._inputs(pixels)
        options = {"num_samples": self.num_draws} if self.samples else {}
        output = self.model(pixel_values=inputs, **options) if self.by_name else self.model(inputs, **options)
        logits: Tensor = (output.logits if hasattr(output, "logits") else output).float()
        if pixels.requires_grad and not logits.requires_grad:
            # A model that cuts the graph has a zero gradient; attack libraries crash without any.
            logits = logits + 0.0 * pixels.sum()
        return logits

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> Tensor:
        """Return the classes (batch,) of a fresh forward pass; -1 where a logit is not finite.

        A batch that does not fit into memory is halved.
        """
        return torch.cat(halving(lambda rows: _decide(self(pixels[rows])), len(pixels), "images"))

    @torch.no_grad()
    def redraw(self, pixels: Tensor, times: int) -> Tensor:
        """Return the classes (times, batch) of fresh draws of the declared predictor; the backbone runs once."""
        if not self.has_features:
            return torch.stack([self.predict(pixels) for _ in range(times)])
        model: Any = self.model
        features = self.features(pixels)
        draws = [model.head(features, num_samples=self.num_draws).logits.float() for _ in range(times)]
        return torch.stack([_decide(logits) for logits in draws])

    def read(self, image: object) -> Tensor:
        """Return pixels (channels, height, width) in [0, 1] on the CPU, resized and cropped by the model's processor.

        Args:
            image: a PIL image, a path, the undecoded ``{"bytes", "path"}`` of ``datasets``, or, without a processor,
                also an array or tensor (channels, height, width) of floats in [0, 1] or of bytes.

        Raises:
            ValueError: with the reason, for what cannot be read.
        """
        if self.processor is None and not isinstance(image, (dict, str, Path)) and not hasattr(image, "convert"):
            return _from_array(image)
        picture = _open(image, "L" if self.channels == 1 else "RGB")
        if self.processor is None:
            values = torch.from_numpy(np.array(picture, dtype=np.float32)) / 255.0
            return values[None] if values.ndim == 2 else values.permute(2, 0, 1).contiguous()
        try:
            values = self._process(picture)
        except Exception as error:
            raise ValueError(f"the image processor refuses it: {_one_line(error)}") from error
        pixels = values * self.std[0].cpu() + self.mean[0].cpu()
        if not bool(torch.isfinite(pixels).all()):
            raise ValueError("the image processor makes pixels that are not finite")
        return pixels.clamp(0.0, 1.0)

    def _inputs(self, pixels: Tensor) -> Tensor:
        return ((pixels - self.mean) / self.std).to(self.dtype)

    def _process(self, picture: "Image") -> Tensor:
        assert self.processor is not None
        return torch.as_tensor(self.processor(picture, return_tensors="pt")["pixel_values"][0]).float()

    def _colours(self) -> tuple[Tensor, Tensor]:
        """Return the mean and standard deviation per channel by which the processor normalises [0, 1] pixels."""
        from PIL import Image as PillowImage

        mode = "L" if self.channels == 1 else "RGB"
        black, grey, white = (
            self._process(PillowImage.new(mode, (64, 64), "#" + 3 * f"{value:02x}")).flatten(1)
            for value in (0, 51, 255)
        )
        scale = (white - black).mean(dim=1)
        affine = torch.allclose(grey, black + 0.2 * (white - black), atol=1e-3 * float(scale.abs().max()))
        if not affine or bool((scale <= 0).any()):
            raise ValueError(
                f"{type(self.processor).__name__} does not map colours by (x - mean) / std, so attacks cannot invert it"
            )
        return -black.mean(dim=1) / scale, 1.0 / scale


def _decide(logits: Tensor) -> Tensor:
    finite = torch.isfinite(logits).all(dim=-1)
    return torch.where(finite, logits.nan_to_num().argmax(dim=-1), -1)


def _from_array(image: object) -> Tensor:
    try:
        values = torch.as_tensor(np.asarray(image) if not isinstance(image, Tensor) else image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"not an image: {_one_line(error)}") from error
    if values.ndim != 3:
        raise ValueError(f"an array of shape {tuple(values.shape)}, not (channels, height, width)")
    pixels = values.float() / 255.0 if values.dtype == torch.uint8 else values.float()
    if not bool(((pixels >= 0) & (pixels <= 1)).all()):
        raise ValueError("an array with values outside [0, 1]")
    return pixels


def _open(image: object, mode: str) -> "Image":
    """Return an upright PIL image in ``mode``, or raise ValueError with the reason why there is none."""
    try:
        from PIL import Image as PillowImage
    except ImportError as error:
        raise ImportError('reading images needs pillow: pip install "hf_vub[vision]"') from error
    disable_ghostscript()
    try:
        if isinstance(image, dict):
            content = image.get("bytes")
            image = PillowImage.open(io.BytesIO(content) if content is not None else os.fspath(image["path"]))
        elif isinstance(image, (str, Path)):
            image = PillowImage.open(image)
        return to_rgb(image).convert(mode)
    except Exception as error:
        # Decoders raise dozens of types on rubbish; each is a reason to skip one image, not to stop.
        raise ValueError(f"not a readable image: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
