"""Two processes train, and sweep, what one does. (Embeddings and attacks have this test beside their own.)"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

JOB = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
from conftest import build_model
from test_trainer import Tokens, pad, trainer

class Counted(torch.utils.data.Dataset):
    rows = Tokens(48)  # whole steps: Accelerate fills up a last half one with rows from the start
    __len__ = lambda self: len(self.rows)
    __getitem__ = lambda self, row: self.rows[row]

model = build_model("bert", num_labels=2, objective=sys.argv[1], beta=0.1, label_entropy=0.6)
for module in model.modules():  # each process has dropout and noise of its own
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
    if hasattr(module, "dropout_prob"):
        module.dropout_prob = 0.0
model.head.num_train_samples = 0
run = trainer(
    sys.argv[2], model=model, dataset=Counted(), collator=pad, per_device_train_batch_size=int(sys.argv[3]),
    num_train_epochs=2, optim="sgd", learning_rate=0.2, max_grad_norm=1.0, lr_scheduler_type="linear",
    ddp_backend="gloo" if sys.argv[3] == "4" else None,
)
run.train()
figures = run.evaluate()
run.save_model(sys.argv[2])
if run.is_world_process_zero():
    sys.stdout.write("\\n" + str(figures["eval_cross_entropy"]))
"""


SWEEP = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
from accelerate import PartialState
from test_sweep import bits, train

results = train(checkpoint_dir=sys.argv[2])
everything = b"".join(bit for result in results for bit in bits(result))
histories = str([result.history for result in results]).encode()
with open(f"{{sys.argv[2]}}-{{PartialState().process_index}}", "wb") as file:
    file.write(everything + histories)
"""


def start(folder, objective, processes, script=JOB):
    """Train with 8 rows a step, shared between the processes."""
    job = folder / "job.py"
    job.write_text(script.format(root=str(Path(__file__).parents[1]), tests=str(Path(__file__).parent)))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [sys.executable, *(launcher if processes > 1 else []), job, objective, folder / f"run{processes}",
         str(8 // processes)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["vib", "vub"])
def test_two_processes_train_what_one_does(objective, tmp_path):
    found = []
    for processes in (1, 2):
        job = start(tmp_path, objective, processes)
        output, errors = job.communicate(timeout=600)
        assert job.returncode == 0, errors
        found.append((float(output.split()[-1]), load_file(tmp_path / f"run{processes}" / "model.safetensors")))
    (one, weights), (two, shared) = found
    assert two == pytest.approx(one, abs=1e-6)
    for name, value in weights.items():
        torch.testing.assert_close(shared[name], value, atol=1e-6, rtol=0, msg=name)


@pytest.mark.slow
def test_two_processes_sweep_the_bits_of_one(tmp_path):
    for processes in (1, 2):
        job = start(tmp_path, "", processes, SWEEP)
        _, errors = job.communicate(timeout=600)
        assert job.returncode == 0, errors
    alone = (tmp_path / "run1-0").read_bytes()
    assert (tmp_path / "run2-0").read_bytes() == alone
    assert (tmp_path / "run2-1").read_bytes() == alone
