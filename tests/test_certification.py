"""Certificates of whole models: sound against exact votes, killed and resumed, shared, refused where they must be."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from scipy.stats import binom
from torch import nn
from transformers import BertForSequenceClassification, ViTImageProcessor

from helpers.image_attacks import vub
from helpers.models import backbone_config
from hf_vub import VUBConfig, VUBForSequenceClassification
from hf_vub.certify import certify, certify_heads, deletion_radius, gaussian_radius, lower_bound, smoothed_pipeline
from hf_vub.certify.smoothing import Smoothing, store_smoothing
from hf_vub.certify.summary import summary
from hf_vub.certify.tally import Tally, votes_needed
from hf_vub.data import synthetic
from hf_vub.data.noise import Noise
from hf_vub.runs.files import read_json, read_records
from hf_vub.runs.schema import read_result


class Keyword(nn.Module):
    """Say 1 where a token occurs at least ``times`` times: its vote under deletion is a binomial tail."""

    def __init__(self, token, times=1):
        super().__init__()
        self.token, self.times = token, times
        self.batches = []
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        self.batches.append(tuple(input_ids.shape))
        found = ((input_ids == self.token) & (attention_mask == 1)).sum(dim=1) >= self.times
        return type("Output", (), {"logits": torch.stack([~found, found], dim=1).float() * self.weight})


class Plane(nn.Module):
    """A linear classifier of pixels, whose distance to its decision boundary is exact."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, pixels):
        score = pixels.flatten(1) @ self.weight - self.bias
        return torch.stack([-score, score], dim=1)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = synthetic.word_tokenizer(["good bad film the a"] * 3, vocab_size=150)
    tokenizer.model_max_length = 64
    return tokenizer


@pytest.fixture(scope="module")
def texts():
    counts = [0, 1, 2, 4, 8, 12, 16, 20]
    rows = [f"{'good ' * count}{'film ' * 20}" for count in counts]
    return Dataset.from_dict({"text": rows, "label": [int(count > 3) for count in counts]})


def keyword(tokenizer, times=1):
    return Keyword(tokenizer.convert_tokens_to_ids("good"), times)


def options(**more):
    return {"n0": 20, "n": 400, "num_examples": None, "progress": False, **more}


def without_times(record):
    return {name: value for name, value in record.items() if name != "seconds"}


def test_no_certified_radius_reaches_past_an_exact_one(tokenizer, texts, tmp_path):
    """The vote for "good was seen" is 1 - p^count, and deleting all of them changes it."""
    p = 0.9
    result = certify(keyword(tokenizer), texts, f"delete:{p}", processor=tokenizer, output_dir=tmp_path, **options())
    records = list(read_records(tmp_path / "records.jsonl"))
    assert len(records) == 8
    certified = 0
    for record, count in zip(records, [0, 1, 2, 4, 8, 12, 16, 20], strict=True):
        vote = max(p**count, 1 - p**count)
        assert record["p_lower"] <= vote
        assert record["radius"] <= deletion_radius(vote, p)
        if record["decision"] == 1:
            assert record["radius"] < count
        if record["decision"] == 0:  # inserting the word often enough changes it
            assert record["radius"] < next(r for r in range(99) if 1 - p ** (count + r) > 0.5)
        certified += record["radius"] > 0
    assert certified >= 3
    assert result.curve[0].accuracy == sum(r["decision"] == r["label"] for r in records) / 8
    assert result == read_result(tmp_path / "result.json")


def test_a_radius_that_is_one_too_large_is_caught(tokenizer):
    """A text without the word, and the smallest p at which one more insertion would already change the decision."""
    p = 0.5 ** (1 / 3) + 1e-6  # p^3 is just above 1/2: three insertions leave the majority, four do not
    text = Dataset.from_dict({"text": ["film " * 10] * 2, "label": [0, 0]})
    result = certify(keyword(tokenizer), text, f"delete:{p}", processor=tokenizer, **options(n=200_000 // 50))
    reached = result.curve[-1].radius
    assert reached == deletion_radius(lower_bound(4000, 4000, 0.001), p) == 2
    assert p ** (reached + 2) < 0.5  # a wrong radius of two more would cover a text with another decision


def test_masking_certifies_substitutions_alone(tokenizer):
    text = Dataset.from_dict({"text": ["good " * 20, "film " * 20, ""], "label": [1, 0, 0]})
    result = certify(keyword(tokenizer), text, "mask:0.9", processor=tokenizer, **options())
    # Of 20 words 2 stay: r substitutions reach one with probability 1 - C(20 - r, 2) / C(20, 2).
    exact = max(r for r in range(20) if lower_bound(400, 400, 0.001) - 1 + math.comb(20 - r, 2) / 190 > 0.5)
    assert result.curve[-1].radius == exact
    assert result.curve[0].num_certified == 3


def test_images_are_certified_within_their_distance_to_the_boundary():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, generator=generator)
    images = torch.rand(12, 3, 4, 4, generator=generator)
    score = images.flatten(1) @ weight
    model = Plane(weight, float(score.median()) + 0.05)
    distance = ((score - model.bias) / weight.norm()).numpy()
    data = Dataset.from_dict({"image": images.tolist(), "label": (distance > 0).astype(int).tolist()})
    result = certify(model, data, "gaussian:0.25", **options(n=2000))
    reached = np.array([each.num_certified for each in result.curve])
    exact = np.array([(np.abs(distance) >= each.radius).sum() for each in result.curve])
    assert (reached <= exact).all()
    assert reached.sum() > 0.6 * exact.sum()
    assert result.task == "image"
    assert result.num_wrong == 0


def test_a_tally_bounds_the_second_stage_alone():
    tally = Tally(3, 4, 6, 0.1)
    tally.add(np.array([2, 2, 1, 2, 0]))
    assert (tally.first.tolist(), tally.second.tolist(), tally.chosen) == ([0, 1, 3], [1, 0, 0], 2)
    tally.add(np.array([2, 2, 2, 2, 2, 1, 1]))
    assert tally.second.tolist() == [1, 0, 5]
    assert tally.complete
    assert tally.finished
    assert tally.p_lower == lower_bound(5, 6, 0.1)
    assert tally.draws == 10


def test_the_votes_needed_are_the_least_that_exceed_one_half():
    for n, alpha in ((20, 0.05), (100, 0.001), (1000, 0.001)):
        votes = votes_needed(n, alpha)
        assert lower_bound(votes, n, alpha) > 0.5 >= lower_bound(votes - 1, n, alpha)
        assert binom.sf(votes - 1, n, 0.5) < alpha
    assert votes_needed(3, 0.001) == 4


@pytest.mark.parametrize("vote", [0.5, 0.55, 0.6, 0.9])
def test_giving_up_keeps_alpha_and_costs_few_certificates(vote):
    """Wrong bounds stay below alpha though examples are given up on the way; hopeful ones are not given up."""
    generator, smoothing = np.random.default_rng(0), Smoothing(Noise("delete", 0.9), 20, 400, 0.05)
    wrong, lost, draws = 0, 0, []
    for _ in range(400):
        votes = (generator.random(420) >= vote).astype(np.int64)  # 0 is the class of this vote
        stopped, whole, start = smoothing.tally(2), smoothing.tally(2), 0
        whole.add(votes)
        for block in smoothing.blocks():
            if stopped.finished:
                break
            stopped.add(votes[start : start + block])
            start += block
        truth = vote if whole.chosen == 0 else 1 - vote
        wrong += stopped.p_lower > truth
        lost += whole.p_lower > 0.5 >= stopped.p_lower
        draws.append(stopped.draws)
    assert wrong / 400 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)
    assert lost <= 4
    assert vote > 0.5 or np.mean(draws) < 300


def test_a_hopeless_example_is_given_up_and_abstained_on(tokenizer):
    p = 0.5 ** (1 / 2)  # one half is the vote of two words
    text = Dataset.from_dict({"text": ["good good " + "film " * 9] * 6, "label": [1] * 6})
    result = certify(keyword(tokenizer), text, f"delete:{p}", processor=tokenizer, **options(n=2000))
    assert result.num_abstained == result.num_given_up == 6
    assert result.curve[0].num_certified == 0
    assert result.radius_of_ten_percent is None
    assert result.draws_mean < 1500


def test_copies_are_computed_together_and_hardly_padded(tokenizer, texts):
    model = keyword(tokenizer)
    certify(model, texts, "delete:0.9", processor=tokenizer, **options())
    sizes = [rows for rows, _ in model.batches[1:]]
    assert max(sizes) >= 40
    assert max(length for _, length in model.batches) < 20


def test_the_batch_size_changes_no_certificate(tokenizer, texts, tmp_path):
    for name, size in (("one", 1), ("many", 50)):
        certify(
            keyword(tokenizer), texts, "delete:0.8", processor=tokenizer, batch_size=size, output_dir=tmp_path / name,
            **options(n=50, alpha=0.05),
        )  # fmt: skip
    one, many = (list(map(without_times, read_records(tmp_path / name / "records.jsonl"))) for name in ("one", "many"))
    assert one == many


def test_heads_share_the_copies_and_get_what_each_would_alone(tokenizer, texts, tmp_path):
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.max_position_embeddings, config.initializer_range = len(tokenizer), 64, 1.0
    torch.manual_seed(0)
    model = VUBForSequenceClassification(VUBConfig(config)).eval()
    other = nn.Linear(32, 2)
    shared = certify_heads(
        model, {"own": model.head, "other": other}, texts, "delete:0.8", processor=tokenizer, output_dir=tmp_path,
        **options(n=50, alpha=0.05),
    )  # fmt: skip
    alone = certify(
        model, texts, "delete:0.8", processor=tokenizer, output_dir=tmp_path / "alone", **options(n=50, alpha=0.05)
    )
    assert shared["own"].curve == alone.curve
    assert shared["own"].head == "own"
    own, single = (list(map(without_times, read_records(tmp_path / n / "records.jsonl"))) for n in ("own", "alone"))
    assert own == single
    with pytest.raises(ValueError, match="file name"):
        certify_heads(model, {"a/b": other}, texts, "delete:0.8", processor=tokenizer)
    with pytest.raises(TypeError, match="has none: use certify"):
        certify_heads(keyword(tokenizer), {"a": other}, texts, "delete:0.8", processor=tokenizer, **options())


def test_our_models_vote_by_the_mean_of_z(tokenizer, texts):
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 64
    model = VUBForSequenceClassification(VUBConfig(config, num_eval_samples=3)).train()
    results = [certify(model, texts, "delete:0.5", processor=tokenizer, **options(n=20, alpha=0.1)) for _ in range(2)]
    assert results[0].curve == results[1].curve
    assert model.training


def test_a_checkpoint_that_stores_its_smoothing_needs_no_noise(tokenizer, texts, tmp_path):
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 64
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="stores none"):
        certify(tmp_path, texts, **options())
    store_smoothing(tmp_path, Smoothing(Noise("delete", 0.7), 5, 30, 0.05))
    result = certify(tmp_path, texts, num_examples=None, progress=False)
    assert (result.noise, result.n0, result.n, result.alpha) == ("delete:0.7", 5, 30, 0.05)
    assert certify(tmp_path, texts, n=20, num_examples=None, progress=False).n == 20


def test_a_killed_process_goes_on_where_it_stopped(tokenizer, tmp_path):
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.max_position_embeddings, config.initializer_range = len(tokenizer), 64, 1.0
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    reviews = synthetic.reviews(num_train=10, num_test=12)["test"]
    reviews.to_parquet(tmp_path / "test.parquet")
    program = textwrap.dedent(
        """
        import sys
        from hf_vub.certify import certify

        folder = sys.argv[1]
        certify(folder + "/model", folder + "/test.parquet", "delete:0.5", n0=20, n=3000, output_dir=folder + "/killed")
        """
    )
    root = str(Path(__file__).resolve().parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "PYTHONPATH": root}, stderr=subprocess.PIPE
    )
    records = tmp_path / "killed" / "records.jsonl"
    while process.poll() is None and not (records.exists() and len(list(read_records(records))) >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 3 <= len(list(read_records(records))) < 12
    assert not (tmp_path / "killed" / "result.json").exists()
    resumed, whole = (
        certify(
            tmp_path / "model", str(tmp_path / "test.parquet"), "delete:0.5", n0=20, n=3000, progress=False,
            output_dir=tmp_path / run,
        )
        for run in ("killed", "whole")
    )  # fmt: skip
    assert resumed.curve == whole.curve
    killed, undisturbed = (
        list(map(without_times, read_records(tmp_path / r / "records.jsonl"))) for r in ("killed", "whole")
    )
    assert killed == undisturbed


def test_another_run_in_the_folder_is_refused(tokenizer, texts, tmp_path):
    certify(
        keyword(tokenizer), texts, "delete:0.9", processor=tokenizer, output_dir=tmp_path, **options(n=20, alpha=0.1)
    )
    for more, message in (({"n": 30}, "n=20"), ({"seed": 1}, "seed=0"), ({"alpha": 0.2}, "alpha=0.1")):
        with pytest.raises(ValueError, match=message):
            certify(
                keyword(tokenizer), texts, "delete:0.9", processor=tokenizer, output_dir=tmp_path,
                **options(**{"n": 20, "alpha": 0.1, **more}),
            )  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps({"kind": "train"}))
    with pytest.raises(ValueError, match="kind 'train'"):
        certify(keyword(tokenizer), texts, "delete:0.9", processor=tokenizer, output_dir=tmp_path, **options())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"noise": "drop:0.5"}, "noise is 'drop:0.5'"),
        ({"noise": "delete:0.9", "n": 9}, "n is 9"),
        ({"noise": "delete:0.9", "n0": 0}, "n0 must be"),
        ({"noise": "delete:0.9", "alpha": 1.0}, "alpha is 1.0"),
        ({"noise": "delete:0.9", "max_length": 0}, "max_length must be"),
    ],
)
def test_arguments_out_of_range_are_one_sentence(tokenizer, texts, more, message):
    with pytest.raises(ValueError, match=message):
        certify(keyword(tokenizer), texts, processor=tokenizer, **{**options(), **more})


def test_pairs_of_texts_are_refused(tokenizer, texts):
    pairs = texts.add_column("text_pair", ["x"] * len(texts))
    with pytest.raises(ValueError, match="single texts"):
        certify(keyword(tokenizer), pairs, "delete:0.9", processor=tokenizer, **options())


def test_scores_that_are_not_finite_stop_the_run(tokenizer, texts):
    model = keyword(tokenizer)
    model.weight.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        certify(model, texts, "delete:0.9", processor=tokenizer, **options())


def test_a_summary_counts_abstentions_and_errors_as_not_certified():
    record = {
        "label": 1,
        "status": "certified",
        "prediction": 1,
        "draws": 10,
        "words": 3,
        "seconds": 1.0,
        "p_lower": 0.9,
    }
    records = [
        {**record, "decision": 1, "radius": 4},
        {**record, "decision": 1, "radius": 2},
        {**record, "decision": 0, "prediction": 0, "radius": 9},
        {**record, "decision": None, "radius": -1, "status": "abstained"},
        {"label": 0, "status": "skipped: bad", "seconds": 0.0},
    ]
    numbers = summary(records)
    assert [(each.radius, each.num_certified, each.accuracy) for each in numbers["curve"]] == [
        (0, 2, 0.5), (1, 2, 0.5), (2, 2, 0.5), (3, 1, 0.25), (4, 1, 0.25),
    ]  # fmt: skip
    assert (numbers["smoothed_accuracy"], numbers["num_abstained"], numbers["num_wrong"]) == (0.75, 1, 1)
    assert (numbers["num_skipped"], numbers["skipped"], numbers["radius_of_ten_percent"]) == (1, {"bad": 1}, 4)
    with pytest.raises(ValueError, match="none of 1 examples"):
        summary(records[-1:])


def test_the_run_says_what_it_is(tokenizer, texts, tmp_path):
    certify(
        keyword(tokenizer), texts, "delete:0.9", processor=tokenizer, output_dir=tmp_path, **options(n=20, alpha=0.1)
    )
    settings = read_json(tmp_path / "run.json")
    assert settings["noise"] == "delete:0.9"
    assert settings["by_word"] is True
    assert len(settings["weights"]) == 1


def test_a_pipeline_answers_with_a_certificate_or_abstains(tokenizer, tmp_path):
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.max_position_embeddings, config.initializer_range = len(tokenizer), 64, 1.0
    config.id2label = {0: "neg", 1: "pos"}
    torch.manual_seed(0)
    VUBForSequenceClassification(VUBConfig(config, id2label=config.id2label)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    store_smoothing(tmp_path, Smoothing(Noise("delete", 0.8), 10, 60, 0.01))
    texts = ["good film the a " * 4, "bad " * 9, ""]
    classify = smoothed_pipeline(tmp_path)
    answers = classify(texts)
    assert answers == smoothed_pipeline(tmp_path, batch_size=1)(texts)
    for answer in answers:
        assert sum(answer["votes"].values()) <= 70
        assert (answer["label"] is None) == (answer["radius"] is None)
        if answer["label"] is not None:
            assert answer["votes"][answer["label"]] > 35
            assert answer["radius"] == deletion_radius(answer["p_lower"], 0.8)
    assert answers[2]["votes"] in ({"neg": 70, "pos": 0}, {"neg": 0, "pos": 70})  # nothing can be deleted
    with pytest.raises(TypeError, match="takes no option 'top_k'"):
        classify(texts[0], top_k=2)


def test_a_pipeline_of_images_certifies_an_l2_norm(tmp_path):
    image = Image.fromarray(np.full((8, 8, 3), 200, dtype=np.uint8))
    model = vub()
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    answer = smoothed_pipeline(tmp_path, "gaussian:0.01", n0=5, n=50, alpha=0.01)(image)
    assert answer["radius"] == gaussian_radius(answer["p_lower"], 0.01)
