"""What an experiment of the paper's section 4 consists of: its settings, its presets, and the backbone it stands on."""

import logging
from dataclasses import dataclass, fields, replace
from typing import Any

from ..model.configuration_vub import Objective
from ..sweep.heads import HeadRun

logger = logging.getLogger(__name__)

PROBE_EPOCHS, PROBE_STEPS = 20, 200
"""The least that a linear probe is trained; small data are seen more often."""


@dataclass(frozen=True)
class Experiment:
    """Settings of a reproduction.

    Attributes:
        name: of the preset it came from.
        task: "text" or "image".
        model: folder or Hub id of the backbone, with or without a trained classifier.
        dataset: name or path for ``hf_vub.data.splits``.
        objectives: of the grid.
        betas: of the grid.
        entropy_weights: of the grid, for vub.
        runs: seeds per point of the grid.
        epochs: of the heads.
        batch_size: of the heads.
        learning_rate: of the heads in the first epoch.
        validation: share of the training rows held out to choose beta; 0 trains on all and chooses on test alone.
        max_train: training rows used, None for all.
        max_test: test rows used, None for all.
        max_length: tokens that a text is cut to.
        attacks: recipes of TextAttack, or names of ``hf_vub.attacks.image.adversaries``.
        num_examples: test rows attacked.
        cw_examples: of these, rows for the Carlini-Wagner attack.
        cw_steps: its steps for each of nine weights of its loss; fewer leave larger distances.
        how: "stratified" or "first".
        epsilons: budgets of the fast gradient sign attack.
        target: class that Carlini-Wagner reaches for, by name or number; the last class where there is no such one.
        stress: attacks on the best head of each objective: images by name, texts a predictor such as "sampled".
        stress_examples: test rows for these.
        from_config: random weights; nothing is loaded.
        seed: of the splits, of the samples and, counting up from it, of the runs.
    """

    name: str
    task: str
    model: str
    dataset: str
    objectives: tuple[str, ...] = ("vib", "vub")
    betas: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    entropy_weights: tuple[float, ...] = (1.0,)
    runs: int = 10
    epochs: int = 150
    batch_size: int = 16
    learning_rate: float = 1e-4
    validation: float = 0.1
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
        for name in ("objectives", "betas", "entropy_weights"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one")
        self.grid()  # checks every value in it

    def grid(self) -> list[HeadRun]:
        """Every run; weights that an objective does not have are 0 (beta) and 1 (entropy_weight), and count once."""
        found: dict[HeadRun, None] = {}
        for objective in map(Objective.parse, self.objectives):
            for beta in (0.0,) if objective is Objective.CE else self.betas:
                for weight in self.entropy_weights if objective is Objective.VUB else (1.0,):
                    for seed in range(self.seed, self.seed + self.runs):
                        found[HeadRun(objective.value, beta, weight, seed)] = None
        return list(found)


_TEXT: dict[str, Any] = {"task": "text", "attacks": ("deepwordbug", "pwws"), "stress": ("sampled",)}
_IMAGE: dict[str, Any] = {
    "task": "image",
    "attacks": ("fgs", "cw"),
    "stress": ("pgd_linf", "pgd_l2", "apgd_ce", "apgd_dlr", "square"),
    "batch_size": 32,
    "epochs": 100,
}
PRESETS: dict[str, dict[str, Any]] = {
    "imdb": {**_TEXT, "model": "textattack/bert-base-uncased-imdb", "dataset": "stanfordnlp/imdb", "max_length": 512},
    "cifar10": {**_IMAGE, "model": "timm/resnet18.a1_in1k", "dataset": "uoft-cs/cifar10"},
    "imagenet": {
        **_IMAGE,
        "model": "timm/inception_v3.tv_in1k",
        "dataset": "ILSVRC/imagenet-1k",
        "target": "soccer ball",
    },
}
PAPER: dict[str, dict[str, Any]] = {
    "imdb": {"runs": 5, "epochs": 150, "num_examples": 200, "how": "first", "validation": 0.0},
    "cifar10": {"runs": 5, "epochs": 100, "cw_steps": 1000, "validation": 0.0},
    "imagenet": {
        **{"runs": 5, "epochs": 100, "num_examples": 50_000, "cw_examples": 500, "cw_steps": 1000},
        "validation": 0.0,
    },
}
"""What --paper changes: the numbers of the paper's section 4; "first" is its sample of IMDB."""


def experiment(name: str, paper: bool = False, **changes: Any) -> Experiment:
    """The preset of that name with changes; a change to None keeps the preset's value.

    Raises:
        ValueError: for an unknown preset or a value out of range.

    Example:
        >>> experiment("imdb", runs=5, model="runs/my-model").batch_size
        16
    """
    if name not in PRESETS:
        raise ValueError(f"experiment is {name!r}; it must be one of {', '.join(PRESETS)}")
    tuples = {field.name for field in fields(Experiment) if str(field.type).startswith("tuple")}
    options = {**PRESETS[name], **(PAPER[name] if paper else {})}
    for option, value in changes.items():
        if value is not None:
            options[option] = tuple(value) if option in tuples else value
    return Experiment(name=name, **options)


def without(settings: Experiment, **changes: Any) -> Experiment:
    """The same settings with some of them changed."""
    return replace(settings, **changes)
