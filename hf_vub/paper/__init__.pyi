from .experiments import experiment
from .report import write_report
from .reproduction import reproduce

__all__ = ["experiment", "reproduce", "write_report"]
