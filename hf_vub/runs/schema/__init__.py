# ruff: noqa: F401  (every result type has its one public name here)
"""Typed results: one frozen dataclass for every kind of result JSON, and one function that reads them all.

```python
from hf_vub.runs.schema import read_result

result = read_result("runs/vub/result.json")  # here a TrainResult
result.metrics["accuracy"], result["metrics"]["accuracy"]
```

Start with ``part`` (mapping, reading, writing); ``attacks``, ``training``, ``reproduction`` and ``benchmark`` hold the
fields with their units. Rates, accuracies and other shares lie between 0 and 1, information is in nats, time in
seconds, pixels in [0, 1]. Nothing here computes a number.
"""

from pathlib import Path

from ..files import read_json
from .attacks import (
    AttackResult,
    AttackSummary,
    BudgetResult,
    Card,
    Check,
    ImageAttackResult,
    ImageRedraws,
    MemberResult,
    ReportCard,
    ReportCurves,
    SearchOutcome,
    Target,
    TextAttackResult,
    TextRedraws,
    overall,
)
from .benchmark import Benchmark, BenchmarkEntry, Curve, Limit, Limits, Machine, Spread, TextCounts
from .bottleneck_map import BottleneckMap, Regime, RivalDifference, RivalResult
from .calibration import Abstention, Calibration, CalibrationMeasurement, CalibrationMetrics, Interval
from .calibration_study import (
    Aim,
    CalibrationStudy,
    ConfidenceCheck,
    ConformalCheck,
    Mean,
    MeasuredSetting,
    ProbabilityMetrics,
    RiskCurve,
    StudiedClassifier,
    UnfamiliarCheck,
)
from .certify import (
    AttackedCertificates,
    Certificate,
    CertificateAttack,
    CertificateStudy,
    CertifiedAt,
    SmoothedDifference,
    SmoothedObjective,
)
from .guided import GuidedAttack, GuidedComparison, GuidedHead, GuidedSearch, PlateauBin
from .part import Part
from .reproduction import (
    BaselineResult,
    BetaVerdict,
    Choice,
    ClaimVerdict,
    DataSummary,
    Examples,
    HeadResult,
    HeadSettings,
    ImageExample,
    Outcomes,
    Phases,
    Reliability,
    Reproduction,
    Statistic,
    StressCard,
    StressResult,
    TextExample,
    TrainingCurve,
)
from .result import Metrics, Result, split_metrics
from .suggestion import FrontierPoint, SuggestionCheck, SuggestionResult
from .text_card import TextReportCard, TextSearch
from .training import Quickstart, TrainResult

_KINDS: dict[str, type[Result] | type[Quickstart]] = {
    "train": TrainResult,
    "text_attack": TextAttackResult,
    "image_attack": ImageAttackResult,
    "masking_report_card": ReportCard,
    "text_report_card": TextReportCard,
    "reproduction": Reproduction,
    "comparison": Reproduction,
    "benchmark": Benchmark,
    "calibration": Calibration,
    "certificate": Certificate,
    "certificate_study": CertificateStudy,
    "certificate_attack": CertificateAttack,
    "guided_search": GuidedSearch,
    "calibration_study": CalibrationStudy,
    "bottleneck_map": BottleneckMap,
    "suggestion": SuggestionResult,
    "suggestion_check": SuggestionCheck,
    "quickstart": Quickstart,
}


def read_result(path: str | Path) -> Result | Quickstart:
    """Read a result JSON of any kind into its dataclass.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, of an unknown kind, or has a field that is missing, unknown or of another type.

    Example:
        >>> read_result("runs/vub/result.json").kind  # doctest: +SKIP
        'train'
    """
    content = read_json(path)
    kind = content.get("kind", "quickstart" if "rows" in content else None)  # early quick starts have no kind
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"{path} must have a kind of {', '.join(map(repr, _KINDS))}, but its kind is {kind!r}")
    return _KINDS[kind].from_json(content, str(path))
