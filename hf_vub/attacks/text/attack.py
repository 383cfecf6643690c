"""Attack text classifiers with any TextAttack recipe: one JSON per run, one record per example.

```python
from hf_vub.attacks import attack_text

result = attack_text("user/vub-bert-imdb", "imdb", "deepwordbug", num_examples=200, output_dir="runs/deepwordbug")
result.accuracy_under_attack
```

TextAttack's own command line attacks the same checkpoints through a file ``model.py`` of two lines::

    from hf_vub.attacks import wrapper
    model = wrapper("user/vub-bert-imdb")

with ``textattack attack --model-from-file model.py --recipe deepwordbug --dataset-from-huggingface imdb``, or, where
flair or a network is missing, ``python -m hf_vub.attacks.text.textattack_compat attack ...`` with the same options.
TextAttack caches answers by text there, so a random predictor gives one frozen draw per text; `attack_text` draws
afresh for every query.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ...compute.contexts import frozen
from ...compute.predictor import parse_noise
from ...data.labels import class_names
from ...data.record import TrainingRecord
from ...data.sample import Sample, open_sample
from ...model.loading import backbone_dtype, backbone_of
from ...runs.digests import weights_digest
from ...runs.schema import TextAttackResult
from ..runner import Target, run
from ..victim import Victim
from . import nltk_resources, textattack_compat
from .classifier import TextClassifier, TokenFeatures
from .guide import Guide, load_guide
from .method import SearchOptions, TextMethod
from .options import Job, read_job
from .recipes import Searcher, resolve_recipe

if TYPE_CHECKING:
    from textattack.models.wrappers import ModelWrapper
    from typing_extensions import Unpack

    from .options import TextOptions


def attack_text(
    model: nn.Module | str | Path,
    dataset: object,
    recipe: str = "deepwordbug",
    *,
    dtype: str | None = None,
    query_budget: int | None = None,
    search: str | None = None,
    **options: "Unpack[TextOptions]",
) -> TextAttackResult:
    """Attack the texts that a classifier gets right, and return how many it still gets right.

    Args:
        model: a sequence classifier (ours or a stock one), or the folder or Hub id of one.
        dataset: a name or path for ``hf_vub.data.splits.load_evaluation``, or a ``datasets.Dataset`` or stream with
            texts and labels. A data set of one file is attacked whole; if ``model`` was trained on it, only its
            held-out rows are.
        recipe: ``"deepwordbug"``, ``"pwws"`` or the class name of any TextAttack recipe against classifiers.
        dtype: ``"bfloat16"`` for the backbone; None leaves it as it is. Logits are always float32. A success in a lower
            precision counts only if the classifier in float32 confirms it; random predictors are scored by ``redraws``.
        query_budget: queries per text after which the attack gives up; None for no limit.
        search: ``"guided"`` (the default with a guide), or ``"both"``: by its own score and guided, and of each text
            the worse outcome. Where model and guide share a frozen backbone, both cost about twice one attack. Without
            a guide the recipe runs as published.
        options: keywords that all attacks on texts share:

            - ``tokenizer`` (None): its tokenizer, or the folder or Hub id of one; None takes the one saved with
              ``model``.
            - ``num_examples`` (200): how many texts; None for all.
            - ``how`` ("stratified"): drawn with ``seed``, each class in its share; or "first", as in the paper.
            - ``seed`` (0): of the sample and, together with an example's row number, of the attack on it.
            - ``noise`` ("mean"): the declared predictor, "mean", "sampled" or "averaged:k", with fresh draws for every
              query.
            - ``redraws`` (20): fresh draws over which each final text of a random predictor is scored again.
            - ``max_length`` (None): tokens that a text is cut to, as in training; by default the limit of tokenizer and
              model.
            - ``batch_size`` (None): texts of ``max_length`` tokens per forward pass; of shorter ones as many more as
              have their tokens. By default 2,048 tokens on a CPU and 16,384 elsewhere.
            - ``max_words`` (4000): longer texts are skipped, as an attack's time grows with the square of their length.
            - ``guide`` (None): another classifier (a module, or the folder or Hub id of one) whose score the search
              climbs, while ``model`` decides: an attack by its own score stops where that score is flat. Also a head
              that takes the features of ``model``.
            - ``output_dir`` (None): folder for the result and records; a run found there is resumed. None saves
              nothing. In a subfolder of the checkpoint that is attacked, the checkpoint's model card shows the result.
            - ``split`` (None): of a named data set; its test split by default.
            - ``text_column`` (None): the usual names are recognised. Of a pair of columns (see `load_splits`) the first
              is attacked and the second stays as it is.
            - ``label_column`` (None): the usual names are recognised.
            - ``match_labels`` ("name"): match the classes of data and model by name (by number where one side has no
              names) or by "number".
            - ``column_names`` (None): of the columns of a CSV file without a header, in order or between commas.
            - ``config_name`` (None): configuration of a data set on the Hub.
            - ``revision`` (None): of ``model`` on the Hub.
            - ``trust_remote_code`` (False): run code that comes with ``model``.
            - ``progress`` (True): say which rows are attacked, and show a bar with the running success rate if stderr
              is a terminal.

    Returns:
        The result: ``clean_accuracy`` over all texts but skipped ones, ``accuracy_under_attack``,
        ``attack_success_rate`` over the texts classified correctly, with its 95 % Wilson interval;
        ``words_perturbed_mean`` over successes, ``queries_mean`` over attacked texts; ``searches``, the rates of each
        search where both were made; for a random predictor ``redraws``; ``skipped``, the reasons why texts were
        skipped; ``data_rows``, which rows were attacked, and ``rows_seen_in_training``, how many of them the checkpoint
        was trained or selected on.

    Raises:
        ValueError: an argument is out of range, the recipe is unknown or takes no guide, classes cannot be matched, or
            ``output_dir`` holds another run.
        nltk_resources.ResourceError: the recipe reads something that is not on this machine.
        ImportError: a package is missing; the sentence has the command that installs it.

    Source: DeepWordBug (Gao et al. 2018) and PWWS (Ren et al. 2019), through TextAttack (Morris et al. 2020).

    Example:
        >>> attack_text("user/vub-bert-imdb", "imdb", "pwws", num_examples=100).attack_success_rate  # doctest: +SKIP
    """
    job = read_job(model, dataset, options, dtype)
    return _attack(job, SearchOptions(resolve_recipe(recipe), query_budget, job.max_words, job.guide, search), None)[""]


def attack_text_heads(
    model: nn.Module | str | Path,
    heads: Mapping[str, nn.Module] | Sequence[nn.Module],
    dataset: object,
    recipe: str = "deepwordbug",
    *,
    dtype: str | None = None,
    query_budget: int | None = None,
    search: str | None = None,
    **options: "Unpack[TextOptions]",
) -> dict[str, TextAttackResult]:
    """Attack many heads on one frozen backbone, each as `attack_text` would alone, sharing the backbone's features.

    For each example all heads are attacked one after the other: a query that an earlier head has made costs a later one
    only its own few layers. PWWS tries every single substitution of a text, so its heads share most queries; the
    substitutions of DeepWordBug follow the order of one head's scores, so its heads share few.

    Args:
        model: has ``features(**inputs)``, as ours do, or the folder or Hub id of one that has.
        heads: from features to logits, by name; names of a sequence are its positions. Their files go to the folders
            ``output_dir/name``. The result of a head of `shared_heads` names the checkpoint of that head as its model.
        dataset: the data set, as for `attack_text`.
        recipe: as for `attack_text`.
        dtype: as for `attack_text`.
        query_budget: as for `attack_text`.
        search: as for `attack_text`.
        options: as for `attack_text`.

    Returns:
        One result per head, by name.

    Raises:
        TypeError: ``model`` has no ``features``.
        ValueError: as for `attack_text`, or for a name that is no file name.
    """
    named = dict(heads) if isinstance(heads, Mapping) else {str(place): head for place, head in enumerate(heads)}
    if not named:
        raise ValueError("heads is empty: give at least one head")
    for name in named:
        if not name or Path(name).name != name:
            raise ValueError(f"a head's name must be a file name, but is {name!r}")
    job = read_job(model, dataset, options, dtype)
    return _attack(job, SearchOptions(resolve_recipe(recipe), query_budget, job.max_words, job.guide, search), named)


def wrapper(
    model: nn.Module | str | Path,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    *,
    noise: str = "mean",
    max_length: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> "ModelWrapper":
    """Return a checkpoint as a ``textattack.models.wrappers.ModelWrapper``, for TextAttack's Python API and commands.

    The arguments and errors are those of `attack_text`.

    Example:
        >>> recipe = textattack.attack_recipes.PWWSRen2019.build(wrapper("user/vub-bert-imdb"))  # doctest: +SKIP
    """
    base = textattack_compat.load().models.wrappers.ModelWrapper
    victim = Victim(
        model, tokenizer, noise, batch_size=batch_size, max_length=max_length, dtype=dtype, revision=revision,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    network, processor, _ = victim.load("text")
    network.eval()
    wrapped = type("HeadWrapper", (TextClassifier, base), {"__module__": __name__})
    return wrapped(TokenFeatures(network, processor, max_length, batch_size), draws=parse_noise(noise))


def _attack(job: Job, search: SearchOptions, heads: Mapping[str, nn.Module] | None) -> dict[str, TextAttackResult]:
    """Attack a model, or the heads that share its features; return one result for each."""
    victim, options = job.victim, job.rows
    sources = nltk_resources.check(search.recipe)
    trained_on = _training_records(victim, heads)
    sample = open_sample(options, "text", [record for record in trained_on.values() if record is not None])
    loaded = victim.load("text")
    network = loaded.network
    if heads is not None and not hasattr(network, "features"):
        kind = type(network).__name__
        raise TypeError(f"model must have features(**inputs), but {kind} has none: use attack_text instead")
    features, own_head, guide = load_guide(search.guide, victim, loaded)
    classifiers = _classifiers(features, {"": own_head} if heads is None else heads, victim.draws)
    precise = {} if victim.draws else _precise(victim, features, _named(heads))
    # The head that a shared backbone came with is never asked, and may differ from process to process.
    backbone = weights_digest(network if heads is None else backbone_of(network))
    targets = {}
    for name, classifier in classifiers.items():
        settings = {**({"head": name} if name else {}), "weights": [backbone, weights_digest(classifier.head)]}
        own_name = getattr(classifier.head, "name_or_path", None) if name else None
        folder = None if job.folder is None else job.folder / name
        targets[name] = Target(own_name or loaded.name, settings, folder, trained_on[name])
    with ExitStack() as stack:
        for context in (textattack_compat.quiet, textattack_compat.remembered_words, textattack_compat.no_downloads):
            stack.enter_context(context())
        for part in _modules([*classifiers.values(), *precise.values()], guide):
            stack.enter_context(frozen(part))
        names = class_names(getattr(network, "config", None), _count_classes(classifiers))
        if guide is not None:
            guide.align(names, options.match_labels)
        sample = sample.aligned(names)
        first = next(iter(classifiers.values()))
        searcher = Searcher(
            search.recipe, first, victim.redraws, search.query_budget, search.max_words, guide is not None
        )
        method = TextMethod(sample, classifiers, searcher, search.searches, guide, precise)
        common = {
            **_settings(victim, search, sample, features),
            **({"confirmed_in": "float32"} if precise else {}),
            **_guide_settings(search, guide),
            "rows": sample.digest(method.texts, *([method.pairs] if method.pairs else [])),
            **sources,
        }
        return run(method, sample, targets, common, job.progress)


def _classifiers(
    features: TokenFeatures, heads: Mapping[str, nn.Module | None], draws: int = 0
) -> dict[str, TextClassifier]:
    """Return the classifiers under attack by name, their heads on the backbone's device."""
    device = next(features.model.parameters()).device
    return {
        name: TextClassifier(features, None if head is None else head.to(device), draws) for name, head in heads.items()
    }


def _precise(
    victim: Victim, features: TokenFeatures, heads: Mapping[str, nn.Module | None]
) -> dict[str, TextClassifier]:
    """Return the classifiers in float32, where they are attacked in a lower precision; else none."""
    if backbone_dtype(features.model) not in (torch.bfloat16, torch.float16):
        return {}
    network, tokenizer, _ = replace(victim, dtype="float32").load("text")
    return _classifiers(TokenFeatures(network, tokenizer, victim.max_length, victim.batch_size), heads)


def _modules(classifiers: Iterable[TextClassifier], guide: Guide | None) -> list[nn.Module]:
    """Return everything that computes in an attack, once."""
    modules = [] if guide is None else guide.modules
    for classifier in classifiers:
        modules = [*modules, classifier.model, *([] if classifier.head is None else [classifier.head])]
    return list(dict.fromkeys(modules))


def _settings(victim: Victim, search: SearchOptions, sample: Sample, features: TokenFeatures) -> dict[str, object]:
    """Return the settings that decide the records of every head."""
    return {
        "kind": "text_attack",
        "revision": victim.revision,
        "dtype": str(backbone_dtype(features.model)).removeprefix("torch."),
        "dataset": sample.name,
        "attack": search.recipe,
        "seed": sample.options.seed,
        "how": sample.options.how,
        "noise": victim.noise,
        "max_length": features.max_length,
        "query_budget": search.query_budget,
        "max_words": search.max_words,
        "redraws": victim.redraws if victim.draws else 0,
        "num_examples": len(sample),
    }


def _guide_settings(search: SearchOptions, guide: Guide | None) -> dict[str, object]:
    """Return what identifies a guided run; of the recipe as published, that it has no guide."""
    if guide is None:
        return {"guide": None, "guide_weights": None}
    return {"guide": guide.name, "guide_weights": guide.weights, "search": search.name}


def _named(heads: Mapping[str, nn.Module] | None) -> Mapping[str, nn.Module | None]:
    """Return the heads to attack by name; None, without a name, stands for the model's own."""
    return {"": None} if heads is None else heads


def _training_records(victim: Victim, heads: Mapping[str, nn.Module] | None) -> dict[str, TrainingRecord | None]:
    """Return the training record of each head, that of the model where a head has none."""
    of_model = TrainingRecord.load(victim.model, victim.revision)
    found = {name: None if head is None else TrainingRecord.load(head) for name, head in _named(heads).items()}
    return {name: record or of_model for name, record in found.items()}


def _count_classes(classifiers: Mapping[str, TextClassifier]) -> int:
    """Return how many classes the classifiers have, the same for each."""
    counts = {}
    for name, classifier in classifiers.items():
        counts[name] = classifier(["a"]).shape[-1]
        classifier.clear()
    if len(set(counts.values())) > 1:
        raise ValueError(f"heads must have equally many classes, but have {counts}")
    (count, *_) = counts.values()
    if count < 2:
        raise ValueError(f"the model must have at least 2 classes, but has {count}")
    return int(count)
