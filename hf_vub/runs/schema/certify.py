"""Results of certifying a smoothed classifier."""

from dataclasses import dataclass
from typing import Literal

from .part import Part, nullable
from .result import Result


@dataclass(frozen=True, kw_only=True, eq=False)
class CertifiedAt(Part):
    """Certified accuracy at one radius."""

    radius: float
    """Word edits (of masking, substitutions); of images the L2 norm of [0, 1] pixels at the model's input size."""
    num_certified: int
    """Examples whose decision is right and certified at this radius or a larger one."""
    accuracy: float
    """Of all examples: abstentions and wrong decisions count as not certified."""
    interval: tuple[float, float]
    """Wilson's 95 % interval."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Certificate(Result):
    """Certified radii of one smoothed classifier on a sample."""

    kind: Literal["certificate"] = "certificate"
    task: Literal["text", "image"]
    model: str
    head: str | None = None
    """Name of the head, where several share the backbone ``model``."""
    dataset: str
    split: str | None = nullable()
    data_rows: str
    """Which rows were certified, of how many, in words."""
    rows: str
    """Digest of the examples."""
    how: str
    """How the examples were drawn: "stratified" or "first"."""
    seed: int
    """Of the sample and, with an example's row, of its noisy copies."""
    match_labels: str
    noise: str
    """Kind and level: "delete:0.95", "mask:0.7" or "gaussian:0.25"."""
    n0: int
    """Noisy copies that choose the class."""
    n: int
    """Further copies that bound its vote."""
    alpha: float
    """Probability that the certificate of an example is wrong, at most."""
    dtype: str
    """Arithmetic of the backbone."""
    max_length: int | None = nullable()
    """Tokens that a noisy copy is cut to."""
    by_word: bool | None = nullable()
    """Noisy copies are made of the tokens of their words; False where they are tokenised as texts."""
    weights: tuple[str, ...]
    """Digests of the backbone and the head."""
    class_names: tuple[str, ...]
    num_examples: int
    """Examples that could be read."""
    num_skipped: int
    skipped: dict[str, int]
    """How many were skipped, by reason."""
    rows_seen_in_training: int | None = None
    """Examples that the checkpoint was trained or selected on; None where it has no training record."""
    has_training_record: bool
    smoothed_accuracy: float
    """Share whose class with most votes is right, whether certified or not."""
    smoothed_interval: tuple[float, float]
    """Wilson's, of the smoothed accuracy."""
    num_abstained: int
    num_given_up: int
    """Abstentions before all copies were drawn."""
    num_wrong: int
    """Certified decisions that are wrong."""
    curve: tuple[CertifiedAt, ...]
    """Radius 0 is a decision without abstention."""
    radius_of_ten_percent: float | None
    """Largest radius that at least 10 % of the examples are certified at; None where fewer are at 0."""
    words_median: float | None = nullable()
    """Words per text."""
    draws_mean: float
    """Noisy copies drawn per example."""
    draws_per_second: float
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class SmoothedObjective(Part):
    """The heads of one objective, averaged over their seeds."""

    objective: str
    """ "vub", "vib" or "ce"."""
    beta: float | None
    """Weight of the rate; None for "ce"."""
    smoothed_accuracy: float
    certified: tuple[float, ...]
    """Certified accuracy at each of the radii."""
    radius_of_ten_percent: float | None
    """Largest radius at which the mean certified accuracy is at least 10 %."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SmoothedDifference(Part):
    """Certified accuracy of an objective less that of cross-entropy on the same examples."""

    objective: str
    radius: float
    difference: float
    interval: tuple[float, float]
    """95 %, by the bootstrap over examples and seeds."""
    p_value: float
    """Of no difference, two-sided."""
    p_holm: float
    """Adjusted for all differences of the study."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CertificateStudy(Result):
    """Does a bottleneck help a smoothed classifier? Heads on one frozen backbone, on the same noisy copies."""

    kind: Literal["certificate_study"] = "certificate_study"
    model: str
    dataset: str
    data_rows: str
    noise: str
    n0: int
    n: int
    alpha: float
    seeds: int
    """Heads per objective."""
    num_train: int
    copies: int
    """Noisy copies of each training row."""
    epochs: int
    num_examples: int
    radii: tuple[float, ...]
    objectives: tuple[SmoothedObjective, ...]
    differences: tuple[SmoothedDifference, ...]
    draws_per_second: float
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackedCertificates(Part):
    """Changed texts of one attack, each decided by the smoothed classifier."""

    attack: str
    texts: int
    """Texts with a certified decision that were attacked."""
    tried: int
    """Changed texts."""
    within: int
    """Changed texts within the certified radius."""
    flipped_within: int
    """Other decisions among these: a sound certificate allows none beyond alpha."""
    flipped_beyond: int
    """Other decisions among the changed texts beyond the radius."""
    fewest_edits: int | None
    """Word edits of the nearest changed text with another decision."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CertificateAttack(Result):
    """Attacks on a smoothed classifier, within and beyond its certified radii."""

    kind: Literal["certificate_attack"] = "certificate_attack"
    model: str
    noise: str
    n0: int
    n: int
    alpha: float
    seed: int
    attacks: tuple[AttackedCertificates, ...]
    seconds: float
