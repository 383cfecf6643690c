"""Pooling: what the features of a text are, where the choice comes from, and that a checkpoint keeps it."""

import copy
import json
import logging

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from helpers.models import TEXT_BACKBONES, backbone_config, build_model, model_inputs
from hf_vub import VUBConfig, VUBForImageClassification, VUBForSequenceClassification
from hf_vub.model.pooling import pool, token_mask

CHOICES = ("cls", "mean", "last")


def by_hand(states, mask, pooling):
    """One row at a time, as one would say it."""
    rows = []
    for row, kept in zip(states, mask.bool(), strict=True):
        tokens = row[kept]
        rows.append({"cls": tokens[0], "last": tokens[-1], "mean": tokens.mean(0)}[pooling])
    return torch.stack(rows)


@pytest.mark.parametrize("pooling", CHOICES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_no_part_of_the_features(pooling, side):
    states = torch.randn(4, 6, 5, dtype=torch.float64)
    mask = (torch.arange(6) < torch.tensor([6, 1, 3, 4])[:, None]).long()
    mask = mask.flip(1) if side == "left" else mask
    torch.testing.assert_close(pool(states, mask, pooling), by_hand(states, mask, pooling), rtol=0, atol=1e-12)


def test_half_precision_is_summed_in_float32():
    states = torch.full((1, 4096, 2), 100.0, dtype=torch.float16)
    assert torch.equal(pool(states, torch.ones(1, 4096), "mean"), torch.full((1, 2), 100.0, dtype=torch.float16))


def test_without_a_mask_the_padding_token_is_left_out():
    ids = torch.tensor([[5, 6, 0], [7, 0, 0]])
    assert token_mask({"input_ids": ids}, 0).tolist() == [[1, 1, 0], [1, 0, 0]]
    assert token_mask({"input_ids": ids}, None).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert token_mask({"inputs_embeds": torch.randn(2, 3, 4)}, 0).shape == (2, 3)
    given = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert token_mask({"input_ids": ids, "attention_mask": given}, 0) is given


@pytest.mark.parametrize("pooling", CHOICES)
@pytest.mark.parametrize("name", [*TEXT_BACKBONES])
def test_features_are_pooled_states_and_survive_saving(name, pooling, tmp_path):
    encoder = AutoModel.from_config(backbone_config(name)).eval()
    encoder.save_pretrained(tmp_path / "encoder")
    model = VUBForSequenceClassification.from_pretrained(tmp_path / "encoder", pooling=pooling, num_labels=4)
    inputs = model_inputs("bert")
    states = encoder(**inputs).last_hidden_state
    torch.testing.assert_close(
        model.features(**inputs), by_hand(states, inputs["attention_mask"], pooling), rtol=1e-4, atol=1e-5
    )
    assert (model.config.pooling, model.head.feature_size) == (pooling, 32)
    model.save_pretrained(tmp_path / "vub")
    for cls in (VUBForSequenceClassification, AutoModelForSequenceClassification):
        again = cls.from_pretrained(tmp_path / "vub")
        assert again.config.pooling == pooling
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("pooling", CHOICES)
@pytest.mark.parametrize("name", ["bert", "roberta", "mpnet", "distilbert", "gpt2", "layoutlm"])
def test_every_trainable_parameter_has_a_gradient(name, pooling):
    """Data parallelism stops at a parameter without one, such as those of a pooler that nothing uses."""
    config = backbone_config("bert") if name == "layoutlm" else backbone_config(name)
    if name == "layoutlm":
        from transformers import LayoutLMConfig

        config = LayoutLMConfig(**{key: getattr(config, key) for key in ("vocab_size", "hidden_size")}, num_labels=3)
        config.num_attention_heads, config.num_hidden_layers, config.intermediate_size = 2, 1, 48
    model = VUBForSequenceClassification(VUBConfig(config, num_labels=3, pooling=pooling)).train()
    model(**model_inputs("bert"), labels=torch.tensor([0, 1, 2])).loss.backward()
    without = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not without


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, "last"),
        ({"embedding_dimension": 32, "pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_a_sentence_encoder_is_pooled_as_it_says(content, found, tmp_path, caplog):
    AutoModel.from_config(backbone_config("bert")).save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **content}))
    with caplog.at_level(logging.INFO):
        model = VUBForSequenceClassification.from_pretrained(tmp_path)
    assert model.config.pooling == found
    assert f"pooling of {tmp_path} is {found!r}, as its 1_Pooling/config.json says" in caplog.text
    assert "start at random" not in caplog.text
    assert VUBForSequenceClassification.from_pretrained(tmp_path, pooling="stock").config.pooling == "stock"
    assert VUBForSequenceClassification.from_pretrained(tmp_path, pooling="cls").config.pooling == "cls"


def test_a_pooling_that_is_not_offered_becomes_the_mean_and_says_so(tmp_path, caplog):
    AutoModel.from_config(backbone_config("bert")).save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    assert VUBForSequenceClassification.from_pretrained(tmp_path).config.pooling == "mean"
    assert "names a pooling that is not offered (pooling_mode_max_tokens): 'mean' is used" in caplog.text
    (tmp_path / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="1_Pooling/config.json is not valid JSON"):
        VUBForSequenceClassification.from_pretrained(tmp_path)


def test_any_other_checkpoint_keeps_the_stock_pooling_and_a_fresh_pooler_is_warned_of(tmp_path, caplog):
    config = backbone_config("bert")
    AutoModel.from_config(config, add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "trained")
    with caplog.at_level(logging.INFO):
        trained = VUBForSequenceClassification.from_pretrained(tmp_path / "trained")
    assert trained.config.pooling == "stock"
    assert f"pooling of {tmp_path / 'trained'} is 'stock': what its 'bert' classifier does" in caplog.text
    assert "start at random" not in caplog.text
    VUBForSequenceClassification.from_pretrained(tmp_path / "bare")
    assert "has no weights for bert.pooler.dense.bias, bert.pooler.dense.weight: they start at random" in caplog.text
    caplog.clear()
    VUBForSequenceClassification.from_pretrained(tmp_path / "bare", pooling="mean")
    assert "start at random" not in caplog.text


def test_a_checkpoint_from_before_there_was_a_choice_has_the_same_logits(tmp_path):
    model, inputs = build_model("bert"), model_inputs("bert")
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content.pop("pooling") == "stock"
    (tmp_path / "config.json").write_text(json.dumps(content))
    again = VUBForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert VUBForSequenceClassification.from_pretrained(tmp_path, pooling="auto").config.pooling == "stock"


def test_impossible_choices_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="pooling is 'max'; it must be one of 'auto', 'stock', 'cls', 'mean', 'last'"):
        VUBConfig(backbone_config("bert"), pooling="max")
    with pytest.raises(ValueError, match="pooling is 'mean'; images have the stock model's own pooling"):
        VUBForImageClassification(VUBConfig(backbone_config("vit"), pooling="mean"))
    build_model("bert", pooling="mean").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"pooling is 'cls', and .* was trained with 'mean': leave pooling out"):
        VUBForSequenceClassification.from_pretrained(tmp_path, pooling="cls")
    from transformers import BartConfig

    bart = BartConfig(d_model=32, encoder_layers=1, decoder_layers=1, vocab_size=60, num_labels=3)
    with pytest.raises(ValueError, match="pooling is 'mean', which 'bart' models do not offer: use 'stock'"):
        VUBForSequenceClassification(VUBConfig(bart, num_labels=3, pooling="mean"))


def test_a_frozen_encoder_of_another_dtype_is_pooled_and_kept(tmp_path):
    AutoModel.from_config(backbone_config("bert")).save_pretrained(tmp_path)
    options = {"pooling": "mean", "freeze_backbone": True, "dtype": torch.bfloat16}
    model = VUBForSequenceClassification.from_pretrained(tmp_path, **options).train()
    before = copy.deepcopy(model.state_dict())
    out = model(**model_inputs("bert"), labels=torch.tensor([0, 1, 0]))
    out.loss.backward()
    torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1.0).step()
    assert out.logits.dtype == torch.float32
    assert model.features(**model_inputs("bert")).dtype == torch.bfloat16
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("backbone."), key
