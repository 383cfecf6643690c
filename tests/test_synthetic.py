"""The built-in data: reproducible, balanced, and hard for a bag of words."""

import numpy as np
import pytest
from datasets import DatasetDict
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hf_vub.data.synthetic import digits, reviews, small_transformer, word_tokenizer


@pytest.fixture(scope="module")
def some_reviews() -> DatasetDict:
    return reviews(4000, 1000)


def test_reviews_are_balanced_distinct_and_of_sentence_length(some_reviews: DatasetDict) -> None:
    texts = some_reviews["train"]["text"][:] + some_reviews["test"]["text"][:]
    assert len(set(texts)) == 5000
    for split in some_reviews.values():
        assert np.mean(split["label"][:]) == 0.5
        assert split.features["label"].names == ["neg", "pos"]
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= 10
    assert max(lengths) <= 45
    assert len({word for text in texts for word in text.lower().split()}) > 400


def test_reviews_depend_on_the_seed_alone() -> None:
    first, again, other = reviews(50, 10, seed=1), reviews(50, 10, seed=1), reviews(50, 10, seed=2)
    assert first["train"][:] == again["train"][:]
    assert first["test"][:] == again["test"][:]
    assert first["train"][:] != other["train"][:]
    with pytest.raises(ValueError, match="at least 2, but are 50 and 1"):
        reviews(50, 1)


def test_a_bag_of_words_cannot_solve_the_reviews(some_reviews: DatasetDict) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear = pytest.importorskip("sklearn.linear_model")
    train, test = some_reviews["train"], some_reviews["test"]
    for vectorizer in (text.CountVectorizer(), text.TfidfVectorizer()):
        model = linear.LogisticRegression(max_iter=1000).fit(vectorizer.fit_transform(train["text"]), train["label"])
        score = model.score(vectorizer.transform(test["text"]), test["label"])
        assert 0.6 < score < 0.9


def test_the_verdict_follows_the_structure(some_reviews: DatasetDict) -> None:
    """One form read by hand: what is expected counts for nothing, what was got decides."""
    from hf_vub.data.synthetic import _ADJECTIVES

    read = 0
    for text, label in zip(some_reviews["train"]["text"], some_reviews["train"]["label"], strict=True):
        if "I expected" in text:
            last = text.rsplit(" ", 2)[1]
            assert last in _ADJECTIVES[bool(label)]
            read += 1
    assert read > 50


def test_the_tokenizer_is_a_real_one(some_reviews: DatasetDict, tmp_path) -> None:
    texts = some_reviews["train"]["text"][:]
    tokenizer = word_tokenizer(texts)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("A SUPERB film, but dull!", "", "a\x00b", "日本 🎬 é", "supreb"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    ids = tokenizer("a superb film")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "superb", "film", "[SEP]"]
    assert tokenizer.pad_token_id == 0
    assert tokenizer.unk_token_id not in tokenizer("supreb f1lm0 qxzj $%&")["input_ids"]
    batch = loaded(["a film", "a dull film"], padding=True)
    assert batch["attention_mask"] == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert tokenizer.get_vocab() == word_tokenizer(texts).get_vocab()
    assert len(word_tokenizer(texts, vocab_size=150)) == 150
    with pytest.raises(ValueError, match="vocab_size must be at least 109"):
        word_tokenizer(texts, vocab_size=100)


def test_digits_are_stratified_pictures() -> None:
    pytest.importorskip("sklearn")
    splits = digits(seed=1)
    assert (len(splits["train"]), len(splits["test"])) == (1437, 360)
    assert splits["train"].features["label"].names == [str(digit) for digit in range(10)]
    image = splits["train"][0]["image"]
    assert (image.mode, image.size) == ("RGB", (32, 32))
    counts = [np.bincount(split["label"][:]) / len(split) for split in splits.values()]
    np.testing.assert_allclose(*counts, atol=0.003)
    assert splits["test"]["label"][:] == digits(seed=1)["test"]["label"][:]
    assert splits["test"]["label"][:] != digits(seed=2)["test"]["label"][:]


def test_a_small_transformer_is_a_checkpoint_without_weights(tmp_path) -> None:
    texts = reviews(50, 10)["train"]["text"][:]
    folder = small_transformer(tmp_path / "backbone", texts)
    config = AutoConfig.from_pretrained(folder, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert config.vocab_size == len(tokenizer)
    batch = tokenizer(texts[:2], padding=True, return_tensors="pt")
    assert AutoModelForSequenceClassification.from_config(config)(**batch).logits.shape == (2, 2)
