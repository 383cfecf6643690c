"""Random edits of words: one edit each, drawn from seed, epoch and row alone; and training on them."""

import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from helpers.mini_wordnet import only_data
from helpers.models import build_model
from helpers.reviews import reviews, tiny_bert, word_tokenizer
from helpers.training import Tokens, arguments, pad, trainer
from hf_vub import VUBConfig, VUBForSequenceClassification, VUBTrainer
from hf_vub.data import tokenize
from hf_vub.data.word_edits import EditedTexts, WordEdit, edit_text, parse_edits, synonyms, typo
from hf_vub.embeddings import extract

TYPOS = (WordEdit("typos", 0.6),)


def distance(first, second):
    """Edits of one letter and swaps of neighbours that lead from one word to another (optimal string alignment)."""
    table = {(i, 0): i for i in range(len(first) + 1)} | {(0, j): j for j in range(len(second) + 1)}
    for i in range(1, len(first) + 1):
        for j in range(1, len(second) + 1):
            same = first[i - 1] == second[j - 1]
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (not same))
            if i > 1 and j > 1 and (first[i - 1], first[i - 2]) == (second[j - 2], second[j - 1]):
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return table[len(first), len(second)]


def test_a_typo_is_one_edit_of_a_letter():
    generator = np.random.default_rng(0)
    words = ["film", "a", "ab", "naïve", "it's", "10/10", "(good!)", "...", "中文", "𝒳y"]
    found = {(word, typo(word, generator)) for word in words for _ in range(300)}
    assert all(distance(*pair) <= 1 for pair in found)
    lengths = {len(after) - len(before) for before, after in found if before == "film"}
    assert lengths == {-1, 0, 1}
    assert ("film", "iflm") in found
    assert {after for before, after in found if before == "..."} == {"..."}
    assert all(after for _, after in found)


def test_the_share_of_edited_words_is_the_one_asked_for():
    text = " ".join(["wonderful"] * 4000)
    words = edit_text(text, [WordEdit("typos", 0.15)], np.random.default_rng(0)).split(" ")
    assert sum(word != "wonderful" for word in words) / 4000 == pytest.approx(0.15, abs=0.02)


def test_blanks_stay_and_empty_texts_too():
    edited = edit_text("  a\tfine\n\nfilm ", TYPOS, np.random.default_rng(1))
    assert [part for part in edited if part.isspace()] == list("  \t\n\n ")
    assert edit_text("", TYPOS, np.random.default_rng(1)) == ""


def test_rows_depend_on_seed_epoch_and_row_alone():
    data, tokenizer = reviews(24), word_tokenizer()
    rows = EditedTexts(data, tokenizer, TYPOS, seed=1)
    first = [row["input_ids"] for row in rows.__getitems__(range(24))]
    assert [rows[row]["input_ids"] for row in reversed(range(24))] == first[::-1]
    rows.set_epoch(1)
    second = [row["input_ids"] for row in rows.__getitems__(range(24))]
    assert second != first
    loader = DataLoader(rows, batch_size=5, num_workers=1, collate_fn=list)
    assert [row["input_ids"] for batch in loader for row in batch] == second
    rows.set_epoch(0)
    assert [row["input_ids"] for row in rows.__getitems__(range(24))] == first
    other = EditedTexts(data, tokenizer, TYPOS, seed=2)
    assert [row["input_ids"] for row in other.__getitems__(range(24))] != first


def test_both_gives_the_texts_as_they_are_before_the_edited_ones():
    data, tokenizer = reviews(6), word_tokenizer()
    plain = [row["input_ids"] for row in tokenize(data, tokenizer)]
    both = EditedTexts(data, tokenizer, TYPOS, both=True).__getitems__(range(6))
    alone = EditedTexts(data, tokenizer, TYPOS).__getitems__(range(6))
    assert [row["input_ids"] for row in both[:6]] == plain
    assert both[6:] == alone
    assert [row["labels"] for row in both] == data["label"][:] * 2


def test_pairs_are_edited_on_both_sides():
    data = Dataset.from_dict({"text": ["good film"] * 8, "text_pair": ["bad plot"] * 8, "label": [0] * 8})
    tokenizer = word_tokenizer()
    plain = tokenizer("good film", "bad plot")["input_ids"]
    rows = EditedTexts(data, tokenizer, (WordEdit("typos", 1.0),)).__getitems__(range(8))
    middle = tokenizer.sep_token_id
    for row in rows:
        sides = [" ".join(map(str, row["input_ids"])).split(f" {middle} ")[side] for side in (0, 1)]
        expected = " ".join(map(str, plain)).split(f" {middle} ")
        assert sides[0] != expected[0]
        assert sides[1] != expected[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perturb": "typo:0.1"}, "perturb is 'typo:0.1'; it must be 'typos:0.15' or 'synonyms:0.2'"),
        ({"perturb": "typos"}, "perturb is 'typos'; it must be"),
        ({"perturb": "typos:x"}, "perturb is 'typos:x'; it must be"),
        ({"perturb": "typos:nan"}, "perturb is 'typos:nan'; it must be"),
        ({"perturb": "typos:0"}, "perturb typos has the share 0.0; it must be above 0 and at most 1"),
        ({"perturb": "typos:1.5"}, "perturb typos has the share 1.5"),
        ({"consistency": 1.0}, "consistency is 1.0, but there is nothing to compare"),
        ({"perturb": "typos:0.1", "consistency": -1.0}, "consistency is -1.0; it must be at least 0"),
        ({"perturb": "typos:0.1", "smoothing": "delete:0.5"}, "perturb and smoothing are both set"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        arguments(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_synonyms_come_from_the_same_synset(tmp_path):
    pytest.importorskip("nltk")
    synonyms.cache_clear()
    with only_data(
        tmp_path, {"noun": [["film", "movie", "moving_picture"], ["film", "cinema"]], "adj": [["good", "fine"]]}
    ):
        assert synonyms("film") == ("cinema", "movie")
        found = {edit_text("A Good film!", parse_edits("synonyms:1"), np.random.default_rng(n)) for n in range(20)}
    synonyms.cache_clear()
    assert found == {"A Fine cinema!", "A Fine movie!"}


def test_synonyms_without_wordnet_are_refused_before_training(tmp_path, monkeypatch):
    pytest.importorskip("nltk")
    synonyms.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(ValueError, match="needs NLTK's wordnet: pip install nltk, and python -m nltk.downloader"):
        parse_edits("synonyms:0.2")


def test_data_that_cannot_be_edited_is_refused(tmp_path):
    with pytest.raises(ValueError, match="train_dataset must be a datasets.Dataset with the columns text and label"):
        trainer(tmp_path, dataset=Tokens(), collator=pad, perturb="typos:0.1")
    with pytest.raises(ValueError, match="processing_class must be the model's tokenizer"):
        VUBTrainer(
            model=build_model("bert", num_labels=2), args=arguments(tmp_path, perturb="typos:0.1"),
            train_dataset=reviews(8),
        )  # fmt: skip


def text_trainer(folder, **options):
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    config = VUBConfig(tiny_bert(tokenizer).config, num_labels=2, beta=1e-3, label_entropy=0.69)
    defaults = {"per_device_train_batch_size": 32, "per_device_eval_batch_size": 64, "learning_rate": 4e-3}
    train = reviews(options.pop("rows", 512), seed=1)
    return VUBTrainer(
        model=VUBForSequenceClassification(config),
        args=arguments(folder, **{**defaults, **options}),
        train_dataset=train if "perturb" in options else tokenize(train, tokenizer).remove_columns("length"),
        eval_dataset=reviews(64, seed=2) if "perturb" in options else None,
        processing_class=tokenizer,
    )


def accuracy_under_typos(run):
    data = reviews(200, seed=5)
    texts = [edit_text(text, TYPOS, np.random.default_rng([7, row])) for row, text in enumerate(data["text"])]
    edited = data.remove_columns("text").add_column("text", texts)
    return run.evaluate(tokenize(edited, run.processing_class).remove_columns("length"))["eval_accuracy"]


def test_training_on_typos_with_consistency_reads_them(tmp_path):
    plain = text_trainer(tmp_path / "plain", num_train_epochs=8)
    plain.train()
    typos = text_trainer(tmp_path / "typos", num_train_epochs=8, perturb="typos:0.6", consistency=1.0)
    typos.train()
    assert typos.evaluate()["eval_accuracy"] > 0.95
    assert accuracy_under_typos(typos) > accuracy_under_typos(plain) + 0.1


def test_it_resumes_bit_for_bit(tmp_path):
    options = {"perturb": "typos:0.3", "consistency": 0.5, "num_train_epochs": 2, "rows": 96, "save_steps": 2}
    whole = text_trainer(tmp_path / "whole", save_strategy="steps", **options)
    whole.train()
    again = text_trainer(tmp_path / "again", save_strategy="steps", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_the_consistency_is_the_symmetric_divergence(tmp_path):
    """On a doubled batch: the mean objective of both halves, and the divergence between them."""
    run = text_trainer(tmp_path, perturb="typos:0.6", consistency=2.0)
    run.model.head.num_train_samples = 0
    for module in run.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = run.data_collator(run.train_dataset.__getitems__(range(8)))
    assert len(batch["labels"]) == 16
    run.model.eval()
    outputs = run.model(**batch)
    run.model.config.objective = "ce"
    run.model.train()
    run._plane = None
    p, q = (part.softmax(-1) for part in outputs.logits.chunk(2))
    divergence = ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)).mean() / 2
    expected = outputs.cross_entropy.mean() + 2.0 * divergence
    for module in run.model.modules():
        module.training = isinstance(module, VUBForSequenceClassification)
    assert float(run.compute_loss(run.model, dict(batch)).detach()) == pytest.approx(float(expected), rel=1e-5)


def test_a_bad_row_is_named_also_in_a_doubled_batch(tmp_path, monkeypatch):
    run = text_trainer(tmp_path, perturb="typos:0.6", consistency=1.0, rows=32, per_device_train_batch_size=8)
    losses = run.compute_loss

    def poisoned(model, inputs, **options):
        loss = losses(model, inputs, **options)
        run.terms["rate"] = run.terms["rate"].detach().clone()
        run.terms["rate"][11] = torch.nan  # the edited copy of the fourth text
        return loss * torch.nan

    monkeypatch.setattr(run, "compute_loss", poisoned)
    with pytest.raises(FloatingPointError, match=r"rate is nan for rows \d+ in a batch of rows"):
        run.train()


def test_features_of_edited_copies_are_those_of_the_edited_texts(tmp_path):
    """Copy after copy, cached, and the edits of as many epochs of training."""
    tokenizer, data = word_tokenizer(), reviews(10)
    torch.manual_seed(0)
    model = VUBForSequenceClassification(VUBConfig(tiny_bert(tokenizer).config, num_labels=2)).eval()
    options = {"processing_class": tokenizer, "dtype": "float32"}
    copies = extract(model, data, tmp_path, perturb="typos:0.6", copies=2, noise_seed=3, **options)
    assert copies.features.shape == (20, 16)
    assert copies.labels.tolist() == data["label"][:] * 2
    rows = EditedTexts(data, tokenizer, TYPOS, seed=3)
    for copy in range(2):
        rows.set_epoch(copy)
        batch = tokenizer.pad(
            [{"input_ids": row["input_ids"]} for row in rows.__getitems__(range(10))], return_tensors="pt"
        )
        expected = model.features(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        torch.testing.assert_close(copies.features[10 * copy : 10 * copy + 10], expected.detach(), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="noise and perturb are both set"):
        extract(model, data, tmp_path, processing_class=tokenizer, perturb="typos:0.6", noise="delete:0.5")
    with pytest.raises(ValueError, match="copies is 0"):
        extract(model, data, tmp_path, processing_class=tokenizer, perturb="typos:0.6", copies=0)
