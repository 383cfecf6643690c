"""AutoAttack against closed forms, its members counted, and what it does where a member cannot run."""

import pytest
import torch
from datasets import Dataset
from torch import nn

from hf_vub.attacks import attack_image
from hf_vub.attacks.image.adversaries import ATTACKS, ProjectedGradient, make
from hf_vub.attacks.image.adversary import TARGETABLE
from hf_vub.attacks.image.auto_attack import AutoAttack, AutoAttackL2
from hf_vub.compute.contexts import frozen, seeded
from hf_vub.embeddings.pixels import PixelModel
from hf_vub.runs.files import read_json, read_records
from hf_vub.runs.schema import read_result

pytest.importorskip("pyautoattack")

FAST = {"steps": 20, "queries": 60}


class Linear(nn.Module):
    """Logits that are linear in the pixels: the smallest perturbation has a closed form."""

    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)

    def forward(self, pixels):
        return self.linear(pixels.flatten(1))


class Hidden(nn.Module):
    """A small network whose gradients are honest."""

    def __init__(self, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, classes))

    def forward(self, pixels):
        return self.layers(pixels)


class Random(Linear):
    """A random predictor."""

    def forward(self, pixels, num_samples=0):
        logits = super().forward(pixels)
        return logits + 0.02 * torch.randn_like(logits) if num_samples else logits


class Restless(Linear):
    """A random predictor that does not say so."""

    def forward(self, pixels):
        logits = super().forward(pixels)
        return logits + 0.1 * torch.randn_like(logits)


def images_for(model, count=24):
    pixels = torch.rand(count, 1, 8, 8) * 0.2 + 0.4
    return pixels, model(pixels).argmax(dim=1)


def smallest_budgets(model, pixels, labels, dual):
    """Distance of each image to the nearest decision boundary of a linear model."""
    weight, logits = model.linear.weight.detach(), model(pixels).detach()
    gaps = logits.gather(1, labels[:, None]) - logits
    norms = (weight[labels][:, None] - weight[None]).norm(p=dual, dim=2).clamp_min(1e-9)
    own = nn.functional.one_hot(labels, weight.shape[0]).bool()
    return (gaps / norms).masked_fill(own, torch.inf).amin(dim=1)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize(("kind", "dual"), [(AutoAttack, 1), (AutoAttackL2, 2)])
def test_robust_accuracy_of_a_linear_model_is_the_analytic_one(classes, kind, dual):
    model = Linear(classes)
    pixels, labels = images_for(model)
    exact = smallest_budgets(model, pixels, labels, dual)
    low, high = exact.sort().values[[11, 12]].tolist()  # a budget in the gap between two images: half of them fall
    epsilon = (low + high) / 2
    with frozen(model), seeded(0):
        (found,) = kind(**FAST)(PixelModel(model), pixels, labels, (epsilon,))
    certain = (exact - epsilon).abs() > 0.02 * epsilon
    assert certain.sum() >= 18
    assert torch.equal(found.success[certain], (exact < epsilon)[certain])
    assert found.distance.max() <= epsilon + 1e-5
    assert torch.equal(found.adversarial[~found.success], pixels[~found.success])


def test_it_leaves_no_more_than_projected_gradients():
    better = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = Hidden(5)
        pixels, labels = images_for(model, 32)
        with frozen(model), seeded(seed):
            ours = AutoAttack(**FAST)(PixelModel(model), pixels, labels, (0.08, 0.15))
            theirs = ProjectedGradient(steps=20)(PixelModel(model), pixels, labels, (0.08, 0.15))
        for one, other in zip(ours, theirs, strict=True):
            assert one.success.sum() >= other.success.sum()
            better.append(int(one.success.sum() - other.success.sum()))
    assert max(better) > 5  # the targeted members find what the cross-entropy hides


def test_an_image_is_attacked_until_it_is_misclassified_and_members_are_counted(tmp_path):
    model = Hidden(5)
    pixels, labels = images_for(model, 20)
    data = Dataset.from_dict({"image": pixels.tolist(), "label": labels.tolist()})
    result = attack_image(
        model, data, "autoattack", epsilon=[0.08, 0.15], batch_size=8, output_dir=tmp_path, progress=False, **FAST
    )
    assert result == read_json(tmp_path / "result.json") == read_result(tmp_path / "result.json")
    assert result["attack_options"] == {"steps": 20, "queries": 60, "targets": 9}
    records = list(read_records(tmp_path / "records.jsonl"))
    for place, budget in enumerate(result.budgets):
        assert [member.attack for member in budget.members] == ["apgd_ce", "apgd_t", "fab_t", "square"]
        left = 20
        for member in budget.members:
            assert member.num_attacked == left
            left -= member.num_successes
        assert budget.accuracy_under_attack == left / 20
        found = [record["outcomes"][place]["attack"] for record in records]
        assert found.count("apgd_ce") == budget.members[0].num_successes
        assert found.count(None) == left
    assert result.members == result.budgets[-1].members
    assert result.members[0].num_successes > 0
    # What was misclassified at the smaller budget is so at the larger one.
    first, second = ([record["outcomes"][place]["success"] for record in records] for place in (0, 1))
    assert all(later for earlier, later in zip(first, second, strict=True) if earlier)


def test_a_member_sees_only_what_the_earlier_ones_left(monkeypatch):
    model = Hidden(5)
    pixels, labels = images_for(model, 20)
    attacked, run = [], AutoAttack._run

    def recorded(self, name, batch, *rest):
        attacked.append(len(batch.images))
        return run(self, name, batch, *rest)

    monkeypatch.setattr(AutoAttack, "_run", recorded)
    with frozen(model), seeded(0):
        (found,) = AutoAttack(**FAST)(PixelModel(model), pixels, labels, (0.08,))
    members = [AutoAttack.members.index(name) for name in AutoAttack().members_for(5, random=False)]
    assert attacked[0] == 20
    for place, count in enumerate(attacked):
        assert count == 20 - sum(int((found.member == member).sum()) for member in members[:place])


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    import hf_vub.runs.run_log as module

    model = Hidden(4)
    pixels, labels = images_for(model, 12)
    data = Dataset.from_dict({"image": pixels.tolist(), "label": labels.tolist()})
    options = {"epsilon": 0.08, "batch_size": 4, "seed": 3, "progress": False, **FAST}
    whole = attack_image(model, data, "autoattack", output_dir=tmp_path / "whole", **options)
    append, written = module.append_record, []

    def dies(path, record):
        if len(written) == 6:
            raise KeyboardInterrupt
        written.append(record)
        append(path, record)

    monkeypatch.setattr(module, "append_record", dies)
    with pytest.raises(KeyboardInterrupt):
        attack_image(model, data, "autoattack", output_dir=tmp_path / "cut", **options)
    monkeypatch.setattr(module, "append_record", append)
    resumed = attack_image(model, data, "autoattack", output_dir=tmp_path / "cut", **options)
    assert {**dict(resumed), "seconds": 0} == {**dict(whole), "seconds": 0}
    images = [(tmp_path / run / "images.safetensors").read_bytes() for run in ("whole", "cut")]
    assert images[0] == images[1]


def test_members_depend_on_classes_and_noise():
    attack = AutoAttack()
    assert attack.members_for(10, random=False) == ("apgd_ce", "apgd_t", "fab_t", "square")
    assert attack.members_for(4, random=False) == ("apgd_ce", "apgd_t", "fab_t", "square")
    assert attack.members_for(3, random=False) == ("apgd_ce", "apgd_dlr", "fab_t", "square")
    assert attack.members_for(2, random=False) == ("apgd_ce", "fab_t", "square")
    assert attack.members_for(10, random=True) == ("apgd_ce", "apgd_dlr")
    assert attack.members_for(2, random=True) == ("apgd_ce",)
    with pytest.raises(ValueError, match="needs at least 2 classes"):
        attack.members_for(1, random=False)


def test_a_declared_random_predictor_is_attacked_through_an_average(monkeypatch):
    from pyautoattack.autopgd_base import APGDAttack

    draws, init = [], APGDAttack.__init__

    def recorded(self, *args, **options):
        draws.append(options["eot_iter"])
        init(self, *args, **options)

    monkeypatch.setattr(APGDAttack, "__init__", recorded)
    model = Random(3)
    pixels, labels = images_for(model, 6)
    data = Dataset.from_dict({"image": pixels.tolist(), "label": labels.tolist()})
    result = attack_image(model, data, "autoattack", epsilon=0.05, steps=5, noise="sampled", redraws=4, progress=False)
    assert set(draws) == {20}
    assert [member.attack for member in result.members] == ["apgd_ce", "apgd_dlr"]
    assert result.redraws.draws == 4


def test_undeclared_randomness_is_refused():
    model = Restless(4)
    pixels, labels = torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)
    with frozen(model), pytest.raises(ValueError, match="the same logits twice, and this one does not"):
        AutoAttack(**FAST)(PixelModel(model), pixels, labels, (0.1,))


def test_its_numbers_are_set_by_name_or_refused():
    assert make("autoattack", steps=7, queries=9) == ("autoattack", AutoAttack(steps=7, queries=9))
    assert make("AutoAttack-L2")[0] == "autoattack_l2"
    with pytest.raises(ValueError, match="queries=9 does not fit pgd_linf, which has no queries"):
        make("pgd_linf", queries=9)
    with pytest.raises(ValueError, match="queries must be a whole number of at least 1, but is 0"):
        make("autoattack", queries=0)
    with pytest.raises(ValueError, match="queries=9 cannot change an attack that is already built"):
        make(AutoAttack(), queries=9)
    with pytest.raises(ValueError, match="AutoAttack has no targeted form"):
        attack_image(Linear(3), Dataset.from_dict({"image": [], "label": []}), "autoattack", target=1)


def test_the_attacks_with_a_targeted_form_are_listed():
    assert tuple(name for name, kind in ATTACKS.items() if kind.targeted) == TARGETABLE


def test_a_missing_package_is_one_sentence(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyautoattack.autoattack", None)
    model = Linear(3)
    pixels, labels = images_for(model, 2)
    with frozen(model), pytest.raises(ImportError, match=r'pip install "hf_vub\[image-attacks\]"'):
        AutoAttack(**FAST)(PixelModel(model), pixels, labels, (0.1,))
