"""VUB minus VIB at their chosen settings in every metric of whole splits, over runs of the same seed."""

import math
from collections.abc import Sequence

import numpy as np

from ..metrics.intervals import (
    bootstrap_interval,
    cliffs_delta,
    cohens_dz,
    paired_tests,
    rank_sum_test,
    vargha_delaney,
)
from ..metrics.paired import holm
from ..reports.tables import mean_std
from ..runs.schema import Reproduction, Statistic
from .grid import Measured, Rows, attack_columns, chosen_runs, value_of


def statistics(results: Reproduction, on: Rows) -> list[Statistic]:
    """Return one row per metric that both objectives have at their best settings.

    The unit is a run: its metrics are means over a whole split. Attacks are made on few rows, so their rates over
    seeds say how runs differ on these rows and nothing about other rows: claims compare them row by row.
    """
    names = ["accuracy", "nll", "brier", "ece", "rate", *attack_columns(results)]
    pairs = {}
    for name in names:
        vib, vub = (values_of(chosen_runs(results, objective, on), name) for objective in ("vib", "vub"))
        if vib and vub:
            pairs[name] = (vib, vub)
    tests = {name: (rank_sum_test(vub, vib)["p_value"], paired_tests(vub, vib)) for name, (vib, vub) in pairs.items()}
    adjusted = {
        "rank_sum_holm": holm([rank_sum for rank_sum, _ in tests.values()]),
        "signed_rank_holm": holm([paired["signed_rank_p"] for _, paired in tests.values()]),
        "permutation_holm": holm([paired["permutation_p"] for _, paired in tests.values()]),
    }
    rows = []
    for place, (name, (vib, vub)) in enumerate(pairs.items()):
        difference = np.subtract(vub, vib)
        rank_sum, paired = tests[name]
        effect = cohens_dz(vub, vib) if len(vib) > 1 else math.nan
        rows.append(
            Statistic(
                name=name,
                runs=len(vib),
                vib=mean_std(vib),
                vub=mean_std(vub),
                difference=float(difference.mean()),
                interval=bootstrap_interval(difference),
                rank_sum_p=rank_sum,
                signed_rank_p=paired["signed_rank_p"],
                sign_p=paired["sign_p"],
                permutation_p=paired["permutation_p"],
                cliffs_delta=cliffs_delta(vub, vib),
                vargha_delaney=vargha_delaney(vub, vib),
                cohens_dz=effect if math.isfinite(effect) else None,
                **{test: p_values[place] for test, p_values in adjusted.items()},
            )
        )
    return rows


def values_of(runs: Sequence[Measured], name: str) -> list[float]:
    """Return a metric of every run; nothing if one of them lacks it."""
    values = [value_of(run, name) for run in runs]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return finite if len(finite) == len(values) else []
