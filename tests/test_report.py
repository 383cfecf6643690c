"""Cards, tables, figures and the report, rendered from result JSON alone."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_vub.report import model_card, write_model_card

HOSTILE = 'x|<script>alert("1")</script>`*_[a](javascript:b)\n# head {{ 7 * 7 }}'
TOKEN = "hf_" + "abcdefgh" * 4


def training_result(**changes):
    return {
        "schema": 1,
        "kind": "train",
        "task": "text",
        "model": "vub-reviews",
        "base_model": "bert-base-uncased",
        "objective": "vub",
        "beta": 1e-3,
        "entropy_weight": 1.0,
        "freeze_backbone": True,
        "dataset": "imdb",
        "num_train": 100,
        "num_test": 50,
        "num_labels": 2,
        "seed": 0,
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 1e-4,
        "metrics": {
            "accuracy": 0.905,
            "nll": 0.31,
            "brier": 0.2,
            "ece": 0.05,
            "cross_entropy": 0.32,
            "rate": 12.5,
            "entropy": 0.25,
            "bound_vib": 1.0,
            "bound_vub": 0.5,
            "bound_ib": 0.1,
        },
        "seconds": 12.0,
        "versions": {"torch": "2.15"},
        "command": "python scripts/train_text.py --model bert-base-uncased",
        "commit": "abc",
        **changes,
    }


def text_attack(**changes):
    return {
        "schema": 1,
        "kind": "text_attack",
        "model": "vub-reviews",
        "attack": "DeepWordBugGao2018",
        "dataset": "imdb",
        "num_examples": 20,
        "clean_accuracy": 0.9,
        "accuracy_under_attack": 0.54,
        "attack_success_rate": 0.4,
        "attack_success_interval": [0.22, 0.61],
        "words_perturbed_mean": 3.4,
        "queries_mean": 100.0,
        "noise": "mean",
        "seed": 0,
        "how": "stratified",
        **changes,
    }


def image_attack(**changes):
    budgets = [
        {
            "epsilon": epsilon,
            "accuracy_under_attack": under,
            "attack_success_rate": 1 - under,
            "attack_success_interval": [0.0, 1.0],
            "l2_mean": 55 * epsilon,
            "l2_median": 55 * epsilon,
        }
        for epsilon, under in ((0.1, 0.5), (0.5, 0.25))
    ]
    common = {"kind": "image_attack", "attack": "fgs", "dataset": "cifar10", "num_examples": 8, "clean_accuracy": 1.0}
    return {**common, **budgets[-1], "budgets": budgets, "noise": "mean", **changes}


def metadata(card):
    return yaml.safe_load(card.split("---")[1])


# Model cards


def test_card_has_metadata_that_the_hub_reads():
    card = ModelCard(model_card(training_result(), [text_attack()]))
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.base_model == "bert-base-uncased"
    assert card.data.datasets == ["imdb"]
    assert card.data.model_name == "vub-reviews"
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found["Accuracy"] == 0.905
    assert found["Accuracy under attack (DeepWordBugGao2018)"] == 0.54
    assert found["Attack success rate (DeepWordBugGao2018)"] == 0.4
    assert all(result.dataset_type == "imdb" for result in card.data.eval_results)


def test_card_of_an_image_model_has_a_result_per_budget():
    card = ModelCard(model_card(training_result(task="image", dataset="cifar10"), [image_attack()]))
    names = [result.metric_name for result in card.data.eval_results]
    assert "Accuracy under attack (fgs, epsilon 0.1)" in names
    assert "Accuracy under attack (fgs, epsilon 0.5)" in names
    assert "5.5 L2" in card.text
    assert "VUBForImageClassification" in card.text


def test_card_in_full():
    text = model_card(training_result(), [text_attack()])
    for heading in ("Intended use", "Limits", "How to load", "Results", "Under attack", "Training", "Citation"):
        assert f"# {heading}\n" in text
    assert "| Accuracy | 90.5% | share of rows classified rightly |" in text
    assert "| Rate | 12.5 |" in text
    assert "| DeepWordBugGao2018 | - | 20 | 90.0% | 54.0% | 40.0% (22.0% to 61.0%) | 3.4 words | mean |" in text
    assert "| Learning rate | 0.0001 |" in text
    assert 'model = VUBForSequenceClassification.from_pretrained("vub-reviews")' in text
    assert "trust_remote_code=True" in text
    assert "{{" not in text
    assert "None" not in text


def test_card_of_a_stock_classifier_speaks_of_no_bottleneck():
    text = model_card(training_result(objective="vanilla", beta=None, entropy_weight=None))
    assert "hf_vub  #" not in text
    assert "trust_remote_code" not in text
    assert "vanilla" in metadata(text)["tags"]
    assert "(none so far)" in text


@pytest.mark.parametrize("place", ["model", "base_model", "dataset", "command", "commit"])
def test_names_cannot_break_out_of_a_card(place):
    card = model_card(training_result(**{place: HOSTILE}), [text_attack(attack=HOSTILE, noise=HOSTILE)])
    body = card.split("---", 2)[2]
    code = body.split("```python")[1:]
    prose = body.split("```python")[0] + "".join(part.split("```", 1)[1] for part in code)
    assert "<script" not in prose
    assert not re.search(r"(?<!\\)\]\(javascript", prose)
    assert "\n# head" not in body
    assert "49" not in body
    for part in code:
        compile(part.split("```")[0], "card", "exec")
    rows = [line for line in prose.splitlines() if line.startswith("| ")]
    assert {len(row.replace("\\|", "").split("|")) for row in rows if "script" in row} <= {4, 10}
    assert metadata(card)["library_name"] == "transformers"
    assert ModelCard(card).data.eval_results


def test_a_local_path_is_reduced_to_its_last_component(tmp_path):
    folder = tmp_path / "secret-user" / "minilm"
    folder.mkdir(parents=True)
    command = f"python scripts/train_text.py --model {folder} --data=/home/secret-user/imdb --hub_token {TOKEN}"
    result = training_result(base_model=str(folder), dataset=str(folder), model=str(folder), command=command)
    text = model_card(result, [text_attack(dataset=str(folder))])
    assert "secret-user" not in text
    assert TOKEN not in text
    assert "minilm" in text
    assert "base_model" not in metadata(text)
    assert "datasets" not in metadata(text)


def test_a_token_in_a_name_is_not_published():
    assert TOKEN not in model_card(training_result(model=TOKEN, command=f"train --hub_token={TOKEN}"))


def test_built_in_data_is_not_said_to_be_on_the_hub():
    assert "datasets" not in metadata(model_card(training_result(dataset="synthetic-reviews")))


def test_write_model_card(tmp_path):
    path = write_model_card(tmp_path / "checkpoint", training_result())
    assert path.name == "README.md"
    assert path.read_text(encoding="utf-8") == model_card(training_result())


def test_a_card_is_made_of_a_training_result():
    with pytest.raises(ValueError, match="kind 'text_attack'"):
        model_card(text_attack())
    with pytest.raises(ValueError, match="task is 'audio'"):
        model_card(training_result(task="audio"))
