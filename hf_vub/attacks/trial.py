"""The examples of a report card: drawn, read, classified, and attacked batch by batch with every batch saved."""

import logging
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..compute.contexts import seeded
from ..data.sample import Sample
from ..embeddings.pixels import PixelModel
from ..runs.run_log import RunLog
from .image.adversaries import Attack
from .image.examples import fit_sample, read_pixels
from .victim import Victim

logger = logging.getLogger(__name__)

_NOISE_DRAWS = 10


class Trial:
    """The examples that are classified correctly, and the accuracy that attacks leave on them.

    Attributes:
        log: saves every finished batch, with which a run that was killed goes on; None saves nothing.
        seconds_before: spent on batches by earlier starts.
    """

    def __init__(self, scorer: PixelModel, images: Tensor, labels: Tensor, batch_size: int, seed: int, redraws: int):
        self.scorer, self.images, self.labels = scorer, images, labels
        self.batch_size, self.seed = batch_size, seed
        self.redraws = redraws if scorer.random else 0
        self.log: RunLog | None = None
        self.seconds_before = 0.0
        self._batches = 0

    def accuracies(self, attacker: PixelModel, adversary: Attack, budgets: Sequence[float]) -> list[float]:
        """Return the declared predictor's accuracy per budget, on images that ``adversary`` makes on ``attacker``."""
        return self._means(
            lambda images, labels: torch.stack(
                [self._correct(found.adversarial, labels) for found in adversary(attacker, images, labels, budgets)]
            )
        )

    def under_noise(self, budgets: Sequence[float]) -> list[float]:
        """Return the accuracy per budget under the worst of several draws of random signs."""

        def measure(images: Tensor, labels: Tensor) -> Tensor:
            rows = []
            for epsilon in budgets:
                signs = [torch.randint_like(images, 0, 2) * 2 - 1 for _ in range(_NOISE_DRAWS)]
                correct = [self._correct((images + epsilon * sign).clamp(0, 1), labels) for sign in signs]
                rows.append(torch.stack(correct).amin(dim=0))
            return torch.stack(rows)

        return self._means(measure)

    def zero_shares(self, attacker: PixelModel) -> list[float]:
        """Return the share of the input gradient's entries, and of whole gradients, that are exactly zero."""

        def measure(images: Tensor, labels: Tensor) -> Tensor:
            pixels = images.clone().requires_grad_()
            loss = F.cross_entropy(attacker(pixels), labels, reduction="sum")
            zero = (torch.autograd.grad(loss, pixels)[0] == 0).flatten(1).float()
            return torch.stack([zero.mean(dim=1), zero.amin(dim=1)])

        return self._means(measure)

    def _correct(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return 1 for each correct example and 0 for each other, or the share of fresh draws that are correct."""
        if not self.redraws:
            return (self.scorer.predict(pixels) == labels).float()
        return (self.scorer.redraw(pixels, self.redraws) == labels).float().mean(dim=0)

    def _means(self, measure: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
        """Return means over all examples of values (values, batch), measured batch by batch from fixed seeds."""
        parts = [self._batch(measure, start) for start in range(0, len(self.images), self.batch_size)]
        means: list[float] = torch.cat(parts, dim=1).mean(dim=1).tolist()
        return means

    def _batch(self, measure: Callable[[Tensor, Tensor], Tensor], start: int) -> Tensor:
        """Return the values (values, batch) of the next batch in float64: measured, or as an earlier start saved them.

        Batches are measured in the same order every time, so their numbers tell them apart.
        """
        number, self._batches = self._batches, self._batches + 1
        saved = None if self.log is None else self.log.records.get(number)
        if saved is not None:
            self.seconds_before += saved["seconds"]
            return torch.tensor(saved["values"], dtype=torch.float64)
        began, rows = time.perf_counter(), slice(start, start + self.batch_size)
        with seeded(self.seed, start):
            values = measure(self.images[rows], self.labels[rows]).double().cpu()
        if self.log is not None:
            self.log.add({"index": number, "values": values.tolist(), "seconds": time.perf_counter() - began})
        return values


def make_trial(sample: Sample, scorer: PixelModel, victim: Victim) -> tuple[Trial, float]:
    """Return the examples that the model gets right, and its accuracy over all that can be read."""
    sample, shape = fit_sample(sample, scorer)
    pixels, labels = [], []
    for position, row in enumerate(sample.rows):
        try:
            image = read_pixels(sample, position, scorer)
        except ValueError as error:
            logger.warning("row %d skipped: %s", row, error)
            continue
        if image.shape == shape:
            pixels.append(image)
            labels.append(sample.labels[position])
    device, seed = scorer.mean.device, sample.options.seed
    batch_size = victim.batch_size or len(pixels)
    images, classes = torch.stack(pixels).to(device), torch.tensor(labels, device=device)
    with seeded(seed):
        correct = _correctly_classified(images, classes, scorer, batch_size)
    if not bool(correct.any()):
        raise ValueError(f"the model gets none of {len(classes)} examples right: there is nothing to attack")
    trial = Trial(scorer, images[correct], classes[correct], batch_size, seed, victim.redraws)
    return trial, float(correct.double().mean())


def _correctly_classified(images: Tensor, labels: Tensor, scorer: PixelModel, batch_size: int) -> Tensor:
    return torch.cat([scorer.predict(part) for part in images.split(batch_size)]) == labels
