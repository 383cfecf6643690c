"""What the benchmark measures: stages, each against a named alternative (:mod:`growth` has the curves).

A stage yields entries of :meth:`measuring.Bench.compare`. The alternatives are those of :mod:`baselines`,
written for this comparison, or stock classes of transformers. Work is counted by torch's own counter of operations, for
the sweep in closed form.
"""

import gc
import math
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import baselines
from hf_vub.attacks.image.adversaries import CarliniWagner
from hf_vub.attacks.image.classifier import PixelModel
from hf_vub.attacks.text import attack as attack_text
from hf_vub.compute.contexts import frozen
from hf_vub.compute.kernels import FastKernels, has_onednn
from hf_vub.embeddings.extraction import extract
from hf_vub.sweep.heads import HeadRun, train_heads
from measuring import Bench, Way
from victims import TextVictim, image_victim

Entries = Iterator[dict[str, Any]]
RECIPE = "DeepWordBugGao2018"


def heads(bench: Bench) -> Entries:
    """The sweep against one head at a time."""
    shapes = [(384, 2, 16, (6.0, 100.0)), (768, 2, 16, (3.5, 100.0)), (2048, 1000, 32, (3.5, 25.0))]
    for shape in shapes[: bench.size(3, 1)]:
        yield _heads(bench, *shape)


def _heads(bench: Bench, size: int, classes: int, batch: int, goals: tuple[float, float]) -> dict[str, Any]:
    steps = bench.size(2**27 // size**2, 8)
    few, epochs = max(4, steps // 4), bench.size(max(8, size // 64), 1)  # so long that its start does not count
    features, labels = random_table(steps * batch, size, classes, bench.device)
    runs = [HeadRun(seed=seed) for seed in range(2 * bench.lanes if bench.device.type == "cpu" else bench.lanes)]

    def sweep(chosen: list[HeadRun], epochs: int) -> float:
        train_heads(features, labels, chosen, num_labels=classes, epochs=epochs, batch_size=batch, device=bench.device)
        return epochs * steps * len(chosen)

    def alternative() -> float:
        baselines.train_head(features, labels, classes, few, batch)
        return few

    weights = size * size + size * 2 * (size // 2) + (size // 2) * classes
    return bench.compare(
        f"head training, {size} features, {classes} classes, batch {batch}",
        "one head at a time: DataLoader of single rows, autograd, Adam, float64 entropy",
        lambda: sweep(runs, epochs),
        alternative,
        unit="step and run",
        profiled=lambda: sweep(runs[:1], 1),
        targets=dict(zip(("cpu", "cuda"), goals, strict=True)),
        flops=2 * batch * (3 * weights - size * size),
        traffic=24 * weights,  # three numbers per weight, read and written: Adam cannot do without
        working_set=12 * weights * bench.lanes,
    )


def embedding(bench: Bench) -> Entries:
    """Features of long reviews against padding everything to the limit."""
    victim = bench.victim
    texts, dtype = victim.texts, victim.fast_dtype
    tokens = victim.tokens(texts)
    dataset = Dataset.from_dict({"text": texts, "label": victim.labels})
    features: dict[str, Tensor] = {}

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            found = extract(victim.vub, dataset, folder, processing_class=victim.tokenizer, device=bench.device)
            features["ours"] = found.features.clone()
        return tokens

    def alternative() -> float:
        features["alternative"] = baselines.embed(victim.vub, victim.tokenizer, texts, victim.max_length)
        return tokens

    with frozen(victim.vub), victim.backbone_in(dtype) as fast:
        batches = victim.batches(texts, 2048 if bench.device.type == "cpu" else 65536)
        kernels = FastKernels()

        def bare() -> float:
            with torch.inference_mode(), kernels:
                for batch in batches:
                    fast.features(**batch)
            return tokens

        entry = bench.compare(
            f"embedding {len(texts)} reviews",
            f"every text padded to {victim.max_length} tokens, float32, batches of 32, unsorted",
            ours,
            alternative,
            unit="useful token",
            targets=_at_512(victim, {"cpu": 6.0, "cuda": 6.0}),
            flops=_flops_per_unit(bare),
            dtype=dtype,
            others={"bare forward": bare},
        )
    seconds = entry["seconds"]
    entry["share_of_bare_forward"] = seconds["bare forward"]["median"] / seconds["ours"]["median"]
    entry["probe_accuracy"] = {name: victim.probe(found) for name, found in features.items()}
    yield entry


def text_attacks(bench: Bench) -> Entries:
    """Queries of an attack against TextAttack's stock wrapper: long reviews and single sentences."""
    victim = bench.victim
    cases: list[tuple[str, tuple[list[str], list[int]], dict[str, float | None], int]] = [
        (
            f"reviews, {victim.max_length}-token limit",
            victim.spread(bench.size(3, 1)),
            {"float32": 1.7, "bfloat16": 5.0},
            384,
        ),
        ("a review as long as the limit", victim.longest(1), {"float32": None, "bfloat16": None}, 64),
        ("one sentence", victim.sentences(2), {"float32": 10.0, "bfloat16": 10.0}, 128),
    ]
    for title, (texts, labels), goals, budget in cases:
        for dtype, goal in goals.items():
            yield _text_attack(bench, title, texts, labels, dtype, goal, bench.size(budget, 12))


def _text_attack(
    bench: Bench, title: str, texts: list[str], labels: list[int], dtype: str, goal: float | None, budget: int
) -> dict[str, Any]:
    victim = bench.victim
    outcomes: dict[str, list[float]] = {}

    def ours() -> float:
        found = attack_texts(victim, texts, labels, budget, dtype)
        outcomes["ours"] = [found["attack_success_rate"], found["queries_mean"]]
        return float(found["queries_mean"] * found["num_attacked"])

    def alternative() -> float:
        found = baselines.text_attack(victim.stock, victim.tokenizer, RECIPE, texts, labels, budget)
        queries = [result.num_queries for result in found]
        wins = [type(result).__name__ == "SuccessfulAttackResult" for result in found]
        outcomes["alternative"] = [sum(wins) / len(wins), sum(queries) / len(queries)]
        return float(sum(queries))

    entry = bench.compare(
        f"text attack, {title}, {dtype}",
        "TextAttack's stock wrapper in float32",
        ours,
        alternative,
        unit="query",
        targets={} if goal is None else _at_512(victim, {"cpu": goal, "cuda": 5.0}),
        flops=_flops_per_unit(ours),
        dtype=dtype,
    )
    return {**entry, "same_outcomes": bool(np.allclose(outcomes["ours"], outcomes["alternative"]))}


def _at_512(victim: TextVictim, targets: dict[str, float]) -> dict[str, float]:
    """What to reach where texts are padded to 512 tokens; padded to fewer, there is less to save."""
    return targets if victim.max_length == 512 else {}


def grid_attack(bench: Bench) -> Entries:
    """All heads of a grid attacked over one memory of features, against one attack after the other."""
    victim, rows = bench.victim, min(64, len(bench.victim.texts))
    features = baselines.embed(victim.vub, victim.tokenizer, victim.texts[:rows], victim.max_length)
    labels = torch.tensor(victim.labels[:rows])
    number = bench.size(60, 4)
    runs = [HeadRun(("vib", "vub")[seed % 2], 10.0 ** -(1 + seed % 3), seed=seed) for seed in range(number)]
    found = train_heads(features, labels, runs, num_labels=2, epochs=bench.size(20, 2), learning_rate=1e-3)
    grid: dict[str, nn.Module] = {str(place): result.head for place, result in enumerate(found)}
    yield _grid_attack(bench, grid, *victim.of_length(bench.size(60, 20), 1))
    yield _grid_attack(bench, grid, *victim.spread(1))


def _grid_attack(bench: Bench, grid: dict[str, nn.Module], texts: list[str], labels: list[int]) -> dict[str, Any]:
    victim, number, few = bench.victim, len(grid), bench.size(6, 1)
    queries: dict[int, list[float]] = {}

    def attack(chosen: dict[str, nn.Module]) -> None:
        dataset, options = _sample(texts, labels, bench.size(10_000, 8), victim)
        results = attack_text.attack_heads(victim.vub, chosen, victim.tokenizer, dataset, RECIPE, **options)
        queries[len(chosen)] = [result["queries_mean"] or 0.0 for result in results.values()]

    def ours() -> float:
        attack(grid)
        return number

    def alternative() -> float:
        for name in list(grid)[:few]:
            attack({name: grid[name]})
        return few

    computed: list[int] = []
    watch = victim.vub.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    alternative()
    alone = sum(computed) / few
    computed.clear()
    flops = _flops_per_unit(ours)
    watch.remove()
    entry = bench.compare(
        f"text attack on {number} heads, a text of {len(texts[0].split())} words",
        f"separate attacks ({few} of {number} measured)",
        ours,
        alternative,
        unit="head",
        targets={"cpu": 15.0, "cuda": 15.0},
        flops=flops,
        profiled=alternative,
    )
    # What no memory can spare: texts that no other head has asked for.
    texts_asked = {"queries": sum(queries[number]), "distinct": sum(computed), "distinct_of_one_head": alone}
    return {
        **entry,
        "cost_in_single_attacks": number / entry["ratio"]["median"],
        "texts": texts_asked,
        "ratio_if_texts_were_all": number * alone / sum(computed),
    }


def carlini_wagner(bench: Bench) -> Entries:
    """The L2 attack with and without early stopping, against the published loop."""
    network, images, targets, labels = image_victim(bench.size(16, 2), bench.device)
    model = PixelModel(network)
    with frozen(model):
        for early, goal in ((False, 1.0), (True, 2.0)):
            yield _carlini_wagner(bench, model, images, targets, labels, early, goal)


def _carlini_wagner(
    bench: Bench, model: PixelModel, images: Tensor, targets: Tensor, labels: Tensor, early: bool, goal: float
) -> dict[str, Any]:
    steps, searches = bench.size(200, 5), bench.size(5, 2)
    attack = CarliniWagner(steps=steps, binary_search_steps=searches, abort_early=early)
    distances: dict[str, float | None] = {}

    def ours() -> float:
        (found,) = attack(model, images, labels, targets=targets)
        distances["ours"] = _mean_distance(images, found.adversarial)
        return 1

    def alternative() -> float:
        found = baselines.carlini_wagner(model, images, targets, steps, searches)
        distances["alternative"] = _mean_distance(images, found)
        return 1

    entry = bench.compare(
        f"Carlini-Wagner L2, {'with' if early else 'without'} early stopping",
        "the published adversary's loop, the same number of iterations at most",
        ours,
        alternative,
        unit=f"batch of {len(images)} images",
        targets={"cpu": goal, "cuda": 2.0},
        flops=_flops_per_unit(ours),
    )
    return {**entry, "mean_l2": distances}


def fine_tuning(bench: Bench) -> Entries:
    """A step of VUBTrainer against a step of the stock classifier under the stock Trainer."""
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    from hf_vub.training.arguments import VUBTrainingArguments
    from hf_vub.training.trainer import VUBTrainer

    victim, steps = bench.victim, bench.size(12, 2)
    rows = victim.tokenizer(victim.texts, truncation=True, max_length=bench.size(128, 16))
    dataset = Dataset.from_dict({**rows, "labels": victim.labels})
    options = {"max_steps": steps, "per_device_train_batch_size": 8, "learning_rate": 1e-6}
    silent = {"save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True}
    collate: Any = DataCollatorWithPadding(victim.tokenizer)

    def way(trainer: Any) -> Way:
        trainer.remove_callback(PrinterCallback)

        def train() -> float:
            trainer.train()
            return steps

        return train

    with victim.kept(), tempfile.TemporaryDirectory() as folder:
        common: Any = {"train_dataset": dataset, "data_collator": collate}
        arguments: Any = {"output_dir": folder, **options, **silent}
        own = VUBTrainer(model=victim.vub, args=VUBTrainingArguments(**arguments), **common)
        stock = Trainer(model=victim.stock, args=TrainingArguments(**arguments), **common)
        batch = collate([dataset[row] for row in range(8)]).to(bench.device)

        def one_step() -> float:
            victim.stock(**batch).loss.backward()
            return 1

        gc.freeze()  # train() collects garbage first, among all that was ever imported: that is no part of a step
        entry = bench.compare(
            "fine-tuning step, batch 8",
            "the stock classifier under the stock Trainer",
            way(own),
            way(stock),
            unit="step",
            targets={"cpu": 1 / 1.03, "cuda": 1 / 1.03},
            flops=_flops_per_unit(one_step),
        )
        gc.unfreeze()
    yield entry


def inference(bench: Bench) -> Entries:
    """A forward pass of a VUB classifier against the stock classifier's."""
    yield _inference(bench, 1, bench.size(100, 2))
    yield _inference(bench, 64, bench.size(4, 1))


def _inference(bench: Bench, batch: int, times: int) -> dict[str, Any]:
    victim, length = bench.victim, bench.size(128, 16)
    texts = (victim.texts * batch)[:batch]
    options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    inputs = victim.tokenizer(texts, **options).to(bench.device)

    def way(model: nn.Module) -> Way:
        def run() -> float:
            with torch.inference_mode():
                for _ in range(times):
                    model(**inputs)
            return times

        return run

    return bench.compare(
        f"inference, batch {batch} of {length} tokens",
        "the stock classifier",
        way(victim.vub),
        way(victim.stock),
        unit="forward pass",
        targets={"cpu": 1 / 1.03, "cuda": 1 / 1.03},
        flops=_flops_per_unit(way(victim.stock)),
    )


STAGES: dict[str, Callable[[Bench], Entries]] = {
    "heads": heads,
    "embedding": embedding,
    "text_attacks": text_attacks,
    "grid_attack": grid_attack,
    "carlini_wagner": carlini_wagner,
    "fine_tuning": fine_tuning,
    "inference": inference,
}


def attack_texts(victim: TextVictim, texts: list[str], labels: list[int], budget: int, dtype: str) -> dict[str, Any]:
    """The result of attacking texts on the stock classifier, at most ``budget`` queries each."""
    dataset, options = _sample(texts, labels, budget, victim)
    return attack_text.attack(victim.stock, victim.tokenizer, dataset, RECIPE, dtype=dtype, **options)


def _sample(texts: list[str], labels: list[int], budget: int, victim: TextVictim) -> tuple[Dataset, dict[str, Any]]:
    """All of some texts as what is attacked."""
    options: dict[str, Any] = {"num_examples": len(texts), "how": "first", "query_budget": budget}
    options |= {"max_length": victim.max_length, "progress": False}
    return Dataset.from_dict({"text": texts, "label": labels}), options


def _flops_per_unit(way: Way) -> float:
    products = {torch.ops.mkldnn._linear_pointwise: _product_flops} if has_onednn() else {}
    with FlopCounterMode(display=False, custom_mapping=products) as counter:
        units = way()
    return counter.get_total_flops() / units


def _product_flops(entered: Any, weight: Any, *others: Any, out_shape: Any = None, **options: Any) -> int:
    """Operations of a product by oneDNN, which torch's counter does not know; shapes come in place of tensors."""
    return 2 * math.prod(entered) * weight[0]


def random_table(rows: int, size: int, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features (rows, size), standard normal, and labels (rows,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (rows,), generator=generator)
    return torch.randn(rows, size, generator=generator).to(device), labels.to(device)


def _mean_distance(images: Tensor, adversarial: Tensor) -> float | None:
    """Mean L2 over the images that were changed at all."""
    sizes = (adversarial - images).flatten(1).norm(dim=1)
    found = sizes[sizes > 0]
    return float(found.mean()) if len(found) else None
