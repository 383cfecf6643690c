"""The jobs of ``test_distributed``: each trains, computes or attacks with as many processes as there are.

    python -m torch.distributed.run --standalone --nproc-per-node=2 tests/helpers/distributed_jobs.py FOLDER

What has to be equal lies in FOLDER afterwards, by the name of the job.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from transformers.trainer_utils import set_seed

from helpers.models import build_model

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
ROWS = 8  # of a step, whoever takes them


def quiet_model(objective):
    """A model without noise: each process would have noise of its own."""
    model = build_model("bert", num_labels=2, objective=objective, beta=0.1, label_entropy=0.6)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    model.head.num_train_samples = 0
    return model


def train(folder, objective):
    """VUBTrainer, as it is."""
    from helpers.training import Tokens, pad, trainer

    # Whole steps: Accelerate fills up a last half one with rows from the start.
    run = trainer(
        folder / f"train-{objective}", model=quiet_model(objective), dataset=Tokens(6 * ROWS), collator=pad,
        per_device_train_batch_size=ROWS // PROCESSES, num_train_epochs=2, optim="sgd", learning_rate=0.2,
        max_grad_norm=1.0, lr_scheduler_type="linear", ddp_backend="gloo" if PROCESSES > 1 else None,
    )  # fmt: skip
    run.train()
    figures = run.evaluate()
    if run.is_world_process_zero():
        evaluated = {"eval_loss": torch.tensor(figures["eval_loss"]), "eval_rate": torch.tensor(figures["eval_rate"])}
        save_file({**run.model.state_dict(), **evaluated}, folder / f"train-{objective}.safetensors")


def train_against(folder, adversary):
    """VUBTrainer with an adversary of images that starts at the images themselves: a random start would differ."""
    from unittest import mock

    from helpers.robust_toy import TwoFeatures, processor
    from helpers.training import arguments
    from hf_vub import VUBTrainer

    model = build_model("convnext", num_labels=2, objective="vub", beta=0.1)
    model.head.num_train_samples = 0
    run = VUBTrainer(
        model=model, train_dataset=TwoFeatures(4 * ROWS, 0), eval_dataset=TwoFeatures(10, 1),
        processing_class=processor(),
        args=arguments(
            folder / f"train-{adversary}", adversary=adversary, epsilon="0.1", adversary_steps=2, ema_decay=0.5,
            per_device_train_batch_size=ROWS // PROCESSES, num_train_epochs=1, optim="sgd", learning_rate=0.1,
            gradient_accumulation_steps=2, robust_eval_rows=9, ddp_backend="gloo" if PROCESSES > 1 else None,
        ),
    )  # fmt: skip
    with (
        mock.patch("hf_vub.training.adversary.random_start", lambda pixels, *_: pixels),
        mock.patch("hf_vub.training.adversary.torch.randn_like", torch.ones_like),
    ):
        run.train()
        robust = run.evaluate()["eval_robust_accuracy"]
    if run.is_world_process_zero():
        state = {**run.model.state_dict(), "eval_robust_accuracy": torch.tensor(robust)}
        save_file(state, folder / f"train-{adversary}.safetensors")


def shard(folder):
    """FSDP2 itself: Accelerate turns it on for accelerators only."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, rank = quiet_model("vub").train(), PartialState().process_index
    if PROCESSES > 1:
        mesh = init_device_mesh("cpu", (PROCESSES,))
        for module in [one for one in model.modules() if type(one).__name__ == "BertLayer"] + [model.head, model]:
            fully_shard(module, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        ids = torch.randint(3, 50, (ROWS, 6), generator=generator).chunk(PROCESSES)[rank]
        labels = torch.randint(0, 2, (ROWS,), generator=generator).chunk(PROCESSES)[rank]
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        save_file(dict(weights), folder / "shard.safetensors")


def sweep(folder):
    """The heads and histories of all runs, as every process has them in the end."""
    from helpers.sweeps import bits
    from helpers.sweeps import train as train_all

    results = train_all(checkpoint_dir=folder / "sweep")
    everything = b"".join(bit for result in results for bit in bits(result))
    histories = str([result.history for result in results]).encode()
    (folder / f"sweep-{PartialState().process_index}").write_bytes(everything + histories)


def embed(folder):
    """Features of a frozen model."""
    from datasets import Dataset

    from helpers.feature_models import TextModel, token_rows
    from hf_vub.embeddings import extraction as embeddings

    embeddings.SHARD_BATCHES = 1
    model = TextModel()
    found = embeddings.extract(
        model, Dataset.from_dict(token_rows()), folder / "embed", dtype="float32", batch_size=2, device="cpu"
    )
    assert len(model.calls) < 20 or PROCESSES == 1, "the rows were not shared"
    if PartialState().is_main_process:
        (folder / "embed.safetensors").write_bytes(found.path.read_bytes())


def attack_pictures(folder):
    """A random predictor under attack."""
    from datasets import load_from_disk

    from hf_vub.attacks import attack_image

    attack_image(
        folder / "pictures-model", load_from_disk(str(folder / "pictures")), "pgd_linf", steps=3, batch_size=4,
        noise="sampled", redraws=3, output_dir=folder / "attack-pictures",
    )  # fmt: skip


def card_pictures(folder):
    """A report card, with files and without."""
    import json

    from datasets import load_from_disk

    from hf_vub.attacks import report_card
    from hf_vub.attacks.image.trial import Trial

    measured, batch = [], Trial._batch
    Trial._batch = lambda self, *rest: measured.append(self) or batch(self, *rest)
    try:
        cards = [
            report_card(
                folder / "pictures-model", load_from_disk(str(folder / "pictures")), steps=2, square_steps=4,
                num_examples=None, batch_size=2, output_dir=output, progress=False,
            )
            for output in (folder / "card-pictures", None)
        ]  # fmt: skip
    finally:
        Trial._batch = batch
    found = [{"checks": card.to_json()["checks"], "curves": card.to_json()["curves"]} for card in cards]
    assert found[0] == found[1]
    rank = PartialState().process_index
    (folder / f"card-{rank}.json").write_text(json.dumps({**found[0], "measured": len(measured)}))


def attack_texts(folder):
    """A random predictor under attack."""
    from hf_vub.attacks import attack_text

    attack_text(
        folder / "texts-model", str(folder / "test.parquet"), "deepwordbug", num_examples=6, noise="sampled",
        progress=False, output_dir=folder / "attack-texts",
    )  # fmt: skip


def certify_texts(folder):
    """Certificates, whose noise depends on the row alone."""
    from hf_vub.certify import certify

    certify(
        folder / "texts-model", str(folder / "test.parquet"), "delete:0.8", n0=10, n=40, alpha=0.05, num_examples=7,
        progress=False, output_dir=folder / "certify-texts",
    )  # fmt: skip


def main(folder):
    """All of them; text attacks where there is TextAttack."""
    for objective in ("vib", "vub"):
        train(folder, objective)
    for adversary in ("pgd", "trades"):
        train_against(folder, adversary)
    for job in (
        shard,
        sweep,
        embed,
        attack_pictures,
        card_pictures,
        certify_texts,
        *([attack_texts] if find_spec("textattack") else []),
    ):
        set_seed(0)
        job(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
