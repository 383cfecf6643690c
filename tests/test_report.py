"""Cards, tables, plots and the report, rendered from results alone."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from helpers import grid_results
from helpers.hub_server import metadata_errors
from hf_vub.paper.claims import with_statistics
from hf_vub.paper.comparison import caveats
from hf_vub.paper.grid import choose, phases
from hf_vub.paper.report import card_results, summary, write_report
from hf_vub.paper.tables import tables
from hf_vub.reports.examples import marked_texts, marked_texts_markdown
from hf_vub.reports.model_cards import model_card, refresh_model_card, write_model_card
from hf_vub.runs.schema import AttackSummary, ImageAttackResult, TextAttackResult, TrainResult, read_result

HOSTILE = 'x|<script>alert("1")</script>`*_[a](javascript:b)\n# head {{ 7 * 7 }}'
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EXPECTED = Path(__file__).with_name("model_card.md")
TOKEN = "hf_" + "abcdefgh" * 4


def training_result(**changes):
    return TrainResult(**training_fields(**changes))


def training_fields(**changes):
    return {
        "schema": 1,
        "kind": "train",
        "task": "text",
        "model": "vub-reviews",
        "base_model": "bert-base-uncased",
        "objective": "vub",
        "beta": 1e-3,
        "entropy_weight": 1.0,
        "freeze_backbone": True,
        "dataset": "imdb",
        "num_train": 90,
        "num_validation": 10,
        "num_test": 50,
        "data_rows": "trained on 90 rows: 90% of split 'train', stratified, split seed 0; selected on 10 rows: the "
        "other 10%; tested once on 50 rows: split 'test'",
        "num_labels": 2,
        "seed": 0,
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 1e-4,
        "metrics": {
            "accuracy": 0.905,
            "nll": 0.31,
            "brier": 0.2,
            "ece": 0.05,
            "cross_entropy": 0.32,
            "rate": 12.5,
            "entropy": 0.25,
            "bound_vib": 1.0,
            "bound_vub": 0.5,
            "bound_ib": 0.1,
        },
        "seconds": 12.0,
        "versions": {"torch": "2.15"},
        "command": "python scripts/train_text.py --model bert-base-uncased",
        "commit": "abc",
        **changes,
    }


def attack_fields(**changes):
    return {
        **{"versions": {}, "command": "attack", "commit": None, "model": "vub-reviews", "dataset": "imdb", "seed": 0},
        **{"how": "stratified", "noise": "mean", "rows": "0", "class_names": ("neg", "pos"), "num_successes": 7},
        **{"num_skipped": 0, "skipped": {}, "seconds": 1.0, "num_examples": 20, "num_attacked": 18},
        **changes,
    }


def text_attack(**changes):
    fields = attack_fields(
        attack="DeepWordBugGao2018",
        clean_accuracy=0.9,
        accuracy_under_attack=0.54,
        attack_success_rate=0.4,
        attack_success_interval=(0.22, 0.61),
        words_perturbed_mean=3.4,
        queries_mean=100.0,
        split="test",
        data_rows="20 of 50 rows: split 'test'",
        rows_seen_in_training=0,
        has_training_record=True,
        **{"revision": None, "dtype": "float32", "max_length": 256, "query_budget": None, "max_words": 4000},
        weights=("a", "b"),
    )
    return TextAttackResult(**{**fields, **changes})


def image_attack(**changes):
    budgets = [
        {
            "epsilon": epsilon,
            "accuracy_under_attack": under,
            "attack_success_rate": 1 - under,
            "attack_success_interval": [0.0, 1.0],
            "num_successes": 4,
            "l2_mean": 55 * epsilon,
            "l2_median": 55 * epsilon,
        }
        for epsilon, under in ((0.1, 0.5), (0.5, 0.25))
    ]
    fields = attack_fields(attack="fgs", dataset="cifar10", num_examples=8, clean_accuracy=1.0)
    fields |= {"attack_options": {}, "target": None, "batch_size": 8, "weights": "a", **budgets[-1]}
    return ImageAttackResult.from_json({**fields, "budgets": budgets, **changes})


def metadata(card):
    return yaml.safe_load(card.split("---")[1])


# Model cards


def test_card_has_metadata_that_the_hub_reads():
    card = ModelCard(model_card(training_result(), [text_attack()]))
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.base_model == "bert-base-uncased"
    assert card.data.datasets == ["imdb"]
    assert card.data.model_name == "vub-reviews"
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found["Accuracy"] == 0.905
    assert found["Accuracy under attack (DeepWordBugGao2018)"] == 0.54
    assert found["Attack success rate (DeepWordBugGao2018)"] == 0.4
    assert all(result.dataset_type == "imdb" for result in card.data.eval_results)


def test_card_of_an_image_model_has_a_result_per_budget():
    card = ModelCard(model_card(training_result(task="image", dataset="cifar10"), [image_attack()]))
    names = [result.metric_name for result in card.data.eval_results]
    assert "Accuracy under attack (fgs, epsilon 0.1)" in names
    assert "Accuracy under attack (fgs, epsilon 0.5)" in names
    assert "5.5 L2" in card.text
    assert "VUBForImageClassification" in card.text


def test_card_in_full():
    text = model_card(training_result(), [text_attack()])
    for heading in ("Intended use", "Limits", "Data", "How to load", "Results", "Under attack", "Training", "Citation"):
        assert f"# {heading}\n" in text
    assert "| Accuracy | 90.5% | share of rows classified correctly |" in text
    assert "| Rate | 12.5 |" in text
    assert "| DeepWordBugGao2018 | - | 20 | 90.0% | 54.0% | 40.0% (22.0% to 61.0%) | 3.4 words | mean |" in text
    assert "| Learning rate | 0.0001 |" in text
    assert 'model = VUBForSequenceClassification.from_pretrained("vub-reviews")' in text
    assert "trust_remote_code=True" in text
    assert "{{" not in text
    assert "None" not in text


def test_the_whole_text_of_a_card():
    """To the letter: ``python tests/test_report.py`` writes the expected text anew."""
    text = whole_card()
    assert text == EXPECTED.read_text(encoding="utf-8")
    assert metadata_errors(text) == []
    card = ModelCard(text)
    assert card.content == text
    assert yaml.safe_load(card.data.to_yaml()) == metadata(text)
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(code, "card", "exec")


def whole_card():
    """Everything that a card may have."""
    epochs = [
        {"epoch": epoch, "rate": 30 / epoch, "cross_entropy": 0.7 / epoch, "held_out": held_out}
        for epoch, held_out in ((1, {"rate": 29.0, "cross_entropy": 0.65}), (2, None))
    ]
    settings = {
        "labels": ("neg", "pos"),
        "latent_size": 384,
        "num_train_samples": 1,
        "num_eval_samples": 0,
        "max_length": 256,
        "optimizer": "adamw_torch",
        "lr_schedule": "linear",
        "warmup": 100,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "precision": "float32",
        "beta_schedule": "constant",
        "card": {"license": "apache-2.0", "language": "en", "tags": ["reviews"]},
    }
    return model_card(training_result(**settings), [text_attack()], epochs)


def test_a_long_training_shows_few_epochs_and_is_not_trusted():
    epochs = [{"epoch": epoch, "rate": 1.0, "cross_entropy": HOSTILE} for epoch in range(1, 101)]
    text = model_card(training_result(), epochs=epochs)
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) <= 12
    assert rows[-1].startswith("| 100 | 1 | - |")
    assert "<script" not in text


def test_many_labels_are_cut_short():
    text = model_card(training_result(labels=tuple(f"class {k}" for k in range(1000))))
    assert "class 19 and 980 more |" in text
    assert "class 20" not in text


def test_card_of_a_stock_classifier_mentions_no_bottleneck():
    text = model_card(training_result(objective="vanilla"))
    assert "| beta |" not in text
    assert "hf_vub  #" not in text
    assert "trust_remote_code" not in text
    assert "vanilla" in metadata(text)["tags"]
    assert "(none so far)" in text


@pytest.mark.parametrize("place", ["model", "base_model", "dataset", "command", "commit"])
def test_names_cannot_break_out_of_a_card(place):
    card = model_card(training_result(**{place: HOSTILE}), [text_attack(attack=HOSTILE, noise=HOSTILE)])
    body = card.split("---", 2)[2]
    code = body.split("```python")[1:]
    prose = body.split("```python")[0] + "".join(part.split("```", 1)[1] for part in code)
    assert "<script" not in prose
    assert not re.search(r"(?<!\\)\]\(javascript", prose)
    assert "\n# head" not in body
    assert "49" not in body
    for part in code:
        compile(part.split("```")[0], "card", "exec")
    rows = [line for line in prose.splitlines() if line.startswith("| ")]
    assert {len(row.replace("\\|", "").split("|")) for row in rows if "script" in row} <= {4, 10}
    assert metadata(card)["library_name"] == "transformers"
    assert ModelCard(card).data.eval_results


def test_a_local_path_is_reduced_to_its_last_component(tmp_path):
    folder = tmp_path / "secret-user" / "minilm"
    folder.mkdir(parents=True)
    command = f"python scripts/train_text.py --model {folder} --data=/home/secret-user/imdb --hub_token {TOKEN}"
    result = training_result(base_model=str(folder), dataset=str(folder), model=str(folder), command=command)
    text = model_card(result, [text_attack(dataset=str(folder))])
    assert "secret-user" not in text
    assert TOKEN not in text
    assert "minilm" in text
    assert "base_model" not in metadata(text)
    assert "datasets" not in metadata(text)


def test_a_token_in_a_name_is_not_published():
    assert TOKEN not in model_card(training_result(model=TOKEN, command=f"train --hub_token={TOKEN}"))


def test_built_in_data_is_not_said_to_be_on_the_hub():
    assert "datasets" not in metadata(model_card(training_result(dataset="synthetic-reviews")))


def test_the_template_is_where_the_cards_are():
    """Check the link to the template, which the package needs when it is installed."""
    root = Path(__file__).resolve().parents[1]
    linked = root / "model_cards" / "model_card.md.jinja"
    assert linked.read_text() == (root / "hf_vub" / "reports" / "templates" / linked.name).read_text()


def test_write_model_card(tmp_path):
    path = write_model_card(tmp_path / "checkpoint", training_result())
    assert path.name == "README.md"
    assert path.read_text(encoding="utf-8") == model_card(training_result())


def test_a_card_says_which_rows_were_used():
    text = model_card(training_result(), [text_attack()])
    assert "Trained on 90 rows: 90% of split 'train', stratified, split seed 0" in text
    assert "| Validation rows | 10 |" in text
    assert (
        "DeepWordBugGao2018: 20 of 50 rows: split 'test'. The model was trained and selected on none of them." in text
    )
    seen = model_card(training_result(), [text_attack(rows_seen_in_training=12)])
    assert "The model was trained or selected on 12 of them: this is no test." in seen
    unknown = model_card(training_result(data_rows=None), [text_attack(rows_seen_in_training=None)])
    assert "It is not known whether the model was trained on any of them." in unknown
    assert "How they were drawn was not recorded." in unknown


def test_a_card_is_written_anew_with_its_attacks(tmp_path, caplog):
    folder = tmp_path / "vub-reviews"
    assert refresh_model_card(folder) is None
    training_result().save(folder / "result.json")
    text_attack(model=str(folder)).save(folder / "deepwordbug" / "result.json")
    text_attack(model="another", attack="PWWSRen2019").save(folder / "pwws" / "result.json")
    (folder / "other").mkdir()
    (folder / "other" / "result.json").write_text('{"kind": "nothing"}')
    text = refresh_model_card(folder).read_text(encoding="utf-8")
    assert "DeepWordBugGao2018" in text
    assert "PWWS" not in text
    assert "leaves out a file" in caplog.text
    text_attack().save(folder / "result.json")
    assert refresh_model_card(folder) is None


# The report of a grid


@pytest.fixture(scope="module")
def texts():
    return grid_results.make("text")


@pytest.fixture(scope="module")
def images():
    return grid_results.make("image", runs=2)


@pytest.fixture(scope="module")
def folders(texts, images, tmp_path_factory):
    """The reports of both, written once."""
    made = {}
    every = {"text": texts, "image": images, "hostile": grid_results.make("image", 2, hostile=True)}
    for name, results in {**every, "comparison": grid_results.make_comparison()}.items():
        made[name] = tmp_path_factory.mktemp(name)
        write_report(results, made[name])
    return made


def rows_of(markdown):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]


def test_table_2_has_the_papers_layout(texts):
    table = tables(texts)[0]
    assert table.columns == ["β", "Test ↑", "DWB ↓", "DWB guided ↓", "PWWS ↓", "PWWS guided ↓"]
    assert "climbs the score of the stock classifier" in table.caption
    assert [row[0] for row in table.rows] == [
        *("Vanilla model", "-", "VIB models", "10⁻³", "10⁻²", "10⁻¹", "VUB models", "10⁻³", "10⁻²", "10⁻¹"),
    ]
    assert table.rows[1][1] == "90.5%"
    own = [run["metrics"]["accuracy"] for run in texts["runs"] if run["objective"] == "vub" and run["beta"] == 1e-3]
    assert np.std(own, ddof=1) < 5e-4  # so small that it takes a second decimal
    assert table.rows[7][1] == f"{np.mean(own):.2%} ± {np.std(own, ddof=1):.2%}"
    rows = rows_of(table.markdown())
    assert {len(row) for row in rows} == {6}
    assert rows[2][0] == "**Vanilla model**"


def test_table_1_has_the_papers_layout(images):
    table = tables(images)[0]
    assert table.columns == [
        *("β", "Test ↑", "FGS 8/255 ↓", "FGS 0.1 ↓", "FGS 0.5 ↓", "pgd_linf 8/255 ↓", "pgd_linf 0.1 ↓", "CW ↑"),
    ]
    assert table.rows[1][-1].startswith("1.")  # a distance, not a share


def test_a_table_is_printed_in_a_terminal(texts, capsys):
    from rich.console import Console

    table = tables(texts)[0]
    table.rows.append(["[red]markup[/]", "1", "2", "3", "4", "5"])
    Console(width=100).print(table.rich())
    shown = capsys.readouterr().out
    assert "[red]markup[/]" in shown
    for row in table.rows:
        assert any(all(cell in line for cell in row) for line in shown.splitlines())


def test_latex_is_balanced_and_escaped(texts):
    for table in tables(grid_results.make("text", 2, hostile=True)) + tables(texts):
        latex = table.latex()
        assert latex.count(r"\begin{") == latex.count(r"\end{")
        plain = re.sub(r"\\[&%$#_{}]", "", latex)
        assert plain.count("{") == plain.count("}")
        assert "%" not in plain
        assert "_" not in plain.replace(f"tab:{table.name}", "")
        body = [line for line in plain.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert {line.count("&") for line in body} == {len(table.columns) - 1}
        assert latex.isascii() or "β" not in latex


def test_text_diffs_show_what_was_inserted_and_removed(texts):
    (example,) = marked_texts(texts["examples"]["texts"])
    assert [words for kind, words in example.parts if kind == "removed"] == ["great", "leave"]
    assert [words for kind, words in example.parts if kind == "inserted"] == ["graet", "elave"]
    markdown = marked_texts_markdown(texts["examples"]["texts"])
    assert "<del>great</del> <u>**graet**</u>" in markdown
    assert "[...]" not in example.parts[0][1]


def test_everything_is_written(folders):
    text, image = folders["text"], folders["image"]
    names = {path.name for path in (text / "figures").iterdir()}
    common = {"figure1-information-curve", "figure3-information-plane", "calibration", "robustness"}
    assert names == {f"{name}.{kind}" for name in common for kind in ("png", "pdf")}
    names = {path.stem for path in (image / "figures").iterdir()}
    assert names == common | {"figure4-cw", "figure5-fgs"}
    assert (text / "tables" / "table3.md").exists()
    for name in ("imdb", "full", "claims", "claims-by-beta", "statistics-validation", "statistics-test", "stress"):
        assert (text / "tables" / f"{name}.md").exists()
        assert (text / "tables" / f"{name}.tex").exists()
    assert {path.name for path in (text / "model_cards").glob("*.md")} == {
        "vanilla-imdb.md",
        "vib-imdb.md",
        "vub-imdb.md",
    }


def test_a_report_is_the_same_every_time(texts, tmp_path):
    write_report(texts, tmp_path / "a")
    write_report(texts, tmp_path / "b")
    for path in sorted((tmp_path / "a").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name


def test_cards_of_a_grid_come_from_their_own_json(folders, texts):
    folder = folders["text"] / "model_cards"
    content = read_result(folder / "results" / "vub-imdb.json")
    text = (folder / "vub-imdb.md").read_text(encoding="utf-8")
    assert model_card(content, content.attacks) == text
    assert all(isinstance(attack, AttackSummary) for attack in content.attacks)
    best = texts["chosen"]["validation"]["vub"]
    own = [run for run in texts["runs"] if run["objective"] == "vub" and run["beta"] == best["beta"]]
    assert content["metrics"]["accuracy"] == pytest.approx(np.mean([run["metrics"]["accuracy"] for run in own]))
    assert content["beta"] == best["beta"]
    rates = [run["attacks"]["DWB"]["attack_success_rate"] for run in own]
    assert content["attacks"][0]["attack_success_rate"] == pytest.approx(np.mean(rates))
    assert ModelCard(text).data.eval_results


def test_committed_cards_and_tables_are_what_is_rendered():
    root = Path(__file__).resolve().parents[1] / "model_cards"
    for path in (root / "results").glob("v*.json"):
        result = read_result(path)
        assert (root / f"{path.stem}.md").read_text(encoding="utf-8") == model_card(result, result.attacks), path
    for path in (root / "results" / "reproduce").glob("*/results.json"):
        for table in tables(read_result(path)):
            place = root / "reproduce" / path.parent.name / "tables" / table.name
            assert place.with_suffix(".md").read_text(encoding="utf-8") == table.markdown(), place
            assert place.with_suffix(".tex").read_text(encoding="utf-8") == table.latex(), place


def test_html_needs_nothing_else_and_trusts_nothing(folders):
    page = (folders["hostile"] / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img src=x" not in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "url(" not in page
    assert "&lt;script&gt;" in page


def test_report_of_something_else(tmp_path):
    with pytest.raises(ValueError, match="kind 'train'"):
        write_report(training_result(), tmp_path)
    with pytest.raises(ValueError, match="kind 'train'"):
        write_report(training_fields(), tmp_path)


def test_a_grid_of_one_run_and_one_objective_is_reported(tmp_path):
    results = grid_results.make("text", runs=1, epochs=3)
    results = replace(
        results,
        runs=tuple(replace(run, attacks={}) for run in results.runs if run.objective == "vub"),
        examples=replace(results.examples, texts=()),
        stress=(),
        vanilla=replace(results.vanilla, attacks={}),
    )
    write_report(with_statistics(results), tmp_path)
    assert "cannot be tested here" in (tmp_path / "tables" / "claims.md").read_text(encoding="utf-8")


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH to open the report in")
@pytest.mark.parametrize("name", ["text", "image", "hostile", "comparison"])
def test_report_opens_in_a_browser(folders, name, tmp_path):
    """Every image loads and the console stays quiet; a copy of the page reports on itself through its title."""
    page = (folders[name] / "report.html").read_text(encoding="utf-8")
    probe = """<script>addEventListener("load", () => { const all = [...document.images];
      document.body.dataset.images = all.length;
      document.body.dataset.loaded = all.filter(i => i.complete && i.naturalWidth > 0).length; })</script></body>"""
    policy = "style-src 'unsafe-inline'"
    probed = tmp_path / "probed.html"
    probed.write_text(page.replace(policy, policy + "; script-src 'unsafe-inline'").replace("</body>", probe))
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"),
        *("--disable-component-update", "--disable-default-apps", "--no-first-run", "--disable-dev-shm-usage"),
        *("--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,4000"),
    ]
    found = {}
    for kind, path in (("shown", folders[name] / "report.html"), ("probed", probed)):
        action = [f"--screenshot={tmp_path / 'shot.png'}"] if kind == "shown" else ["--dump-dom"]
        found[kind] = subprocess.run(
            [BROWSER, *options, *action, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        assert "CONSOLE" not in found[kind].stderr
    counted = re.search(r'data-images="(\d+)" data-loaded="(\d+)"', found["probed"].stdout)
    assert counted is not None
    assert counted[1] == counted[2]
    assert int(counted[1]) == len(list((folders[name] / "figures").glob("*.png")))
    assert (tmp_path / "shot.png").stat().st_size > 20_000


# A comparison on one's own data


def test_a_comparison_names_the_data_and_shows_only_what_applies(folders):
    page = (folders["comparison"] / "report.html").read_text(encoding="utf-8")
    assert "<h1>my reviews.csv: VIB, VUB and simple baselines on bert-base-uncased</h1>" in page
    assert "imdb" not in page.lower()
    assert "tighter bound" not in page
    assert "cannot be tested" not in page
    assert "claim" not in page
    assert {path.stem for path in (folders["comparison"] / "tables").glob("*.md")} == {"comparison", "stress", "table3"}
    assert {path.stem for path in (folders["comparison"] / "figures").glob("*.png")} == {
        "information-curve",
        "calibration",
    }


def test_a_comparison_has_the_baselines_as_rows():
    results = grid_results.make_comparison()
    (table, _) = tables(results)
    assert [row[0] for row in table.rows[:3]] == ["Stock classifier", "Logistic regression", "Early-stopped MLP"]
    assert [row[0] for row in table.rows if "★" in row[0]] == ["VIB, β 10⁻³ ★", "VUB, β 10⁻³ ★"]
    assert table.columns[:3] == ["model", "Validation NLL ↓", "Test accuracy ↑"]
    same = grid_results.make_comparison(vanilla="logistic regression")
    assert [row[0] for row in tables(same)[0].rows[:2]] == ["Logistic regression", "Early-stopped MLP"]


def test_the_baselines_are_rows_of_a_reproduction_too():
    baselines = grid_results.make_comparison().baselines
    table, full, *_ = tables(replace(grid_results.make(), baselines=baselines))
    for each in (table, full):
        assert [row[0] for row in each.rows[:6:2]] == ["Vanilla model", "Logistic regression", "Early-stopped MLP"]
        assert {len(row) for row in each.rows} == {1, len(each.columns)}


def test_the_recommendation_goes_by_validation_nll():
    results = grid_results.make_comparison()
    assert results.recommendation.startswith("Use the stock classifier: it has the lowest validation NLL, 0.300 nats")
    assert "25,000 test rows" in results.recommendation
    worse = replace(results.vanilla, validation={**results.vanilla.validation, "nll": 0.5})
    lower = tuple(
        replace(run, validation={**run.validation, "nll": 0.1 if run.objective == "vub" and run.beta == 1e-2 else 0.4})
        for run in results.runs
    )
    from hf_vub.paper.comparison import with_recommendation

    found = with_recommendation(replace(results, vanilla=worse, runs=lower))
    assert found.recommendation.startswith("Use VUB with beta 0.01: it has the lowest validation NLL, 0.100 nats")
    assert summary(found)[0] == found.recommendation


def test_rows_that_the_backbone_has_seen_are_named():
    assert "does not say which rows it was trained on" in caveats(grid_results.make_comparison())[0]
    seen = caveats(grid_results.make_comparison(seen={"train": 100, "validation": 7, "test": 0}))
    assert seen[0] == "The backbone was trained on 7 validation rows: results on them are too good."
    assert not any("test rows: results" in sentence for sentence in seen)


def test_cards_of_a_comparison_are_called_by_the_data():
    assert [result.model for result in card_results(grid_results.make_comparison())] == [
        "vanilla-my reviews",
        "vib-my reviews",
        "vub-my reviews",
    ]


# Statistics and choices


def test_equal_objectives_show_no_difference():
    results = grid_results.make(runs=6)
    same = [{"accuracy": 0.9 + 0.001 * (run.seed % 3)} for run in results.runs]
    runs = [
        replace(run, metrics={**run.metrics, **equal}, validation={**run.validation, **equal})
        for run, equal in zip(results.runs, same, strict=True)
    ]
    found = with_statistics(replace(results, runs=tuple(runs)))
    row = next(row for row in found["statistics"]["validation"] if row["name"] == "accuracy")
    assert row["difference"] == 0
    assert row["rank_sum_p"] == 1
    assert row["interval"] == (0, 0)
    assert row["vargha_delaney"] == pytest.approx(0.5)


def test_statistics_agree_with_scipy(texts):
    from scipy.stats import mannwhitneyu, wilcoxon

    row = next(row for row in texts["statistics"]["validation"] if row["name"] == "DWB")
    best = texts["chosen"]["validation"]
    values = {
        name: [
            run["attacks"]["DWB"]["attack_success_rate"]
            for run in texts["runs"]
            if run["objective"] == name and run["beta"] == best[name]["beta"]
        ]
        for name in ("vib", "vub")
    }
    assert row["rank_sum_p"] == pytest.approx(mannwhitneyu(values["vub"], values["vib"], method="exact").pvalue)
    assert row["signed_rank_p"] == pytest.approx(wilcoxon(values["vub"], values["vib"]).pvalue)
    assert row["difference"] == pytest.approx(np.mean(values["vub"]) - np.mean(values["vib"]))
    assert row["interval"][0] <= row["difference"] <= row["interval"][1]


def test_the_setting_is_chosen_where_and_by_what_is_said(texts):
    runs = [
        replace(
            run,
            validation={"accuracy": run.beta, "nll": run.beta},
            metrics={**run.metrics, "accuracy": -run.beta},
        )
        for run in texts.runs
    ]
    assert choose(runs, "validation")["vub"].beta == 1e-1
    assert choose(runs, "test")["vub"].beta == 1e-3
    by_nll = choose(runs, "validation", "nll")["vub"]
    assert (by_nll.beta, by_nll.by, by_nll.on) == (1e-3, "nll", "validation")
    found = choose([replace(run, validation=None) for run in runs], "validation")["vib"]
    assert (found.beta, found.on) == (1e-3, "test")


def test_a_head_without_a_finite_value_is_not_chosen(texts):
    runs = [
        replace(run, validation={"accuracy": 0.5, "nll": None if run.beta < 1e-2 else run.beta}) for run in texts.runs
    ]
    assert choose(runs, "validation", "nll")["vib"].beta == 1e-2


def test_phases_count_cycles_and_not_noise():
    steps = np.linspace(0, 1, 150)
    noise = 0.01 * np.random.default_rng(0).standard_normal(150)
    assert phases({"information": steps + noise}) == {"rises": 1, "falls": 0, "cycles": 0}
    assert phases({"information": np.sin(6 * np.pi * steps) + noise}).cycles == 3
    assert phases({"information": [1.0, 1.0]}) == {"rises": 0, "falls": 0, "cycles": 0}
    assert phases({"information": [1.0] * 20})["cycles"] == 0


if __name__ == "__main__":
    EXPECTED.write_text(whole_card(), encoding="utf-8")
