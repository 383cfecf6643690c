from .files import read_json, read_records, write_json
from .schema import (
    Benchmark,
    ImageAttackResult,
    ReportCard,
    Reproduction,
    Result,
    TextAttackResult,
    TrainResult,
    read_result,
)

__all__ = [
    "Benchmark",
    "ImageAttackResult",
    "ReportCard",
    "Reproduction",
    "Result",
    "TextAttackResult",
    "TrainResult",
    "read_json",
    "read_records",
    "read_result",
    "write_json",
]
