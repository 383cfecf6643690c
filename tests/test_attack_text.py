"""Text attacks: the same outcomes as TextAttack's own wrapper, exact resuming, honest noise, and rubbish reported."""

import copy
import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import (
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from helpers import mini_wordnet
from helpers.reviews import reviews, tiny_bert, train, word_tokenizer
from hf_vub import VUBForSequenceClassification
from hf_vub.attacks import shared_heads
from hf_vub.attacks.text import method, nltk_resources, recipes
from hf_vub.attacks.text.classifier import TextClassifier, TokenFeatures
from hf_vub.compute.contexts import seeded
from hf_vub.data.preprocessing import clean_text
from hf_vub.data.splits import load_splits
from hf_vub.runs.files import read_json, read_records, write_json

# Found, not imported: how TextAttack has to be imported is part of what is tested.
pytestmark = pytest.mark.skipif(find_spec("textattack") is None, reason="text attacks are an optional extra")
ROOT = Path(__file__).resolve().parents[1]

SYNSETS = {
    "adj": [["good", "superb", "nice"], ["great", "dull"], ["bad", "poor", "witty"], ["awful", "charming"]],
    "noun": [["film", "movie"], ["plot", "story"]],
}


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@pytest.fixture(scope="module")
def victim(tokenizer):
    """A tiny BERT that has learnt what the adjectives mean."""
    return train(tiny_bert(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def noisy(victim, tokenizer, tmp_path_factory):
    """The same with an information bottleneck whose noise can be felt."""
    folder = tmp_path_factory.mktemp("victim")
    victim.save_pretrained(folder)
    torch.manual_seed(0)
    model = VUBForSequenceClassification.from_pretrained(folder, objective="vib", beta=1e-2, num_train_samples=1)
    return train(model, tokenizer)


@pytest.fixture(scope="module", autouse=True)
def fresh_machine(tmp_path_factory):
    """No home and no NLTK data but a small WordNet, so that a test finds the same on any machine."""
    folder = tmp_path_factory.mktemp("machine")
    with mini_wordnet.only_data(folder, SYNSETS):
        yield folder


@pytest.fixture
def api(fresh_machine):
    """The module under test, imported once the machine is fresh."""
    from hf_vub.attacks.text import attack as attack_text

    return attack_text


@pytest.fixture
def run(api, victim, tokenizer):
    """An attack on eight reviews, with whatever a test changes."""

    def attack(**options):
        options = {"recipe": "deepwordbug", "dataset": reviews(40), "num_examples": 8, "progress": False, **options}
        return api.attack_text(options.pop("model", victim), tokenizer=options.pop("tokenizer", tokenizer), **options)

    return attack


def timeless(content):
    """A result or record without what differs between equal runs."""
    return {key: value for key, value in content.items() if key not in ("seconds", "command", "commit")}


def records(folder):
    return [timeless(record) for record in read_records(folder / "records.jsonl")]


# The same outcomes as TextAttack alone


def compare(folder, data, model, tokenizer, recipe):
    """Attack the texts of a run again with TextAttack alone: the same outcomes; and the kinds of outcome there are."""
    from hf_vub.attacks.text import textattack_compat

    textattack = textattack_compat.load()
    stock = textattack.models.wrappers.HuggingFaceModelWrapper(model, tokenizer)
    kinds = set()
    with textattack_compat.quiet(), textattack_compat.no_downloads():
        search = getattr(textattack.attack_recipes, recipe).build(stock)
        for record in records(folder):
            row = record["index"]
            with seeded(0, row):
                result = search.attack(clean_text(data[row]["text"]), data[row]["label"])
            kinds.add(type(result).__name__)
            if type(result).__name__ == "SkippedAttackResult":
                assert record["status"] == "misclassified"
                continue
            assert record["success"] == (type(result).__name__ == "SuccessfulAttackResult")
            assert record["perturbed_text"] == result.perturbed_result.attacked_text.text
            assert record["queries"] == result.num_queries
    assert "SuccessfulAttackResult" in kinds
    assert len(kinds) > 1


@pytest.mark.parametrize("recipe", ["DeepWordBugGao2018", "PWWSRen2019"])
def test_outcomes_equal_those_of_textattacks_own_wrapper(run, victim, tokenizer, recipe, tmp_path):
    run(recipe=recipe, num_examples=40, output_dir=tmp_path)
    compare(tmp_path, reviews(40), victim, tokenizer, recipe)


@pytest.mark.slow
@pytest.mark.shared_data
def test_outcomes_on_twenty_real_reviews_equal_those_of_textattacks_own_wrapper(api, shared_data, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = shared_data / "models" / "minilm-imdb"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=256)
    data = load_splits(shared_data / "data" / "imdb")["test"]
    options = {"num_examples": 20, "max_length": 256, "progress": False, "output_dir": tmp_path}
    api.attack_text(model, data, "deepwordbug", tokenizer=tokenizer, **options)
    compare(tmp_path, data, model, tokenizer, "DeepWordBugGao2018")


def test_figures_follow_from_the_records(run, tmp_path):
    result = run(output_dir=tmp_path, num_examples=40)
    rows = records(tmp_path)
    right = [row for row in rows if row["prediction"] == row["label"]]
    won = [row for row in right if row["success"]]
    assert 0 < len(won) < len(rows)
    assert result["clean_accuracy"] == len(right) / 40
    assert result["accuracy_under_attack"] == (len(right) - len(won)) / 40
    assert result["attack_success_rate"] == len(won) / len(right)
    assert result["queries_mean"] == sum(row["queries"] for row in right) / len(right)
    assert result["words_perturbed_mean"] == sum(row["words_perturbed"] for row in won) / len(won)
    assert all(row["perturbed_prediction"] != row["label"] for row in won)
    assert result["attack_success_interval"][0] < result["attack_success_rate"] < result["attack_success_interval"][1]
    expected = {"schema": 1, "kind": "text_attack", "attack": "DeepWordBugGao2018", "noise": "mean", "num_examples": 40}
    assert expected.items() <= result.items()
    assert result["stopwords"] == "scikit-learn"
    assert {"versions", "command", "seconds", "model", "dataset", "seed"} <= result.keys()
    assert timeless(read_json(tmp_path / "result.json")) == timeless(result.to_json())


def test_figures_by_hand(api):
    attacked = {"status": "attacked", "prediction": 1, "label": 1}
    result = method.summary(
        [
            {**attacked, "success": True, "words_perturbed": 2, "queries": 10},
            {**attacked, "success": True, "words_perturbed": 4, "queries": 30},
            {**attacked, "success": False, "words_perturbed": 9, "queries": 50},
            {"status": "misclassified", "prediction": 0, "label": 1},
            {"status": "skipped: the text has no words", "label": 0},
        ],
        draws=0,
        redraws=0,
    )
    assert (result["num_examples"], result["num_attacked"], result["num_successes"]) == (4, 3, 2)
    assert (result["clean_accuracy"], result["accuracy_under_attack"]) == (0.75, 0.25)
    assert result["attack_success_rate"] == pytest.approx(2 / 3)
    assert (result["words_perturbed_mean"], result["queries_mean"]) == (3.0, 30.0)


# Resuming


def test_a_killed_run_ends_as_an_undisturbed_one(run, api, tmp_path, monkeypatch):
    undisturbed = run(output_dir=tmp_path / "whole")
    search, calls = api.Searcher.attack, []

    def killed(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return search(*args)

    monkeypatch.setattr(api.Searcher, "attack", killed)
    with pytest.raises(KeyboardInterrupt):
        run(output_dir=tmp_path / "killed")
    with open(tmp_path / "killed" / "records.jsonl", "a") as file:
        file.write('{"index": 3, "unfini')  # a kill in the middle of a line
    resumed = run(output_dir=tmp_path / "killed")
    assert len(calls) == 4 + 5  # three were finished, and are not attacked again
    assert timeless(resumed) == timeless(undisturbed)
    assert records(tmp_path / "killed") == records(tmp_path / "whole")


def test_each_example_has_its_own_random_state(run, tmp_path):
    run(num_examples=40, output_dir=tmp_path / "all")
    run(num_examples=5, output_dir=tmp_path / "few")
    every = {record["index"]: record for record in records(tmp_path / "all")}
    assert [every[record["index"]] for record in records(tmp_path / "few")] == records(tmp_path / "few")


def test_the_callers_random_state_is_left_alone(run):
    torch.manual_seed(5)
    np.random.seed(5)
    wanted = (torch.rand(1), np.random.rand())
    torch.manual_seed(5)
    np.random.seed(5)
    run(num_examples=2)
    assert (torch.rand(1), np.random.rand()) == wanted


def test_records_of_another_run_are_refused(run, tmp_path):
    run(output_dir=tmp_path, num_examples=2)
    with pytest.raises(ValueError, match="holds a run with seed=0, and this one has seed=1"):
        run(output_dir=tmp_path, num_examples=2, seed=1)


@pytest.mark.slow
def test_two_processes_share_the_examples(run, noisy, tokenizer, tmp_path, fresh_machine):
    noisy.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    reviews(40).to_parquet(tmp_path / "test.parquet")
    options = {"recipe": "deepwordbug", "num_examples": 9, "output_dir": tmp_path / "two"}
    script = [str(ROOT / "scripts/attack_text.py"), "--model", "model", "--dataset", "test.parquet"]
    script += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", *script]
    environment = {key: value for key, value in os.environ.items() if key != "NLTK_DATA"}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(fresh_machine)}
    found = subprocess.run(launch, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    alone = run(model=noisy, dataset=str(tmp_path / "test.parquet"), **{**options, "output_dir": tmp_path / "one"})
    assert records(tmp_path / "two") == records(tmp_path / "one")
    assert read_json(tmp_path / "two" / "result.json")["queries_mean"] == alone["queries_mean"]


# Many heads on one backbone


def test_each_heads_outcome_equals_attacking_it_alone(api, noisy, tokenizer, tmp_path):
    heads = {}
    for name, scale in (("a", 1.0), ("b", 0.5), ("c", 2.0)):
        heads[name] = type(noisy.head)(noisy.head.feature_size, 2)
        heads[name].load_state_dict(noisy.head.state_dict())
        with torch.no_grad():
            heads[name].bottleneck_encoder[0].weight.mul_(scale).add_(0.1 * torch.randn(16, 16))
    options = {"num_examples": 10, "recipe": "pwws", "progress": False}
    together = api.attack_text_heads(noisy, heads, reviews(40), tokenizer=tokenizer, output_dir=tmp_path, **options)
    assert list(together) == ["a", "b", "c"]
    original = noisy.head
    outcomes = []
    for name, head in heads.items():
        noisy.head = head
        alone = api.attack_text(
            noisy, reviews(40), tokenizer=tokenizer, output_dir=tmp_path / "alone" / name, **options
        )
        assert records(tmp_path / name) == records(tmp_path / "alone" / name)
        outcomes.append(records(tmp_path / name))
        ignored = ("weights", "rows")
        for key, value in timeless(alone).items():
            assert key in ignored or together[name][key] == value
    noisy.head = original
    assert outcomes[0] != outcomes[2]


@pytest.fixture
def siblings(noisy, tokenizer, tmp_path):
    """A stock classifier and a bottleneck on its backbone, as folders with a tokenizer."""
    stock = BertForSequenceClassification(noisy.config.backbone_config)
    stock.load_state_dict(noisy.backbone.state_dict(), strict=False)
    folders = [tmp_path / "stock", tmp_path / "vib"]
    for model, folder in zip((stock, noisy), folders, strict=True):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return [str(folder) for folder in folders]


@pytest.mark.parametrize("recipe", ["deepwordbug", "pwws"])
def test_checkpoints_on_one_backbone_are_attacked_together_as_alone(api, siblings, recipe):
    backbone, heads = shared_heads(siblings)
    options = {"dataset": reviews(6), "recipe": recipe, "progress": False}
    together = api.attack_text_heads(backbone, heads, tokenizer=siblings[0], **options)
    for folder in siblings:
        name = Path(folder).name
        alone = api.attack_text(folder, **options)
        assert together[name]["head"] == name
        assert together[name]["model"] == folder
        for figure in ("clean_accuracy", "accuracy_under_attack", "queries_mean", "words_perturbed_mean"):
            assert together[name][figure] == alone[figure]


def test_checkpoints_on_different_backbones_are_not_attacked_together(api, noisy, siblings, tmp_path):
    other = copy.deepcopy(noisy)
    torch.nn.init.normal_(other.backbone.bert.pooler.dense.bias)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="different backbones: attack them one by one"):
        shared_heads([siblings[0], str(tmp_path / "other")])
    with pytest.raises(ValueError, match="different names"):
        shared_heads([siblings[0], siblings[0]])


def test_pwws_asks_the_backbone_in_full_batches(api, noisy, tokenizer, monkeypatch):
    sizes = []
    forward = TokenFeatures._forward
    monkeypatch.setattr(TokenFeatures, "_forward", lambda self, keys: sizes.append(len(keys)) or forward(self, keys))
    options = {"recipe": "pwws", "num_examples": 1, "progress": False}
    result = api.attack_text(noisy, reviews(6), tokenizer=tokenizer, **options)
    assert max(sizes) > 4  # substitutions of several words at once
    monkeypatch.setattr("hf_vub.attacks.text.recipes.Searcher._look_ahead", lambda *args: None)
    plain = api.attack_text(noisy, reviews(6), tokenizer=tokenizer, **options)
    for figure in ("attack_success_rate", "queries_mean", "words_perturbed_mean"):
        assert result[figure] == plain[figure]


def test_pwws_keeps_its_candidates_within_bounds(api, noisy, tokenizer, monkeypatch, tmp_path):
    """Blocks of candidates, a bounded cache, and the same records; on the old code all candidates stayed alive."""
    heads = {"a": noisy.head, "b": torch.nn.Linear(16, 2)}
    options = {"recipe": "pwws", "num_examples": 3, "progress": False, "tokenizer": tokenizer}
    texts = [f"The {' '.join(['good superb'] * times)} film." for times in (3, 4, 5)]  # good and superb: two synonyms
    data = Dataset.from_dict({"text": texts, "label": [1, 1, 1]})
    api.attack_text_heads(noisy, heads, data, output_dir=tmp_path / "roomy", **options)
    room, alive, asked = 2, [], []
    answer, attack = TextClassifier.__call__, api.Searcher.attack
    monkeypatch.setattr(recipes, "CANDIDATE_BYTES", room * 2400)  # of texts of about 10 words

    def counted(self, texts):
        asked.append(len(texts))
        return answer(self, texts)

    def watched(searcher, *args):
        record = attack(searcher, *args)
        alive.append(sum(len(found) for found in searcher._search.transformation_cache.values()))
        assert alive[-1] == searcher._candidates
        assert len(searcher._search.goal_function._call_model_cache) == 0
        return record

    monkeypatch.setattr(TextClassifier, "__call__", counted)
    monkeypatch.setattr(api.Searcher, "attack", watched)
    api.attack_text_heads(noisy, heads, data, output_dir=tmp_path / "bounded", **options)
    assert 0 < max(alive) <= room + 2
    assert max(asked) <= 12  # one text per word, to find its saliency; all substitutions would be 21
    for name in heads:
        assert records(tmp_path / "bounded" / name) == records(tmp_path / "roomy" / name)


def test_the_memory_of_texts_is_bounded_in_bytes(victim, tokenizer, monkeypatch):
    monkeypatch.setattr("hf_vub.attacks.text.classifier.REMEMBERED_BYTES", 2000)
    features = TokenFeatures(victim, tokenizer)
    for text in reviews(60)["text"]:
        features.encode([text])
        assert features._key_bytes <= 2000 + 500
        assert len(features._keys) <= 12


def test_a_later_run_of_shared_heads_resumes(api, siblings, tmp_path, monkeypatch):
    """The random head that a stock model's backbone is wrapped with is no part of what the run is."""
    options = {"dataset": reviews(6), "tokenizer": siblings[0], "output_dir": tmp_path / "run", "progress": False}
    torch.manual_seed(1)
    first = api.attack_text_heads(*shared_heads(siblings), **options)
    torch.manual_seed(2)
    monkeypatch.setattr(api.Searcher, "attack", None)
    again = api.attack_text_heads(*shared_heads(siblings), **options)
    assert {name: timeless(result) for name, result in again.items()} == {
        name: timeless(result) for name, result in first.items()
    }


def test_siblings_that_name_their_classes_differently_are_not_attacked_together(api, siblings):
    for folder, names in zip(siblings, (["neg", "pos"], ["pos", "neg"]), strict=True):
        config = read_json(Path(folder) / "config.json")
        write_json(Path(folder) / "config.json", {**config, "id2label": dict(enumerate(names))})
    with pytest.raises(ValueError, match="name their classes differently"):
        shared_heads(siblings)


# Classes


def named(model, names):
    """A copy of a model that calls its classes by these names."""
    model = copy.deepcopy(model)
    model.config.id2label = dict(enumerate(names))
    return model


def test_classes_are_matched_by_name(run, victim, tmp_path):
    """A CSV's names are sorted, and the model numbers its classes otherwise: once success was 1 without a word."""
    rows = reviews(40)
    names = ["zero stars", "Five stars"]
    frame = {"text": rows["text"][:], "label": [names[label] for label in rows["label"]]}
    Dataset.from_dict(frame).to_csv(tmp_path / "test.csv")
    model = named(victim, ["Zero stars", "five stars"])
    options = {"dataset": str(tmp_path / "test.csv"), "num_examples": 40}
    by_name = run(model=model, output_dir=tmp_path / "name", **options)
    assert by_name["clean_accuracy"] > 0.9
    assert by_name["class_names"] == ("Zero stars", "five stars")
    assert [record["label"] for record in records(tmp_path / "name")] == rows["label"][:]
    assert run(model=model, match_labels="number", **options)["clean_accuracy"] < 0.1


def test_classes_that_cannot_be_matched_are_refused(run, victim):
    with pytest.raises(
        ValueError, match="class 'neg' of the data set is no class of the model .*match_labels='number'"
    ):
        run(model=named(victim, ["negative", "positive"]))


def test_a_missing_label_is_skipped(run, tmp_path):
    data = Dataset.from_dict({"text": ["good film", "bad film"], "label": [1, None]})
    assert run(dataset=data, output_dir=tmp_path)["skipped"] == {"it has no label": 1}


def test_of_a_pair_the_first_text_is_attacked(run, victim, tokenizer, tmp_path):
    rows = reviews(12)
    pairs = {"title": rows["text"][:], "body": ["the plot"] * 12, "label": rows["label"][:]}
    Dataset.from_dict(pairs).to_csv(tmp_path / "test.csv")
    run(dataset=tmp_path / "test.csv", text_column="title,body", output_dir=tmp_path / "run", num_examples=12)
    found = records(tmp_path / "run")
    assert [record["original_text"] for record in found] == rows["text"][:]
    features = TokenFeatures(victim, tokenizer)
    features.second = "the plot"
    answers = TextClassifier(features)(rows["text"][:]).argmax(-1).tolist()
    assert [record["prediction"] for record in found] == answers


def test_heads_share_what_the_backbone_computes(noisy, tokenizer):
    features = TokenFeatures(noisy, tokenizer)
    texts = reviews(20)["text"][:]
    first = TextClassifier(features)
    again = TextClassifier(features, type(noisy.head)(noisy.head.feature_size, 2))
    first(texts)
    computed = features.computed
    assert again(texts).shape == (20, 2)
    assert features.computed == computed == len(set(texts))


def test_any_module_may_be_the_head_of_a_bfloat16_backbone(api, noisy, tokenizer):
    heads = {"linear": torch.nn.Linear(16, 2), "ours": noisy.head}
    options = {"num_examples": 2, "dtype": "bfloat16", "progress": False}
    assert api.attack_text_heads(noisy, heads, reviews(4), tokenizer=tokenizer, **options).keys() == heads.keys()


def test_a_stock_model_has_no_heads_to_swap(api, victim, tokenizer):
    with pytest.raises(TypeError, match=r"features\(\*\*inputs\), but BertForSequenceClassification has none"):
        api.attack_text_heads(victim, [torch.nn.Linear(16, 2)], reviews(4), tokenizer=tokenizer)


# Noise


def test_a_sampled_predictor_draws_afresh_and_is_scored_again(run, noisy, tmp_path):
    result = run(model=noisy, noise="sampled", redraws=16, output_dir=tmp_path, num_examples=12)
    again = result["redraws"]
    assert (result["noise"], again["draws"]) == ("sampled", 16)
    rows = records(tmp_path)
    tried = [row for row in rows if row["status"] == "attacked"]
    assert again["attack_success_rate"] == pytest.approx(sum(row["redraws_wrong"] for row in tried) / 16 / len(tried))
    under = sum(16 - row["redraws_wrong"] for row in rows) / 16 / len(rows)
    assert again["accuracy_under_attack"] == pytest.approx(under)
    low, high = again["attack_success_rate_interval"]
    assert low <= again["attack_success_rate"] <= high
    assert timeless(run(model=noisy, noise="sampled", redraws=16, num_examples=12)) == timeless(result)


def test_the_declared_predictor_is_what_is_asked(noisy, tokenizer):
    features = TokenFeatures(noisy, tokenizer)
    texts = ["The good film."] * 3
    noisy.head.num_eval_samples = 5  # what a checkpoint may say about itself
    mean = TextClassifier(features)(texts)
    noisy.head.num_eval_samples = 0
    assert torch.equal(mean[0], mean[1])
    sampled = TextClassifier(features, draws=1)(texts)
    averaged = TextClassifier(features, draws=4000)(texts)
    assert not torch.equal(sampled[0], sampled[1])
    expected = noisy.head(features(features.encode(texts)), num_samples=4000).logits
    torch.testing.assert_close(averaged, expected.detach(), atol=0.1, rtol=0.1)


def test_noise_of_a_model_that_has_none_is_refused(run):
    with pytest.raises(ValueError, match="BertForSequenceClassification has no noise: use noise='mean'"):
        run(noise="averaged:4")


# Tokens


def test_batches_give_what_single_texts_give(victim, tokenizer):
    texts = [*reviews(30)["text"][:], "good", ""]
    batched = TextClassifier(TokenFeatures(victim, tokenizer, max_length=20, batch_size=3))(texts)
    encoded = [tokenizer(text, truncation=True, max_length=20, return_tensors="pt") for text in texts]
    single = torch.cat([victim(**inputs).logits.detach() for inputs in encoded])
    torch.testing.assert_close(batched, single, atol=1e-5, rtol=1e-5)


def test_batches_pad_on_the_tokenizers_side_and_no_further_than_needed(victim, tokenizer):
    left = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]", padding_side="left")
    features = TokenFeatures(victim, left, max_length=20, batch_size=2)
    inputs = features.collate(features.encode(["good film", "good"]))
    expected = left(["good film", "good"], padding=True, return_tensors="pt")
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[name], expected[name]) for name in inputs)
    keys = features.encode([*reviews(30)["text"][:], *["good"] * 20])
    sizes = [[features._decode(key).shape[1] for key in batch] for batch in features._batches(keys)]
    flat = [size for batch in sizes for size in batch]
    assert flat == sorted(flat, reverse=True)
    assert all(len(batch) * max(batch) <= 2 * 20 for batch in sizes)
    assert max(map(len, sizes)) > 2


def test_equal_tokens_are_computed_once_and_answered_alike(victim, tokenizer):
    features = TokenFeatures(victim, tokenizer, max_length=6)
    classifier = TextClassifier(features)
    logits = classifier(["good plot film movie evening", "GOOD plot film movie cinema", "bad plot"])
    assert features.computed == 2  # upper case and whatever is cut off do not reach the model
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(classifier(["good plot film movie music"])[0], logits[0])
    assert features.computed == 2


def test_memory_is_bounded(victim, tokenizer):
    features = TokenFeatures(victim, tokenizer, limit=10)
    classifier = TextClassifier(features)
    expected = TextClassifier(TokenFeatures(victim, tokenizer))(reviews(30)["text"][:])
    for start in range(0, 30, 6):
        found = classifier(reviews(30)["text"][start : start + 6])
        torch.testing.assert_close(found, expected[start : start + 6])
    assert max(len(features._keys), len(features._rows), len(classifier._answers)) <= 10


def test_a_batch_that_does_not_fit_is_halved(victim, tokenizer, monkeypatch):
    features = TokenFeatures(victim, tokenizer, batch_size=8)
    run, sizes = features.run, []

    def small(inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(inputs)

    monkeypatch.setattr(features, "run", small)
    texts = reviews(20)["text"][:]
    torch.testing.assert_close(
        TextClassifier(features)(texts), TextClassifier(TokenFeatures(victim, tokenizer))(texts), atol=1e-5, rtol=1e-5
    )
    assert max(sizes[-3:]) <= 2


def test_bfloat16_leaves_the_given_model_alone(run, noisy, victim):
    result = run(model=noisy, dtype="bfloat16", num_examples=3)
    assert result["dtype"] == "bfloat16"
    assert {parameter.dtype for parameter in noisy.parameters()} == {torch.float32}
    assert run(model=victim, dtype="bfloat16", num_examples=3)["dtype"] == "bfloat16"
    assert not noisy.training
    assert all(parameter.requires_grad for parameter in noisy.parameters())


def test_the_gradient_is_that_of_the_predicted_class(api, victim, tokenizer):
    wrapped = api.wrapper(victim, tokenizer)
    found = wrapped.get_grad("The good film.")
    ids = tokenizer("The good film.", return_tensors="pt")["input_ids"]
    embedded = victim.get_input_embeddings()(ids).detach().requires_grad_()
    logits = victim(inputs_embeds=embedded).logits
    torch.nn.functional.cross_entropy(logits, logits.argmax(-1)).backward()
    assert found["ids"] == ids[0].tolist()
    np.testing.assert_allclose(found["gradient"], embedded.grad[0].numpy(), atol=1e-6)
    assert wrapped.tokenize(["good dog"], strip_prefix=True) == [["[CLS]", "good", "d", "o", "g", "[SEP]"]]


# TextAttack's own interfaces


def test_textattacks_python_api_takes_the_wrapper(api, noisy, tokenizer, tmp_path):
    from hf_vub.attacks.text import textattack_compat

    textattack = textattack_compat.load()
    noisy.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    wrapped = api.wrapper(tmp_path)
    assert isinstance(wrapped, textattack.models.wrappers.ModelWrapper)
    search = textattack.attack_recipes.DeepWordBugGao2018.build(wrapped)
    result = search.attack("The good superb film.", 1)
    assert result.num_queries > 1


@pytest.mark.parametrize("flair", ["broken", pytest.param("real", marks=pytest.mark.slow)])
def test_textattacks_command_line_takes_a_file_of_two_lines(noisy, tokenizer, tmp_path, fresh_machine, flair):
    """``textattack attack --model-from-file``, offline, in an empty home; with a flair that cannot be imported too."""
    noisy.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "model.py").write_text(
        f"from hf_vub.attacks import wrapper\nmodel = wrapper({str(tmp_path / 'model')!r})\n"
    )
    rows = [(row["text"], row["label"]) for row in reviews(2)]
    (tmp_path / "data.py").write_text(f"import textattack\ndataset = textattack.datasets.Dataset({rows!r})\n")
    environment = {key: value for key, value in os.environ.items() if key != "NLTK_DATA"}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "hf_vub.attacks.text.textattack_compat"]
    if flair == "broken":
        (tmp_path / "flair").mkdir()
        (tmp_path / "flair" / "__init__.py").write_text("raise ImportError('not on this transformers')\n")
        environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    else:
        pytest.importorskip("flair.models", reason="no flair for this version of transformers", exc_type=ImportError)
        nltk_resources.check()
        environment["NLTK_DATA"] = str(nltk_resources.cache_folder())
        marker = tmp_path / ".cache" / "textattack" / "post_install_check_3"
        marker.parent.mkdir(parents=True)
        marker.touch()  # TextAttack's sign that it need not download
        command = [sys.executable, "-m", "textattack"]
    command += ["attack", "--model-from-file", str(tmp_path / "model.py"), "--recipe", "deepwordbug"]
    command += ["--dataset-from-file", str(tmp_path / "data.py"), "--num-examples", "2"]
    found = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "Number of successful attacks" in found.stdout
    assert list(work.iterdir()) == []


def test_the_stand_in_is_gone_once_textattack_is_imported():
    from hf_vub.attacks.text import textattack_compat

    textattack_compat.load()
    flair = sys.modules.get("flair")
    assert flair is None or getattr(flair, "__file__", None) is not None  # the real one, or none
    names = textattack_compat._stand_in()
    assert sorted(names) == ["flair", "flair.data", "flair.models"]
    with pytest.raises(ImportError, match="tags words with flair"):
        names["flair.models"].SequenceTagger.load("upos-fast")


def test_importing_textattack_silences_nobody():
    program = """
import logging
logger = logging.getLogger("hf_vub.sweep.heads")
from hf_vub.attacks.text import textattack_compat
textattack_compat.load()
logger.warning("still heard")
"""
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "still heard" in found.stderr


# Names, files and rubbish


def test_the_script_attacks_a_checkpoint_on_a_file(noisy, tokenizer, tmp_path, monkeypatch, capsys):
    noisy.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    reviews(40).to_parquet(tmp_path / "test.parquet")
    monkeypatch.chdir(tmp_path)
    words = "--model model --dataset test.parquet --recipe pwws --num_examples 4 --output_dir run"
    monkeypatch.setattr(sys, "argv", ["attack_text.py", *words.split()])
    runpy.run_path(str(ROOT / "scripts" / "attack_text.py"), run_name="__main__")
    result = read_json(tmp_path / "run" / "result.json")
    assert (result["model"], result["dataset"], result["attack"]) == ("model", "test.parquet", "PWWSRen2019")
    assert (result["stopwords"], result["wordnet"]) == ("scikit-learn", "nltk")
    assert result["class_names"] == ["neg", "pos"]
    assert "accuracy_under_attack" in capsys.readouterr().out
    files = {"examples.html", "examples.md", "records.jsonl", "result.json", "run.json"}
    assert {path.name for path in (tmp_path / "run").iterdir()} - {"_lock"} == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "run", "test.parquet"]


def test_the_bar_shows_the_running_success_rate(run, monkeypatch):
    said = []
    monkeypatch.setattr("tqdm.auto.tqdm.set_postfix_str", lambda bar, text, **options: said.append(text))
    result = run(progress=True)
    assert len(said) == 8
    attacked = round(result["num_examples"] * result["clean_accuracy"])
    assert said[-1] == f"success {round(attacked * result['attack_success_rate'])}/{attacked}"


def test_rubbish_texts_are_skipped_with_the_reason(run, tmp_path):
    texts = ["The good film.", "", " ... ", "word " * 20_000, "lone \ud800 surrogate good", "nul \x00 good\u202e 🎬"]
    frame = {"text": [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]}
    data = Dataset.from_dict({**frame, "label": [1, 0, 1, 0, 1, 1]})
    result = run(dataset=data, num_examples=6, output_dir=tmp_path)
    statuses = [record["status"] for record in records(tmp_path)]
    assert statuses[1:4] == [
        "skipped: the text has no words",
        "skipped: the text has no words",
        "skipped: more than max_words=4000 words",
    ]
    assert all(status in ("attacked", "misclassified") for status in (statuses[0], statuses[4], statuses[5]))
    assert (result["num_examples"], result["num_skipped"]) == (3, 3)
    assert result["skipped"]["the text has no words"] == 2


def test_a_text_that_breaks_the_attack_loses_nothing(run, api, tmp_path, monkeypatch):
    answer = TextClassifier.__call__

    def broken(self, texts):
        logits = answer(self, texts)
        if any("superb" in text for text in texts):
            raise FloatingPointError("the model's logits are not finite numbers")
        return logits

    monkeypatch.setattr(TextClassifier, "__call__", broken)
    data = Dataset.from_dict({"text": ["good film", "superb film", "bad film"], "label": [1, 1, 0]})
    result = run(dataset=data, num_examples=3, output_dir=tmp_path)
    assert result["num_skipped"] == 1
    assert records(tmp_path)[1]["status"] == "skipped: FloatingPointError: the model's logits are not finite numbers"


def test_a_query_budget_is_kept(run, tmp_path):
    run(query_budget=7, output_dir=tmp_path, recipe="pwws")
    assert all(record["queries"] <= 7 for record in records(tmp_path) if record["status"] == "attacked")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_examples": 0}, "num_examples must be a whole number of at least 1, but is 0"),
        ({"how": "last"}, "how must be 'stratified' or 'first', but is 'last'"),
        ({"noise": "loud"}, "noise must be 'mean', 'sampled' or 'averaged:k'"),
        ({"recipe": "NoSuch2020"}, "recipe must be one of deepwordbug, pwws, A2TYoo2021, .*, but is 'NoSuch2020'"),
        ({"recipe": "MorpheusTan2020"}, "recipe MorpheusTan2020 attacks text generators, not classifiers"),
        ({"dtype": "float16"}, "dtype must be None, 'float32' or 'bfloat16', but is 'float16'"),
        ({"max_length": 64}, "max_length is 64, but the model has positions for 32 tokens only"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, but is 0"),
        ({"tokenizer": None}, "tokenizer is None, and this BertForSequenceClassification was not loaded"),
        (
            {"dataset": Dataset.from_dict({"body": ["a"], "label": [0]}), "text_column": "text"},
            "text_column is 'text', but the columns are body, label",
        ),
        (
            {"dataset": Dataset.from_dict({"text": ["a"]})},
            "recognised as the label column among text: name one with label_column",
        ),
        (
            {"dataset": Dataset.from_dict({"text": ["a b"], "label": [2]})},
            "labels up to 2, but the model has 2 classes",
        ),
        ({"dataset": Dataset.from_dict({"text": [], "label": []})}, "has no rows"),
        ({"dataset": "no/such/folder/here"}, "no/such/folder/here"),
    ],
)
def test_bad_input_is_one_sentence(run, options, sentence):
    with pytest.raises((ValueError, OSError), match=sentence) as raised:
        run(**options)
    assert "\n" not in str(raised.value)


def test_a_dataset_of_another_number_of_classes_is_refused(run):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b", "c"])})
    data = Dataset.from_dict({"text": ["good film", "bad film"], "label": [0, 1]}, features=features)
    with pytest.raises(ValueError, match=r"has 3 classes \(a, b, c\), but the model has 2 .* match_labels='number'"):
        run(dataset=data)


def test_a_recipe_whose_resources_cannot_be_had_says_what_it_fetches(run, monkeypatch):
    from hf_vub.attacks.text import textattack_compat

    def offline(model_wrapper):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(textattack_compat.load().attack_recipes.TextFoolerJin2019, "build", offline)
    with pytest.raises(nltk_resources.ResourceError) as raised:
        run(recipe="TextFoolerJin2019")
    assert str(raised.value) == (
        "recipe TextFoolerJin2019 cannot run on this machine: it fetches counter-fitted word vectors and the Universal "
        "Sentence Encoder (tensorflow_hub) when it is first used (ConnectionError: no route to host)"
    )


def test_another_recipe_runs_by_its_class_name(run):
    assert run(recipe="Pruthi2019", num_examples=3)["attack"] == "Pruthi2019"


def test_first_takes_the_first_rows(run, tmp_path):
    run(how="first", num_examples=3, output_dir=tmp_path)
    assert [record["index"] for record in records(tmp_path)] == [0, 1, 2]
