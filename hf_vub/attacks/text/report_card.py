"""The report card of a text classifier: whether it resists attacks, or its score hides the way to its mistakes.

An attack on texts climbs the score of the model that it attacks, and gives up where that score says nothing, however
easy the decision is to change. Each check compares searches whose order is known for a model that hides nothing.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ...compute.contexts import frozen, seeded
from ...data.labels import class_names
from ...data.record import TrainingRecord
from ...data.sample import open_sample
from ...model.loading import LoadedClassifier, backbone_dtype
from ...runs.digests import weights_digest
from ...runs.schema.text_card import TextReportCard
from ..runner import Target, run
from ..victim import Victim, check_counts
from . import nltk_resources, textattack_compat
from .card_method import CardMethod, CardOptions
from .classifier import TextClassifier, TokenFeatures
from .guide import Guide, GuideModel, guide_beside, take_apart
from .options import Job, read_job
from .recipes import Searcher, resolve_recipe
from .reference import ReferenceTexts, look
from .surrogate import fit_surrogate

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import TextOptions

REFERENCE_TEXTS = 200
"""Texts of the split, and as many edited ones, on which scores are compared and a guide is fitted."""
LEAST_DRAWS = 20
"""Draws that the searches average of a random predictor, at least."""


def make_text_card(
    model: nn.Module | str | Path,
    dataset: object,
    recipe: str = "deepwordbug",
    *,
    transfer_from: Sequence[GuideModel] = (),
    query_factor: int = 10,
    **options: "Unpack[TextOptions]",
) -> TextReportCard:
    """Check if the score of a text classifier hides its mistakes, on the texts that it classifies correctly.

    "Own" is the recipe by the model's own score; like every search here it ends with any text that is misclassified. A
    rival finds more if an exact one-sided McNemar test over the texts says so, at 5 % over all checks together (Holm).

    | check | passes when |
    |---|---|
    | ``guided`` | the same search by the guide's score, decided by the model, finds no more than own |
    | ``transfer`` | texts that the recipe makes on the guide, or one of ``transfer_from``, fool it no more than own |
    | ``plateau`` | among confident texts the score still ranks as a linear classifier of the same decisions does |
    | ``every_candidate`` | guided finds no more than a greedy search over all edits, with 10 times own's queries |
    | ``beam`` | guided finds no more than beam search and restarts in random order, with 10 times own's queries |
    | ``link`` | own finds no more when the log-odds are rescaled so that the median text is 98 % sure |
    | ``random_edits`` | 10 random edits of half of the words, without any search, find no more than own |
    | ``unbounded`` | a search by its own score that may write any words changes nearly every decision |
    | ``eot`` | two passes agree; of a declared random predictor: searching by 20 draws misleads no more than by one |

    A random predictor is attacked through an average of at least 20 draws; a text counts as misclassified when most of
    ``redraws`` fresh draws of the declared predictor misclassify it.

    Args:
        model: a sequence classifier, or the folder or Hub id of one, as for `attack_text`.
        dataset: the data set, as for `attack_text`.
        recipe: a TextAttack recipe that climbs a probability, as for `attack_text`.
        transfer_from: further models whose adversarial texts are tried, as ``guide``.
        query_factor: the stronger searches may make this many times the queries of the recipe on the same text.
        options: the keywords that all attacks on texts share, see `attack_text`. Of these

            - ``guide`` is the classifier to compare with, best the stock model. None fits a logistic regression to the
              model's decisions on its features, or on tokens where it has none.
            - ``num_examples`` is 64 and ``max_words`` 400 by default. The checks use the texts that the model
              classifies correctly.
            - ``redraws`` are the fresh draws that decide about a text of a random predictor.
            - ``output_dir`` receives ``report_card.json`` and, in ``report_card/``, the outcomes of every finished
              text, with which the same call goes on after a kill.

    Returns:
        ``passed`` (False if a check failed; None if none did, but one that applies could not decide; else True),
        ``checks`` with name, ``passed``, ``why`` in one sentence and numbers, and ``searches``, what each one found.

    Raises:
        ValueError: as for `attack_text`, or the model gets no text right.

    Example:
        >>> card = make_text_card("user/vub-bert-imdb", "imdb", guide="user/bert-imdb")  # doctest: +SKIP
        >>> [check.name for check in card.checks if check.passed is False]  # doctest: +SKIP
    """
    check_counts(query_factor=query_factor)
    job = read_job(model, dataset, options, "float32", {"num_examples": 64, "max_words": 400})
    check_counts(max_words=job.max_words)
    redraws = job.victim.redraws if job.victim.draws else 0
    how = CardOptions(resolve_recipe(recipe), query_factor, job.max_words, redraws)
    return _make_card(job, how, [job.guide, *transfer_from])


def _make_card(job: Job, options: CardOptions, models: Sequence[GuideModel | None]) -> TextReportCard:
    """Measure what is known beforehand, search every text, and return the card; the first of ``models`` guides."""
    victim, rows = job.victim, job.rows
    folder = None if job.folder is None else job.folder / "report_card"
    sources = nltk_resources.check(options.recipe)
    record = TrainingRecord.load(victim.model, victim.revision)
    records = [] if record is None else [record]
    sample = open_sample(rows, "text", records)
    others = open_sample(replace(rows, num_examples=REFERENCE_TEXTS, how="stratified"), "text", records)
    loaded = victim.load("text")
    with ExitStack() as stack:
        for context in (textattack_compat.quiet, textattack_compat.remembered_words, textattack_compat.no_downloads):
            stack.enter_context(context())
        stack.enter_context(frozen(loaded.network))
        stack.enter_context(seeded(rows.seed))
        model, apart = _open(victim, loaded)
        texts = ReferenceTexts(others, options.max_words, Searcher(options.recipe, model))
        logits = texts.logits(model)
        names = class_names(getattr(loaded.network, "config", None), logits.shape[-1])
        surrogate, problem = _fit(model, texts, logits, apart)
        features = model.features if apart else None
        guides = [surrogate if guide is None else guide_beside(guide, victim, loaded, features) for guide in models]
        known = [] if guides[0] is None else [guide for guide in guides if guide is not None]
        for guide in dict.fromkeys([*known, *([] if surrogate is None else [surrogate])]):
            guide.align(names, rows.match_labels)
            for part in guide.modules:
                stack.enter_context(frozen(part))
        reference = look(texts, logits, guides[0], surrogate, problem)
        sample = sample.aligned(names)
        declared = TextClassifier(model.features, model.head, victim.draws) if victim.draws else model
        method = CardMethod(sample, model, declared, known, reference, options)
        common = {
            **_settings(victim, options, method),
            "guide": known[0].name if known else None,
            "guide_weights": known[0].weights or None if known else None,
            "transfer_from": [guide.name for guide in known[1:]],
            **sources,
        }
        weights = {"weights": [weights_digest(loaded.network), weights_digest(model.head)]}
        return run(method, sample, {"": Target(loaded.name, weights, folder, record)}, common, job.progress)[""]


def _settings(victim: Victim, options: CardOptions, method: CardMethod) -> dict[str, object]:
    """Return the settings that decide the outcomes of every search."""
    sample = method.sample
    return {
        "kind": "text_report_card",
        "revision": victim.revision,
        "dtype": str(backbone_dtype(method.attacked.model)).removeprefix("torch."),
        "dataset": sample.name,
        "attack": options.recipe,
        "seed": sample.options.seed,
        "how": sample.options.how,
        "noise": victim.noise,
        "max_length": method.attacked.features.max_length,
        "max_words": options.max_words,
        "redraws": options.redraws,
        "query_factor": options.query_factor,
        "num_examples": len(sample),
        "rows": sample.digest(method.texts, *([method.pairs] if method.pairs else [])),
    }


def _open(victim: Victim, loaded: LoadedClassifier) -> tuple[TextClassifier, bool]:
    """Return what the searches ask, of a random predictor the average of many draws, and if it was taken apart."""
    parts = take_apart(loaded, victim)
    draws = max(victim.draws, LEAST_DRAWS) if victim.draws else 0
    if parts is None:
        features = TokenFeatures(loaded.network, loaded.processor, victim.max_length, victim.batch_size)
        return TextClassifier(features, draws=draws), False
    return TextClassifier(*parts, draws), True


def _fit(model: TextClassifier, texts: ReferenceTexts, logits: Tensor, apart: bool) -> tuple[Guide | None, str]:
    """Return a linear classifier of the model's decisions, or the reason why there is none."""
    decisions, classes = logits.argmax(dim=-1).numpy(), logits.shape[-1]
    try:
        return fit_surrogate(model.features, texts.keys(model.features), decisions, classes, apart), ""
    except ValueError as error:
        return None, str(error)
