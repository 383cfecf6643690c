"""Text classifiers under attack: any TextAttack recipe, one JSON per run, one record per example.

```python
from hf_vub.attacks.text.attack import attack

result = attack("user/vub-bert-imdb", None, "imdb", "deepwordbug", num_examples=200, output_dir="runs/deepwordbug")
result["accuracy_under_attack"]
```

An output folder holds ``result.json`` (schema 1), ``records.jsonl`` (one line per example, what resuming reads) and
``run.json`` (what the run is, so that records of another model or attack are never taken for its own). Every example
has its own random state: a run that was killed, or split over processes with ``accelerate launch``, ends with the same
bits.

TextAttack's own command line attacks the same checkpoints through a file ``model.py`` of two lines::

    from hf_vub.attacks.text.attack import wrapper
    model = wrapper("user/vub-bert-imdb")

with ``textattack attack --model-from-file model.py --recipe deepwordbug --dataset-from-huggingface imdb``, or, where
flair or a network is missing, ``python -m hf_vub.attacks.text.textattack_compat attack ...`` with the same options.
TextAttack caches answers by text there, so a random predictor would get one frozen draw per text; ``attack`` draws
afresh.
"""

import copy
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset
from torch import nn

from ...compute.contexts import frozen, seeded
from ...data.preprocessing import clean_text
from ...data.splits import load_splits, read_labels, subset
from ...data.streams import stored
from ...metrics.intervals import share_interval, wilson_interval
from ...metrics.robustness import attack_summary
from ...model.modeling_vub import VUBForSequenceClassification, replace_classifier
from ...model.trust import load
from ...reports.model_cards import refresh_model_card
from ...runs.digests import weights_digest
from ...runs.files import write_json
from ...runs.processes import processes
from ...runs.provenance import provenance
from ...runs.run_log import RunLog
from ..sample import parse_noise
from . import nltk_resources, textattack_compat
from .classifier import TextClassifier, TokenFeatures
from .recipes import Searcher, resolve_recipe


def attack(
    model: nn.Module | str | Path,
    tokenizer: Any,
    dataset: Any,
    recipe: str = "DeepWordBugGao2018",
    *,
    num_examples: int = 200,
    how: str = "stratified",
    seed: int = 0,
    noise: str = "mean",
    redraws: int = 20,
    max_length: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    query_budget: int | None = None,
    max_words: int = 4000,
    output_dir: str | Path | None = None,
    split: str = "test",
    text_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Attack the texts that a classifier gets right, and say how many it still gets right.

    Args:
        model: a sequence classifier (ours or a stock one), or the folder or Hub id of one.
        tokenizer: its tokenizer, or the folder or Hub id of one; None takes the one saved with ``model``.
        dataset: a name or path for ``hf_vub.data.splits``, or a ``datasets.Dataset`` or stream with texts and labels.
        recipe: ``"deepwordbug"``, ``"pwws"`` or the class name of any TextAttack recipe against classifiers.
        num_examples: how many examples; all where the data has no more.
        how: ``"stratified"`` (drawn with ``seed``, every class in its share) or ``"first"``, as in the paper.
        seed: of the sample and, together with an example's row number, of the attack on it.
        noise: the declared predictor: ``"mean"``, ``"sampled"`` or ``"averaged:k"``, with fresh draws for every query.
        redraws: fresh draws over which each final text of a random predictor is scored again.
        max_length: tokens that a text is cut to, as in training; by default what tokenizer and model say.
        batch_size: texts of ``max_length`` tokens per forward pass; of shorter ones as many more as have their tokens.
            By default what has 2,048 tokens on a CPU and 16,384 elsewhere.
        dtype: ``"bfloat16"`` for the backbone; None leaves it as it is. Logits are always float32.
        query_budget: queries per example after which the attack gives up; None for no limit.
        max_words: longer texts are skipped, as an attack's time grows with the square of their length.
        output_dir: where the result and records go; a run found there is resumed. None saves nothing. In the folder of
            the checkpoint that is attacked, the model card there shows the result.
        split: of ``dataset`` where that is a name or path.
        text_column: where not "text".
        label_column: where not "label" or "labels".
        revision: of ``model`` on the Hub.
        trust_remote_code: whether code that comes with ``model`` may run.
        progress: whether a bar with the running success rate is shown (never where stderr is no terminal).

    Returns:
        The result JSON: ``clean_accuracy`` over all texts but skipped ones, ``accuracy_under_attack``,
        ``attack_success_rate`` over the texts classified rightly, with its 95 % Wilson interval;
        ``words_perturbed_mean`` over successes, ``queries_mean`` over attacked texts; for a random predictor
        ``redraws``; ``skipped``, the reasons why texts were passed over; ``stopwords``, the list that was used.

    Raises:
        ValueError: for an argument out of range, an unknown recipe, labels that the model has not, or an
            ``output_dir`` of another run.
        nltk_resources.ResourceError: with what the recipe lacks and how to provide it.
        ImportError: with the command to install what is missing.

    Source: DeepWordBug (Gao et al. 2018) and PWWS (Ren et al. 2019), through TextAttack (Morris et al. 2020).

    Example:
        >>> attack(model, tokenizer, "imdb", "pwws", num_examples=100)["attack_success_rate"]  # doctest: +SKIP
    """
    recipe = resolve_recipe(recipe)
    options = _Options(recipe, num_examples, how, seed, noise, redraws, query_budget, max_words, progress)
    examples = _open(dataset, options, split, text_column, label_column)
    network, tokenizer = _load(model, tokenizer, revision, trust_remote_code, dtype)
    classifier = TextClassifier(TokenFeatures(network, tokenizer, max_length, batch_size), draws=options.draws)
    about = {"model": _name(model), "revision": revision, "dtype": str(_body(network).dtype).removeprefix("torch.")}
    return _run({"": classifier}, {"": output_dir}, examples, options, about)[""]


def attack_heads(
    model: nn.Module | str | Path,
    heads: Mapping[str, nn.Module] | Sequence[nn.Module],
    tokenizer: Any,
    dataset: Any,
    recipe: str = "DeepWordBugGao2018",
    *,
    output_dir: str | Path | None = None,
    num_examples: int = 200,
    how: str = "stratified",
    seed: int = 0,
    noise: str = "mean",
    redraws: int = 20,
    max_length: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    query_budget: int | None = None,
    max_words: int = 4000,
    split: str = "test",
    text_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Attack many heads on one frozen backbone, each as ``attack`` would alone, over one memory of its features.

    For each example all heads are attacked one after the other: what an earlier head has asked for costs a later one
    its own few layers only. So most queries of PWWS are shared, which tries every single substitution of the text, but
    few of DeepWordBug, whose substitutions follow one another in an order that each head has for itself.

    Args:
        model: has ``features(**inputs)``, as ours do, or the folder or Hub id of one that has.
        heads: from features to logits, by name; names of a sequence are its positions. Their files go to the folders
            ``output_dir/name``.
        tokenizer, dataset, and all other arguments: as for ``attack``.

    Returns:
        One result JSON per head, by name.

    Raises:
        TypeError: ``model`` has no ``features``.
        ValueError: as ``attack``, or for a name that is no file name.
    """
    named = dict(heads) if isinstance(heads, Mapping) else {str(place): head for place, head in enumerate(heads)}
    for name in named:
        if not name or Path(name).name != name:
            raise ValueError(f"a head's name must be a file name, but is {name!r}")
    recipe = resolve_recipe(recipe)
    options = _Options(recipe, num_examples, how, seed, noise, redraws, query_budget, max_words, progress)
    examples = _open(dataset, options, split, text_column, label_column)
    network, tokenizer = _load(model, tokenizer, revision, trust_remote_code, dtype)
    if not hasattr(network, "features"):
        kind = type(network).__name__
        raise TypeError(f"model must have features(**inputs), but {kind} has none: use attack instead")
    features = TokenFeatures(network, tokenizer, max_length, batch_size)
    device = next(network.parameters()).device
    classifiers = {name: TextClassifier(features, head.to(device), options.draws) for name, head in named.items()}
    folders = {name: None if output_dir is None else Path(output_dir) / name for name in named}
    about = {"model": _name(model), "revision": revision, "dtype": str(_body(network).dtype).removeprefix("torch.")}
    return _run(classifiers, folders, examples, options, about)


def shared_heads(
    models: Sequence[str | Path], *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[nn.Module, dict[str, nn.Module]]:
    """The one backbone and the heads of checkpoints that were trained on it frozen, for ``attack_heads``.

    Args:
        models: folders or Hub ids of our checkpoints, or of the stock classifier, whose head is its last layer.
        revision, trust_remote_code: as for ``attack``.

    Returns:
        A model with ``features``, and the heads by the last part of the checkpoints' names.

    Raises:
        ValueError: two checkpoints have different backbones, or names that end alike.

    Example:
        >>> model, heads = shared_heads(["user/bert-imdb", "user/vib-bert-imdb", "user/vub-bert-imdb"])
        >>> attack_heads(model, heads, "user/bert-imdb", "imdb", "pwws")  # doctest: +SKIP
    """
    from transformers import AutoModelForSequenceClassification

    names = [Path(model).name for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"models must have names of their own, but they end in {', '.join(names)}")
    heads: dict[str, nn.Module] = {}
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code, "dtype": torch.float32}
    shared = VUBForSequenceClassification.from_pretrained(str(models[0]), **options)
    backbone = weights_digest(shared.backbone)
    for name, model in zip(names, map(str, models), strict=True):
        network = load(AutoModelForSequenceClassification, model, **options)
        if hasattr(network, "features"):
            heads[name], body = network.head, network.backbone
        else:
            heads[name], body = replace_classifier(network), network
        if weights_digest(body) != backbone:
            raise ValueError(f"{models[0]} and {model} have different backbones: attack them one by one")
    return shared.to(processes().device), heads


def wrapper(
    model: nn.Module | str | Path,
    tokenizer: Any = None,
    *,
    noise: str = "mean",
    max_length: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """A checkpoint as a ``textattack.models.wrappers.ModelWrapper``, for TextAttack's Python API and command line.

    Arguments, and what is raised, as for ``attack``.

    Example:
        >>> recipe = textattack.attack_recipes.PWWSRen2019.build(wrapper("user/vub-bert-imdb"))  # doctest: +SKIP
    """
    base = textattack_compat.load().models.wrappers.ModelWrapper
    network, tokenizer = _load(model, tokenizer, revision, trust_remote_code, dtype)
    network.eval()
    wrapped = type("HeadWrapper", (TextClassifier, base), {"__module__": __name__})
    return wrapped(TokenFeatures(network, tokenizer, max_length, batch_size), draws=parse_noise(noise))


@dataclass(frozen=True)
class _Options:
    """What is asked for, checked before anything is loaded."""

    recipe: str
    num_examples: int
    how: str
    seed: int
    noise: str
    redraws: int
    query_budget: int | None
    max_words: int
    progress: bool

    def __post_init__(self) -> None:
        parse_noise(self.noise)
        for name in ("num_examples", "redraws", "query_budget", "max_words"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, but is {value!r}")
        if self.how not in ("stratified", "first"):
            raise ValueError(f"how must be 'stratified' or 'first', but is {self.how!r}")

    @property
    def draws(self) -> int:
        return parse_noise(self.noise)


@dataclass(frozen=True)
class _Examples:
    """The texts of a run, with their row numbers in the data set."""

    name: str
    rows: list[int]
    texts: list[str]
    labels: list[int]
    class_names: list[str]
    """Empty where the data has no names for them."""

    def __iter__(self) -> Iterator[tuple[int, str, int]]:
        return zip(self.rows, self.texts, self.labels, strict=True)

    def digest(self) -> str:
        return hashlib.sha256(repr((self.rows, self.texts, self.labels)).encode()).hexdigest()[:16]


def _open(dataset: Any, options: _Options, split: str, text_column: str | None, label_column: str | None) -> _Examples:
    """The sample of a data set that a run attacks."""
    name = type(dataset).__name__
    if isinstance(dataset, (str, Path)):
        name = str(dataset)
        splits = load_splits(dataset, text_column=text_column, label_column=label_column)
        if split not in splits:
            raise ValueError(f"split must be one of {', '.join(splits)} in {name}, but is {split!r}")
        dataset, text_column, label_column = splits[split], "text", "label"
    dataset = stored(dataset, options.num_examples if options.how == "first" else None)
    if not isinstance(dataset, Dataset):
        raise TypeError(f"dataset must be a name, a path or a datasets.Dataset, but is a {type(dataset).__name__}")
    columns = dataset.column_names
    text_column = text_column or "text"
    label_column = label_column or ("label" if "label" in columns else "labels")
    for argument, column in (("text_column", text_column), ("label_column", label_column)):
        if column not in columns:
            raise ValueError(f"dataset has no column {column!r}, only {', '.join(columns)}: name one with {argument}")
    if not len(dataset):
        raise ValueError(f"dataset {name} has no rows")
    labels = read_labels(dataset, label_column)
    numbered = Dataset.from_dict({"label": labels, "row": range(len(labels))})
    rows = subset(numbered, options.num_examples, options.seed, options.how)["row"][:]
    texts = dataset.select_columns([text_column]).select(rows)[:][text_column]
    feature = dataset.features[label_column]
    return _Examples(
        name,
        list(rows),
        [clean_text(text) if isinstance(text, str) else "" for text in texts],
        [int(labels[row]) for row in rows],
        list(feature.names) if isinstance(feature, ClassLabel) else [],
    )


def _load(
    model: nn.Module | str | Path, tokenizer: Any, revision: str | None, trust_remote_code: bool, dtype: str | None
) -> tuple[Any, Any]:
    """Model and tokenizer; a model that is given is never changed, so another dtype takes a copy of it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if dtype not in (None, "float32", "bfloat16"):
        raise ValueError(f"dtype must be None, 'float32' or 'bfloat16', but is {dtype!r}")
    given = isinstance(model, nn.Module)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if tokenizer is None:
        if given:
            raise ValueError("tokenizer is None, which is only possible where model is a folder or a Hub id")
        tokenizer = load(AutoTokenizer, str(model), **options)
    elif isinstance(tokenizer, (str, Path)):  # from elsewhere: the revision is the model's
        tokenizer = load(AutoTokenizer, str(tokenizer), trust_remote_code=trust_remote_code)
    network: Any = model
    if not given:
        network = load(AutoModelForSequenceClassification, str(model), dtype="auto", **options)
        network = network.to(processes().device)
    if dtype is not None and _body(network).dtype != getattr(torch, dtype):
        network = copy.deepcopy(network) if given else network
        _body(network).to(getattr(torch, dtype))
    return network, tokenizer


def _body(model: Any) -> Any:
    """What runs in the dtype asked for: of ours the backbone, whose head computes in float32 whatever it is given."""
    return model.backbone if hasattr(model, "features") and hasattr(model, "backbone") else model


def _name(model: nn.Module | str | Path) -> str:
    if isinstance(model, nn.Module):
        return str(getattr(model, "name_or_path", "") or type(model).__name__)
    return str(model)


def _run(
    classifiers: dict[str, TextClassifier],
    folders: Mapping[str, str | Path | None],
    examples: _Examples,
    options: _Options,
    about: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """Attack every example with every head, on this process's share of the examples, and gather the results."""
    from tqdm.auto import tqdm

    state = processes()
    sources = nltk_resources.check(options.recipe)
    features = next(iter(classifiers.values())).features
    common = {
        "kind": "text_attack",
        **about,
        "dataset": examples.name,
        "attack": options.recipe,
        "seed": options.seed,
        "how": options.how,
        "noise": options.noise,
        "max_length": features.max_length,
        "query_budget": options.query_budget,
        "max_words": options.max_words,
        "redraws": options.redraws if options.draws else 0,
        "num_examples": len(examples.rows),
        "rows": examples.digest(),
        **sources,
    }
    results = {}
    with ExitStack() as stack:
        stack.enter_context(textattack_compat.quiet())
        stack.enter_context(textattack_compat.remembered_words())
        stack.enter_context(textattack_compat.no_downloads())
        for network in (features.model, *(classifier.head for classifier in classifiers.values())):
            if network is not None:
                stack.enter_context(frozen(network))
        for classifier in classifiers.values():
            _check_classes(classifier, examples)
        backbone = weights_digest(features.model)
        logs = {}
        for name, classifier in classifiers.items():
            own = {**({"head": name} if name else {}), "weights": [backbone, weights_digest(classifier.head)]}
            logs[name] = stack.enter_context(RunLog(folders[name], {**common, **own}, state))
        mine = list(examples)[state.process_index :: state.num_processes]
        first = next(iter(classifiers.values()))
        searcher = Searcher(options.recipe, first, options.redraws, options.query_budget, options.max_words)
        bar = stack.enter_context(
            tqdm(mine, unit="text", disable=None if options.progress and state.is_main_process else True)
        )
        for row, text, label in bar:
            for name, classifier in classifiers.items():
                if row not in logs[name].records:
                    with seeded(options.seed, row):
                        logs[name].add({"index": row, "label": label, **searcher.attack(classifier, text, label)})
                    classifier.clear()
            features.clear()
            searcher.clear()
            bar.set_postfix_str(_running(logs.values()), refresh=False)
        origin = provenance()  # asks git and the package metadata: once for all heads
        for name, log in logs.items():
            records = log.finish(examples.rows)
            shown = {key: value for key, value in log.settings.items() if key != "redraws"}
            result = {**origin, **shown, "class_names": _class_names(features.model, examples)}
            result |= _summary(records, options)
            result["seconds"] = sum(record["seconds"] for record in records)
            if log.path is not None and state.is_main_process:
                write_json(log.path / "result.json", result)
                refresh_model_card(log.path.absolute().parent)
            results[name] = result
    return results


def _check_classes(classifier: TextClassifier, examples: _Examples) -> None:
    """Refuse labels that the model has not, before the attack starts."""
    classes = classifier(["a"]).shape[-1]
    classifier.clear()
    highest = max(examples.labels)
    named = len(examples.class_names)
    if highest >= classes or min(examples.labels) < 0 or (named or classes) != classes or classes < 2:
        told = f"has {named} classes" if named else f"has labels up to {highest}"
        raise ValueError(f"the model has {classes} classes, but dataset {examples.name} {told}: they do not fit")


def _class_names(model: Any, examples: _Examples) -> list[str]:
    """What the data calls the classes, or else the model."""
    known = getattr(getattr(model, "config", None), "id2label", None) or {}
    return examples.class_names or [str(name) for name in known.values()]


def _running(logs: Any) -> str:
    records = [record for log in logs for record in log.records.values() if record["status"] == "attacked"]
    return f"success {sum(record['success'] for record in records)}/{len(records)}"


def _summary(records: Sequence[dict[str, Any]], options: _Options) -> dict[str, Any]:
    """The figures of a run from its records alone."""
    reasons = Counter(record["status"] for record in records if record["status"].startswith("skipped"))
    kept = [record for record in records if not record["status"].startswith("skipped")]
    if not kept:
        raise ValueError(f"no text could be attacked; {next(iter(reasons), 'there was none')}")
    tried = [record for record in kept if record["status"] == "attacked"]
    wins = [record for record in tried if record["success"]]
    figures = attack_summary(
        [record["prediction"] == record["label"] for record in kept],
        [record["status"] == "attacked" and not record["success"] for record in kept],
    )
    summary = {
        **figures,
        "num_skipped": len(records) - len(kept),
        "skipped": {reason.removeprefix("skipped: "): count for reason, count in sorted(reasons.items())},
        "attack_success_interval": list(wilson_interval(len(wins), len(tried))),
        "words_perturbed_mean": _mean([record["words_perturbed"] for record in wins]),
        "queries_mean": _mean([record["queries"] for record in tried]),
    }
    if options.draws:
        summary["redraws"] = {
            "draws": options.redraws,
            **_redrawn("accuracy_under_attack", [1 - record["redraws_wrong"] / options.redraws for record in kept]),
            **_redrawn("attack_success_rate", [record["redraws_wrong"] / options.redraws for record in tried]),
        }
    return summary


def _redrawn(name: str, shares: list[float]) -> dict[str, Any]:
    """A rate over fresh draws; the interval is over texts, each with the share of its draws as one observation."""
    return {name: _mean(shares), f"{name}_interval": list(share_interval(shares))}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
