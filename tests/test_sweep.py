import json
import math
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time

import pytest
import torch

from helpers.models import build_model
from helpers.sweeps import BATCH, LABELS, ROWS, RUNS, SIZE, bits, problem, train
from hf_vub import VUBTrainer, VUBTrainingArguments
from hf_vub.compute.cores import divide
from hf_vub.model.head import VUBHead
from hf_vub.model.information import categorical_entropy, gaussian_entropy, label_entropy, prior_entropy
from hf_vub.model.objectives import objective_loss, objective_terms
from hf_vub.sweep import grid
from hf_vub.sweep.heads import HeadRun
from hf_vub.sweep.rows import BLOCK_ROWS
from hf_vub.sweep.seeding import NOISE_STEPS, data_order, draw_noise, initial_head
from hf_vub.sweep.stacked_heads import MEASURES, Objectives, StackedHeads

forked = pytest.mark.skipif(sys.platform != "linux", reason="only on Linux a sweep forks processes")


def plain_loop(run, features, labels, *, epochs, learning_rate, latent_size=None, cap=None):
    """The readable reference: VUBHead, autograd and torch's Adam on the same order and noise."""
    cap = label_entropy(labels, LABELS) if cap is None else cap
    head = initial_head(run.seed, features.shape[1], LABELS, latent_size)
    optimizer = torch.optim.Adam(head.parameters())
    history = []
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.97 ** (epoch // 2)
        total = torch.zeros(len(MEASURES), dtype=torch.float64)
        for step, chosen in enumerate(data_order(run.seed, epoch, len(features)).split(BATCH)):
            block, inside = divmod(step, NOISE_STEPS)
            noise = draw_noise(run.seed, epoch, block, (BATCH, head.latent_size))[inside, : len(chosen)]
            mean, scale = head.posterior(features[chosen])
            terms = objective_terms(mean, scale, head.classify(mean + scale * noise)[None], labels[chosen])
            loss = objective_loss(
                run.objective, terms, beta=run.beta, label_entropy=cap, entropy_weight=run.entropy_weight
            )
            measured = [loss, terms.cross_entropy, terms.rate, terms.entropy, gaussian_entropy(scale)]
            total += torch.stack(measured).detach().double().sum(-1)
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        history.append(dict(zip(MEASURES, (total / len(features)).tolist(), strict=True)))
    return head, history


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_a_run_is_a_plain_training_loop(run):
    features, labels = problem()
    head, history = plain_loop(run, features, labels, epochs=3, learning_rate=1e-3)
    result = train([run], learning_rate=1e-3)[0]
    for name, weight in head.state_dict().items():
        torch.testing.assert_close(result.head.state_dict()[name], weight, rtol=0, atol=1e-5)
    for ours, plain in zip(result.history, history, strict=True):
        for name in ("loss", "cross_entropy", "rate", "entropy"):
            assert ours[name] == pytest.approx(plain[name], abs=1e-5)
        assert ours["information"] == pytest.approx(prior_entropy(SIZE // 2) - plain["posterior_entropy"], abs=1e-5)
        assert ours["inverse_cross_entropy"] == pytest.approx(1 / plain["cross_entropy"], rel=1e-5)


def test_a_large_run_is_a_plain_training_loop():
    """Large enough for the products that only large heads use."""
    features, labels = problem(rows=40, size=1024)
    head, _ = plain_loop(RUNS[2], features, labels, epochs=2, learning_rate=1e-4)
    result = train([RUNS[2]], features, labels, epochs=2, learning_rate=1e-4)[0]
    for name, weight in head.state_dict().items():
        torch.testing.assert_close(result.head.state_dict()[name], weight, rtol=0, atol=1e-5)


class SweepOrder(torch.utils.data.Sampler):
    """The order in which a run of a sweep sees its rows, epoch after epoch."""

    def __init__(self, seed, rows):
        self.seed, self.rows, self.epoch = seed, rows, 0

    def __len__(self):
        return self.rows

    def __iter__(self):
        yield from data_order(self.seed, self.epoch, self.rows).tolist()
        self.epoch += 1


@pytest.mark.parametrize("run", [RUNS[0], RUNS[1], RUNS[3]], ids=str)
def test_a_run_is_what_the_trainer_does_on_the_same_features_order_and_noise(run, tmp_path, monkeypatch):
    epochs, learning_rate = 5, 1e-3
    features, labels = problem(size=32)  # what the tiny backbone gives; the trainer takes features as they are

    class OrderedTrainer(VUBTrainer):
        def _get_train_sampler(self, *_):
            return SweepOrder(run.seed, ROWS)

    model = build_model(
        "bert",
        objective=run.objective,
        beta=run.beta,
        entropy_weight=run.entropy_weight,
        label_entropy=label_entropy(labels, LABELS),
        freeze_backbone=True,
    )
    model.head.load_state_dict(initial_head(run.seed, 32, LABELS).state_dict())
    trainer = OrderedTrainer(
        model=model,
        args=VUBTrainingArguments(
            str(tmp_path),
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH,
            learning_rate=learning_rate,
            lr_decay="paper",
            max_grad_norm=0.0,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=[{"features": row, "labels": label} for row, label in zip(features, labels, strict=True)],
    )
    noises = iter(
        [
            draw_noise(run.seed, epoch, step // NOISE_STEPS, (BATCH, 16))[step % NOISE_STEPS]
            for epoch in range(epochs)
            for step in range(math.ceil(ROWS / BATCH))
        ]
    )
    with monkeypatch.context() as patched:
        patched.setattr(torch, "randn", lambda draws, rows, *_, **__: next(noises)[None, :rows])
        trainer.train()
    assert next(noises, None) is None

    result = train([run], features, labels, epochs=epochs, learning_rate=learning_rate)[0]
    for name, weight in model.head.state_dict().items():
        torch.testing.assert_close(result.head.state_dict()[name], weight, rtol=0, atol=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "information_plane.jsonl").read_text().splitlines()]
    for epoch, line in zip(result.history, lines, strict=True):
        for ours, theirs in {"rate": "rate", "cross_entropy": "cross_entropy", "information": "information_x"}.items():
            assert epoch[ours] == pytest.approx(line[theirs], abs=1e-5)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("scale_shift", [0.0, -800.0, 30.0])
def test_closed_form_gradients_are_autograds(scale_shift, number):
    """In float64, with scales that are ordinary, underflowed and on the linear part of the softplus."""
    rate_weight, entropy_weight = torch.tensor([[0.1], [2.0], [0.0]]), torch.tensor([[1.0], [0.5], [0.0]])
    rate_weight, entropy_weight = rate_weight[:number], entropy_weight[:number]
    heads = [VUBHead(6, LABELS, latent_size=4).double() for _ in rate_weight]
    for head in heads:
        head.bottleneck_encoder[2].bias.data[4:] += scale_shift
        head.bottleneck_decoder.weight.data *= 5
    features, noise = torch.randn(number, 7, 6).double(), torch.randn(number, 7, 4).double()
    labels = torch.randint(LABELS, (number, 7))
    stack = StackedHeads(heads, Objectives(rate_weight.double(), entropy_weight.double(), label_entropy=math.inf))
    inside = [tensor[0] if stack.single else tensor for tensor in (features, noise, labels)]
    with torch.no_grad():
        passed = stack.forward(*inside[:2])
        cap = categorical_entropy(passed.logits).median().item() + 1e-6
        stack.objectives.label_entropy = cap
        found = dict(stack.gradients(passed, inside[2]))
        measured = stack.measure([passed], inside[2])
    if stack.single:
        found, measured = {name: own[None] for name, own in found.items()}, measured[:, None]
    for position, head in enumerate(heads):
        mean, scale = head.posterior(features[position])
        draws = head.classify(mean + scale * noise[position])[None]
        terms = objective_terms(mean, scale, draws, labels[position])
        capped = terms.entropy.clamp_max(cap)
        loss = terms.cross_entropy + rate_weight[position] * terms.rate - entropy_weight[position] * capped
        loss.mean().backward()
        assert measured[0, position].mean().item() == pytest.approx(loss.mean().item())
        for name, parameter in head.named_parameters():
            torch.testing.assert_close(found[name][position], parameter.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("size", [SIZE, 520])
def test_a_run_does_not_depend_on_the_runs_beside_it(size):
    features, labels = problem(size=size)
    together = train(RUNS, features, labels)
    for runs in (RUNS[::-1], RUNS[3:4], [RUNS[1]] * 2):
        for result in train(runs, features, labels):
            twin = together[RUNS.index(result.run)]
            assert bits(result) == bits(twin)
            assert result.history == twin.history


@pytest.mark.parametrize("stack_size", [2, 3, 5])
def test_stacked_runs_agree_with_single_ones_within_rounding(stack_size):
    for single, stacked in zip(train(), train(stack_size=stack_size), strict=True):
        torch.testing.assert_close(stacked.head.state_dict(), single.head.state_dict(), rtol=0, atol=1e-5)
        for one, other in zip(single.history, stacked.history, strict=True):
            assert other == pytest.approx(one, rel=1e-4)


@pytest.fixture
def cores():
    """Give torch that many threads, and the sweep as many processes, until the test is over."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("number", [2, 3])
def test_the_number_of_cores_changes_no_bit(number, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    features, labels = problem(size=520)
    expected = train(RUNS, features, labels, epochs=2)
    cores(number)
    for folder in (None, tmp_path / "kept"):
        found = train(RUNS, features, labels, epochs=2, checkpoint_dir=folder)
        assert [bits(result) for result in found] == [bits(result) for result in expected]
        assert [result.history for result in found] == [result.history for result in expected]
    assert torch.get_num_threads() == number
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@forked
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be told to keep memory")
def test_a_process_of_its_own_keeps_the_memory_that_it_frees(tmp_path):
    """A page that was given back to the system costs a fault when it is needed again."""
    import resource

    def faults():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    def job(place, advance):
        for _ in range(16):  # the allocator needs a few, to find out how large its holes must be
            torch.ones(2**24)
        before = faults()
        for _ in range(4):
            torch.ones(2**24)
        (tmp_path / str(place)).write_text(str(faults() - before))

    divide(2, job, 2, lambda by: None)
    assert all(int((tmp_path / place).read_text()) < 100 for place in "01")


@forked
def test_what_goes_wrong_in_another_process_is_said_as_in_this_one(cores):
    features, labels = problem()
    cores(2)
    with pytest.raises(FloatingPointError, match=r"HeadRun\(objective='vib', beta=1e\+37.*: loss is inf at step \d+"):
        train([RUNS[0], HeadRun("vib", beta=1e37)], 100 * features, labels)
    assert not multiprocessing.active_children()


@forked
def test_a_lost_process_is_named_and_its_finished_runs_are_kept(cores, tmp_path, monkeypatch):
    expected = [bits(result) for result in train()]
    train_epoch, here = grid.Grid._train_epoch, os.getpid()

    def lost(self, stack, runs, epoch):
        if runs == [RUNS[2]] and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_epoch(self, stack, runs, epoch)

    cores(2)
    with monkeypatch.context() as patched:
        patched.setattr(grid.Grid, "_train_epoch", lost)
        with pytest.raises(RuntimeError, match=r"a process was killed \(SIGKILL\)"):
            train(checkpoint_dir=tmp_path)
    assert not multiprocessing.active_children()
    assert [bits(result) for result in train(checkpoint_dir=tmp_path)] == expected


@forked
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_processes_of_a_killed_sweep_end_with_it(how, tmp_path):
    """Also where the shell has told its background jobs to ignore interrupts, which they inherit."""
    script = tmp_path / "sweep.py"
    script.write_text(
        "import os, signal, sys, torch\n"
        "from hf_vub.sweep.heads import HeadRun, train_heads\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[1] == '9' else signal.default_int_handler)\n"
        "torch.set_num_threads(2)\n"
        "runs = [HeadRun(seed=seed) for seed in range(4)]\n"
        "features, labels = torch.randn(4096, 64), torch.arange(4096) % 2\n"
        "train_heads(features, labels, runs, num_labels=2, epochs=10_000, save_every=1, checkpoint_dir=sys.argv[2])\n"
    )
    folder = tmp_path / "runs"
    words = [sys.executable, str(script), str(int(how)), str(folder)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len(list(folder.glob("*.safetensors"))) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(how)  # to the sweep alone, not to its processes
    process.stderr.read()  # ends when the last process that inherited it does
    process.wait()


def test_seeds_make_runs_different_and_repeatable():
    one, other, same = (train([HeadRun(seed=seed)])[0] for seed in (0, 1, 0))
    assert bits(one) == bits(same)
    assert bits(one) != bits(other)


def test_the_global_random_state_neither_matters_nor_moves():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = train([RUNS[0]])[0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert bits(train([RUNS[0]])[0]) == bits(one)


def test_noise_and_order_are_independent_between_seeds_and_epochs():
    orders = [data_order(seed, epoch, 1000) for seed in range(3) for epoch in range(3)]
    assert all(torch.equal(order.sort().values, torch.arange(1000)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 9
    noises = [draw_noise(seed, epoch, block, (16, 64)) for seed in range(2) for epoch in range(2) for block in range(2)]
    correlations = torch.corrcoef(torch.stack([noise.flatten() for noise in noises])) - torch.eye(8)
    assert correlations.abs().max() < 0.05
    assert torch.stack(noises).mean().abs() < 0.02
    assert torch.stack(noises).std().item() == pytest.approx(1.0, abs=0.02)


def test_training_lowers_the_loss_and_learns():
    features, labels = problem(rows=400)
    result = train([HeadRun("vib", beta=1e-3)], features, labels, epochs=10)[0]
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    assert result.evaluate(*problem(seed=1))["accuracy"] > 0.75


def test_collapse_is_reported_once_per_grid_point(caplog):
    features, labels = problem()
    runs = [HeadRun("vub", beta=50.0, seed=seed) for seed in (0, 1)] + [HeadRun("vib", beta=1e-3)]
    with caplog.at_level("WARNING", "hf_vub"):
        train(runs, features, labels, epochs=150, learning_rate=2e-2)
    warned = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in warned] == [
        "KL collapse in 2 runs of vub at beta=50",
        "saturation in 2 runs of vub at beta=50",
    ]
    assert "lower beta" in warned[0]


def test_evaluation_is_the_heads_and_the_metrics():
    from hf_vub.metrics.classification import classification_metrics

    result = train([RUNS[2]])[0]
    features, labels = problem(rows=BLOCK_ROWS + 7, seed=1)
    measured = result.evaluate(features.numpy(), labels.tolist())
    out = result.head(features)
    terms = objective_terms(out.mean, out.scale, out.draws, labels)
    expected = classification_metrics(out.logits.detach(), labels)
    assert {name: measured[name] for name in expected} == pytest.approx(expected)
    assert measured["rate"] == pytest.approx(terms.rate.mean().item(), rel=1e-5)
    assert measured["entropy"] == pytest.approx(terms.entropy.mean().item(), rel=1e-5)
    assert not result.head.training


def test_held_out_rows_are_measured_after_every_epoch():
    held_out = problem(seed=1)
    result = train([RUNS[1]], eval_features=held_out[0], eval_labels=held_out[1])[0]
    final = result.evaluate(*held_out)
    for name in ("loss", "cross_entropy", "rate", "entropy", "information", "inverse_cross_entropy", "accuracy"):
        assert [math.isfinite(epoch[f"eval_{name}"]) for epoch in result.history] == [True] * 3
        assert result.history[-1][f"eval_{name}"] == pytest.approx(final[name], rel=1e-6)
    assert bits(result) == bits(train([RUNS[1]])[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_any_floating_type_train_as_float32(dtype):
    features, labels = problem()
    features = features.to(dtype)
    assert bits(train([RUNS[2]], features, labels)[0]) == bits(train([RUNS[2]], features.float(), labels)[0])


def test_latent_size_is_the_heads():
    assert train([RUNS[2]], latent_size=5)[0].head.latent_size == 5


class Killed(Exception):
    pass


@pytest.mark.parametrize("saves", range(6))
def test_a_killed_sweep_goes_on_to_the_same_bits(saves, tmp_path, monkeypatch):
    """Killed after so many saved runs, which leaves runs at different epochs."""
    held_out = problem(seed=1)
    options = {"epochs": 4, "save_every": 2, "eval_features": held_out[0], "eval_labels": held_out[1]}
    undisturbed = train(**options)
    save = grid.Grid._save
    left = iter(range(saves))

    def save_or_die(*arguments):
        if next(left, None) is None:
            raise Killed
        save(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(grid.Grid, "_save", save_or_die)
        with pytest.raises(Killed):
            train(checkpoint_dir=tmp_path, **options)
    for _ in range(2):  # the second time everything comes from the folder
        resumed = train(checkpoint_dir=tmp_path, **options)
        assert [bits(result) for result in resumed] == [bits(result) for result in undisturbed]
        assert [result.history for result in resumed] == [result.history for result in undisturbed]
    assert not list(tmp_path.glob("*.tmp"))


def test_more_epochs_and_other_runs_go_on_from_the_folder(tmp_path):
    train(RUNS[:2], epochs=2, checkpoint_dir=tmp_path)
    grown = train(RUNS[:3], epochs=4, checkpoint_dir=tmp_path)
    assert [bits(result) for result in grown] == [bits(result) for result in train(RUNS[:3], epochs=4)]


def test_a_checkpoint_of_other_data_or_settings_is_not_used(tmp_path):
    features, labels = problem()
    train([RUNS[0]], checkpoint_dir=tmp_path)
    changed = features.clone()
    changed[3, 3] += 1e-3
    train([RUNS[0]], changed, labels, checkpoint_dir=tmp_path)
    train([RUNS[0]], checkpoint_dir=tmp_path, learning_rate=1e-3)
    train([HeadRun("ce", beta=0.5)], checkpoint_dir=tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_a_folder_that_is_ahead_is_refused(tmp_path):
    train([RUNS[0]], checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"epochs is 2, but .* is at epoch 3"):
        train([RUNS[0]], checkpoint_dir=tmp_path, epochs=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": []}, "runs is empty"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"latent_size": -1}, "latent_size is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": 1e30}, r"learning_rate is 1e\+30; it must be above 0 and at most 100"),
        ({"num_labels": 2}, "labels span 0 to 2"),
        ({"features": torch.zeros(3, 4), "labels": torch.zeros(2).long()}, "one for each of the 3 rows"),
        ({"features": torch.zeros(3, 4), "labels": torch.zeros(3)}, "labels are torch.float32"),
        ({"features": torch.zeros(3, 4).long(), "labels": torch.zeros(3).long()}, "they must be floats"),
        ({"features": torch.zeros(0, 4), "labels": torch.zeros(0).long()}, "of shape"),
        ({"features": torch.tensor([[1.0], [float("nan")]]), "labels": torch.zeros(2).long()}, "not finite in row 1"),
        ({"eval_features": torch.zeros(3, 4)}, "together"),
        ({"eval_features": torch.zeros(3, 4), "eval_labels": torch.zeros(3).long()}, "eval_features have 4 columns"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        train(**options)


@pytest.mark.parametrize(
    "options", [{"objective": "vae"}, {"beta": -1.0}, {"beta": float("nan")}, {"entropy_weight": -1.0}, {"seed": -1}]
)
def test_impossible_runs_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        HeadRun(**options)


def test_a_diverging_run_is_named_with_step_and_term():
    features, labels = problem()
    message = r"HeadRun\(objective='vib', beta=1e\+37.*: loss is inf at step \d+ of epoch 0"
    with pytest.raises(FloatingPointError, match=message):
        train([RUNS[0], HeadRun("vib", beta=1e37)], 100 * features, labels)
    with pytest.raises(FloatingPointError, match=r"seed=4\): rate is inf at step 0 of epoch 0"):
        train([HeadRun(seed=4)], 1e25 * features, labels)


def test_histories_are_plain_numbers():
    assert json.loads(json.dumps(train()[0].history)) == train()[0].history
