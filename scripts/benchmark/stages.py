"""The stages of the benchmark, each against a named alternative; :mod:`growth` has the curves.

A stage yields one entry per comparison. The alternatives are the re-implementations in :mod:`baselines` and stock
classes of transformers and TextAttack. Operations are counted by torch, those of the sweep in closed form.
"""

import gc
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

import baselines
from adversarial import adversarial_training
from certificates import certificates
from hf_vub.attacks import attack_text, attack_text_heads
from hf_vub.attacks.image.adversaries import CarliniWagner
from hf_vub.compute import FastKernels
from hf_vub.compute.contexts import frozen
from hf_vub.embeddings import extract
from hf_vub.embeddings.pixels import PixelModel
from hf_vub.runs.schema import BenchmarkEntry, TextAttackResult, TextCounts
from hf_vub.sweep import HeadRun, train_heads
from measuring import Bench, Comparison, Workload, flops_per_unit
from victims import TextVictim, image_victim

Entries = Iterator[BenchmarkEntry]
RECIPE = "DeepWordBugGao2018"
UNDER_3_PERCENT = {"cpu": 1 / 1.03, "cuda": 1 / 1.03}
"""Target of a ratio whose alternative does less: at most 3 % slower."""


def heads(bench: Bench) -> Entries:
    """Compare the sweep with training one head at a time."""
    shapes = [(384, 2, 16, (6.0, 100.0)), (768, 2, 16, (3.5, 100.0)), (2048, 1000, 32, (3.5, 25.0))]
    for size, classes, batch, (cpu, cuda) in shapes[: bench.size(3, 1)]:
        yield _heads(bench, size, classes, batch, {"cpu": cpu, "cuda": cuda})


def _heads(bench: Bench, size: int, classes: int, batch: int, targets: dict[str, float]) -> BenchmarkEntry:
    steps = bench.size(2**27 // size**2, 8)
    few, epochs = max(4, steps // 4), bench.size(max(8, size // 64), 1)  # so long that the start does not count
    features, labels = random_table(steps * batch, size, classes, bench.device)
    on_cpu = bench.device.type == "cpu"
    runs = [HeadRun(seed=seed) for seed in range((2 if on_cpu else 1) * bench.parallel_runs)]

    def sweep(runs: list[HeadRun], epochs: int) -> float:
        train_heads(features, labels, runs, num_labels=classes, epochs=epochs, batch_size=batch, device=bench.device)
        return epochs * steps * len(runs)

    def one_by_one() -> float:
        baselines.train_head(features, labels, classes, few, batch)
        return few

    weights = size * size + size * 2 * (size // 2) + (size // 2) * classes
    return bench.compare(
        Comparison(
            stage="heads",
            name=f"head training, {size} features, {classes} classes, batch {batch}",
            against="one head at a time: DataLoader of single rows, autograd, Adam, float64 entropy",
            unit="step and run",
            ours=lambda: sweep(runs, epochs),
            alternative=one_by_one,
            profiled=lambda: sweep(runs[:1], 1),
            targets=targets,
            flops=2 * batch * (3 * weights - size * size),
            traffic=24 * weights,  # Adam reads and writes at least three numbers per weight
            working_set=12 * weights * bench.parallel_runs,
        )
    )


def embedding(bench: Bench) -> Entries:
    """Compare the features of long reviews with padding every review to the limit."""
    victim = bench.victim
    texts, dtype = victim.texts, victim.fast_dtype
    tokens = victim.tokens(texts)
    dataset = Dataset.from_dict({"text": texts, "label": victim.labels})
    features: dict[str, Tensor] = {}

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            extracted = extract(victim.vub, dataset, folder, processing_class=victim.tokenizer, device=bench.device)
            features["ours"] = extracted.features.clone()
        return tokens

    def padded() -> float:
        features["alternative"] = baselines.embed(victim.vub, victim.tokenizer, texts, victim.max_length)
        return tokens

    with frozen(victim.vub), victim.backbone_in(dtype) as model:
        batches = victim.batches(texts, 2048 if bench.device.type == "cpu" else 65536)
        kernels = FastKernels()

        def forward() -> float:
            with torch.inference_mode(), kernels:
                for batch in batches:
                    model.features(**batch)
            return tokens

        entry = bench.compare(
            Comparison(
                stage="embedding",
                name=f"embedding {len(texts)} reviews",
                against=f"every text padded to {victim.max_length} tokens, float32, batches of 32, unsorted",
                unit="useful token",
                ours=ours,
                alternative=padded,
                others={"bare forward": forward},
                targets=_at_512_tokens(victim, {"cpu": 6.0, "cuda": 6.0}),
                flops=flops_per_unit(forward),
                dtype=dtype,
            )
        )
    yield replace(
        entry,
        share_of_bare_forward=entry.seconds["bare forward"].median / entry.seconds["ours"].median,
        probe_accuracy={name: victim.probe(rows) for name, rows in features.items()},
    )


def text_attacks(bench: Bench) -> Entries:
    """Compare the queries of an attack with TextAttack's stock wrapper, on long reviews and on single sentences."""
    victim = bench.victim
    cases: list[tuple[str, tuple[list[str], list[int]], dict[str, float | None], int]] = [
        (
            f"reviews, {victim.max_length}-token limit",
            victim.spread(bench.size(3, 1)),
            {"float32": 1.7, "bfloat16": 5.0},
            384,
        ),
        ("a review as long as the limit", victim.longest(1), {"float32": None, "bfloat16": None}, 64),
        ("one sentence", victim.of_length(20, 2), {"float32": 10.0, "bfloat16": 10.0}, 128),
    ]
    for title, sample, targets, budget in cases:
        for dtype, target in targets.items():
            both = {} if target is None else _at_512_tokens(victim, {"cpu": target, "cuda": 5.0})
            yield _text_attack(bench, f"text attack, {title}, {dtype}", sample, dtype, both, bench.size(budget, 12))


def _text_attack(
    bench: Bench, name: str, sample: tuple[list[str], list[int]], dtype: str, targets: dict[str, float], budget: int
) -> BenchmarkEntry:
    victim = bench.victim
    outcomes: dict[str, list[float]] = {}

    def ours() -> float:
        result = attack_texts(victim, *sample, budget, dtype)
        outcomes["ours"] = [result.attack_success_rate or 0.0, result.queries_mean or 0.0]
        return (result.queries_mean or 0.0) * result.num_attacked

    def stock_wrapper() -> float:
        results = baselines.text_attack(victim.stock, victim.tokenizer, RECIPE, *sample, budget)
        queries = sum(result.num_queries for result in results)
        successes = sum(type(result).__name__ == "SuccessfulAttackResult" for result in results)
        outcomes["alternative"] = [successes / len(results), queries / len(results)]
        return float(queries)

    entry = bench.compare(
        Comparison(
            stage="text_attacks",
            name=name,
            against="TextAttack's stock wrapper in float32",
            unit="query",
            ours=ours,
            alternative=stock_wrapper,
            targets=targets,
            flops=flops_per_unit(ours),
            dtype=dtype,
        )
    )
    return replace(entry, same_outcomes=bool(np.allclose(outcomes["ours"], outcomes["alternative"])))


def _at_512_tokens(victim: TextVictim, targets: dict[str, float]) -> dict[str, float]:
    """Return the targets, which hold where texts are padded to 512 tokens; with a lower limit there is less to save."""
    return targets if victim.max_length == 512 else {}


def grid_attack(bench: Bench) -> Entries:
    """Compare attacking all heads of a grid over one cache of features with one attack after the other."""
    victim, rows = bench.victim, min(64, len(bench.victim.texts))
    features = baselines.embed(victim.vub, victim.tokenizer, victim.texts[:rows], victim.max_length)
    labels = torch.tensor(victim.labels[:rows])
    runs = [HeadRun(("vib", "vub")[seed % 2], 10.0 ** -(1 + seed % 3), seed=seed) for seed in range(bench.size(60, 4))]
    results = train_heads(features, labels, runs, num_labels=2, epochs=bench.size(20, 2), learning_rate=1e-3)
    grid: dict[str, nn.Module] = {str(place): result.head for place, result in enumerate(results)}
    yield _grid_attack(bench, grid, *victim.of_length(bench.size(60, 20), 1))
    yield _grid_attack(bench, grid, *victim.spread(1))


def _grid_attack(bench: Bench, grid: dict[str, nn.Module], texts: list[str], labels: list[int]) -> BenchmarkEntry:
    victim, number, few = bench.victim, len(grid), bench.size(6, 1)
    queries: dict[int, float] = {}

    def attack(some: dict[str, nn.Module]) -> None:
        dataset, options = _sample(texts, labels, bench.size(10_000, 8), victim)
        results = attack_text_heads(victim.vub, some, dataset, RECIPE, tokenizer=victim.tokenizer, **options)
        queries[len(some)] = sum(result.queries_mean or 0.0 for result in results.values())

    def together() -> float:
        attack(grid)
        return number

    def one_by_one() -> float:
        for name in list(grid)[:few]:
            attack({name: grid[name]})
        return few

    computed: list[int] = []
    watch = victim.vub.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    one_by_one()
    alone = sum(computed) / few
    computed.clear()
    flops = flops_per_unit(together)
    watch.remove()
    entry = bench.compare(
        Comparison(
            stage="grid_attack",
            name=f"text attack on {number} heads, a text of {len(texts[0].split())} words",
            against=f"separate attacks ({few} of {number} measured)",
            unit="head",
            ours=together,
            alternative=one_by_one,
            profiled=one_by_one,
            targets={"cpu": 15.0, "cuda": 15.0},
            flops=flops,
        )
    )
    distinct = sum(computed)  # texts that no other head had asked for: no cache can save them
    return replace(
        entry,
        cost_in_single_attacks=number / entry.ratio.median,
        texts=TextCounts(queries=queries[number], distinct=distinct, distinct_of_one_head=alone),
        ratio_if_texts_were_all=number * alone / distinct,
    )


def carlini_wagner(bench: Bench) -> Entries:
    """Compare the L2 attack, with and without early stopping, with the published loop."""
    network, images, targets, labels = image_victim(bench.size(16, 2), bench.device)
    steps, searches = bench.size(200, 5), bench.size(5, 2)
    model = PixelModel(network)
    distances: dict[str, float | None] = {}

    def published() -> float:
        adversarial = baselines.carlini_wagner(model, images, targets, steps, searches)
        distances["alternative"] = _mean_distance(images, adversarial)
        return 1

    for early, target in ((False, 1.0), (True, 2.0)):
        attack = CarliniWagner(steps=steps, binary_search_steps=searches, abort_early=early)

        def ours(attack: CarliniWagner = attack) -> float:
            (perturbed,) = attack(model, images, labels, targets=targets)
            distances["ours"] = _mean_distance(images, perturbed.adversarial)
            return 1

        with frozen(model):
            entry = bench.compare(
                Comparison(
                    stage="carlini_wagner",
                    name=f"Carlini-Wagner L2, {'with' if early else 'without'} early stopping",
                    against="the published adversary's loop, the same number of iterations at most",
                    unit=f"batch of {len(images)} images",
                    ours=ours,
                    alternative=published,
                    targets={"cpu": target, "cuda": 2.0},
                    flops=flops_per_unit(ours),
                )
            )
        yield replace(entry, mean_l2={name: distances[name] for name in ("ours", "alternative")})


def fine_tuning(bench: Bench) -> Entries:
    """Compare a step of VUBTrainer with a step of the stock classifier under the stock Trainer."""
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    from hf_vub import VUBTrainer, VUBTrainingArguments

    victim, steps = bench.victim, bench.size(12, 2)
    rows = victim.tokenizer(victim.texts, truncation=True, max_length=bench.size(128, 16))
    dataset = Dataset.from_dict({**rows, "labels": victim.labels})
    collate: Any = DataCollatorWithPadding(victim.tokenizer)
    common: Any = {"train_dataset": dataset, "data_collator": collate}
    options: Any = {
        **{"max_steps": steps, "per_device_train_batch_size": 8, "learning_rate": 1e-6},
        **{"save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True},
    }

    def workload(trainer: Any) -> Workload:
        trainer.remove_callback(PrinterCallback)

        def train() -> float:
            trainer.train()
            return steps

        return train

    with victim.weights_restored(), tempfile.TemporaryDirectory() as folder:
        ours = VUBTrainer(model=victim.vub, args=VUBTrainingArguments(folder, **options), **common)
        stock = Trainer(model=victim.stock, args=TrainingArguments(folder, **options), **common)
        batch = collate([dataset[row] for row in range(8)]).to(bench.device)

        def one_step() -> float:
            victim.stock(**batch).loss.backward()
            return 1

        gc.freeze()  # train() first collects garbage among everything imported, which is no part of a step
        entry = bench.compare(
            Comparison(
                stage="fine_tuning",
                name="fine-tuning step, batch 8",
                against="the stock classifier under the stock Trainer",
                unit="step",
                ours=workload(ours),
                alternative=workload(stock),
                targets=UNDER_3_PERCENT,
                flops=flops_per_unit(one_step),
            )
        )
        gc.unfreeze()
    yield entry


def inference(bench: Bench) -> Entries:
    """Compare a forward pass of a VUB classifier with the stock classifier's."""
    victim, length = bench.victim, bench.size(128, 16)
    options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    for batch, times in ((1, bench.size(100, 2)), (64, bench.size(4, 1))):
        inputs = victim.tokenizer((victim.texts * batch)[:batch], **options).to(bench.device)

        def workload(model: nn.Module, inputs: Any = inputs, times: int = times) -> Workload:
            def run() -> float:
                with torch.inference_mode():
                    for _ in range(times):
                        model(**inputs)
                return times

            return run

        yield bench.compare(
            Comparison(
                stage="inference",
                name=f"inference, batch {batch} of {length} tokens",
                against="the stock classifier",
                unit="forward pass",
                ours=workload(victim.vub),
                alternative=workload(victim.stock),
                targets=UNDER_3_PERCENT,
                flops=flops_per_unit(workload(victim.stock)),
            )
        )


STAGES: dict[str, Callable[[Bench], Entries]] = {
    "heads": heads,
    "embedding": embedding,
    "text_attacks": text_attacks,
    "grid_attack": grid_attack,
    "carlini_wagner": carlini_wagner,
    "fine_tuning": fine_tuning,
    "adversarial_training": adversarial_training,
    "certificates": certificates,
    "inference": inference,
}


def attack_texts(victim: TextVictim, texts: list[str], labels: list[int], budget: int, dtype: str) -> TextAttackResult:
    """Attack texts on the stock classifier with at most ``budget`` queries each."""
    dataset, options = _sample(texts, labels, budget, victim)
    return attack_text(victim.stock, dataset, RECIPE, tokenizer=victim.tokenizer, dtype=dtype, **options)


def _sample(texts: list[str], labels: list[int], budget: int, victim: TextVictim) -> tuple[Dataset, dict[str, Any]]:
    """Return a data set of texts, and the options that attack all of them."""
    options: dict[str, Any] = {"num_examples": len(texts), "how": "first", "query_budget": budget}
    options |= {"max_length": victim.max_length, "progress": False}
    return Dataset.from_dict({"text": texts, "label": labels}), options


def random_table(rows: int, size: int, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return features (rows, size), standard normal, and labels (rows,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (rows,), generator=generator)
    return torch.randn(rows, size, generator=generator).to(device), labels.to(device)


def _mean_distance(images: Tensor, adversarial: Tensor) -> float | None:
    """Return the mean L2 distance over the images that were changed, None where there are none."""
    distances = (adversarial - images).flatten(1).norm(dim=1)
    distances = distances[distances > 0]
    return float(distances.mean()) if len(distances) else None
