"""An exponential moving average of a model's weights during training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS_FILE = "training_weights.safetensors"
"""The weights that training goes on from; those of the checkpoint itself are averaged."""


class WeightAverage:
    r"""Average the weights of a model over the steps: :math:`m \leftarrow d m + (1 - d) w`.

    At step t the decay is at most (1 + t) / (10 + t), so that the first weights are soon forgotten. Batch statistics
    are averaged like weights; whole numbers are copied.

    Args:
        model: whose weights are averaged; its present ones are the first.
        decay: d, at least 0 and less than 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self._average = _copies(model)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after a step into the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in self.model.state_dict().items():
            average = self._average[name]
            if average.is_floating_point():
                average.lerp_(tensor.to(average.dtype), 1 - decay)
            else:
                average.copy_(tensor)

    @contextmanager
    def applied(self) -> Iterator[dict[str, Tensor]]:
        """Give the model its averaged weights inside the block, and yield the weights that it trains with."""
        trained = _copies(self.model)
        self.apply()
        try:
            yield trained
        finally:
            self.model.load_state_dict(trained)

    def apply(self) -> None:
        """Give the model its averaged weights."""
        self.model.load_state_dict(self._average)

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint: the model has just loaded the average from it, and now gets its own weights.

        Raises:
            ValueError: the checkpoint has no such weights.
        """
        if not (folder / WEIGHTS_FILE).is_file():
            raise ValueError(f"{folder} lacks {WEIGHTS_FILE}, so a training with ema_decay cannot go on from it")
        self._average = _copies(self.model)
        self.model.load_state_dict(load_file(folder / WEIGHTS_FILE))


def save_training_weights(weights: dict[str, Tensor], folder: Path) -> None:
    """Write the weights that a model trains with into a checkpoint of its averaged ones."""
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS_FILE)


def _copies(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of a model's weights and buffers; in float32 where they are of lower precision."""
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return {
        name: tensor.float().clone() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor.clone()
        for name, tensor in tensors.items()
    }
