"""Settings of an experiment: the grid of heads, the backbone and the data they stand on, and the attacks on them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict

from ..attacks.image.adversaries import FastGradient, make, parse_epsilons
from ..attacks.text.recipes import resolve_recipe
from ..compute.predictor import parse_noise
from ..data.splits import load_splits
from ..model.configuration_vub import Objective
from ..model.loading import Task
from ..sweep.heads import HeadRun
from ..sweep.runs import Settings

COMPARE = "compare"
"""Name of the experiment on one's own data; every other name is a preset of the paper."""


class Columns(TypedDict):
    """The options of ``load_splits`` that name columns."""

    text_column: str | None
    image_column: str | None
    label_column: str | None
    column_names: Sequence[str] | None


@dataclass(frozen=True)
class Experiment:
    """Settings of a reproduction, or of a comparison on one's own data.

    Attributes:
        name: preset, or "compare".
        task: "text" or "image".
        model: folder or Hub id of the backbone, with or without a trained classifier.
        dataset: name or path for ``hf_vub.data.splits.load_splits``.
        text_column: column of the texts; the usual names are recognised.
        image_column: column of the images; the usual names are recognised.
        label_column: column of the labels; the usual names are recognised.
        column_names: names of the columns of a CSV file without a header.
        match_labels: match the classes of data and stock classifier by "name" (by number if one side has no names) or
            by "number".
        objectives: objectives in the grid.
        betas: weights of the rate in the grid.
        entropy_weights: weights of the min term in the grid (vub only).
        runs: seeds per point of the grid.
        epochs: passes of the heads over the training rows.
        batch_size: rows per step of the heads.
        learning_rate: of the heads, in the first epoch.
        validation: share of the training rows held out to choose beta. With 0 the heads train on all rows, and beta is
            chosen on the test split.
        choose_on: rows that choose beta: "validation", or "test half": one half of the test rows, stratified and fixed
            by ``seed``, which a backbone fine-tuned on the training split has not seen. The other half is tested on,
            and no training rows are held out.
        max_train: most training rows used, the held-out ones included; None for all.
        max_test: most test rows used; None for all.
        max_length: most tokens per text.
        attacks: TextAttack recipes, or names of attacks in ``hf_vub.attacks.image.adversaries``.
        num_examples: test rows attacked.
        cw_examples: test rows attacked by Carlini-Wagner, at most ``num_examples``.
        cw_steps: steps of Carlini-Wagner for each of the nine weights of its loss. Fewer steps find larger distances.
        how: how the attacked rows are chosen: "stratified" or "first".
        epsilons: budgets of the fast gradient sign attack.
        target: class that Carlini-Wagner aims at, by name or number; the last class if the data have no such class.
        stress: further attacks on the best head of each objective: on images by name, on texts a predictor such as
            "sampled".
        stress_examples: test rows for each of these.
        from_config: random weights; nothing is loaded.
        seed: draws the rows (``max_train``, ``max_test``, attacked rows) and is the seed of the first run; the other
            runs count up from it.

    Raises:
        ValueError: a value is out of range, or the grid is empty.
    """

    name: str
    task: Task
    model: str
    dataset: str
    text_column: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    column_names: tuple[str, ...] = ()
    match_labels: str = "name"
    objectives: tuple[str, ...] = ("vib", "vub")
    betas: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    entropy_weights: tuple[float, ...] = (1.0,)
    runs: int = 10
    epochs: int = 150
    batch_size: int = 16
    learning_rate: float = 1e-4
    validation: float = 0.1
    choose_on: Literal["validation", "test half"] = "validation"
    max_train: int | None = None
    max_test: int | None = None
    max_length: int | None = None
    attacks: tuple[str, ...] = ()
    num_examples: int = 200
    cw_examples: int = 16
    cw_steps: int = 200
    how: str = "stratified"
    epsilons: tuple[str, ...] = ("8/255", "0.1", "0.5")
    target: str | None = None
    stress: tuple[str, ...] = ()
    stress_examples: int = 100
    from_config: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("runs", "epochs", "batch_size", "num_examples", "cw_examples", "cw_steps", "stress_examples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation is {self.validation}; it must be a share of the training rows below 1")
        if self.choose_on not in ("validation", "test half"):
            raise ValueError(f"choose_on is {self.choose_on!r}; it must be 'validation' or 'test half'")
        if self.is_comparison and self.choose_on == "validation" and self.validation == 0:
            raise ValueError("validation is 0; a comparison chooses its setting on validation rows, so hold some out")
        for name in ("objectives", "betas", "entropy_weights"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one")
        self.grid()  # checks every value in it

    def check_attacks(self) -> None:
        """Raise ValueError for what only the attacks or the training of the heads would refuse, after hours of work.

        Raises:
            ImportError: an attack needs a package that is not installed.
        """
        Settings(num_labels=2, label_entropy=0.0, batch_size=self.batch_size, learning_rate=self.learning_rate)
        for name, choices in (("how", ("stratified", "first")), ("match_labels", ("name", "number"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {' or '.join(map(repr, choices))}")
        if self.task == "text":
            for recipe in self.attacks:
                resolve_recipe(recipe)
            for noise in self.stress:
                parse_noise(noise)
        else:
            for attack in (*self.attacks, *self.stress):
                make(attack)
            parse_epsilons(FastGradient(), self.epsilons)

    @property
    def is_comparison(self) -> bool:
        """Return whether this compares on one's own data rather than reproducing the paper."""
        return self.name == COMPARE

    @property
    def held_out(self) -> float:
        """Return the share of the training rows that is held out to choose beta."""
        return self.validation if self.choose_on == "validation" else 0.0

    @property
    def choose_by(self) -> str:
        """Return the metric that chooses each objective's setting: the paper's accuracy, or NLL on one's own data."""
        return "nll" if self.is_comparison else "accuracy"

    def grid(self) -> list[HeadRun]:
        """Return every run. Weights that an objective lacks are 0 (beta) and 1 (entropy_weight), and count once."""
        runs: dict[HeadRun, None] = {}
        for objective in map(Objective.parse, self.objectives):
            for beta in (0.0,) if objective is Objective.CE else self.betas:
                for weight in self.entropy_weights if objective is Objective.VUB else (1.0,):
                    for seed in range(self.seed, self.seed + self.runs):
                        runs[HeadRun(objective.value, beta, weight, seed)] = None
        return list(runs)

    def columns(self) -> Columns:
        """Return the options of ``load_splits`` that name columns."""
        return {
            "text_column": self.text_column,
            "image_column": self.image_column,
            "label_column": self.label_column,
            "column_names": self.column_names or None,
        }


_TEXT: dict[str, Any] = {
    "task": "text",
    "attacks": ("deepwordbug", "pwws"),
    "stress": ("sampled",),
    "choose_on": "test half",
}
_IMAGE: dict[str, Any] = {
    "task": "image",
    "attacks": ("fgs", "pgd_linf", "cw"),
    "stress": ("pgd_linf", "pgd_l2", "apgd_ce", "apgd_dlr", "square"),
    "batch_size": 32,
    "epochs": 100,
    "choose_on": "test half",
}
PRESETS = {
    "imdb": Experiment(
        "imdb", model="textattack/bert-base-uncased-imdb", dataset="stanfordnlp/imdb", max_length=512, **_TEXT
    ),
    "cifar10": Experiment("cifar10", model="timm/resnet18.a1_in1k", dataset="uoft-cs/cifar10", **_IMAGE),
    "imagenet": Experiment(
        "imagenet", model="timm/inception_v3.tv_in1k", dataset="ILSVRC/imagenet-1k", target="soccer ball", **_IMAGE
    ),
}
_ON_TEST = {"validation": 0.0, "choose_on": "validation"}
PAPER: dict[str, dict[str, Any]] = {
    "imdb": {"runs": 5, "epochs": 150, "num_examples": 200, "how": "first", **_ON_TEST},
    "cifar10": {"runs": 5, "epochs": 100, "cw_steps": 1000, **_ON_TEST},
    "imagenet": {
        **{"runs": 5, "epochs": 100, "num_examples": 50_000, "cw_examples": 500, "cw_steps": 1000},
        **_ON_TEST,
    },
}
"""Changes that ``--paper`` makes: the numbers of the paper's section 4. "first" is its sample of IMDB."""

_COMPARISON: dict[str, dict[str, Any]] = {
    "text": {"attacks": ("deepwordbug",), "epochs": 40},
    "image": {"attacks": ("fgs", "pgd_linf"), "epochs": 40, "stress": ("square",), "epsilons": ("8/255",)},
}


def experiment(name: str, paper: bool = False, **changes: Any) -> Experiment:
    """Return a preset with some settings changed; a change to None keeps the preset's value.

    Args:
        name: "imdb", "cifar10" or "imagenet".
        paper: take the paper's runs, epochs, examples and choice of beta.
        **changes: any attribute of `Experiment`.

    Raises:
        ValueError: the preset is unknown, or a value is out of range.

    Example:
        >>> experiment("imdb", runs=5, model="runs/my-model").batch_size
        16
    """
    if name not in PRESETS:
        raise ValueError(
            f"experiment is {name!r}; it must be one of {', '.join(PRESETS)}, or {COMPARE} for your own data"
        )
    return _changed(PRESETS[name], {**(PAPER[name] if paper else {}), **_given(changes)})


def comparison(model: str, dataset: str, *, task: Task | None = None, **changes: Any) -> Experiment:
    """Return the settings of a comparison of VIB, VUB and simple baselines on one's own data.

    Args:
        model: folder or Hub id of the backbone.
        dataset: name or path for ``hf_vub.data.splits.load_splits``.
        task: "text" or "image"; by default what the data set holds.
        **changes: any attribute of `Experiment`; None keeps the default.

    Raises:
        ValueError: a value is out of range, or the data set cannot be read.
        FileNotFoundError: there is no such data set.

    Example:
        >>> comparison("runs/my-model", "digits", task="image").attacks
        ('fgs', 'pgd_linf')
    """
    given = _given(changes)
    settings = _changed(Experiment(COMPARE, task or "text", model, dataset, runs=3, num_examples=100), given)
    if task is None:
        columns = load_splits(dataset, **settings.columns())["test"].column_names
        task = "image" if "image" in columns else "text"
    if task not in _COMPARISON:
        raise ValueError(f"task is {task!r}; it must be 'text' or 'image'")
    return _changed(replace(settings, task=task), {**_COMPARISON[task], **given})


def _given(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}


def _changed(settings: Experiment, changes: dict[str, Any]) -> Experiment:
    """Return the settings with some of them changed; lists become tuples."""
    tuples = {field.name for field in fields(Experiment) if str(field.type).startswith("tuple")}
    cast: dict[str, Any] = {name: tuple(value) if name in tuples else value for name, value in changes.items()}
    return replace(settings, **cast)
