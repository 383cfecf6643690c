"""Metrics for the library `evaluate`, which loads them by their path.

```python
import evaluate
from hf_vub import evaluate_modules

paths = [evaluate_modules.ATTACK_SUCCESS_RATE, evaluate_modules.EXPECTED_CALIBRATION_ERROR]
metric = evaluate.combine([evaluate.load(path) for path in paths])
metric.compute(predictions=logits_under_attack, references=labels, clean_predictions=logits)
```
"""

from pathlib import Path

_FOLDER = Path(__file__).parent

ATTACK_SUCCESS_RATE = str(_FOLDER / "attack_success_rate.py")
EXPECTED_CALIBRATION_ERROR = str(_FOLDER / "expected_calibration_error.py")
RATE = str(_FOLDER / "rate.py")
