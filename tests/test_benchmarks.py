"""The benchmark: fair alternatives, correct arithmetic, and every stage in its tiny form."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

import baselines
import stages
from hf_vub.attacks.image.adversaries import CarliniWagner
from hf_vub.compute.contexts import frozen
from hf_vub.compute.kernels import FastKernels
from hf_vub.embeddings.extraction import extract
from hf_vub.embeddings.pixels import PixelModel
from hf_vub.runs.schema import read_result
from measuring import Bench, Comparison, flops_per_unit, spread
from victims import image_victim, text_victim

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "benchmark"


@pytest.fixture(scope="module")
def victim():
    return text_victim(None, None, rows=24, tiny=True, device=torch.device("cpu"))


@pytest.fixture
def clock(monkeypatch):
    """A bench on which a workload takes the time that it returns."""

    class ScriptedBench(Bench):
        order: list

        def seconds(self, workload):
            self.order.append(workload)
            return workload()

    bench = ScriptedBench(repeats=3, quick=True, device=torch.device("cpu"))
    bench.order = []
    bench.flop_rates = {"float32": 100.0, "bfloat16": 200.0}
    bench._bandwidths = {100: 50.0}
    return bench


def compare(bench, ours, alternative, **options):
    names = {"stage": "stage", "name": "name", "against": "alternative", "unit": "step"}
    return bench.compare(Comparison(**names, ours=ours, alternative=alternative, targets={"cpu": 2.0}, **options))


def test_workloads_take_turns_and_the_first_turn_does_not_count(clock):
    times = {"ours": iter([9.0, 1.0, 2.0, 3.0]), "alternative": iter([9.0, 4.0, 4.0, 6.0])}
    ours, alternative = (lambda name=name: next(times[name]) for name in times)
    entry = compare(clock, ours, alternative, flops=50.0)
    assert [workload is ours for workload in clock.order] == [False, True, True, False, False, True, True, False]
    assert entry["seconds"]["ours"] == {"median": 2.0, "lower": 1.5, "upper": 2.5}
    assert entry["ratio"]["median"] == 2.0
    assert entry["reached"]


def test_the_limit_is_the_longer_of_arithmetic_and_memory(clock):
    by_arithmetic = compare(clock, lambda: 4.0, lambda: 4.0, flops=50.0, traffic=5.0, working_set=800)
    assert by_arithmetic["limit"] == {"bound": "arithmetic (float32)", "seconds": 0.5, "share": 0.125}
    assert not by_arithmetic["reached"]
    by_memory = compare(clock, lambda: 4.0, lambda: 8.0, flops=50.0, dtype="bfloat16", traffic=100.0, working_set=800)
    assert by_memory["limit"] == {"bound": "memory", "seconds": 2.0, "share": 0.5}


def test_spread_by_hand():
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "lower": 2.0, "upper": 4.0}


def test_no_repeats_are_refused():
    with pytest.raises(ValueError, match="repeats is 0"):
        Bench(repeats=0)


def test_padding_to_the_full_length_changes_no_feature(victim, tmp_path):
    from datasets import Dataset

    dataset = Dataset.from_dict({"text": victim.texts, "label": victim.labels})
    fast = extract(victim.vub, dataset, tmp_path, processing_class=victim.tokenizer, dtype="float32")
    slow = baselines.embed(victim.vub, victim.tokenizer, victim.texts)
    torch.testing.assert_close(fast.features, slow, rtol=0, atol=1e-5)


def test_the_plain_carlini_wagner_loop_finds_the_distance_to_the_plane():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    images = 0.4 + 0.2 * torch.rand(4, 3, 2, 2)
    labels = model(images).argmax(1)
    normal, offset = model[1].weight[1] - model[1].weight[0], model[1].bias[1] - model[1].bias[0]
    exact = ((images.flatten(1) @ normal + offset) / normal.norm()).abs()
    with frozen(model):
        found = baselines.carlini_wagner(model, images, 1 - labels, steps=150, binary_search_steps=10)
        (ours,) = CarliniWagner(steps=150, binary_search_steps=10, abort_early=False)(
            PixelModel(model), images, labels, targets=1 - labels
        )
    assert torch.equal(model(found).argmax(1), 1 - labels)
    torch.testing.assert_close((found - images).flatten(1).norm(dim=1), exact, rtol=0.05, atol=1e-3)
    assert float((ours.adversarial - images).flatten(1).norm(dim=1).mean()) <= 1.05 * exact.mean().item()


def test_the_plain_head_learns():
    labels = torch.arange(64) % 2
    features = labels[:, None] + torch.randn(64, 64)
    head = baselines.train_head(features, labels, 2, steps=150, batch_size=16)
    assert float((head.eval()(features).logits.argmax(1) == labels).float().mean()) > 0.9


def test_the_fitted_classifier_of_a_text_victim_has_learnt_something(victim):
    texts, classes = victim.of_length(12, 8)
    assert [len(text.split()) for text in texts] == [12] * 8
    assert set(classes) <= {0, 1}
    assert [batch["input_ids"].shape[1] for batch in victim.batches(texts, 64)] == sorted(
        (batch["input_ids"].shape[1] for batch in victim.batches(texts, 64)), reverse=True
    )


def test_a_sample_of_texts_is_spread_over_their_lengths(victim):
    texts, classes = victim.spread(3)
    ordered = sorted(map(len, victim.texts))
    assert len(texts) == len(classes) == 3
    assert list(map(len, texts)) == sorted(map(len, texts))
    assert ordered[0] < len(texts[1]) < ordered[-1]


def test_products_by_onednn_are_counted_as_torchs_own():
    layer, entered = nn.Linear(300, 400), torch.randn(2, 7, 300)
    kernels = FastKernels()

    def ours():
        with torch.no_grad(), kernels:
            layer(entered)
        return 2

    assert flops_per_unit(ours) == 7 * 2 * 300 * 400


def test_training_leaves_a_text_victim_as_it_was(victim):
    before = victim.vub.head.bottleneck_decoder.weight.clone()
    with victim.weights_restored():
        victim.vub.head.bottleneck_decoder.weight.data += 1.0
    assert torch.equal(victim.vub.head.bottleneck_decoder.weight, before)


def test_images_of_the_image_victim_are_classified_as_said():
    pytest.importorskip("sklearn")
    network, pixels, targets, given = image_victim(3, torch.device("cpu"))
    assert torch.equal(network(pixels).logits.argmax(1), given)
    assert not (targets == given).any()
    assert (pixels.min().item(), pixels.max().item()) == (0.0, 1.0)


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_every_stage_and_curve_without_attacks_on_texts(tmp_path, monkeypatch):
    pytest.importorskip("foolbox")
    pytest.importorskip("sklearn")
    names = [name for name in stages.STAGES if name not in ("text_attacks", "grid_attack")]
    output = tmp_path / "benchmark.json"
    run(
        monkeypatch, "--quick", "--repeats", 1, "--stages", ",".join(names), "--output", output,
        "--curves", "sweep_over_runs,sweep_over_rows", "--threads", torch.get_num_threads(),
    )  # fmt: skip
    result = read_result(output)
    assert list(dict.fromkeys(entry.stage for entry in result.entries)) == names
    for entry in result.entries:
        assert entry.ratio.median == pytest.approx(entry.seconds["alternative"].median / entry.seconds["ours"].median)
        assert entry.limit.share > 0
    assert result.limits.flops_per_second["float32"] > 0
    assert result.seconds > 0
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "benchmark-sweep-over-runs.png",
        "benchmark-sweep-over-rows.png",
    }


@pytest.mark.slow
@pytest.mark.skipif(find_spec("textattack") is None, reason="text attacks are an optional extra")
@pytest.mark.parametrize("stage", ["text_attacks", "grid_attack"])
def test_stages_that_attack_texts(stage):
    entries = list(stages.STAGES[stage](Bench(repeats=1, quick=True, device=torch.device("cpu"))))
    assert all(entry.same_outcomes is not False for entry in entries if "bfloat16" not in entry.name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stages", "heads,everything"], "stages must be all, none or some of heads"),
        (["--curves", "line"], "curves must be"),
        (["--repeats", 0, "--stages", "none", "--curves", "none"], "repeats is 0"),
    ],
)
def test_bad_options_are_one_sentence(words, message, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
