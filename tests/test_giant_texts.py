"""Texts of gigabytes: a damaged file or a stranger's must end in a sentence and not fill the memory."""

import tracemalloc

import pyarrow as pa
import pyarrow.parquet
import pytest

from hf_vub.data import columns, tables
from hf_vub.data.preprocessing import encode_texts
from hf_vub.data.splits import load_splits
from hf_vub.data.synthetic import word_tokenizer


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_line_of_nine_gigabytes_is_refused_before_it_is_held(tmp_path, name):
    """The file is sparse: it says 9 GB and takes none."""
    path = tmp_path / name
    with open(path, "wb") as file:
        file.write(b"text,label\ngood,1\n")
        file.truncate(9 * 10**9)
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"^{name}: line 3 has more than 100,000,000 bytes, which is the limit$"):
        load_splits(str(path))
    assert tracemalloc.get_traced_memory()[1] < 3e8
    tracemalloc.stop()


def test_long_files_of_short_lines_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_TEXT_BYTES", 50)
    path = tmp_path / "train.csv"
    path.write_text("text,label\n" + "good film,1\nbad film,0\n" * 20)
    assert sum(map(len, load_splits(str(path)).values())) == 40


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_a_giant_text_is_refused_with_its_row_before_it_is_tokenized(tmp_path, monkeypatch, kind):
    """In Parquet and in JSON no line tells; é has two bytes."""
    monkeypatch.setattr(columns, "MAX_TEXT_BYTES", 50)
    texts = ["good", "é" * 25, "é" * 26, "bad"] * 2
    table = pa.table({"text": pa.array(texts, kind), "label": [0, 1, 0, 1] * 2})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"the text of row \d has 52 bytes; 50 is the limit$"):
        load_splits(str(tmp_path / "train.parquet"))


class Counting:
    """A tokenizer that notes the characters it is given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.characters = tokenizer, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, texts, pairs=None, **options):
        self.characters += sum(map(len, [*texts, *(pairs or [])]))
        return self.tokenizer(texts, pairs, **options)


@pytest.mark.parametrize("pairs", [None, ["bad " * 1_000_000]])
def test_only_the_beginning_of_a_giant_text_is_tokenized(pairs):
    tokenizer = Counting(word_tokenizer(["good bad film"]))
    giant = encode_texts(tokenizer, ["good film " * 2_000_000], 16, pairs=pairs)
    assert tokenizer.characters == (1_000_000 if pairs is None else 2 * 1_600)
    short = encode_texts(tokenizer, ["good film " * 100], 16, pairs=None if pairs is None else ["bad " * 300])
    assert giant == short


def test_a_text_within_the_limit_is_tokenized_to_its_end():
    tokenizer = word_tokenizer(["good bad film"])
    ids = encode_texts(tokenizer, ["good " * 199_999 + " bad"], 1_000_000)["input_ids"][0]
    assert len(ids) == 200_002
    assert tokenizer.convert_ids_to_tokens(ids[-2:-1]) == ["bad"]
    long = encode_texts(tokenizer, [" " * 3_000_000 + "bad"], 40_000)["input_ids"][0]
    assert tokenizer.convert_ids_to_tokens(long[1:-1]) == ["bad"], "100 characters for each token that is asked for"
