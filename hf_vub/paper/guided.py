"""Attack heads of one frozen backbone by their own score and by the score of another head.

A text attack climbs the score of the model that it attacks. Here one head decides and another guides the search, with
everything else equal: features, texts, edits and stopping rule. Where success follows the guide, the head that decides
hides the way and is not robust.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from ..compute.precision import compute_dtype
from ..data.preprocessing import clean_text
from ..data.record import TrainingRecord
from ..data.splits import label_names, load_splits, read_labels, subset
from ..embeddings.extraction import Features, extract
from ..metrics.classification import classification_metrics
from ..metrics.intervals import share_interval
from ..runs.files import lock_folder, read_records
from ..runs.provenance import provenance, public_name
from ..runs.schema.guided import GuidedAttack, GuidedHead, GuidedSearch
from ..sweep.heads import HeadRun, train_heads
from .backbone import LoadedBackbone, aligned_classifier, load_backbone
from .controls import HEADS, STOCK, VUB, Plain, about_head, train_plain_head, typing_errors
from .experiments import comparison
from .guided_outcomes import compare_attacks, margin, plateau, summary
from .heads import in_blocks, load_head, save_head

logger = logging.getLogger(__name__)

CONFIDENT = 0.9
"""Probability from which a correct answer of the stock classifier counts as confident."""

_BLOCK = 20  # texts attacked between two results on disk
_TYPO_DRAWS = 5


@dataclass(frozen=True)
class GuidedSettings:
    """Settings of the experiment.

    Attributes:
        model: folder or Hub id of a stock text classifier.
        dataset: name or path for ``hf_vub.data.splits.load_splits``.
        recipes: TextAttack recipes.
        heads: names in `hf_vub.paper.controls.HEADS`; the stock classifier is always among them.
        num_examples: test rows drawn, stratified; those that a head classifies correctly are attacked.
        min_words, max_words: only rows with so many words are drawn, as an attack's time grows with the square of it.
        max_train: most training rows, a tenth of which is held out.
        measured: test rows on which accuracy, calibration and margins are measured.
        epochs: of the heads.
        max_length: tokens that a text is cut to.
        seed: of the drawn rows, the heads and the attacks.

    Raises:
        ValueError: a number is out of range, or a head is unknown.
    """

    model: str
    dataset: str
    recipes: Sequence[str] = ("deepwordbug",)
    heads: Sequence[str] = tuple(HEADS)
    num_examples: int = 200
    min_words: int = 30
    max_words: int = 80
    max_train: int = 4000
    measured: int = 2000
    epochs: int = 40
    max_length: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_examples", "min_words", "max_train", "measured", "epochs", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}")
        if self.max_words < self.min_words:
            raise ValueError(f"max_words must be at least min_words = {self.min_words}, but is {self.max_words}")
        if unknown := [name for name in self.heads if name not in HEADS]:
            raise ValueError(f"heads must be of {', '.join(HEADS)}, but one is {unknown[0]!r}")

    @property
    def names(self) -> list[str]:
        """The heads in the order of the table."""
        return [name for name in HEADS if name == STOCK or name in self.heads]


def guided_search(settings: GuidedSettings, output_dir: str | Path) -> GuidedSearch:
    """Train the heads, attack the same texts with every pair of deciding and guiding head, and compare the outcomes.

    Args:
        settings: of the experiment.
        output_dir: gets ``results.json``, written anew after every 20 texts. A run found there is resumed; one with
            fewer examples, heads or recipes is extended.

    Raises:
        ValueError: the classes of model and data cannot be matched, the model has no last linear layer, or too few
            rows have the words asked for.
        nltk_resources.ResourceError: a recipe reads something that is not on this machine.
    """
    folder = Path(output_dir)
    with lock_folder(folder):
        experiment = _Experiment(settings, folder)
        result = experiment.result([])
        done: list[GuidedAttack] = []
        for recipe in settings.recipes:
            runs: dict[tuple[str, str], list[Mapping[str, object]]] = {}
            for block in experiment.blocks():
                for pair, records in experiment.attack(recipe, block):
                    runs.setdefault(pair, []).extend(records)
                attacks = [summary(recipe, *pair, records) for pair, records in runs.items()]
                result = experiment.result([*done, *attacks])
                result.save(folder / "results.json")
                logger.info("%s: %d of %d texts", recipe, block.stop, settings.num_examples)
            done += attacks
        return result


class _Experiment:
    """The data, heads and attacks of one experiment in one folder; every part is made once, when it is asked for."""

    def __init__(self, settings: GuidedSettings, folder: Path):
        self.settings, self.folder = settings, folder
        self.seconds = 0.0
        self.splits = load_splits(
            settings.dataset, medium="text", max_train=settings.max_train, validation=0.1, seed=settings.seed
        )
        self.classes = label_names(self.splits)
        self.candidates, self.rows = self._draw()
        self.drawn = self.splits["test"].select(self.rows)

    def _draw(self) -> tuple[int, list[int]]:
        """Return how many test rows have the words asked for and are no training rows, and those that are drawn."""
        own, test = self.settings, self.splits["test"]
        seen = TrainingRecord.of(self.splits, own.dataset).seen(test)
        words = np.array([len(clean_text(text).split()) for text in test[:]["text"]])
        fitting = np.flatnonzero((words >= own.min_words) & (words <= own.max_words) & ~np.asarray(seen, dtype=bool))
        if len(fitting) < own.num_examples:
            raise ValueError(
                f"num_examples must be at most {len(fitting)}, the test rows of {own.min_words} to {own.max_words} "
                f"words, but is {own.num_examples}"
            )
        # Classes in turn from a shuffle, so that the rows of a smaller experiment are the first ones of a larger.
        shuffled = np.random.default_rng(own.seed).permutation(fitting)
        labels = np.asarray(read_labels(test))[shuffled]
        by_class = [shuffled[labels == label].tolist() for label in range(len(self.classes))]
        in_turn = [row for row in chain.from_iterable(zip_longest(*by_class)) if row is not None]
        return len(fitting), in_turn[: own.num_examples]

    @cached_property
    def backbone(self) -> LoadedBackbone:
        """Load the frozen model."""
        own = self.settings
        settings = comparison(own.model, own.dataset, task="text", seed=own.seed, max_length=own.max_length)
        return load_backbone(settings, len(self.classes), [])

    def features(self, dataset: Dataset) -> Features:
        """Return the cached features of some rows."""
        return extract(
            self.backbone.model,
            dataset,
            self.folder / "features",
            processing_class=self.backbone.processor,
            max_length=self.settings.max_length,
        )

    @cached_property
    def heads(self) -> dict[str, nn.Module]:
        """Train the heads, or read them from their files."""
        folder, own = self.folder / "heads", self.settings
        train = self.features(self.splits["train"])
        stock = aligned_classifier(self.backbone, self.classes, "name")
        if stock is None:
            raise ValueError(f"model {own.model} has no trained last layer for {len(self.classes)} classes")
        found: dict[str, nn.Module] = {STOCK: stock}
        runs = {name: replace(run, seed=own.seed) for name in own.names if isinstance(run := HEADS[name], HeadRun)}
        results = train_heads(
            train.features, train.labels, list(runs.values()), num_labels=len(self.classes), epochs=own.epochs,
            checkpoint_dir=folder / "checkpoints",
        )  # fmt: skip
        found |= {name: result.head for name, result in zip(runs, results, strict=True)}
        for name in own.names:
            if isinstance(plain := HEADS[name], Plain):
                path = folder / f"{name}-{own.epochs}-{len(train)}-{own.seed}.safetensors"
                if not path.exists():
                    head = train_plain_head(
                        train.features, train.labels, num_labels=len(self.classes), epochs=own.epochs, seed=own.seed,
                        entropy_weight=plain.entropy_weight,
                    )  # fmt: skip
                    save_head(head, path)
                found[name] = load_head(path)
        return {name: found[name].requires_grad_(False).eval() for name in own.names}

    # Attacks

    def blocks(self) -> Iterator[range]:
        """Yield the positions of the drawn rows, block by block."""
        for start in range(0, len(self.rows), _BLOCK):
            yield range(start, min(start + _BLOCK, len(self.rows)))

    def attack(self, recipe: str, block: range) -> Iterator[tuple[tuple[str, str], list[Mapping[str, object]]]]:
        """Attack a block of texts; yield the pair of deciding and guiding head with the records of the block."""
        folder = self.folder / recipe / f"{block.start}-{block.stop}"
        for name, records in self._attack(recipe, block, self.heads, STOCK, "both", folder).items():
            yield (name, name), [_searched(record, "own") for record in records]
            if name != STOCK:
                yield (name, STOCK), [_searched(record, "guided") for record in records]
        if VUB in self.heads:
            found = self._attack(recipe, block, {STOCK: self.heads[STOCK]}, VUB, "guided", folder / f"by-{VUB}")
            yield (STOCK, VUB), found[STOCK]

    def _attack(
        self, recipe: str, block: range, heads: Mapping[str, nn.Module], guide: str, search: str, folder: Path
    ) -> dict[str, list[Mapping[str, object]]]:
        from ..attacks.text.attack import attack_text_heads

        results = attack_text_heads(
            self.backbone.model, heads, self.drawn.select(block), recipe, tokenizer=self.backbone.processor,
            num_examples=None, how="first", seed=self.settings.seed, max_length=self.settings.max_length,
            guide=self.heads[guide], search=search, match_labels="number", output_dir=folder, progress=False,
        )  # fmt: skip
        self.seconds += sum(result.seconds for result in results.values())
        return {name: list(read_records(folder / name / "records.jsonl")) for name in heads}

    # Results

    @cached_property
    def measured(self) -> dict[str, GuidedHead]:
        """Measure every head on test rows, and on the drawn rows with random typing errors."""
        rows = self.features(self._measured_rows)
        logits = {name: torch.cat(list(in_blocks(head, rows.features))) for name, head in self.heads.items()}
        confident = self._confident
        margins = {name: margin(values[confident]) for name, values in logits.items()}
        typos = self._under_typos()
        return {
            name: GuidedHead(
                **about_head(name, len(self.classes)),
                metrics={**classification_metrics(logits[name], rows.labels)},
                **plateau(margins[name], margins[STOCK], name != STOCK),
                accuracy_under_typos=float(typos[name].mean()),
                accuracy_under_typos_interval=share_interval(typos[name].tolist()),
            )
            for name in self.heads
        }

    @cached_property
    def _measured_rows(self) -> Dataset:
        return subset(self.splits["test"], self.settings.measured, self.settings.seed)

    @cached_property
    def _confident(self) -> Tensor:
        """Measured rows that the stock classifier gets right with confidence."""
        rows = self.features(self._measured_rows)
        highest, predicted = torch.cat(list(in_blocks(self.heads[STOCK], rows.features))).softmax(-1).max(-1)
        return (highest >= CONFIDENT) & (predicted == rows.labels)

    def _under_typos(self) -> dict[str, np.ndarray]:
        """Return for each head the share of draws of typing errors after which a drawn row is classified correctly."""
        texts, labels = self.drawn[:]["text"], read_labels(self.drawn)
        changed = [
            typing_errors(clean_text(text), seed=self.settings.seed + 1000 * draw + place)
            for draw in range(_TYPO_DRAWS)
            for place, text in enumerate(texts)
        ]
        dataset = Dataset.from_dict({"text": changed, "label": list(labels) * _TYPO_DRAWS})
        rows = self.features(dataset)
        return {
            name: (torch.cat(list(in_blocks(head, rows.features))).argmax(-1) == rows.labels)
            .double()
            .reshape(_TYPO_DRAWS, -1)
            .mean(0)
            .numpy()
            for name, head in self.heads.items()
        }

    def result(self, attacks: Sequence[GuidedAttack]) -> GuidedSearch:
        """Return the result of the attacks so far."""
        own = self.settings
        return GuidedSearch(
            **provenance(),
            model=public_name(own.model),
            dataset=public_name(own.dataset),
            seed=own.seed,
            max_length=own.max_length,
            dtype=str(compute_dtype("auto", torch.device("cpu"))).removeprefix("torch."),
            epochs=own.epochs,
            data_rows=self.splits.described(),
            num_train=len(self.splits["train"]),
            num_measured=len(self._measured_rows),
            num_confident=int(self._confident.sum()),
            confident=CONFIDENT,
            min_words=own.min_words,
            max_words=own.max_words,
            num_candidates=self.candidates,
            rows=tuple(self.rows),
            typo_draws=_TYPO_DRAWS,
            heads=self.measured,
            attacks=tuple(attacks),
            comparisons=tuple(compare_attacks(attacks)),
            seconds=self.seconds,
        )


def _searched(record: Mapping[str, object], search: str) -> Mapping[str, object]:
    """Return the record of one of two searches of a text."""
    outcome = record.get(search)
    return {**record, **outcome} if isinstance(outcome, Mapping) else record
