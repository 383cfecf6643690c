"""What text attacks read: found, converted from what the machine has, or asked for in one sentence."""

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
    """A machine without any NLTK data, WordNet or network."""
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path / "nothing"))
    monkeypatch.setattr(nltk_resources, "WORDNET_FOLDER", str(tmp_path / "nothing"))
    monkeypatch.setattr(nltk, "download", lambda *args, **kwargs: False)
    return tmp_path


def test_stopwords_fall_back_to_scikit_learn_and_say_so(bare):
    assert check("DeepWordBugGao2018") == {"stopwords": "scikit-learn"}
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
def test_one_sentence_names_the_resource_and_three_ways_to_provide_it(bare, monkeypatch, recipe):
    monkeypatch.setattr(nltk_resources, "_build_stopwords", lambda target: False)
    with pytest.raises(ResourceError) as raised:
        check(recipe)
    sentence = str(raised.value)
    assert sentence.startswith(f"{recipe or 'TextAttack'} needs the NLTK resource 'stopwords'")
    for way in ("(1)", "nltk.downloader stopwords", "(2)", "NLTK_DATA", "(3)", "scikit-learn"):
        assert way in sentence
    assert "\n" not in sentence


def test_without_wordnet_the_sentence_names_debians_packages(bare):
    with pytest.raises(ResourceError, match=r"'wordnet'.*\(3\).*apt-get install wordnet-base wordnet-sense-index"):
        check("PWWSRen2019")


def test_debians_wordnet_is_converted(bare, monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(mini_wordnet.write(bare / "wordnet", SYNSETS)))
    old = os.umask(0)  # NLTK refuses data that others may write to
    try:
        assert check("PWWSRen2019") == {"stopwords": "scikit-learn", "wordnet": "debian"}
    finally:
        os.umask(old)
    folder = nltk_resources.cache_folder() / "wordnet" / "corpora" / "wordnet"
    reader = nltk.corpus.reader.WordNetCorpusReader(nltk.data.find("corpora/wordnet"), None)
    assert [synset.lemma_names() for synset in reader.synsets("good")] == [["good", "fine", "superb"]]
    lexnames = [line.split() for line in (folder / "lexnames").read_text().splitlines()]
    assert len(lexnames) == 45
    assert lexnames[0] == ["00", "adj.all", "3"]
    assert lexnames[2] == ["02", "adv.all", "4"]
    assert lexnames[29] == ["29", "verb.body", "2"]
    assert lexnames[44] == ["44", "adj.ppl", "3"]
    assert not list(folder.parent.glob(".*"))
    assert not folder.stat().st_mode & 0o022


def test_an_incomplete_wordnet_is_not_converted(bare, monkeypatch):
    folder = mini_wordnet.write(bare / "wordnet", SYNSETS)
    (folder / "index.sense").unlink()  # Debian has it in a package of its own
    monkeypatch.setenv("WNSEARCHDIR", str(folder))
    with pytest.raises(ResourceError, match="wordnet-sense-index"):
        check("PWWSRen2019")


def test_a_failed_conversion_leaves_nothing_behind(bare, monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(mini_wordnet.write(bare / "wordnet", SYNSETS)))

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nltk_resources.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        check("PWWSRen2019")
    assert list((nltk_resources.cache_folder() / "wordnet" / "corpora").iterdir()) == []


def test_prefetch_downloads_what_only_stands_in(bare, monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(mini_wordnet.write(bare / "wordnet", SYNSETS)))
    asked = []
    monkeypatch.setattr(nltk, "download", lambda name, quiet: asked.append(name))
    assert prefetch() == {"stopwords": "scikit-learn", "wordnet": "debian"}
    assert set(asked) == {"stopwords", "wordnet"}


@pytest.mark.slow
def test_prefetch_as_a_command_on_a_fresh_machine(tmp_path):
    """No home, no NLTK data, no network: the WordNet files on the machine are enough."""
    wordnet = mini_wordnet.write(tmp_path / "wordnet", SYNSETS)
    root = Path(__file__).resolve().parents[1]
    environment = {key: value for key, value in os.environ.items() if key not in ("NLTK_DATA", "XDG_CACHE_HOME")}
    environment |= {"HOME": str(tmp_path), "WNSEARCHDIR": str(wordnet), "PYTHONPATH": str(root)}
    environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # nobody listens there
    run = [sys.executable, str(root / "scripts/attack_text.py"), "--prefetch"]
    found = subprocess.run(run, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert {line.split(":")[0] for line in found.stdout.splitlines()} == {"stopwords", "wordnet"}
