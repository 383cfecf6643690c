"""A smoothed classifier as a pipeline: label, votes, and a certified radius or an abstention."""

import hashlib
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Pipeline

from ..model.loading import load_classifier
from .smoothing import Smoothing, choose_smoothing, stored_smoothing
from .voters import Voter, as_head, make_voter


class SmoothedPipeline(Pipeline):
    """A pipeline of texts or images for `smoothed_pipeline`."""

    def __init__(self, *args: Any, voter: Voter, smoothing: Smoothing, **options: Any):
        self.voter, self.smoothing = voter, smoothing
        super().__init__(*args, **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if options:
            raise TypeError(f"a smoothed pipeline takes no option {next(iter(options))!r}")
        return {}, {}, {}

    def preprocess(self, input_: Any, **options: Any) -> dict[str, Any]:
        """Return the words of a text, or the pixels of an image, and the key of its noisy copies."""
        example = self.voter.prepare(input_)
        content = input_.encode() if isinstance(input_, str) else example.cpu().numpy().tobytes()
        # Equal inputs get equal copies, and with them equal answers.
        key = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
        return {"example": example, "key": key}

    def _forward(self, input_tensors: Any, **options: Any) -> Any:
        tally = self.smoothing.tally(self.model.config.num_labels)
        self.voter.count(input_tensors["example"], input_tensors["key"], self.smoothing, {"": tally})
        return {"tally": tally, "radius": self.voter.radius(tally.p_lower, input_tensors["example"])}

    def postprocess(self, model_outputs: Any, **options: Any) -> dict[str, Any]:
        """Return the answer to one input."""
        tally, radius = model_outputs["tally"], model_outputs["radius"]
        names = self.model.config.id2label or {}
        return {
            "label": names[tally.chosen] if radius >= 0 else None,
            "radius": radius if radius >= 0 else None,
            "p_lower": tally.p_lower,
            "votes": {names[place]: int(count) for place, count in enumerate(tally.first + tally.second)},
        }


def smoothed_pipeline(
    model: nn.Module | str | Path,
    noise: str | None = None,
    *,
    n0: int | None = None,
    n: int | None = None,
    alpha: float | None = None,
    seed: int = 0,
    processor: Any = None,
    max_length: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> SmoothedPipeline:
    """Return a pipeline that answers as a smoothed classifier, with a certificate for every answer.

    Args:
        model: a text or image classifier, or the folder or Hub id of one.
        noise: "delete:0.95", "mask:0.7" or "gaussian:0.25"; None for what the checkpoint stores, as it does after
            training with ``smoothing=...`` or `store_smoothing`.
        n0: copies that choose the class; None for what the checkpoint stores, else 100.
        n: copies that bound its vote; likewise, else 1,000.
        alpha: probability of a wrong certificate, at most; likewise, else 0.001.
        seed: of the copies, together with the content of the input.
        processor: tokenizer or image processor; by default the saved one.
        max_length: tokens that a noisy copy is cut to.
        batch_size: copies per forward pass, see `certify`.
        dtype: "bfloat16" or "float32" for the backbone.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run the code that comes with a stock model.
        options: of the pipeline: ``device``.

    Returns:
        A pipeline whose answer to each input has ``label``, the class, or None to abstain; ``radius``, within which no
        edit of so many words, or perturbation of this L2 norm, changes the label; ``p_lower``, the bound that it rests
        on; and ``votes`` by class.

    Raises:
        ValueError: no noise is given or stored, or a value is out of range.
        OSError: there is no such checkpoint.

    Example:
        >>> classify = smoothed_pipeline("outputs/vub-delete")  # doctest: +SKIP
        >>> classify("neither good nor bad, but long enough to be sure")  # doctest: +SKIP
        {'label': None, 'radius': None, 'p_lower': 0.0, 'votes': {'neg': 205, 'pos': 195}}
    """
    smoothing = choose_smoothing(stored_smoothing(model, revision, trust_remote_code), noise, n0, n, alpha)
    task = smoothing.noise.medium
    loaded = load_classifier(
        model, task, processor=processor, revision=revision, trust_remote_code=trust_remote_code, dtype=dtype
    )
    own = getattr(loaded.network, "head", None) if hasattr(loaded.network, "features") else None
    parts = {"tokenizer" if task == "text" else "image_processor": loaded.processor}
    if "device" in options:
        loaded.network.to(options["device"])
    loaded.network.eval()
    voter, _ = make_voter(loaded, smoothing, {"": as_head(own)}, seed, max_length, batch_size)
    return SmoothedPipeline(
        model=loaded.network, task=f"{task}-classification", voter=voter, smoothing=smoothing, **parts, **options
    )
