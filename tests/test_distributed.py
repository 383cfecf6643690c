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


SHARDED = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
from conftest import build_model
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

size = 8 // int(sys.argv[3])
model = build_model("bert", num_labels=2, objective=sys.argv[1], beta=0.1, label_entropy=0.6)
model.head.num_train_samples = 0
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
rank = 0
if size > 1:
    torch.distributed.init_process_group("gloo")
    rank, mesh = torch.distributed.get_rank(), init_device_mesh("cpu", (size,))
    for module in [one for one in model.modules() if type(one).__name__ == "BertLayer"] + [model.head, model]:
        fully_shard(module, mesh=mesh)
optimizer = torch.optim.SGD(model.parameters(), 0.2)
generator = torch.Generator().manual_seed(0)
for _ in range(5):
    ids = torch.randint(3, 50, (8, 6), generator=generator).chunk(size)[rank]
    labels = torch.randint(0, 2, (8,), generator=generator).chunk(size)[rank]
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
if rank == 0:
    save_file(dict(weights), sys.argv[2] + ".safetensors")
"""


def finish(folder, objective, processes, script=JOB):
    """Run a script, which shares 8 rows a step between the processes, to its end, which must be a good one."""
    job = folder / "job.py"
    job.write_text(script.format(root=str(Path(__file__).parents[1]), tests=str(Path(__file__).parent)))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), job, objective, folder / f"run{processes}",
         str(8 // processes)],
        capture_output=True, text=True, timeout=600, env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["vib", "vub"])
def test_two_processes_train_what_one_does(objective, tmp_path):
    found = []
    for processes in (1, 2):
        output = finish(tmp_path, objective, processes)
        found.append((float(output.split()[-1]), load_file(tmp_path / f"run{processes}" / "model.safetensors")))
    (one, weights), (two, shared) = found
    assert two == pytest.approx(one, abs=1e-6)
    for name, value in weights.items():
        torch.testing.assert_close(shared[name], value, atol=1e-6, rtol=0, msg=name)


@pytest.mark.slow
def test_two_processes_sweep_the_bits_of_one(tmp_path):
    for processes in (1, 2):
        finish(tmp_path, "", processes, SWEEP)
    alone = (tmp_path / "run1-0").read_bytes()
    assert (tmp_path / "run2-0").read_bytes() == alone
    assert (tmp_path / "run2-1").read_bytes() == alone


@pytest.mark.slow
def test_fully_sharded_training_is_that_of_one_process(tmp_path):
    """FSDP2 itself: Accelerate turns it on for accelerators only."""
    for processes in (1, 2):
        finish(tmp_path, "vub", processes, SHARDED)
    one, two = (load_file(tmp_path / f"run{processes}.safetensors") for processes in (1, 2))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=0, msg=name)
