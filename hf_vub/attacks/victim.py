"""The classifier that an attack is run on, and the predictor that it is attacked as."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..compute.predictor import parse_noise
from ..data.sample import check_counts
from ..model.loading import LoadedClassifier, Task, load_classifier
from ..runs.processes import processes


@dataclass(frozen=True)
class Victim:
    """What is attacked: a classifier, and how it answers.

    Attributes:
        model: a module, or the folder or Hub id of a checkpoint.
        processor: its tokenizer or image processor, or the folder or Hub id of one; None takes the saved one.
        noise: the declared predictor, see `parse_noise`.
        redraws: fresh draws over which adversarial examples of a random predictor are scored again.
        batch_size: texts per forward pass, or images attacked together; None for the medium's own.
        max_length: tokens that a text is cut to; None for the tokenizer's and model's own limit.
        dtype: "bfloat16" or "float32" for the backbone; None leaves a module, or a saved text model, as it is.
        device: where to compute; None leaves a module where it is and loads a checkpoint onto the accelerator.
        revision: revision of ``model`` on the Hub.
        trust_remote_code: run code that comes with ``model``.

    Raises:
        ValueError: a number is out of range, or ``noise`` is no predictor.
    """

    model: nn.Module | str | Path
    processor: Any = None
    noise: str = "mean"
    redraws: int = 20
    batch_size: int | None = None
    max_length: int | None = None
    dtype: str | None = None
    device: str | torch.device | None = None
    revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        parse_noise(self.noise)
        check_counts(redraws=self.redraws, batch_size=self.batch_size, max_length=self.max_length)

    @property
    def draws(self) -> int:
        """Draws that the declared predictor averages; 0 for the mean of the latent code."""
        return parse_noise(self.noise)

    def load(self, task: Task) -> LoadedClassifier:
        """Return the network on its device, its tokenizer or image processor, and its name.

        Images are attacked in float32: rounding to half precision hides gradients from an attack.
        """
        given = isinstance(self.model, nn.Module)
        loaded = load_classifier(
            self.model,
            task,
            processor=self.processor,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            dtype="float32" if task == "image" and not given and self.dtype is None else self.dtype,
        )
        device = self.device or (None if given else processes().device)
        return loaded if device is None else loaded._replace(network=loaded.network.to(device))
