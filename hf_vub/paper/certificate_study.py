"""Does an information bottleneck help a smoothed classifier? Heads of every objective, certified on the same copies."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..certify import certify_heads
from ..data.splits import label_names, load_splits
from ..embeddings import extract
from ..metrics.paired import holm, paired_bootstrap
from ..model.loading import load_processor
from ..model.modeling_vub import VUBForSequenceClassification
from ..runs.files import read_records
from ..runs.provenance import provenance, public_name
from ..runs.schema import Certificate, CertificateStudy, SmoothedDifference, SmoothedObjective
from ..sweep import HeadRun, train_heads


@dataclass(frozen=True)
class StudyOptions:
    """The settings of a study; see scripts/certify_heads.py.

    Attributes:
        model: folder or Hub id of the classifier whose backbone stays frozen.
        dataset: texts with a test split.
        output_dir: folder of the result, and of the certificates of each head.
        noise: of training and certificates.
        seeds: heads per objective.
        vib_beta: weight of the rate in VIB.
        vub_beta: the same in VUB.
        max_train: training rows.
        copies: noisy copies of each training row.
        epochs: of the heads.
        batch_size: of the heads.
        learning_rate: of the heads in the first epoch.
        num_examples: test rows to certify.
        n0: copies that choose the class.
        n: copies that bound its vote.
        alpha: probability of a wrong certificate of an example, at most.
        radii: at which the objectives are compared.
        max_length: tokens of a noisy copy.
    """

    model: str
    dataset: str
    output_dir: str
    noise: str = "delete:0.95"
    seeds: int = 3
    vib_beta: float = 1e-3
    vub_beta: float = 1e-3
    max_train: int | None = None
    copies: int = 1
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    num_examples: int = 500
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    radii: tuple[float, ...] = (0, 1, 3, 5, 10)
    max_length: int | None = None


def certificate_study(options: StudyOptions) -> CertificateStudy:
    """Train heads of ce, vib and vub on features of noisy copies, certify all of them, and compare with ce.

    Raises:
        ValueError: an option is out of range, or the data set has no test split.
    """
    folder = Path(options.output_dir)
    splits = load_splits(options.dataset, max_train=options.max_train, validation=0.0)
    tokenizer = load_processor(options.model, "text")
    model = VUBForSequenceClassification.from_pretrained(options.model, freeze_backbone=True)
    found = extract(
        model, splits["train"], folder / "features", processing_class=tokenizer, max_length=options.max_length,
        noise=options.noise, copies=options.copies,
    )  # fmt: skip
    weights = {"ce": 0.0, "vib": options.vib_beta, "vub": options.vub_beta}
    runs = [HeadRun(name, beta, seed=seed) for name, beta in weights.items() for seed in range(options.seeds)]
    trained = train_heads(
        found.features, found.labels, runs, num_labels=len(label_names(splits)), epochs=options.epochs,
        batch_size=options.batch_size, learning_rate=options.learning_rate, checkpoint_dir=folder / "heads",
    )  # fmt: skip
    heads = {f"{each.run.objective}-{each.run.seed}": each.head for each in trained}
    results = certify_heads(
        model, heads, options.dataset, options.noise, processor=tokenizer, max_length=options.max_length, n0=options.n0,
        n=options.n, alpha=options.alpha, num_examples=options.num_examples, output_dir=folder / "certificates",
    )  # fmt: skip
    radii = {name: _right_radii(folder / "certificates" / name) for name in heads}
    tables = {name: np.stack([radii[f"{name}-{seed}"] for seed in range(options.seeds)]) for name in weights}
    first = next(iter(results.values()))
    return CertificateStudy(
        **provenance(),
        **{name: getattr(options, name) for name in ("seeds", "copies", "epochs", "n0", "n", "alpha", "radii")},
        model=public_name(options.model),
        dataset=first.dataset,
        data_rows=first.data_rows,
        noise=first.noise,
        num_train=len(splits["train"]),
        num_examples=first.num_examples,
        objectives=tuple(
            _averaged(name, weights[name] or None, tables[name], results, options.radii) for name in weights
        ),
        differences=differences(tables, options.radii),
        draws_per_second=sum(each.draws_mean for each in results.values()) * first.num_examples
        / sum(each.seconds for each in results.values()),
        seconds=sum(each.seconds for each in results.values()),
    )  # fmt: skip


def differences(tables: Mapping[str, NDArray[np.float64]], radii: tuple[float, ...]) -> tuple[SmoothedDifference, ...]:
    """Compare the certified accuracy of each objective with that of ce at each radius, on the same examples.

    Args:
        tables: by objective, certified radii of right decisions (seeds, examples), -1 for others.
        radii: at which to compare.
    """
    pairs = [(name, radius) for name in tables if name != "ce" for radius in radii]
    compared = [
        paired_bootstrap((tables[name] >= radius).astype(float), (tables["ce"] >= radius).astype(float))
        for name, radius in pairs
    ]
    adjusted = holm([each.p_value for each in compared]) if compared else []
    return tuple(
        SmoothedDifference(
            objective=name, radius=radius, difference=each.difference, interval=each.interval, p_value=each.p_value,
            p_holm=p,
        )
        for (name, radius), each, p in zip(pairs, compared, adjusted, strict=True)
    )  # fmt: skip


def _averaged(
    name: str, beta: float | None, table: NDArray[np.float64], results: Mapping[str, Certificate],
    radii: tuple[float, ...],
) -> SmoothedObjective:  # fmt: skip
    reached = [radius for radius in sorted(set(table[table >= 0])) if np.mean(table >= radius) >= 0.1]
    accuracies = [each.smoothed_accuracy for head, each in results.items() if head.rpartition("-")[0] == name]
    return SmoothedObjective(
        objective=name,
        beta=beta,
        smoothed_accuracy=float(np.mean(accuracies)),
        certified=tuple(float(np.mean(table >= radius)) for radius in radii),
        radius_of_ten_percent=float(reached[-1]) if reached else None,
    )


def _right_radii(folder: Path) -> NDArray[np.float64]:
    """Return the certified radius of each example with a right decision, -1 for the others."""
    records = [each for each in read_records(folder / "records.jsonl") if "radius" in each]
    return np.array([each["radius"] if each["decision"] == each["label"] else -1.0 for each in records])
