"""The stated aims of the calibration study, each with the measurement that decides it."""

from collections.abc import Sequence

from ..runs.schema import Aim, StudiedClassifier

ECE_MARGIN = 0.01
COVERAGE_MARGIN = 0.01


def aims_of(classifiers: Sequence[StudiedClassifier]) -> list[Aim]:
    """Return the stated aims, each with its measurement."""

    def value(classifier: StudiedClassifier, metric: str, kind: str, scaled: bool) -> float:
        (found,) = (
            each
            for each in classifier.metrics
            if (each.probabilities, each.draws, each.temperature is not None) == (kind, "mean", scaled)
        )
        mean: float = found[metric].mean
        return mean

    stock = classifiers[0]
    vib = {each.beta: each for each in classifiers if each.name == "vib"}
    vub = {each.beta: each for each in classifiers if each.name == "vub"}
    aims = []
    for beta, ours in vub.items():
        linked, theirs = value(ours, "ece", "posterior", False), value(vib[beta], "ece", "softmax", False)
        aims.append(
            Aim(
                aim=f"beta {beta:g}: ECE of VUB through the link at most {ECE_MARGIN:g} above VIB's, nothing fitted",
                measured=f"{linked:.4f} against {theirs:.4f}",
                met=linked <= theirs + ECE_MARGIN,
            )
        )
        nll, best = value(ours, "nll", "posterior", True), value(stock, "nll", "softmax", True)
        aims.append(
            Aim(
                aim=f"beta {beta:g}: NLL of VUB through the link no worse than the stock model's, with temperatures",
                measured=f"{nll:.4f} against {best:.4f}",
                met=nll <= best,
            )
        )
    changed = sum(each.changed_classes or 0 for each in vub.values())
    aims.append(Aim(aim="the link changes no predicted class", measured=f"{changed} rows changed", met=changed == 0))
    gap = max(abs(check.coverage.mean - 1 + check.miscoverage) for each in classifiers for check in each.conformal)
    aims.append(
        Aim(
            aim="coverage of conformal sets within 1 point of the target, mean over the splits, for every classifier",
            measured=f"at most {100 * gap:.2f} points off",
            met=gap <= COVERAGE_MARGIN,
        )
    )
    return aims
