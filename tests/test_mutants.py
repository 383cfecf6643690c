"""What a mutation run (``mutmut run``) changed unseen: each test here kills mutants that lived."""

import re
from contextlib import contextmanager
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import EvalPrediction, PreTrainedTokenizerFast, Trainer

from helpers.models import build_model
from helpers.training import Features, trainer
from hf_vub import metrics
from hf_vub.metrics import intervals
from hf_vub.model import information, objectives, trust
from hf_vub.runs.schema import read_result
from hf_vub.training import schedules
from hf_vub.training.trainer import TERMS


def test_the_min_term_has_weight_one_by_default():
    assert objectives.objective_weights("vub", 0.5) == (0.5, 1.0)


def test_information_is_summed_over_the_last_axis_alone():
    """Of arguments with three axes; two axes cannot tell the last from the second."""
    torch.manual_seed(0)
    scale, logits = torch.rand(2, 3, 4) + 0.1, torch.randn(2, 3, 4)
    for function, values in (
        (information.gaussian_entropy, scale),
        (information.categorical_entropy, logits),
        (lambda rows: information.gaussian_rate(rows, scale[: len(rows)] if rows.ndim == 3 else scale[0]), logits),
    ):
        found = function(values)
        assert found.shape == (2, 3)
        torch.testing.assert_close(found[0], function(values[0]))
    labels = torch.randint(4, (2, 3))
    torch.testing.assert_close(
        information.cross_entropy(logits, labels)[1], information.cross_entropy(logits[1], labels[1])
    )


def test_calibration_with_one_bin_and_in_the_lowest_bin():
    scores, labels = np.log([[0.6, 0.4], [0.3, 0.7]]), [0, 0]
    assert metrics.expected_calibration_error(scores, labels, bins=1) == pytest.approx(0.65 - 0.5)
    uniform = metrics.reliability_bins(np.zeros((3, 20)), [0, 0, 5])
    assert uniform["count"].tolist() == [3] + [0] * 14
    assert uniform["confidence"][0] == pytest.approx(1 / 20)
    assert uniform["accuracy"][0] == pytest.approx(2 / 3)


def test_holm_takes_zero_caps_at_one_and_refuses_the_rest():
    np.testing.assert_allclose(metrics.holm([0.0, 0.7, 0.6]), [0.0, 1.0, 1.0])
    for bad in ([1.5, 0.1], [-0.1, 0.2], [float("nan")], [[0.1]]):
        with pytest.raises(ValueError, match="p_values"):
            metrics.holm(bad)


def test_exact_and_asymptotic_tests_on_either_side_of_their_bound(monkeypatch):
    monkeypatch.setattr(intervals, "_EXACT_ROWS", 8)
    rng = np.random.default_rng(0)
    for rows in (4, 5):  # 8 and 10 values: the bound and beyond
        a, b = rng.normal(size=rows), rng.normal(1.0, size=rows)
        how = "exact" if 2 * rows <= 8 else "asymptotic"
        expected = stats.mannwhitneyu(a, b, method=how).pvalue
        assert metrics.rank_sum_test(a, b)["p_value"] == pytest.approx(expected)
    for rows in (8, 9):
        a, b = rng.normal(size=rows), rng.normal(0.5, size=rows)
        how = "exact" if rows <= 8 else "asymptotic"
        expected = stats.wilcoxon(a - b, method=how, correction=True).pvalue
        assert metrics.paired_tests(a, b)["signed_rank_p"] == pytest.approx(expected)


@pytest.mark.parametrize("place", ["", "backbone_config.", "backbone_config.text_config.", "a.0."])
def test_code_is_refused_at_any_depth(place):
    for key, value in (("trust_remote_code", True), ("_attn_implementation", "a/b"), ("attribute_map", {})):
        content = {key: value}
        for outer in reversed(place.split(".")[:-1]):
            content = [content] if outer == "0" else {outer: content}
        with pytest.raises(ValueError, match=re.escape(f"config.json of x has {place}{key}={value!r}")):
            trust.refuse_code(content, "x")
    trust.refuse_code({"trust_remote_code": False, "_attn_implementation": "sdpa"}, "x")


@pytest.mark.parametrize("subfolder", ["", "inner"])
def test_absurd_layers_and_indexes_that_reach_outside_are_refused(tmp_path, subfolder):
    folder = tmp_path / subfolder
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "bert", "vision_config": {"num_hidden_layers": 1001}}')
    with pytest.raises(ValueError, match=r"has vision_config\.num_hidden_layers=1001; no model"):
        trust.read_config(tmp_path, subfolder=subfolder)
    (folder / "config.json").write_text('{"model_type": "bert", "num_hidden_layers": 1000}')
    assert trust.read_config(tmp_path, subfolder=subfolder)["num_hidden_layers"] == 1000
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "fine", "b": "../é"}}', "utf-8")
    with pytest.raises(ValueError, match=r"names the file '\.\./é', which is outside its folder"):
        trust.read_config(tmp_path, subfolder=subfolder)


def test_two_and_one_differing_pairs_are_tested():
    assert metrics.paired_tests([1.0, 2.0], [0.0, 0.0])["permutation_p"] == 0.5
    one = metrics.paired_tests([1.0, 0.0], [0.0, 0.0])
    assert one["sign_p"] == one["permutation_p"] == 1.0


@pytest.mark.parametrize("name", ["rank_sum_test", "paired_tests", "cliffs_delta", "cohens_dz"])
def test_an_error_names_the_sample(name):
    function = getattr(metrics, name)
    for place, sample in enumerate("ab"):
        samples = [[1.0, 2.0], [2.0, 3.0]]
        samples[place] = [1.0, float("nan")]
        with pytest.raises(ValueError, match=rf"^{sample} "):
            function(*samples)
    with pytest.raises(ValueError, match=r"3 and 2 values"):
        metrics.paired_tests([1.0, 2.0, 3.0], [1.0, 2.0])


def test_the_best_checkpoint_is_described_by_its_own_evaluation(tmp_path):
    """Its metrics are taken from the log: not those of the last step, and without another evaluation."""
    run = trainer(
        tmp_path / "out", load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch",
        num_train_epochs=3, metric_for_best_model="eval_nll", greater_is_better=True, learning_rate=0.5,
    )  # fmt: skip
    run.train()
    logged = {log["step"]: log["eval_nll"] for log in run.state.log_history if "eval_nll" in log}
    best = max(logged, key=logged.get)
    assert best != max(logged), "the last step must not be the best"
    run.evaluate = lambda *args, **options: pytest.fail("it evaluated again")
    run.create_model_card()
    result = read_result(tmp_path / "out" / "result.json")
    assert result["metrics"]["nll"] == pytest.approx(logged[best])
    assert (result.best_step, result.num_validation) == (best, 64)
    assert result.data_rows.endswith("64 rows; the best checkpoint was chosen on eval_dataset")


def test_evaluation_weighs_the_rate_with_the_configured_beta(tmp_path):
    """At step 0 a linear schedule gives 0, which would leave the rate out."""
    run = trainer(tmp_path / "out", build_model("bert", beta=0.5, objective="vib"), beta_schedule="linear")
    assert run.beta == 0
    found = run.evaluate()
    assert found["eval_rate"] > 0.1
    assert found["eval_loss"] == pytest.approx(found["eval_cross_entropy"] + 0.5 * found["eval_rate"], rel=1e-4)


def test_every_batch_of_a_report_card_has_a_random_state_of_its_own():
    from hf_vub.attacks.image.trial import Trial
    from hf_vub.embeddings.pixels import PixelModel

    trial = Trial(PixelModel(torch.nn.Flatten()), torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.long), 2, 5, 20)
    drawn = []

    def measure(images, labels):
        drawn.append(torch.rand(1, len(images)))
        return drawn[-1]

    assert torch.equal(trial.collect(measure), trial.collect(measure))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_auto_projected_gradient_hands_over_its_numbers_and_keeps_what_fooled_the_model(monkeypatch):
    pytest.importorskip("art")
    from hf_vub.attacks.image import adversaries
    from hf_vub.embeddings.pixels import PixelModel

    images = torch.full((3, 1, 2, 2), 0.5)
    given = []

    class Recorder:
        """Stands in for the toolbox's attack: its last iterate fools the first row, its best one the second."""

        def __init__(self, classifier, **options):
            given.append(options)

        def generate(self, pixels, labels):
            assert labels.tolist() == [0, 0, 0][: len(labels)]
            last, best = pixels.copy(), pixels.copy()
            last[0] += 0.1
            if len(best) > 1:
                best[1] += 0.1
            self.x_max = best
            return last

    class Bright(torch.nn.Module):
        """Class 1 where the mean is above the middle."""

        def forward(self, pixels):
            bright = pixels.flatten(1).mean(1) - 0.55
            return torch.stack([-bright, bright, bright - 9], 1)

    monkeypatch.setattr(adversaries, "toolbox", lambda: SimpleNamespace(AutoProjectedGradientDescent=Recorder))
    attack = adversaries.AutoProjectedGradient(steps=7, restarts=2)
    (found,) = attack(PixelModel(Bright()), images, torch.zeros(3, dtype=torch.long), [0.2])
    assert found.success.tolist() == [True, True, True]  # the second start is of the third row alone
    assert [options["batch_size"] for options in given] == [3, 3]
    for options in given:
        assert options["eps"] == 0.2
        assert options["eps_step"] == 0.4
        assert (options["max_iter"], options["nb_random_init"], options["verbose"]) == (7, 1, False)
        assert options["loss_type"] == "cross_entropy"


def test_the_result_of_a_trainer_says_which_rows_and_classes(tmp_path):
    """Those it was trained on, and others that it was evaluated on."""
    run = trainer(tmp_path / "my-run", num_train_epochs=1)
    run.eval_dataset = Features(rows=24)
    run.train()
    run.evaluate()
    run.create_model_card()
    result = read_result(tmp_path / "my-run" / "result.json")
    assert (result.num_train, result.num_validation, result.num_test) == (64, None, 24)
    assert result.data_rows == "trained on 64 rows; evaluated on 24 rows"
    assert result.labels == tuple(run.model.config.id2label.values())
    assert (result.model, result.task, result.num_labels) == ("my-run", "text", 3)
    assert result.dataset == "a data set in memory"
    assert result.base_model == "an untrained bert"
    assert (result.objective, result.beta) == (run.model.config.objective, run.model.config.beta)


@pytest.mark.parametrize("named", [None, "user/other"])
def test_a_push_hands_over_what_it_is_given(tmp_path, monkeypatch, named):
    given, reported = [], []

    @contextmanager
    def report(name, revision, token):
        reported.append((name, revision, token))
        yield

    monkeypatch.setattr(Trainer, "push_to_hub", lambda run, *args, **options: given.append((*args, options)))
    monkeypatch.setattr("hf_vub.training.trainer.report_failed_push", report)
    run = trainer(tmp_path / "my-run", hub_model_id=named, hub_token="hf_of_the_arguments")
    run.push_to_hub()
    run.push_to_hub("now", False, "hf_own", "branch", tags=["a"])
    assert given == [("End of training", True, None, None, {}), ("now", False, "hf_own", "branch", {"tags": ["a"]})]
    name = named or "my-run"
    assert reported == [(name, None, "hf_of_the_arguments"), (name, "branch", "hf_own")]
    run.args.hub_revision = "dev"
    run.push_to_hub()
    assert reported.pop() == (name, "dev", "hf_of_the_arguments")
    assert given.pop() == given[0]
    monkeypatch.setattr(run, "is_world_process_zero", lambda: False)
    run.push_to_hub("now", False, "hf_own", "branch", tags=["a"])
    assert given[2:] == given[1:2]
    assert len(reported) == 2, "the main process alone pushes, so it alone asks the Hub"


def test_a_log_says_when_it_began(tmp_path, monkeypatch):
    """From that ``Trainer`` computes its speed."""
    logged = []
    monkeypatch.setattr(Trainer, "log", lambda run, logs, start_time: logged.append(start_time))
    trainer(tmp_path).log({"loss": 1.0}, 12.5)
    assert logged == [12.5]


def test_distances_are_added_up_in_full_precision():
    """Of 16-bit numbers the sum is not finite and the mean has three digits."""
    distances = np.full(1000, 1000.1, dtype=np.float32).astype(np.float16)
    found = metrics.l2_summary(distances, np.ones(1000, dtype=bool))
    assert found == {"l2_mean": 1000.0, "l2_median": 1000.0}
    exact = np.array([0.1, 0.2, 0.4], dtype=np.float32)
    assert metrics.l2_summary(exact, [1, 1, 1])["l2_mean"] == exact.astype(np.float64).mean()


@pytest.mark.parametrize("tied", [True, False])
def test_signed_ranks_are_tested_exactly_with_ties_and_by_the_normal_law_beyond(monkeypatch, tied):
    """Ties do not make an asymptotic test exact, and their absence does not make an exact one asymptotic."""
    differences = np.array([1.0, 1.0, -2.0, 3.0, 4.0]) if tied else np.array([1.0, 1.5, -2.0, 3.0, 4.0])
    ranks = stats.rankdata(np.abs(differences))
    signs = np.array(list(product([0, 1], repeat=5)))
    null = signs @ ranks
    observed = ranks[differences > 0].sum()
    exact = min(1.0, 2 * min((null <= observed).mean(), (null >= observed).mean()))
    assert intervals._signed_rank(differences) == pytest.approx(exact)
    monkeypatch.setattr(intervals, "_EXACT_ROWS", 4)
    normal = stats.wilcoxon(differences, method="asymptotic", correction=True).pvalue
    assert intervals._signed_rank(differences) == pytest.approx(normal)
    assert normal != pytest.approx(exact)


def test_a_tokenizer_that_knows_no_word_is_missing(tmp_path):
    """transformers 5 makes one for any model; some words, even in a small vocabulary, are enough."""

    class AutoTokenizer:
        made: Any = None

        @classmethod
        def from_pretrained(cls, name, trust_remote_code):
            assert trust_remote_code is False
            return cls.made

    def tokenizer(*words):
        vocabulary = {word: place for place, word in enumerate(("[UNK]", "[CLS]", *words))}
        model = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
        return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]", cls_token="[CLS]")

    for words in ((), (".", "!")):
        AutoTokenizer.made = tokenizer(*words)
        with pytest.raises(OSError, match=f"^{tmp_path} holds no Tokenizer: name the folder or Hub id of one$"):
            trust.load(AutoTokenizer, tmp_path)
    for words in (("good",), (".", "7"), tuple("!" * n for n in range(1, 60))):
        AutoTokenizer.made = tokenizer(*words)
        assert trust.load(AutoTokenizer, tmp_path) is AutoTokenizer.made


def test_a_damaged_index_of_weights_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": [1]}')
    with pytest.raises(ValueError, match=f"^{tmp_path} holds no index of weights that can be read"):
        trust.read_config(tmp_path)
    index.write_text('{"weight_map": ')
    with pytest.raises(ValueError, match=f"^{index} is not valid JSON"):
        trust.read_config(tmp_path)
    index.unlink()
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=f"^{tmp_path} holds no configuration that can be read|holds a list instead"):
        trust.read_config(tmp_path)


def test_the_papers_decay_needs_epochs_to_count(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(Features())

    run = trainer(tmp_path, dataset=Stream(), lr_decay="paper", max_steps=2)
    with pytest.raises(ValueError, match="^lr_decay='paper' counts epochs, and this train_dataset has no length$"):
        run.train()


def test_a_schedule_has_four_cycles_and_rises_for_half_of_each():
    found = [schedules.scheduled_beta("cyclic", 1.0, step, 16) for step in range(6)]
    assert found == [0, 0.5, 1, 1, 0, 0.5]
    assert schedules.scheduled_beta("linear", 1.0, 4, 16) == 0.5


def test_probabilities_are_those_of_the_last_axis_and_the_softmax_by_default():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(objectives.class_log_probabilities(logits), logits.log_softmax(-1))
    posterior = objectives.class_log_probabilities(logits, probabilities="posterior", temperature=2.0)
    rows = [objectives.class_log_probabilities(row, probabilities="posterior", temperature=2.0) for row in logits[0]]
    torch.testing.assert_close(posterior[0], torch.stack(rows))
    torch.testing.assert_close(posterior.exp().sum(-1), torch.ones(2, 3))


def test_a_card_shows_the_names_that_it_is_given(tmp_path):
    run = trainer(tmp_path)
    run.create_model_card("en", "mit", ["small"], "my-name", finetuned_from="my-base", dataset=["my-data", "other"])
    result = read_result(tmp_path / "result.json")
    assert (result.model, result.base_model, result.dataset) == ("my-name", "my-base", "my-data")
    assert result.card == {"language": "en", "license": "mit", "tags": ["small"]}


def test_a_push_in_mid_training_takes_code_preprocessing_and_rows_along(tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", lambda run, folder: pushed.append(folder))
    run = trainer(tmp_path / "out")
    step = tmp_path / "out" / "checkpoint-1"
    step.mkdir(parents=True)
    names = {"modeling_vub.py", "preprocessor_config.json", "training_rows.safetensors"}
    for name in (*names, "optimizer.pt"):
        (step / name).touch()
    run._push_from_checkpoint(str(step))
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_file()} == names
    assert pushed == [str(step)]


def test_the_revision_of_an_adapter_is_that_of_its_model(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(trust, "find_adapter_config_file", lambda name, **options: asked.append((name, options)))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    trust.read_config(tmp_path, revision="dev", dtype="float32")
    assert asked == [(str(tmp_path), {"revision": "dev"})]


def test_which_files_of_a_tokenizer_may_be_saved(tmp_path):
    """A vocabulary under another name is copied; tokenizer.json is written anew, wherever it was read."""
    for name in ("secret.txt", "vocab.txt"):
        (tmp_path / name).touch()

    def check(name_or_path="user/model", chat_template=None, **files):
        usual = {"vocab_file": "vocab.txt", "tokenizer_file": "tokenizer.json"}
        options = {"chat_template": chat_template, "vocab_files_names": usual, "init_kwargs": files}
        trust.check_processor(SimpleNamespace(name_or_path=name_or_path, **options))

    secret = str(tmp_path / "secret.txt")
    check(tokenizer_file=secret)
    check(vocab_file=str(tmp_path / "vocab.txt"))
    check(vocab_file=str(tmp_path / "nowhere.txt"))
    check(vocab_file=None)
    check(name_or_path="", vocab_file=secret)
    with pytest.raises(ValueError, match=f"^tokenizer_config.json of user/model has vocab_file='{secret}', a file of"):
        check(vocab_file=secret)
    check(chat_template="{{ x }}")
    check(chat_template={"default": "x", "tool_use": "y"})
    for name in ("../up", "a/b", "a\\b"):
        with pytest.raises(ValueError, match=rf"^processing_class has a chat template named {re.escape(repr(name))}; "):
            check(chat_template={"default": "x", name: "y"})


def test_a_bootstrap_interval_has_the_confidence_that_is_asked_for():
    values = np.random.default_rng(0).normal(size=200)
    found = metrics.bootstrap_interval(values, confidence=0.5)
    width = (found[1] - found[0]) / values.std(ddof=1) * np.sqrt(len(values))
    assert width == pytest.approx(2 * stats.norm.ppf(0.75), rel=0.1)


def test_metrics_of_a_user_see_inputs_and_losses_too(tmp_path):
    seen = []
    run = trainer(tmp_path)
    run._user_metrics = lambda prediction: seen.append(prediction) or {"own": 1.0}
    logits, labels, ones = np.eye(3), np.arange(3), np.ones(3)
    given = EvalPrediction((logits, *[ones] * len(TERMS)), labels, inputs=np.zeros(3), losses=2 * ones)
    assert run._all_metrics(given)["own"] == 1.0
    (prediction,) = seen
    assert prediction.predictions is logits
    assert prediction.label_ids is labels
    assert prediction.inputs is given.inputs
    assert prediction.losses is given.losses
