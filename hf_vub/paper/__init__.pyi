from .experiments import comparison, experiment
from .guided import GuidedSettings, guided_search
from .report import write_report
from .reproduction import compare, reproduce

__all__ = [
    "GuidedSettings",
    "compare",
    "comparison",
    "experiment",
    "guided_search",
    "reproduce",
    "write_report",
]
