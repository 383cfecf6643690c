"""Every Python block of the README runs, and every command in it has the options that its script takes."""

import argparse
import importlib.util
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from helpers.models import backbone_config
from hf_vub.data import synthetic

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
# What the README names on the Hub, and stands for it here: a tiny model with its tokenizer, and a few reviews.
MODELS = ("google-bert/bert-base-uncased", "textattack/bert-base-uncased-imdb")
DATA = ("stanfordnlp/imdb",)


def commands():
    """Script and options of every command that runs one of the scripts."""
    for language, block in BLOCKS:
        if language == "python":
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;", line):
                words = shlex.split(part, comments=True)
                place = next((k for k, word in enumerate(words) if re.fullmatch(r"scripts/\w+\.py", word)), None)
                if place is not None:
                    yield words[place], words[place + 1 :]


def test_the_python_blocks_run_one_after_the_other(hub, online, tmp_path):
    reviews = synthetic.reviews(num_train=32, num_test=16)
    tokenizer = synthetic.word_tokenizer(reviews["train"]["text"], vocab_size=200)
    tokenizer.model_max_length = 64
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 64
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "stand-in")
    tokenizer.save_pretrained(tmp_path / "stand-in")
    for name in MODELS:
        hub.add(name, tmp_path / "stand-in")
    for name in DATA:
        (tmp_path / name).mkdir(parents=True)
        for split, rows in reviews.items():
            rows.to_parquet(tmp_path / name / f"{split}.parquet")
    blocks = [block for language, block in BLOCKS if language == "python"]
    assert blocks
    online.run("\n".join(blocks), tmp_path)


def test_every_block_is_run_or_parsed_somewhere():
    """Here, in ``test_hub`` (TextAttack's command line), by continuous integration (installing) or by BibTeX."""
    known = (
        "scripts/",
        "hf_vub.attacks import wrapper",
        "textattack attack ",
        "bin/pytest",
        "@unpublished",
    )
    for language, block in BLOCKS:
        assert language == "python" or any(word in block for word in known), block


@pytest.mark.skipif(find_spec("textattack") is None, reason="text attacks are an optional extra")
def test_textattacks_command_has_options_that_exist():
    from hf_vub.attacks.text import textattack_compat

    textattack_compat.load()
    from textattack.commands.attack_command import AttackCommand

    (block,) = (block for _, block in BLOCKS if block.startswith("textattack "))
    parser = argparse.ArgumentParser()
    AttackCommand.register_subcommand(parser.add_subparsers())
    options = parser.parse_args(shlex.split(block)[1:])
    assert (options.model_from_file, options.attack_recipe, options.num_examples) == ("model.py", "deepwordbug", 100)


def test_the_table_of_the_interface_names_what_there_is():
    table = README.partition("## Python\n")[2].partition("\nExtras:")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert len(cells) > 8
    for cell in cells:
        home = "hf_vub"
        for name in re.findall(r"`([\w.]+)`", cell):
            home, _, name = name.rpartition(".") if "." in name else (home, "", name)
            assert hasattr(importlib.import_module(home), name) or find_spec(f"{home}.{name}"), name


@pytest.mark.parametrize(("script", "options"), list(commands()))
def test_the_commands_have_options_that_exist(script, options, monkeypatch):
    class Parsed(BaseException):
        """Raised in the place of what the script would do."""

    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    parse = module.parse

    def stop(*types, **named):
        parse(*types, **named, description="")
        raise Parsed

    monkeypatch.setattr(module, "parse", stop)
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(Parsed):
        module.main()
