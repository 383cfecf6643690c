"""The images of a report card: drawn, read, classified, and attacked batch by batch with every batch saved.

Several processes share the batches; each batch has a random state of its own, so their number changes no result.
"""

import logging
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from torch import Tensor

from ...compute.contexts import seeded
from ...compute.perturbation import direction
from ...data.sample import Sample
from ...embeddings.pixels import PixelModel
from ...runs.processes import processes
from ...runs.run_log import RunLog
from ..victim import Victim
from .adversaries import Attack
from .examples import fit_sample, read_pixels

logger = logging.getLogger(__name__)

Measure = Callable[[Tensor, Tensor], Tensor]
"""From images (batch, channels, height, width) and their labels (batch,) to values of each image."""

_NOISE_DRAWS = 10
_SAME_LOGITS = 1e-4
"""Logits of two passes over the same pixels may differ by this share of their range, which is rounding."""


class Trial:
    """The images that are classified correctly, and what attacks leave of them.

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
        self._state = processes()
        self._batches = 0

    def survival(self, attacker: PixelModel, adversary: Attack, budgets: Sequence[float]) -> Tensor:
        """Attack every image through ``attacker`` and return the declared predictor's accuracy on what comes out.

        Returns:
            (budgets, images): 1 where it is correct and 0 where not; of a random predictor the share of fresh draws.
        """
        return self.collect(
            lambda images, labels: torch.stack(
                [self._correct(found.adversarial, labels) for found in adversary(attacker, images, labels, budgets)]
            )
        )

    def under_noise(self, budgets: Sequence[float]) -> Tensor:
        """Return the accuracy (budgets, images) under the worst of several draws of random signs."""

        def measure(images: Tensor, labels: Tensor) -> Tensor:
            rows = []
            for epsilon in budgets:
                signs = [torch.randint_like(images, 0, 2) * 2 - 1 for _ in range(_NOISE_DRAWS)]
                correct = [self._correct((images + epsilon * sign).clamp(0, 1), labels) for sign in signs]
                rows.append(torch.stack(correct).amin(dim=0))
            return torch.stack(rows)

        return self.collect(measure)

    def zero_gradients(self, attacker: PixelModel) -> Tensor:
        """Return which entries (images, pixels) of the loss's gradient are exactly zero."""

        def measure(images: Tensor, labels: Tensor) -> Tensor:
            gradient = _gradient(lambda pixels: F.cross_entropy(attacker(pixels), labels, reduction="sum"), images)
            return (gradient == 0).flatten(1)

        return self._everywhere(measure)

    def matters(self, attacker: PixelModel, entries: Tensor, size: float) -> Tensor:
        """Return which images (images,) get other logits when some entries (pixels,) move at random by ``size``."""

        def measure(images: Tensor, labels: Tensor) -> Tensor:
            chosen = entries.to(images.device).view(images.shape[1:])
            signs = torch.randint_like(images, 0, 2) * 2 - 1
            with torch.no_grad():
                with torch.random.fork_rng():  # a random predictor takes the same draws both times
                    before = attacker(images)
                return _differ(before, attacker((images + size * signs * chosen).clamp(0, 1)))

        return self._everywhere(measure)

    def slopes(self, attacker: PixelModel, size: float) -> Tensor:
        """Return, per image, the change of the margin over the change that its gradient promises.

        The margin is the largest wrong logit less the right one. The step goes along the gradient's sign and is
        ``size`` long in the Linf norm; a model without hidden wrinkles gives about 1. A zero gradient gives 0.
        """

        def measure(images: Tensor, labels: Tensor) -> Tensor:
            def margins(pixels: Tensor) -> Tensor:
                with torch.random.fork_rng():  # a random predictor takes the same draws every time
                    return _margins(attacker(pixels), labels)

            gradient = _gradient(lambda pixels: margins(pixels).sum(), images)
            step = (images + size * direction(gradient, "linf")).clamp(0, 1) - images
            with torch.no_grad():
                change = margins(images + step) - margins(images)
            promised = (gradient * step).flatten(1).sum(dim=1)
            return (change / promised).nan_to_num(0.0, 0.0, 0.0)

        return self._everywhere(measure)

    def changes_its_mind(self) -> Tensor:
        """Return which images (images,) get other logits in a second pass over the same pixels."""

        @torch.no_grad()
        def measure(images: Tensor, labels: Tensor) -> Tensor:
            return _differ(self.scorer(images), self.scorer(images))

        return self._everywhere(measure)

    def collect(self, measure: Measure) -> Tensor:
        """Return values (values, images) in float64; each batch is measured by one of the processes, and saved."""
        starts = range(0, len(self.images), self.batch_size)
        first, self._batches = self._batches, self._batches + len(starts)
        mine = {
            first + place: self._batch(measure, first + place, start)
            for place, start in enumerate(starts)
            if (first + place) % self._state.num_processes == self._state.process_index
        }
        parts = dict(gather_object(list(mine.items()))) if self._state.num_processes > 1 else mine
        return torch.cat([parts[number] for number in sorted(parts)], dim=1)

    def _everywhere(self, measure: Measure) -> Tensor:
        """Return the values (images, ...) of all batches: too cheap to be shared or saved."""
        parts = []
        for start in range(0, len(self.images), self.batch_size):
            rows = slice(start, start + self.batch_size)
            with seeded(self.seed, start):
                parts.append(measure(self.images[rows], self.labels[rows]).cpu())
        return torch.cat(parts)

    def finish(self) -> None:
        """Merge the batches that the processes saved into one file."""
        if self.log is not None:
            self.log.finish(range(self._batches))

    def _correct(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return 1 for each correct example and 0 for each other, or the share of fresh draws that are correct."""
        if not self.redraws:
            return (self.scorer.predict(pixels) == labels).float()
        return (self.scorer.redraw(pixels, self.redraws) == labels).float().mean(dim=0)

    def _batch(self, measure: Measure, number: int, start: int) -> Tensor:
        """Return the values (values, batch) of a batch in float64: measured, or as an earlier start saved them.

        Batches are measured in the same order every time, so their numbers tell them apart.
        """
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
    """Return the images that the model gets right, and its accuracy over all that can be read."""
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
        correct = torch.cat([scorer.predict(part) for part in images.split(batch_size)]) == classes
    if not bool(correct.any()):
        raise ValueError(f"the model gets none of {len(classes)} examples right: there is nothing to attack")
    trial = Trial(scorer, images[correct], classes[correct], batch_size, seed, victim.redraws)
    return trial, float(correct.double().mean())


def _gradient(loss: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    pixels = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(pixels), pixels)
    return gradient


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the largest wrong logit less the right one (batch,)."""
    right = logits.gather(1, labels[:, None])
    wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return wrong - right.squeeze(1)


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """Return which rows (batch,) of logits differ by more than rounding."""
    span = (one.amax(dim=1) - one.amin(dim=1)).clamp_min(1e-12)
    return (one - other).abs().amax(dim=1) > _SAME_LOGITS * span
