"""The report card passes an honest model and fails the ones that hide their gradients."""

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import nn

from hf_vub.attacks import report_card
from hf_vub.runs.files import read_json

pytest.importorskip("foolbox")
pytest.importorskip("art")


def digits_like(count, seed):
    """Eight by eight pictures of bars in four places, with noise: easy to learn, and easy to attack."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    pixels = torch.rand(count, 1, 8, 8, generator=generator) * 0.4 + 0.2
    for row, label in enumerate(labels.tolist()):
        pixels[row, 0, 2 * label : 2 * label + 2] += 0.25
    return pixels, labels


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, pixels):
        return self.layers(pixels)


class LoudLogits(Net):
    """The same predictions with a softmax that saturates: its gradient is zero in float32."""

    def forward(self, pixels):
        return 1e6 * super().forward(pixels)


class QuantisedInput(Net):
    """The same network behind a rounding of the pixels, which has no gradient."""

    def forward(self, pixels):
        return super().forward((pixels * 8).round() / 8)


class NoisyNet(Net):
    """A random predictor: noise on the hidden layer, averaged in probability over the draws."""

    def forward(self, pixels, num_samples=0):
        hidden = self.layers[:3](pixels)
        if num_samples == 0:
            return self.layers[3](hidden)
        draws = [self.layers[3](hidden + 0.3 * torch.randn_like(hidden)).log_softmax(-1) for _ in range(num_samples)]
        return torch.stack(draws).logsumexp(0) - torch.tensor(float(num_samples)).log()


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    pixels, labels = digits_like(256, seed=0)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(pixels), labels).backward()
        optimizer.step()
    return net.state_dict()


@pytest.fixture(scope="module")
def data():
    pixels, labels = digits_like(32, seed=1)
    return Dataset.from_dict({"image": pixels.tolist(), "label": labels.tolist()})


def card_of(kind, weights, data, **options):
    model = kind()
    model.load_state_dict(weights)
    return report_card(model, data, epsilon=0.1, steps=15, square_steps=100, **options)


def verdicts(card):
    return {check["name"]: check["passed"] for check in card["checks"]}


def test_an_honest_model_passes(weights, data, tmp_path):
    sibling = Net()
    sibling.load_state_dict({name: value + 0.05 * torch.randn_like(value) for name, value in weights.items()})
    card = card_of(Net, weights, data, transfer_from=[sibling], output_dir=tmp_path)
    assert card["clean_accuracy"] > 0.9
    assert verdicts(card) == {
        "gradients": True, "unbounded": True, "monotone": True, "steps": True, "white_box": True, "transfer": True,
        "noise": True, "eot": None,
    }  # fmt: skip
    assert card["passed"]
    assert read_json(tmp_path / "report_card.json") == card
    assert card.curves.epsilon == (0.025, 0.05, 0.1, 0.2, 0.4, 1.0)


def test_a_saturated_softmax_fails(weights, data):
    card = card_of(LoudLogits, weights, data)
    found = verdicts(card)
    assert not card["passed"]
    assert not any(found[name] for name in ("gradients", "unbounded", "white_box", "noise"))
    figures = {check["name"]: check["figures"] for check in card["checks"]}
    assert figures["gradients"]["zero_gradients"] == 1.0


def test_a_quantised_input_fails(weights, data):
    vanilla = Net()
    vanilla.load_state_dict(weights)
    card = card_of(QuantisedInput, weights, data, transfer_from=[vanilla])
    found = verdicts(card)
    assert not card["passed"]
    assert not any(found[name] for name in ("gradients", "unbounded", "transfer", "noise"))


def test_a_random_predictor_is_averaged_over(weights, data):
    card = card_of(NoisyNet, weights, data, noise="sampled", redraws=5)
    found = verdicts(card)
    assert found["eot"] is True
    assert card["passed"]
    eot = next(check for check in card["checks"] if check["name"] == "eot")
    assert eot["figures"]["draws"] == (1, 5, 10, 20, 40)


def test_the_same_card_twice(weights, data):
    one, two = (card_of(Net, weights, data) for _ in range(2))
    assert one["checks"] == two["checks"]
    assert one["curves"] == two["curves"]


def test_a_model_that_is_always_wrong_is_refused(weights, data):
    wrong = Dataset.from_dict({"image": data["image"][:], "label": [(label + 1) % 4 for label in data["label"]]})
    with pytest.raises(ValueError, match="gets none of 32 examples right"):
        card_of(Net, weights, wrong)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tolerance": -0.1}, "tolerance must be at least 0"),
        ({"redraws": 0}, "redraws must be a whole number of at least 1"),
        ({"noise": "sampled"}, "needs a model with a stochastic head"),
    ],
)
def test_bad_arguments_are_one_sentence(options, sentence, weights, data):
    with pytest.raises(ValueError, match=sentence):
        card_of(Net, weights, data, **options)
