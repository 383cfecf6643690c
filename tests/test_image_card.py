"""The image report card passes honest models and fails the ones that hide their gradients, each for its reason."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import nn
from transformers import BertForSequenceClassification

from helpers.image_attacks import vit, vub
from helpers.models import backbone_config, build_model
from hf_vub.attacks import report_card
from hf_vub.attacks.image import checks
from hf_vub.model.loading import load_classifier
from hf_vub.runs.files import read_json
from hf_vub.runs.schema import read_result

pytest.importorskip("art")

SIDE = 12


def bars(count, seed):
    """Pictures of bars in four places, with noise: easy to learn, and easy to attack."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    pixels = torch.rand(count, 1, SIDE, SIDE, generator=generator) * 0.4 + 0.2
    for row, label in enumerate(labels.tolist()):
        pixels[row, 0, 3 * label : 3 * label + 3] += 0.25
    return pixels, labels


class Net(nn.Module):
    """An honest network."""

    size = SIDE * SIDE

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(self.size, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, pixels):
        return self.layers(pixels)


class Cropping(Net):
    """An honest network that does not look at the left and right border."""

    size = SIDE * (SIDE - 6)

    def forward(self, pixels):
        return super().forward(pixels[..., 3:-3])


class LoudLogits(Net):
    """The same predictions with a softmax that saturates: its gradient is zero in float32."""

    def forward(self, pixels):
        return 1e6 * super().forward(pixels)


class QuantisedInput(Net):
    """The same network behind a rounding of the pixels, which has no gradient."""

    def forward(self, pixels):
        return super().forward((pixels * 8).round() / 8)


class HalfQuantised(Net):
    """The same network behind a rounding of the upper half, whose gradient is zero in every image."""

    def forward(self, pixels):
        upper, lower = pixels[..., : SIDE // 2, :], pixels[..., SIDE // 2 :, :]
        return super().forward(torch.cat([(upper * 16).round() / 16, lower], dim=2))


class Wrinkled(Net):
    """The same network with 0.03 of a sinusoid of high frequency on the logits."""

    def forward(self, pixels):
        logits = super().forward(pixels)
        waves = torch.sin(3000 * pixels.flatten(1)[:, :, None] + torch.arange(4) * 0.7)
        return logits + 0.03 * waves.sum(dim=1)


class FlatStart(Net):
    """The same network, whose gradient is turned away within a small step of the grid that its images lie on."""

    def forward(self, pixels):
        return super().forward(pixels + _Astray.apply(pixels))


class _Astray(torch.autograd.Function):
    """Zero, with a gradient that points elsewhere than the true one where the pixels lie on the grid."""

    @staticmethod
    def forward(context, pixels):
        on_grid = ((pixels * 64) - (pixels * 64).round()).abs().flatten(1).amax(dim=1) < 1e-3
        context.save_for_backward(on_grid)
        return torch.zeros_like(pixels)

    @staticmethod
    def backward(context, gradient):
        (on_grid,) = context.saved_tensors
        return (gradient.flip(-2) - gradient) * on_grid.view(-1, 1, 1, 1)


class Restless(Net):
    """Noise on the hidden layer that nobody declared."""

    def forward(self, pixels):
        hidden = self.layers[:3](pixels)
        return self.layers[3](hidden + 0.05 * torch.randn_like(hidden))


class NoisyNet(Net):
    """A random predictor: noise on the hidden layer, averaged in probability over the draws."""

    def forward(self, pixels, num_samples=0):
        hidden = self.layers[:3](pixels)
        if num_samples == 0:
            return self.layers[3](hidden)
        draws = [self.layers[3](hidden + 0.3 * torch.randn_like(hidden)).log_softmax(-1) for _ in range(num_samples)]
        return torch.stack(draws).logsumexp(0) - torch.tensor(float(num_samples)).log()


def trained(kind):
    torch.manual_seed(0)
    net = kind()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    pixels, labels = bars(256, seed=0)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(pixels), labels).backward()
        optimizer.step()
    return net


@pytest.fixture(scope="module")
def weights():
    return trained(Net).state_dict()


@pytest.fixture(scope="module")
def data():
    pixels, labels = bars(96, seed=1)
    return Dataset.from_dict({"image": pixels.tolist(), "label": labels.tolist()})


def build(kind, weights):
    model = kind()
    model.load_state_dict(weights)
    return model


def card_of(model, data, **options):
    settings = {"epsilon": 0.15, "steps": 15, "square_steps": 60, "num_examples": 32, "progress": False}
    return report_card(model, data, **{**settings, **options})


def verdicts(card):
    return {check["name"]: check["passed"] for check in card["checks"]}


def failed(card):
    return {check["name"] for check in card["checks"] if check["passed"] is False}


def figures(card, name):
    return next(check["figures"] for check in card["checks"] if check["name"] == name)


def sibling(weights):
    return build(Net, {name: value + 0.05 * torch.randn_like(value) for name, value in weights.items()})


def test_an_honest_model_passes(weights, data, tmp_path):
    card = card_of(build(Net, weights), data, transfer_from=[sibling(weights)], output_dir=tmp_path)
    assert card["clean_accuracy"] > 0.9
    assert verdicts(card) == {
        "deterministic": True, "gradients": True, "slope": True, "unbounded": True, "monotone": True, "steps": True,
        "white_box": True, "transfer": True, "single_step": True, "noise": True, "eot": None,
    }  # fmt: skip
    assert card["passed"] is True
    assert [check["name"] for check in card["checks"] if not check["applies"]] == ["eot"]
    assert read_json(tmp_path / "report_card.json") == card == read_result(tmp_path / "report_card.json")
    assert card.curves.epsilon == (0.0375, 0.075, 0.15, 0.3, 0.6, 1.0)
    assert card.transfer_from == ("Net",)


def test_an_honest_model_passes_with_surrogates_made_on_the_spot(weights, data):
    card = card_of(build(Net, weights), data)
    assert card["passed"] is True, [check.why for check in card.checks]
    assert card.transfer_from == ("linear surrogate", "network surrogate")
    assert min(figures(card, "transfer")["agreement"].values()) > 0.9


def test_pixels_that_an_honest_model_crops_away_do_not_count(data):
    card = card_of(trained(Cropping), data)
    assert card["passed"] is True, [check.why for check in card.checks]
    found = figures(card, "gradients")
    assert found["ignored_pixels"] == 0.5
    assert found["ignored_matter"] == found["zero_entries"] == 0


def test_pixels_whose_gradient_is_hidden_in_every_image_fail(weights, data):
    """They look cropped away, but moving them changes the logits."""
    card = card_of(build(HalfQuantised, weights), data)
    assert "gradients" in failed(card)
    assert figures(card, "gradients")["ignored_pixels"] >= 0.5
    assert figures(card, "gradients")["ignored_matter"] > 0.9


def test_a_saturated_softmax_fails(weights, data):
    card = card_of(build(LoudLogits, weights), data)
    assert {"gradients", "unbounded", "white_box", "noise", "transfer"} <= failed(card)
    assert figures(card, "gradients")["zero_gradients"] == 1.0
    assert card["passed"] is False


def test_a_quantised_input_fails(weights, data):
    card = card_of(build(QuantisedInput, weights), data, transfer_from=[build(Net, weights)])
    assert {"gradients", "unbounded", "transfer", "noise"} <= failed(card)


def test_logits_with_a_sinusoid_fail_without_a_model_to_transfer_from(weights, data):
    card = card_of(build(Wrinkled, weights), data)
    assert {"slope", "transfer"} <= failed(card)
    assert figures(card, "slope")["median"] < 0.2
    assert figures(card, "transfer")["white_box"] > 0.5
    assert figures(card, "transfer")["rival"]["linear surrogate"] < figures(card, "transfer")["white_box"] - 0.4


def test_a_masked_first_step_fails_though_many_steps_win(weights, data):
    """FGS from the image itself goes astray; PGD leaves the grid with its random start and finds the way."""
    on_grid = Dataset.from_dict({**data[:], "image": ((torch.tensor(data["image"][:]) * 64).round() / 64).tolist()})
    honest = card_of(build(Net, weights), on_grid, transfer_from=[build(Net, weights)])
    card = card_of(build(FlatStart, weights), on_grid, transfer_from=[build(Net, weights)])
    assert honest["passed"] is True
    assert {"single_step", "slope"} <= failed(card)
    assert not {"transfer", "steps", "unbounded", "gradients"} & failed(card)
    assert figures(card, "single_step")["own"] > figures(card, "single_step")["rival"]["Net"] + 0.3


def test_randomness_that_nobody_declared_is_found(weights, data):
    card = card_of(build(Restless, weights), data)
    assert "deterministic" in failed(card)
    assert figures(card, "deterministic")["changed"] == 1.0


def test_a_random_predictor_is_averaged_over(weights, data):
    card = card_of(build(NoisyNet, weights), data, noise="sampled", redraws=5, transfer_from=[sibling(weights)])
    assert verdicts(card)["eot"] is True
    assert card["passed"] is True, [check.why for check in card.checks]
    assert figures(card, "eot")["draws"] == (1, 5, 10, 20, 40)
    assert not next(check for check in card.checks if check.name == "deterministic").applies


def test_a_few_images_leave_a_card_open(weights, data):
    card = card_of(build(Net, weights), data, num_examples=4, transfer_from=[sibling(weights)])
    assert card["passed"] is None
    assert verdicts(card)["steps"] is None
    assert "too few images" in next(check.why for check in card.checks if check.name == "steps")


def test_a_model_that_no_surrogate_can_imitate_leaves_a_card_open(weights, data, monkeypatch):
    from hf_vub.attacks.image import report_card as module

    monkeypatch.setattr(module, "make_surrogates", lambda *args: [])
    card = card_of(build(Net, weights), data)
    assert card["passed"] is None
    assert {name for name, passed in verdicts(card).items() if passed is None} == {"transfer", "single_step", "eot"}


def test_four_of_fifty_seven_images_are_no_verdict_and_twelve_are():
    """The exact one-sided test: 4 to 0 has p = 1/16, 12 to 0 has 1/4096."""
    ours = torch.zeros(1, 57)
    found = {}
    for count in (4, 12):
        kept = ours.clone()
        kept[0, :count] = 1
        found[count] = checks.compare("transfer", kept, {"other": ours}, "white_box", "{name}: {ours} and {rival}")
    assert found[4].p_value == 1 / 16
    assert found[12].p_value == 1 / 4096
    passed = [check.passed for check in checks.judge(list(found.values()), 0.05)]
    assert passed == [True, False]
    assert found[4].figures["only_rival_interval"] == pytest.approx((0.0195, 0.1700), abs=1e-4)


def test_checks_are_corrected_for_their_number():
    findings = [checks.Finding(str(place), "why", {}, p_value=0.02) for place in range(5)]
    assert [check.passed for check in checks.judge(findings, 0.05)] == [True] * 5
    assert [check.passed for check in checks.judge(findings[:1], 0.05)] == [False]
    assert checks.judge(findings, 0.05)[0].figures["p_value"] == pytest.approx(0.1)


def test_of_several_rivals_the_worst_counts_and_is_corrected():
    ours, weak, strong = torch.ones(1, 40), torch.ones(1, 40), torch.ones(1, 40)
    strong[0, :10] = 0
    found = checks.compare("transfer", ours, {"weak": weak, "strong": strong}, "white_box", "{name}")
    assert found.why.startswith("strong; 10 of 40 images")
    assert found.p_value == 2 * 0.5**10
    assert found.figures["rival"] == {"weak": 1.0, "strong": 0.75}


def test_the_same_card_twice(weights, data):
    one, two = (card_of(build(Net, weights), data) for _ in range(2))
    assert one["checks"] == two["checks"]
    assert one["curves"] == two["curves"]


def test_a_model_that_is_always_wrong_is_refused(weights, data):
    wrong = Dataset.from_dict({"image": data["image"][:], "label": [(label + 1) % 4 for label in data["label"]]})
    with pytest.raises(ValueError, match="gets none of 96 examples right"):
        card_of(build(Net, weights), wrong, num_examples=None)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"alpha": 1.5}, ValueError, "alpha must lie between 0 and 1, but is 1.5"),
        ({"redraws": 0}, ValueError, "redraws must be a whole number of at least 1"),
        ({"noise": "sampled"}, ValueError, "needs a model with a stochastic head"),
        ({"guide": "minilm"}, ValueError, "guide is for texts, and the model classifies images"),
        ({"tolerance": 0.02}, TypeError, "'tolerance' is not an argument; the arguments are processor, num_examples"),
    ],
)
def test_bad_arguments_are_one_sentence(options, error, sentence, weights, data):
    with pytest.raises(error, match=sentence):
        card_of(build(Net, weights), data, **options)


def test_the_card_is_that_of_the_models_task(tmp_path, monkeypatch):
    """Modules are told by their forward method, checkpoints by their configuration."""
    made = []

    def stand_in(name):
        return SimpleNamespace(**{f"make_{name}_card": lambda *args, **options: made.append((name, options))})

    for name in ("text", "image"):
        monkeypatch.setitem(sys.modules, f"hf_vub.attacks.{name}.report_card", stand_in(name))
    bert = build_model("bert")
    bert.save_pretrained(tmp_path / "ours")
    BertForSequenceClassification(backbone_config("bert")).save_pretrained(tmp_path / "stock")
    vub().save_pretrained(tmp_path / "pictures")
    vit().save_pretrained(tmp_path / "stock-pictures")
    for model in (bert, tmp_path / "ours", str(tmp_path / "stock")):
        report_card(model, "rows", guide="stock", recipe="pwws")
        assert made.pop() == ("text", {"guide": "stock", "transfer_from": (), "recipe": "pwws"})
    for model in (vub(), Net(), tmp_path / "pictures", str(tmp_path / "stock-pictures")):
        report_card(model, "rows", transfer_from=["stock"], steps=3)
        assert made.pop() == ("image", {"transfer_from": ["stock"], "steps": 3})
    with pytest.raises(OSError, match="nowhere"):
        report_card(tmp_path / "nowhere", "rows")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_card_on_an_accelerator_has_the_verdicts_of_the_cpu(weights, data):
    for kind in (Net, QuantisedInput):
        cpu, gpu = (card_of(build(kind, weights).to(device), data) for device in ("cpu", "cuda"))
        assert verdicts(gpu) == verdicts(cpu)
        assert gpu.curves.pgd == pytest.approx(cpu.curves.pgd, abs=0.1)


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_card_of_a_real_network(shared_data):
    """A stock network passes without another model; a wrinkle on its logits, which PGD does not survive, fails."""
    options = {"num_examples": 32, "steps": 10, "square_steps": 60, "progress": False}
    stock, processor, _ = load_classifier(shared_data / "models" / "resnet18-cifar10", "image")
    card = report_card(stock, shared_data / "data" / "cifar10", processor=processor, **options)
    assert card["passed"] is True, [check.why for check in card.checks]
    assert figures(card, "transfer")["agreement"]["linear surrogate"] > 0.8

    class OnLogits(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.config = stock, stock.config

        def forward(self, pixel_values):
            logits = self.network(pixel_values=pixel_values).logits
            return logits + 0.03 * torch.sin(3000 * logits)

    card = report_card(OnLogits(), shared_data / "data" / "cifar10", processor=processor, **options)
    assert {"slope", "transfer"} <= failed(card)
    assert figures(card, "transfer")["white_box"] > 0.2
    assert figures(card, "transfer")["rival"]["linear surrogate"] < 0.1
