"""The stage of adversarial training: against ART's trainer, and against as many plain steps as it has passes."""

import gc
import io
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import BitImageProcessor, PrinterCallback, ResNetConfig

from hf_vub import VUBConfig, VUBForImageClassification, VUBTrainer, VUBTrainingArguments
from hf_vub.runs.schema import BenchmarkEntry
from measuring import Bench, Comparison, Workload

MEAN, STD = 0.5, 0.25
EPSILON, PASSES = 8 / 255, 7
CLASSES = 10


def adversarial_training(bench: Bench) -> Iterator[BenchmarkEntry]:
    """Compare a step of VUBTrainer under PGD with ART's, and with plain steps of as many passes."""
    batch, steps, side = bench.size(64, 4), bench.size(8, 1), bench.size(32, 8)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(batch * steps, 3, side, side, generator=generator)
    labels = torch.randint(CLASSES, (batch * steps,), generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        attacked = _ours(folder, pixels, labels, batch, adversary="pgd", adversary_steps=PASSES)
        plain = _ours(folder, pixels, labels, batch, times=PASSES + 1)
        gc.freeze()  # train() first collects garbage among everything imported, which is no part of a step
        common: dict[str, Any] = {
            "stage": "adversarial_training",
            "unit": "step",
            "ours": attacked,
            "flops": float(PASSES + 1) * batch * _flops(pixels[:2], labels[:2]) / 2,
        }
        name = f"training step of {batch} images of {side} px under PGD-{PASSES}"
        against = f"{PASSES + 1} plain steps of VUBTrainer"
        targets = {"cpu": 1 / 1.1, "cuda": 1 / 1.1}
        yield bench.compare(Comparison(name=name, against=against, alternative=plain, targets=targets, **common))
        against = "AdversarialTrainerMadryPGD of the Adversarial Robustness Toolbox, the same network and steps"
        rival = _toolbox(pixels, labels, batch, bench.device)
        targets = {"cpu": 1.0, "cuda": 1.0}
        yield bench.compare(
            Comparison(name=f"{name}, trainers", against=against, alternative=rival, targets=targets, **common)
        )
        gc.unfreeze()


class _Rows(TensorDataset):
    """Normalised images and labels as rows of a Trainer."""

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"pixel_values": self.tensors[0][row], "labels": self.tensors[1][row]}


def _network() -> VUBForImageClassification:
    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128], depths=[2, 2, 2], layer_type="basic", num_labels=CLASSES
    )
    return VUBForImageClassification(VUBConfig(backbone, objective="ce", num_labels=CLASSES))


def _ours(folder: str, pixels: Tensor, labels: Tensor, batch: int, times: int = 1, **options: Any) -> Workload:
    steps = times * len(labels) // batch
    side = pixels.shape[-1]
    trainer = VUBTrainer(
        model=_network(),
        args=VUBTrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=batch, learning_rate=1e-6, save_strategy="no",
            logging_strategy="no", report_to=[], disable_tqdm=True, **options,
        ),
        train_dataset=_Rows((pixels - MEAN) / STD, labels),
        processing_class=BitImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side},
            image_mean=[MEAN] * 3, image_std=[STD] * 3,
        ),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)

    def train() -> float:
        trainer.train()
        return steps / times

    return train


class _Logits(nn.Module):
    """The logits of one draw of z, as ART wants them."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=pixels).logits
        return logits


def _toolbox(pixels: Tensor, labels: Tensor, batch: int, device: torch.device) -> Workload:
    """Return ART's trainer on the same network, normalisation, batches and inner steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.defences.trainer import AdversarialTrainerMadryPGD
        from art.estimators.classification import PyTorchClassifier

    network = _Logits(_network()).train()
    classifier = PyTorchClassifier(
        network,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(network.parameters(), lr=1e-6),
        input_shape=tuple(pixels.shape[1:]),
        nb_classes=CLASSES,
        clip_values=(0.0, 1.0),
        preprocessing=(MEAN, STD),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )
    trainer = AdversarialTrainerMadryPGD(
        classifier, nb_epochs=1, batch_size=batch, eps=EPSILON, eps_step=2.5 * EPSILON / PASSES, max_iter=PASSES
    )
    images, one_hot = pixels.numpy(), nn.functional.one_hot(labels, CLASSES).numpy()

    def train() -> float:
        with redirect_stderr(io.StringIO()):  # its bars
            trainer.fit(images, one_hot)
        return len(labels) / batch

    return train


def _flops(pixels: Tensor, labels: Tensor) -> float:
    """Return the operations of a forward and backward pass."""
    network = _network()
    with FlopCounterMode(display=False) as counter:
        network(pixel_values=pixels, labels=labels).loss.backward()
    return float(counter.get_total_flops())
