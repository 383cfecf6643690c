"""The result of a reproduction: stock classifier, heads, attacks, statistics and the paper's claims."""

from dataclasses import dataclass, field
from typing import Literal

from .attacks import AttackSummary, Check
from .part import Part
from .result import Metrics, Result

Series = tuple[float | None, ...]
"""One value per epoch or bin, None where there is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadSettings(Part):
    """One head of the grid."""

    objective: str
    beta: float
    entropy_weight: float
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSummary(Part):
    """The data of a reproduction."""

    num_labels: int
    feature_size: int
    class_names: tuple[str, ...]
    num_train: int
    num_validation: int | None = None
    num_test: int
    label_entropy: float
    """H(Y) of the training labels in nats."""
    data_rows: str | None = None
    """Which rows were trained, selected and tested on, in words."""
    seen_by_backbone: dict[str, int] | None = None
    """Rows of each split that the backbone was trained or selected on; None where its checkpoint has no record."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability(Part):
    """Test rows by confidence, one value per bin."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    count: tuple[int, ...]
    confidence: Series
    """Mean confidence; None for an empty bin."""
    accuracy: Series


@dataclass(frozen=True, kw_only=True, eq=False)
class Phases(Part):
    """Turns of a training run in the information plane."""

    rises: int
    falls: int
    cycles: int
    """Rises of I(Z;X) with a fall that follows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes(Part):
    """What one attack did to each of its rows, in the same order for every classifier."""

    letters: str
    """S for a success, F for a failure, - for a row that was not attacked, such as one misclassified before."""
    l2: tuple[float | None, ...] | None = None
    """Distances of the successes in [0, 1] pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineResult(Part):
    """A classifier without a bottleneck on the same features: the stock classifier, or one fitted to them."""

    origin: str
    """What it is: "checkpoint", "logistic regression", ..."""
    hyperparameters: dict[str, object] | None = None
    """Those chosen on the validation rows."""
    metrics: Metrics
    """On the test rows."""
    reliability: Reliability
    validation: Metrics | None = None
    """On the validation rows; None without any."""
    attacks: dict[str, AttackSummary]
    """By column of the table."""
    outcomes: dict[str, Outcomes] = field(default_factory=dict)
    """By column of the table; empty in files older than paired comparisons."""
    correct: str | None = None
    """Which test rows were classified correctly: their number, a colon, and one bit each in base64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadResult(HeadSettings):
    """One trained head."""

    name: str
    metrics: Metrics
    """On the test rows."""
    reliability: Reliability
    validation: Metrics | None = None
    phases: Phases
    attacks: dict[str, AttackSummary]
    """By column of the table."""
    outcomes: dict[str, Outcomes] = field(default_factory=dict)
    """By column of the table; empty in files older than paired comparisons."""
    correct: str | None = None
    """Which test rows were classified correctly: their number, a colon, and one bit each in base64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingCurve(HeadSettings):
    """The training of one head, one value per epoch, in nats."""

    information: Series | None = None
    inverse_cross_entropy: Series | None = None
    cross_entropy: Series | None = None
    rate: Series | None = None
    entropy: Series | None = None
    eval_accuracy: Series | None = None
    """Share of validation rows classified correctly."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StressResult(AttackSummary):
    """A stronger attack, or another predictor, on the best head of an objective."""

    objective: str
    head: str


@dataclass(frozen=True, kw_only=True, eq=False)
class StressCard(Part):
    """The checks for masked gradients of the best head of an objective."""

    kind: Literal["report_card"] = "report_card"
    attack: Literal["report_card"] = "report_card"
    objective: str
    head: str
    passed: bool | None
    checks: tuple[Check, ...]
    why: str | None = None
    """Why there are no checks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextExample(Part):
    """A text before and after a successful attack."""

    attack: str
    head: str
    index: int
    """Row in the data set."""
    original: str
    perturbed: str
    label: str
    prediction: str
    """The wrong class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageExample(Part):
    """An image before and after an attack; images are PNG in base64."""

    attack: str
    objective: str
    index: int
    """Row in the data set."""
    epsilon: float | None
    l2: float | None
    """Distance in [0, 1] pixels."""
    success: bool
    label: str
    prediction: str
    magnification: float
    """Factor by which ``perturbation`` shows the change."""
    original: str
    perturbation: str
    adversarial: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples(Part):
    """What the attacks made, for the figures."""

    texts: tuple[TextExample, ...]
    images: tuple[ImageExample, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice(Part):
    """The best point of the grid of an objective."""

    beta: float
    entropy_weight: float
    on: str
    """The rows that decided: "validation" or "test"."""
    by: str | None = None
    """The metric that decided: "accuracy" (the highest mean wins) or "nll" (the lowest)."""
    accuracy: float
    """Mean over seeds, on those rows."""
    run: HeadSettings
    """Its best run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistic(Part):
    """VUB minus VIB in one metric, over runs of the same seed; p-values are two-sided."""

    name: str
    runs: int
    vib: tuple[float, float]
    """Mean and standard deviation (n - 1)."""
    vub: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    """95 % bootstrap interval of the mean difference."""
    rank_sum_p: float
    signed_rank_p: float
    sign_p: float
    permutation_p: float
    cliffs_delta: float
    vargha_delaney: float
    cohens_dz: float | None
    """None with one run, or where all differences are equal and not zero."""
    rank_sum_holm: float
    """``rank_sum_p`` after Holm's correction over the rows."""
    signed_rank_holm: float
    permutation_holm: float


Verdict = Literal["holds", "does not hold", "cannot be tested here"]


@dataclass(frozen=True, kw_only=True, eq=False)
class BetaVerdict(Part):
    """A claim at one beta, the same for both objectives."""

    beta: float
    ours: str
    verdict: Verdict
    p_value: float | None
    p_holm: float | None
    """``p_value`` after Holm's correction over the betas."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClaimVerdict(Part):
    """One claim of the paper and what the data says of it."""

    claim: str
    paper: str
    """The paper's numbers."""
    ours: str
    verdict: Verdict
    p_value: float | None
    """Of the claim on robustness, the larger of two: in the column of the claim, and in the worst case."""
    p_holm: float | None
    """``p_value`` after Holm's correction over the claims tested."""
    why: str
    test: str | None = None
    """How it was tested; None in files older than paired comparisons, which tested seeds."""
    betas: dict[str, float] | None = None
    """The chosen beta of each objective compared."""
    num_rows: int | None = None
    """Test rows that were compared: of attacks those attacked on both sides with at least one seed."""
    seeds: int | None = None
    margin: float | None = None
    """The largest difference that counts as "no worse", in the unit of the column."""
    at_every_beta: tuple[BetaVerdict, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Reproduction(Result):
    """Everything that a reproduction of the paper, or a comparison on one's own data, reports."""

    kind: Literal["reproduction", "comparison"] = "reproduction"
    experiment: str
    task: Literal["text", "image"]
    model: str
    dataset: str
    settings: dict[str, object]
    """Arguments of ``hf_vub.paper.experiments.Experiment``."""
    data: DataSummary
    vanilla: BaselineResult
    baselines: dict[str, BaselineResult] | None = None
    """Further classifiers on the same features, by name."""
    runs: tuple[HeadResult, ...]
    curves: tuple[TrainingCurve, ...]
    """Of one seed."""
    stress: tuple[StressResult | StressCard, ...]
    examples: Examples
    chosen: dict[str, dict[str, Choice]]
    """By the rows that decide ("validation", "test") and by objective."""
    statistics: dict[str, tuple[Statistic, ...]]
    """By the rows that chose beta."""
    claims: tuple[ClaimVerdict, ...]
    recommendation: str | None = None
    """One sentence: the setting to use on one's own data."""
    seconds: dict[str, float]
    """By stage."""
