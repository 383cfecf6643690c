"""The README and the documentation: code runs, commands parse, names exist, tables come from the result files."""

import argparse
import configparser
import doctest
import importlib.util
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

import render_tables
from helpers.models import backbone_config
from hf_vub import VUBConfig, VUBForSequenceClassification
from hf_vub.data import synthetic

ROOT = Path(__file__).resolve().parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in [*render_tables.PAGES, ROOT / "CONTRIBUTING.md"]}
BLOCKS = {
    name: re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for name, path in PAGES.items()
}
PYTHON = {
    name: "\n".join(block for language, block in blocks if language == "python")
    for name, blocks in BLOCKS.items()
    if any(language == "python" for language, _ in blocks)
}
NEEDS = {
    "docs/attack.md": ["textattack"],
    "docs/guided-search.md": ["textattack"],
    "docs/push-and-scale.md": ["peft"],
    "docs/reproduce.md": ["matplotlib"],
}
EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "hf_vub").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def command_lines():
    """Return the page and the words of every shell command."""
    for name, blocks in BLOCKS.items():
        for language, block in blocks:
            if language in ("", "bash"):
                for line in block.replace("\\\n", " ").splitlines():
                    for part in re.split(r"&&|;", line):
                        if words := shlex.split(part, comments=True):
                            yield name, words


COMMANDS = list(command_lines())
SCRIPTS = [
    (words[place], words[place + 1 :])
    for _, words in COMMANDS
    for place, word in enumerate(words)
    if re.fullmatch(r"scripts/\w+(\.py)?", word)
]


@pytest.fixture(scope="module")
def stand_ins(hub, tmp_path_factory):
    """A folder with a few reviews; on the Hub, tiny models under the names that the pages use."""
    folder = tmp_path_factory.mktemp("stand-ins")
    reviews = synthetic.reviews(num_train=64, num_test=16)
    tokenizer = synthetic.word_tokenizer(reviews["train"]["text"], vocab_size=200)
    tokenizer.model_max_length = 512
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 512
    torch.manual_seed(0)
    models = {
        "google-bert/bert-base-uncased": BertForSequenceClassification(config),
        "textattack/bert-base-uncased-imdb": BertForSequenceClassification(config),
        "user/vub-bert-imdb": VUBForSequenceClassification(VUBConfig(config, num_labels=2)),
    }
    for name, model in models.items():
        model.save_pretrained(folder / "models" / name)
        tokenizer.save_pretrained(folder / "models" / name)
        hub.add(name, folder / "models" / name)
    (folder / "data" / "stanfordnlp" / "imdb").mkdir(parents=True)
    for split, rows in reviews.items():
        rows.to_parquet(folder / "data" / "stanfordnlp" / "imdb" / f"{split}.parquet")
    return folder / "data"


@pytest.mark.parametrize("page", PYTHON)
def test_the_python_blocks_of_a_page_run_one_after_the_other(page, stand_ins, online):
    for module in NEEDS.get(page, []):
        if find_spec(module) is None:  # importing TextAttack itself would need NLTK's resources
            pytest.skip(f"{module} is an optional extra")
    online.run(PYTHON[page], stand_ins)


@pytest.mark.parametrize(("script", "options"), SCRIPTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_has_options_that_exist(script, options, monkeypatch):
    class Parsed(BaseException):
        """Raised once the options are parsed, before the script does anything."""

    path = ROOT / script
    path = path / "__main__.py" if path.is_dir() else path
    spec = importlib.util.spec_from_file_location("documented_script", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    parse = module.parse

    def parse_and_stop(*types, **keywords):
        parse(*types, **{"description": "", **keywords})
        raise Parsed

    monkeypatch.setattr(module, "parse", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(Parsed):
        module.main()


def test_every_block_is_of_a_known_kind():
    """Python and scripts are tried above; the other commands are those of installed tools."""
    tools = {"pytest", "ruff", "mypy", "mkdocs", "pip", "textattack", "python3", "mutmut"}
    for page, words in COMMANDS:
        names = {Path(word).name for word in words[:3]}
        assert names & tools or any(word.startswith("scripts/") for word in words), (page, words)
    languages = {language for blocks in BLOCKS.values() for language, _ in blocks}
    assert languages <= {"", "bash", "python", "bibtex"}


def test_installed_extras_exist():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = {extra for _, words in COMMANDS for word in words for extra in re.findall(r"\[([\w,-]+)\]", word)}
    assert {extra for extras in named for extra in extras.split(",")} <= set(setup["options.extras_require"])


def test_the_first_two_bash_blocks_are_the_two_promises():
    first, second = (block for language, block in BLOCKS["README.md"] if language == "bash")
    assert first.rstrip().endswith(".venv/bin/python scripts/quickstart.py")
    assert second.rstrip().endswith("&& .venv/bin/pytest")
    assert PAGES["README.md"].stat().st_size <= 10_000


@pytest.mark.skipif(find_spec("textattack") is None, reason="text attacks are an optional extra")
def test_textattacks_command_has_options_that_exist():
    from hf_vub.attacks.text import textattack_compat

    textattack_compat.load()
    from textattack.commands.attack_command import AttackCommand

    (words,) = (words for _, words in COMMANDS if words[0] == "textattack")
    parser = argparse.ArgumentParser()
    AttackCommand.register_subcommand(parser.add_subparsers())
    options = parser.parse_args(words[1:])
    assert (options.model_from_file, options.attack_recipe, options.num_examples) == ("model.py", "deepwordbug", 100)


@pytest.mark.parametrize("name", re.findall(r"^::: ([\w.]+)$", PAGES["docs/api.md"].read_text(), re.MULTILINE))
def test_a_name_of_the_api_page_exists_and_is_documented(name):
    home, _, attribute = name.rpartition(".")
    try:
        documented = importlib.import_module(name)
    except ModuleNotFoundError:
        documented = getattr(importlib.import_module(home), attribute)
    assert documented.__doc__


@pytest.mark.parametrize("page", [name for name, path in PAGES.items() if "<!-- table:" in path.read_text()])
def test_the_tables_of_a_page_come_from_the_result_files(page):
    text = PAGES[page].read_text(encoding="utf-8")
    assert render_tables.rendered(text) == text, "run scripts/docs/render_tables.py"


def test_every_table_is_on_a_page():
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES.values())
    assert set(re.findall(r"<!-- table: (\S+) -->", text)) == set(render_tables.TABLES)


def test_links_between_pages_lead_somewhere():
    for name, path in PAGES.items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), (name, target)


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_in_docstrings_print_what_they_say(module):
    results = doctest.testmod(
        importlib.import_module(module), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert results.failed == 0
