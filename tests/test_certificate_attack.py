"""Attacks on smoothed classifiers: nothing within a radius changes a decision, and a radius too large is refuted."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification

from helpers.models import backbone_config
from hf_vub.certify import Smoothing, deletion_radius
from hf_vub.certify.voters import as_head, make_voter
from hf_vub.data import synthetic
from hf_vub.data.noise import Noise
from hf_vub.model.loading import LoadedClassifier
from hf_vub.paper.certificate_attack import Trial, attack_certificates, climb, try_texts, word_edits
from hf_vub.runs.schema import read_result


class Refuses(nn.Module):
    """Say 0 as soon as a strange word is seen: the tightest case of the bound."""

    def __init__(self, strange):
        super().__init__()
        self.strange = strange
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        clean = (input_ids != self.strange).all(dim=1).float()
        return type("Output", (), {"logits": torch.stack([1 - clean, clean], dim=1) * self.weight})


@pytest.fixture(scope="module")
def voter():
    tokenizer = synthetic.word_tokenizer(["good bad film the a"] * 3, vocab_size=150)
    tokenizer.model_max_length = 64
    model = Refuses(tokenizer.convert_tokens_to_ids("bad"))
    loaded = LoadedClassifier(model, tokenizer, "toy")
    return make_voter(loaded, Smoothing(Noise("delete", 0.85)), {"": as_head(None)}, 0)[0]


SMOOTHING = Smoothing(Noise("delete", 0.85), 20, 2000, 0.001)


def test_word_edits_are_levenshteins():
    def slow(one, other):
        if not one or not other:
            return len(one) + len(other)
        same = slow(one[1:], other[1:]) + (one[0] != other[0])
        return min(same, slow(one[1:], other) + 1, slow(one, other[1:]) + 1)

    texts = [list(text) for n in range(4) for text in itertools.product("ab", repeat=n)]
    for one in texts:
        for other in texts:
            assert word_edits(one, other) == slow(one, other)


def test_a_search_finds_no_flip_within_the_radius_and_one_beyond_it(voter):
    words = ["good", "film"] * 10
    path = climb(voter, SMOOTHING, words, ["bad", "the"], most=9, tried=12, draws=60)
    trials = try_texts(voter, SMOOTHING, "", words, path)
    assert len(trials) == 9
    assert not any(trial.refutes for trial in trials)
    assert any(trial.flipped for trial in trials)
    reached = min(trial.edits for trial in trials if trial.flipped)
    radius = trials[0].radius
    assert radius < reached
    assert radius == deletion_radius(1 - 0.004, 0.85) or radius >= 3
    # A radius that is too large is refuted by the same texts.
    wrong = [Trial(reached, trial.edits, trial.flipped) for trial in trials]
    assert any(trial.refutes for trial in wrong)


def test_the_worst_edits_within_the_radius_leave_the_decision(voter):
    """All substitutions by the strange word, the case in which the bound is tight."""
    words = ["film"] * 12
    changed = [["bad"] * r + words[r:] for r in range(1, 4)]
    trials = try_texts(voter, SMOOTHING, "", words, changed)
    assert [trial.edits for trial in trials] == [1, 2, 3]
    assert not any(trial.refutes for trial in trials)


def test_a_text_without_a_decision_is_not_attacked(voter):
    # 0.85 ^ 4 is near one half: the vote for "nothing strange was seen" is a tie.
    words = ["bad"] * 4 + ["film"] * 3
    fine = Smoothing(Noise("delete", 0.85), 20, 200, 0.0001)
    assert try_texts(voter, fine, "", words, [words[1:]]) == []
    assert climb(voter, fine, words, ["bad"], most=2, tried=3, draws=20) == []


def test_edits_are_of_all_three_kinds(voter):
    from hf_vub.paper.certificate_attack import _edited

    lengths = {len(_edited(["a"] * 5, ["b"], np.random.default_rng(seed))) for seed in range(30)}
    assert {4, 5, 6} <= lengths


def test_the_command_counts_flips_within_and_beyond_the_radius(tmp_path):
    config = backbone_config("bert", num_labels=2)
    tokenizer = synthetic.word_tokenizer(["good bad film the a"] * 3, vocab_size=150)
    config.vocab_size, config.max_position_embeddings, config.initializer_range = len(tokenizer), 64, 1.0
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(tmp_path / "model")
    texts = {"words": [("good film " * 6, "bad film " + "good film " * 5), ("the a " * 5, "the a " * 5)]}
    result = attack_certificates(
        str(tmp_path / "model"), "delete:0.8", texts, n0=10, n=60, alpha=0.05, climbed=1, most=2
    )
    assert [each.attack for each in result.attacks] == ["words", "search by the smoothed score"]
    assert result.attacks[0].tried == result.attacks[0].texts <= 2
    assert all(each.flipped_within == 0 for each in result.attacks)
    assert result == read_result(result.save(tmp_path / "result.json"))
