"""Noise of smoothed classifiers: shares, seeds, tokens by word, and rows that depend on seed, epoch and row alone."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from helpers.models import backbone_config
from hf_vub import VUBConfig, VUBForSequenceClassification
from hf_vub.data import synthetic
from hf_vub.data.noise import Noise, draw_kept, kept_words, noisy_pixels, noisy_texts, parse_noise
from hf_vub.data.noisy_rows import NoisyImages, NoisyTexts, WordTokens, noisy_copies
from hf_vub.data.preprocessing import encode_texts
from hf_vub.embeddings import extract

ODD = [
    "A fine, fine film -- isn't it?!  (10/10)",
    "café naïve <br /><br />中文 'quoted' e-mail@x.y",
    "",
    "word",
    "the [MASK] of zorro ... \u200b zero\u00a0width",
    " ".join(["long"] * 60),
]


def rng(*key):
    return np.random.default_rng(list(key) or 0)


def byte_tokenizer(first_blank=False):
    """A byte-level BPE tokenizer, whose words differ at the start of a text and after a blank."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "f"), ("f", "i"), ("fi", "l"), ("fil", "m"), ("Ġf", "i"), ("Ġfi", "l"), ("Ġfil", "m")]
    words = [*alphabet, *("".join(pair) for pair in merges)]
    specials = ["<s>", "</s>", "<pad>", "<mask>"]
    backend = Tokenizer(models.BPE({word: place for place, word in enumerate([*words, *specials])}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=first_blank)
    backend.decoder = decoders.ByteLevel()
    start, end = len(words), len(words) + 1
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", mask_token="<mask>"
    )


def across_words():
    """A tokenizer that reads a text without its blanks, so that its tokens are not those of its words."""
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "[UNK]": 3}, [("a", "b")], unk_token="[UNK]"))
    backend.normalizer = normalizers.Replace(" ", "")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[UNK]")


TOKENIZERS = {
    "words": lambda: synthetic.word_tokenizer(ODD, vocab_size=150),
    "bytes": byte_tokenizer,
    "bytes, first blank": lambda: byte_tokenizer(first_blank=True),
    "across words": across_words,
}


@pytest.mark.parametrize(
    "text", ["delete", "delete:", "delete:x", "drop:0.5", "delete:1", "mask:0", "gaussian:inf", ""]
)
def test_noise_that_cannot_be_is_one_sentence(text):
    with pytest.raises(ValueError, match="must be"):
        parse_noise(text)


def test_noise_is_read_as_it_is_written():
    for text in ("delete:0.95", "mask:0.7", "gaussian:0.25"):
        assert str(parse_noise(text)) == text
    assert (Noise("mask", 0.5).medium, Noise("gaussian", 0.5).medium) == ("text", "image")


def test_words_are_deleted_independently_with_their_probability():
    kept = draw_kept(Noise("delete", 0.8), 5, 40_000, rng())
    assert kept.mean(axis=0) == pytest.approx(np.full(5, 0.2), abs=0.01)
    assert np.corrcoef(kept.T)[np.triu_indices(5, 1)] == pytest.approx(np.zeros(10), abs=0.02)


def test_a_fixed_share_is_masked_and_each_word_equally_often():
    kept = draw_kept(Noise("mask", 0.7), 10, 20_000, rng())
    assert set(kept.sum(axis=1)) == {3}
    assert kept.mean(axis=0) == pytest.approx(np.full(10, 0.3), abs=0.02)
    assert [kept_words(words, 0.9) for words in (0, 1, 4, 100)] == [0, 1, 1, 10]


@pytest.mark.parametrize("kind", ["delete", "mask"])
def test_copies_are_the_same_in_whatever_blocks_they_are_drawn(kind):
    whole, parts = rng(3), rng(3)
    noise = Noise(kind, 0.6)
    expected = draw_kept(noise, 7, 12, whole)
    assert np.array_equal(np.concatenate([draw_kept(noise, 7, n, parts) for n in (1, 4, 7)]), expected)


def test_a_masked_text_keeps_its_positions():
    words = ["a", "b", "c", "d"]
    for text in noisy_texts(words, Noise("mask", 0.5), 20, rng(), mask="_"):
        assert [ours == theirs or ours == "_" for ours, theirs in zip(text.split(), words, strict=True)] == [True] * 4
        assert text.count("_") == 2


def test_gaussian_noise_has_its_deviation_and_is_not_clipped():
    pixels = torch.zeros(3, 8, 8)
    copies = noisy_pixels(pixels, Noise("gaussian", 0.25), 500, torch.Generator().manual_seed(0))
    assert copies.std().item() == pytest.approx(0.25, rel=0.01)
    assert copies.min() < 0
    again = noisy_pixels(pixels, Noise("gaussian", 0.25), 500, torch.Generator().manual_seed(0))
    assert torch.equal(copies, again)


def test_noise_of_the_other_medium_is_refused():
    with pytest.raises(ValueError, match="for images"):
        draw_kept(Noise("gaussian", 0.5), 3, 1, rng())
    with pytest.raises(ValueError, match="for texts"):
        noisy_pixels(torch.zeros(1, 2, 2), Noise("mask", 0.5), 1, torch.Generator())


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_by_word_are_those_of_the_text(kind, side):
    tokenizer = TOKENIZERS[kind]()
    tokenizer.truncation_side = side
    tokens = WordTokens(tokenizer, 20)
    assert tokens.by_word == (kind != "across words")
    for noise in (Noise("delete", 0.5), Noise("mask", 0.5)):
        for text in ODD:
            words = text.split()
            kept = draw_kept(noise, len(words), 8, rng(1))
            joined = noisy_texts(words, noise, 8, rng(1), mask=tokens.mask)
            expected = encode_texts(tokenizer, joined, 20)
            ids = tokens.noisy(words, kept, noise)
            assert ids == expected["input_ids"]
            assert [tokens.columns(row) for row in ids] == [
                {name: values[place] for name, values in expected.items()} for place in range(8)
            ]


def test_a_full_cache_of_words_changes_no_token():
    tokenizer = TOKENIZERS["words"]()
    small, large = WordTokens(tokenizer, 20, limit=3), WordTokens(tokenizer, 20)
    parts = [text.split() for text in ODD]
    assert [small([words])[0] for words in parts] == large(parts)


@pytest.fixture
def texts():
    return Dataset.from_dict({"text": [f"w{row} " * 30 for row in range(6)], "label": [0, 1] * 3})


def test_noisy_rows_depend_on_seed_epoch_and_row_alone(texts):
    tokens = WordTokens(synthetic.word_tokenizer(texts["text"], vocab_size=150), 64)

    def rows(epoch, seed=0, order=range(6)):
        noisy = NoisyTexts(texts, tokens, Noise("delete", 0.5), seed)
        noisy.set_epoch(epoch)
        return {row: noisy[row]["input_ids"] for row in order}

    assert rows(1) == rows(1, order=[5, 3, 1, 0, 2, 4])
    assert rows(0) != rows(1)
    assert rows(0) != rows(0, seed=1)
    assert len({len(ids) for ids in rows(0).values()}) > 1


def test_noisy_rows_refuse_pairs_and_images(texts):
    tokens = WordTokens(synthetic.word_tokenizer(texts["text"], vocab_size=150), 64)
    with pytest.raises(ValueError, match="pairs"):
        NoisyTexts(texts.add_column("text_pair", ["x"] * 6), tokens, Noise("delete", 0.5))
    with pytest.raises(ValueError, match="for images"):
        NoisyTexts(texts, tokens, Noise("gaussian", 0.5))
    with pytest.raises(ValueError, match="for texts"):
        NoisyImages(texts, Noise("mask", 0.5), torch.ones(3))


def test_noisy_images_have_the_noise_of_their_pixels():
    images = Dataset.from_dict({"pixel_values": [[[[0.0] * 16] * 16] * 3] * 4, "labels": [0, 1, 0, 1]}).with_format(
        "torch"
    )
    std = torch.tensor([0.5, 0.25, 1.0])
    noisy = NoisyImages(images, Noise("gaussian", 0.1), std)
    drawn = torch.stack([noisy[row]["pixel_values"] for row in range(4)])
    assert drawn.std(dim=(0, 2, 3)).tolist() == pytest.approx((0.1 / std).tolist(), rel=0.1)
    first = noisy[2]["pixel_values"]
    assert torch.equal(first, noisy[2]["pixel_values"])
    noisy.set_epoch(1)
    assert not torch.equal(first, noisy[2]["pixel_values"])
    assert int(noisy[3]["labels"]) == 1


def test_copies_as_rows_are_the_draws_of_the_epochs(texts):
    tokens = WordTokens(synthetic.word_tokenizer(texts["text"], vocab_size=150), 64)
    noise = Noise("delete", 0.5)
    rows = noisy_copies(texts, noise, copies=3, seed=4)
    assert rows["label"] == list(texts["label"]) * 3
    for epoch in range(3):
        noisy = NoisyTexts(texts, tokens, noise, seed=4)
        noisy.set_epoch(epoch)
        expected = [noisy[row]["input_ids"] for row in range(6)]
        assert tokens([text.split() for text in rows["text"][6 * epoch : 6 * epoch + 6]]) == expected
    with pytest.raises(ValueError, match="copies is 0"):
        noisy_copies(texts, noise, copies=0)
    with pytest.raises(ValueError, match="no copies are stored"):
        noisy_copies(texts, Noise("gaussian", 0.5))


def test_features_of_noisy_copies_are_those_of_their_texts(texts, tmp_path):
    config = backbone_config("bert", num_labels=2)
    tokenizer = synthetic.word_tokenizer(texts["text"], vocab_size=150)
    config.vocab_size = len(tokenizer)
    model = VUBForSequenceClassification(VUBConfig(config, freeze_backbone=True))
    options = {"processing_class": tokenizer, "max_length": 16, "dtype": "float32"}
    found = extract(model, texts, tmp_path, noise="mask:0.5", copies=2, noise_seed=1, **options)
    copies = noisy_copies(texts, Noise("mask", 0.5), 2, 1)
    assert torch.equal(found.features, extract(model, copies, tmp_path, **options).features)
    assert found.labels.tolist() == list(texts["label"]) * 2
