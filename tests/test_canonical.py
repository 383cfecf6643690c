"""Text read through look-alikes and invisible characters, in the package and without it."""

import unicodedata

import pytest
from transformers import AutoTokenizer

from helpers.reviews import GOOD, NEUTRAL, reviews, tiny_bert, word_tokenizer
from helpers.training import arguments
from hf_vub.data import tokenize
from hf_vub.data.canonical import INVISIBLE, LOOK_ALIKES, fold_unicode
from hf_vub.training import DataArguments, ModelArguments, fine_tune

# The homoglyphs of TextAttack's WordSwapHomoglyphSwap, which DeepWordBug's and TextBugger's variants draw from.
ATTACK = dict(zip("abcdefghijklmnopqrstuvwxyz", "ɑЬϲԁе𝚏ɡհіϳ𝒌ⅼｍոорԛⲅѕ𝚝սѵԝ×уᴢ", strict=True))


@pytest.fixture
def tokenizer():
    tokenizer = word_tokenizer()
    fold_unicode(tokenizer)
    return tokenizer


def test_every_homoglyph_of_the_attack_is_undone(tokenizer):
    for word in [*GOOD, *NEUTRAL]:
        for place, letter in enumerate(word):
            attacked = word[:place] + ATTACK[letter] + word[place + 1 :]
            assert word_tokenizer()(attacked)["input_ids"] != word_tokenizer()(word)["input_ids"]
            assert tokenizer(attacked)["input_ids"] == tokenizer(word)["input_ids"], attacked
        assert tokenizer("".join(map(ATTACK.get, word)))["input_ids"] == tokenizer(word)["input_ids"]


def test_invisible_characters_are_not_read(tokenizer):
    for mark in "\u200b\u200d\u2060\ufeff\u00ad\u202e\u2066\ufe0f":
        assert tokenizer(f"a su{mark}perb film")["input_ids"] == tokenizer("a superb film")["input_ids"]


def test_plain_text_keeps_its_tokens(tokenizer):
    plain = [row["input_ids"] for row in tokenize(reviews(50), word_tokenizer())]
    assert [row["input_ids"] for row in tokenize(reviews(50), tokenizer)] == plain
    ascii_text = "".join(map(chr, range(32, 127)))
    assert tokenizer(ascii_text)["input_ids"] == word_tokenizer()(ascii_text)["input_ids"]


def test_folding_twice_is_folding_once(tokenizer, tmp_path):
    state = tokenizer.backend_tokenizer.to_str()
    fold_unicode(tokenizer)
    assert tokenizer.backend_tokenizer.to_str() == state
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    fold_unicode(again)
    assert again("gооd")["input_ids"] == tokenizer("good")["input_ids"]


def test_the_table_is_consistent():
    """No plain letter is replaced, and none twice."""
    alike = [letter for letters in LOOK_ALIKES.values() for letter in letters]
    assert len(set(alike)) == len(alike)
    assert all(len(plain) == 1 and plain.isascii() for plain in LOOK_ALIKES)
    assert not any(letter.isascii() for letter in alike)
    assert all(unicodedata.category(mark)[0] in "CM" for mark in INVISIBLE.replace("-", ""))


def test_slow_tokenizers_and_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="fold_unicode needs a fast tokenizer"):
        fold_unicode(object())
    model = ModelArguments(str(tmp_path), fold_unicode=True)
    with pytest.raises(ValueError, match="fold_unicode is True, but the model classifies images"):
        fine_tune("image", model, DataArguments("digits"), arguments(tmp_path / "run"))


def test_a_trained_checkpoint_reads_through_it(tmp_path):
    """Its tokenizer alone does: no code of this package is needed to load it."""
    tokenizer = word_tokenizer()
    tiny_bert(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, rows in (("train", 40), ("test", 10)):
        (tmp_path / "data").mkdir(exist_ok=True)
        reviews(rows).to_parquet(tmp_path / "data" / f"{name}.parquet")
    model = ModelArguments(str(tmp_path / "model"), fold_unicode=True)
    result = fine_tune(
        "text", model, DataArguments(str(tmp_path / "data"), max_length=24), arguments(tmp_path / "run", max_steps=1)
    )
    assert result.fold_unicode is True
    saved = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert saved("а gооd fi\u200blm")["input_ids"] == saved("a good film")["input_ids"]
