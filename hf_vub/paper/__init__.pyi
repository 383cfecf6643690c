from .experiments import comparison, experiment
from .report import write_report
from .reproduction import compare, reproduce

__all__ = ["compare", "comparison", "experiment", "reproduce", "write_report"]
