"""The word lists of text attacks: found, built from scikit-learn's, or asked for in one sentence."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers import mini_wordnet
from hf_vub.attacks.text import nltk_resources
from hf_vub.attacks.text.nltk_resources import ResourceError, check, prefetch

nltk = pytest.importorskip("nltk", reason="text attacks are an optional extra")
pytest.importorskip("sklearn", reason="its stopwords stand in for NLTK's")

SYNSETS = {"adj": [["good", "fine", "superb"], ["bad", "poor"]], "noun": [["film", "movie", "motion_picture"]]}


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without any NLTK data or network."""
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(nltk, "download", lambda *args, **kwargs: False)
    return tmp_path


def test_stopwords_fall_back_to_scikit_learn_and_say_so(bare):
    old = os.umask(0)  # NLTK refuses data that others may write to
    try:
        assert check("DeepWordBugGao2018") == {"stopwords": "scikit-learn"}
    finally:
        os.umask(old)
    assert not any(path.stat().st_mode & 0o022 for path in (bare / "cache").rglob("corpora/**/*"))
    reader = nltk.corpus.reader.WordListCorpusReader(nltk.data.find("corpora/stopwords"), ["english"])
    assert {"the", "and", "because"} <= set(reader.words("english"))
    assert check("DeepWordBugGao2018") == {"stopwords": "scikit-learn"}  # also when it was built before


def test_what_the_user_provides_wins(bare, monkeypatch):
    check("DeepWordBugGao2018")
    corpora = bare / "mine" / "corpora"
    corpora.mkdir(parents=True)
    with zipfile.ZipFile(corpora / "stopwords.zip", "w") as archive:
        archive.writestr("stopwords/english", "the\n")
    nltk.data.path.insert(0, str(bare / "mine"))
    assert check("DeepWordBugGao2018") == {"stopwords": "nltk"}


@pytest.mark.parametrize("recipe", ["DeepWordBugGao2018", "PWWSRen2019", None])
def test_one_sentence_names_the_resource_and_the_ways_to_provide_it(bare, monkeypatch, recipe):
    monkeypatch.setattr(nltk_resources, "_build_stopwords", lambda: False)
    with pytest.raises(ResourceError) as raised:
        check(recipe)
    sentence = str(raised.value)
    assert sentence.startswith(f"{recipe or 'TextAttack'} needs the NLTK resource 'stopwords'")
    for way in ("(1)", "nltk.downloader stopwords", "(2)", "NLTK_DATA", "(3)", "scikit-learn"):
        assert way in sentence
    assert "\n" not in sentence


def test_wordnet_has_no_stand_in(bare):
    with pytest.raises(
        ResourceError, match=r"PWWSRen2019 needs .*'wordnet'.*nltk.downloader wordnet.*NLTK_DATA"
    ) as raised:
        check("PWWSRen2019")
    assert "scikit-learn" not in str(raised.value)


def test_a_wordnet_in_a_folder_of_nltk_data_is_read(bare):
    nltk.data.path.append(str(mini_wordnet.write(bare / "mine", SYNSETS)))
    assert check("PWWSRen2019") == {"stopwords": "scikit-learn", "wordnet": "nltk"}
    reader = nltk.corpus.reader.WordNetCorpusReader(nltk.data.find("corpora/wordnet"), None)
    assert [synset.lemma_names() for synset in reader.synsets("good")] == [["good", "fine", "superb"]]


def test_prefetch_downloads_what_only_stands_in(bare, monkeypatch):
    nltk.data.path.append(str(mini_wordnet.write(bare / "mine", SYNSETS)))
    asked = []
    monkeypatch.setattr(nltk, "download", lambda name, quiet: asked.append(name))
    assert prefetch() == {"stopwords": "scikit-learn", "wordnet": "nltk"}
    assert set(asked) == {"stopwords"}


@pytest.mark.slow
def test_prefetch_as_a_command_on_a_fresh_machine(tmp_path):
    """No home and no network: scikit-learn's stopwords are enough."""
    data = mini_wordnet.write(tmp_path / "data", SYNSETS)
    root = Path(__file__).resolve().parents[1]
    environment = {key: value for key, value in os.environ.items() if key != "XDG_CACHE_HOME"}
    environment |= {"HOME": str(tmp_path), "NLTK_DATA": str(data), "PYTHONPATH": str(root)}
    environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # nobody listens there
    run = [sys.executable, str(root / "scripts/attack_text.py"), "--prefetch"]
    found = subprocess.run(run, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == ["stopwords: scikit-learn", "wordnet: nltk"]
