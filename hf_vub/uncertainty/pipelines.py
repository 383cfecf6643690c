"""Pipelines whose scores are the calibrated probabilities, and which may abstain."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import ImageClassificationPipeline, TextClassificationPipeline

from ..data.preprocessing import max_text_length
from ..model.loading import Task, load_classifier
from ..runs.schema import Calibration
from .checkpoint import find_task, is_vub, log_probabilities, read_calibration, thresholds


class _Calibrated:
    """What both pipelines add to those of transformers."""

    model: Any
    calibration: Calibration | None

    def __init__(self, *args: Any, calibration: Calibration | None = None, **options: Any):
        self.calibration = calibration
        super().__init__(*args, **options)

    def _sanitize_parameters(self, *args: object, **options: Any) -> Any:
        stock: Any = super()
        abstain_at = options.pop("abstain_at", None)
        preprocess, forward, postprocess = stock._sanitize_parameters(*args, **options)
        if abstain_at is not None:
            if "top_k" in options:
                raise ValueError("abstain_at gives one answer per input or none: leave top_k out")
            postprocess = {**postprocess, "threshold": self._threshold(abstain_at)}
        return preprocess, forward, postprocess

    def _threshold(self, abstain_at: float) -> float:
        stored = thresholds(self.model, self.calibration)
        for miscoverage, threshold in stored.items():
            if abs(miscoverage - abstain_at) < 1e-9:
                return threshold
        there = f"thresholds for {', '.join(f'{share:g}' for share in stored)} only" if stored else "no thresholds"
        raise ValueError(
            f"abstain_at is {abstain_at}, but the checkpoint stores {there}: fit one with "
            "hf_vub.uncertainty.calibrate(..., miscoverage=[...])"
        )

    def postprocess(self, model_outputs: Any, *args: object, **options: Any) -> Any:
        """Return the answer to one input, from the output of the model."""
        threshold = options.pop("threshold", None)
        log_p = log_probabilities(self.model, model_outputs["logits"], self.calibration)
        if threshold is None:
            stock: Any = super()
            # The stock pipelines soft-max logits, and the softmax of log-probabilities is these probabilities.
            return stock.postprocess({**model_outputs, "logits": log_p}, *args, **options)
        names, p = self.model.config.id2label, log_p[0].exp()
        # The threshold is a float64 and p a float32: rounding must not take a class out of its set.
        inside = [names[place] for place in (p >= threshold * (1 - 1e-5)).nonzero().flatten().tolist()]
        label = inside[0] if len(inside) == 1 else None
        return {"label": label, "score": p.max().item(), "labels": inside}


class CalibratedTextPipeline(_Calibrated, TextClassificationPipeline):
    """A text classification pipeline for `classifier_pipeline`."""


class CalibratedImagePipeline(_Calibrated, ImageClassificationPipeline):
    """An image classification pipeline for `classifier_pipeline`."""


def classifier_pipeline(
    model: nn.Module | str | Path,
    *,
    abstain_at: float | None = None,
    task: Task | None = None,
    processor: Any = None,
    max_length: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> CalibratedTextPipeline | CalibratedImagePipeline:
    """Return a pipeline of transformers whose scores are the calibrated probabilities of a checkpoint.

    The stock pipelines soft-max the logits, which stay the training logits. Of a VUB checkpoint they give the
    calibrated probabilities too where they load it with ``model_kwargs={"calibrated_logits": True}``; no other class is
    needed then, and none of this package. They cannot abstain.

    Args:
        model: a module, or the folder or Hub id of a VUB or stock classifier that
            :func:`~hf_vub.uncertainty.calibrate` has calibrated. Without a calibration the scores are the softmax.
        abstain_at: share of inputs whose conformal set may miss the label, such as 0.05. The answer to each input is
            then one dictionary: ``labels``, the classes in its set; ``label``, the class where the set holds one alone,
            else None; and ``score``, the highest probability. Of new inputs like the calibration rows, at most that
            share has a set without its label, on average over calibrations.
        task: "text" or "image"; by default what the model's class says.
        processor: tokenizer or image processor; by default the saved one.
        max_length: tokens that a text is cut to; by default what tokenizer and model can take.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run the code that comes with a stock model.
        options: of the pipeline: ``device``, ``batch_size``, ``top_k``, ...

    Raises:
        ValueError: ``abstain_at`` is a share that the checkpoint stores no threshold for; or as
            :func:`hf_vub.model.loading.load_classifier`.
        OSError: there is no such checkpoint.

    Example:
        >>> classify = classifier_pipeline("outputs/vub-bert-imdb", abstain_at=0.05)  # doctest: +SKIP
        >>> classify("neither good nor bad")  # doctest: +SKIP
        [{'label': None, 'score': 0.61, 'labels': ['neg', 'pos']}]
    """
    task = task or find_task(model, revision, trust_remote_code)
    network, processor, name = load_classifier(
        model, task, processor=processor, revision=revision, trust_remote_code=trust_remote_code
    )
    if task == "text":
        length = max_text_length(processor, network, max_length)
        options = {"tokenizer": processor, "truncation": True, "max_length": length, **options}
    else:
        options = {"image_processor": processor, **options}
    if abstain_at is not None:
        options["abstain_at"] = abstain_at
    calibration = None if is_vub(network) else read_calibration(name, revision)
    kind = CalibratedTextPipeline if task == "text" else CalibratedImagePipeline
    return kind(model=network, task=f"{task}-classification", calibration=calibration, **options)
