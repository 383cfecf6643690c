"""One report card for both media: whether a classifier resists attacks, or only hides the way to its mistakes."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModelForImageClassification

from ..model.loading import Task
from ..model.trust import read_config, require_task
from ..runs.schema.attacks import Card


def report_card(
    model: nn.Module | str | Path,
    dataset: object,
    *,
    guide: nn.Module | str | Path | None = None,
    transfer_from: Sequence[nn.Module | str | Path] = (),
    **options: Any,
) -> Card:
    """Check if a classifier of texts or images resists attacks, or only hides the way to its mistakes.

    Args:
        model: a classifier, or the folder or Hub id of one; its task decides which card is made.
        dataset: a name or path, or a ``datasets.Dataset``, as for `attack_text` and `attack_image`.
        guide: for texts, a classifier whose score guides the search, best the stock model.
        transfer_from: further classifiers of the same classes whose adversarial examples are tried. Without any, the
            card makes surrogates that imitate the model's decisions.
        options: the arguments of `hf_vub.attacks.text.report_card.make_text_card` or
            `hf_vub.attacks.image.report_card.make_image_card`.

    Returns:
        The card: ``passed`` is False if a check failed, None if none did but one is open, else True. Each of ``checks``
        has ``name``, ``passed``, ``applies``, ``why`` in one sentence, and its numbers in ``figures``.

    Raises:
        TypeError: an argument does not exist for this medium.
        ValueError: an argument is out of range, or the model gets no example right.
        OSError: there is no such checkpoint or data set.

    Example:
        >>> card = report_card("user/vub-bert-imdb", "imdb", guide="user/bert-imdb")  # doctest: +SKIP
        >>> [check.name for check in card.checks if check.passed is False]  # doctest: +SKIP
    """
    if _task(model, options) == "text":
        from .text.report_card import make_text_card

        return make_text_card(model, dataset, guide=guide, transfer_from=transfer_from, **options)
    from .image.report_card import make_image_card

    if guide is not None:
        raise ValueError("guide is for texts, and the model classifies images: give the model in transfer_from")
    return make_image_card(model, dataset, transfer_from=transfer_from, **options)


def _task(model: nn.Module | str | Path, options: Mapping[str, object]) -> Task:
    """Return what a classifier takes: from its forward method, or the configuration of its checkpoint."""
    if isinstance(model, nn.Module):
        parameters = inspect.signature(model.forward).parameters
        return "text" if "tokenizer" in options or "input_ids" in parameters else "image"
    revision = options.get("revision")
    config = read_config(model, **({} if revision is None else {"revision": revision}))
    if any("ForSequenceClassification" in str(name) for name in config.get("architectures") or ()):
        return "text"
    try:
        require_task(AutoModelForImageClassification, config.get("model_type"), model)
    except ValueError:
        return "text"
    return "image"
