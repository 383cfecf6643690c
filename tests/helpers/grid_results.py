"""Made-up results of a small reproduction or comparison, for tables, plots, claims and reports."""

import base64
import io

import numpy as np

from hf_vub.paper.claims import with_statistics
from hf_vub.paper.comparison import with_recommendation
from hf_vub.paper.grid import phases
from hf_vub.paper.outcomes import pack
from hf_vub.runs.files import plain
from hf_vub.runs.schema import Reproduction

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>|`$\\{}_%&'


def make(task="text", runs=5, epochs=40, gain=0.02, hostile=False, seed=0, guided_gain=None):
    """Return results where VUB beats VIB by ``gain`` in accuracy and in robustness.

    By guided search it is more robust by ``guided_gain``; None for the same gain as by its own score.
    """
    content = _content(task, runs, epochs, gain, hostile, seed, gain if guided_gain is None else guided_gain)
    return with_statistics(Reproduction.from_json(plain(content)))


def make_comparison(baselines=True, vanilla="checkpoint", seen=None, **options):
    """Return a comparison on one's own data: ``options`` are those of `make`."""
    content = _content(**{"task": "text", "runs": 3, "epochs": 3, "gain": 0.02, "hostile": False, "seed": 0, **options})
    content |= {"kind": "comparison", "experiment": "compare", "dataset": "my reviews.csv"}
    content["data"]["seen_by_backbone"] = seen
    rng = np.random.default_rng(1)
    names = ("logistic regression", "early-stopped MLP") if baselines else ()
    content["baselines"] = {name: _baseline(rng, name, content["vanilla"]["attacks"]) for name in names}
    if vanilla != "checkpoint":
        content["vanilla"] = content["baselines"][vanilla]
    return with_recommendation(Reproduction.from_json(plain(content)))


def _baseline(rng, name, attacks):
    return {
        "origin": name,
        "hyperparameters": {"C": 0.1},
        "metrics": {"accuracy": 0.9, "nll": 0.32, "brier": 0.2, "ece": 0.02},
        "validation": {"accuracy": 0.9, "nll": 0.31, "brier": 0.2, "ece": 0.02},
        "reliability": _reliability(rng, 0.9),
        "attacks": attacks,
    }


def _content(task, runs, epochs, gain, hostile, seed, guided_gain=None):
    rng = np.random.default_rng(seed)
    classes = ["neg", "pos"] if task == "text" else [f"class {number}" for number in range(10)]
    if hostile:
        classes[0] = HOSTILE
    columns = {
        "text": ["DWB", "DWB guided", "PWWS", "PWWS guided"],
        "image": ["FGS 8/255", "FGS 0.1", "FGS 0.5", "pgd_linf 8/255", "pgd_linf 0.1", "CW"],
    }[task]
    ease = rng.random(200)
    grid = []
    curves = []
    for objective in ("vib", "vub"):
        better = gain if objective == "vub" else 0.0
        hidden = (gain if guided_gain is None else guided_gain) if objective == "vub" else 0.0
        rates = {name: 0.5 - 5 * (hidden if "guided" in name else better) for name in columns}
        for beta in (1e-3, 1e-2, 1e-1):
            for run in range(runs):
                accuracy = 0.9 + better - beta / 10 + 0.001 * rng.random()
                history = _history(rng, epochs, beta)
                if run == 0:
                    curves.append({**_point(objective, beta, run), **history})
                grid.append(
                    {
                        **_point(objective, beta, run),
                        "name": f"{objective}-{beta}-{run}",
                        "metrics": _metrics(rng, accuracy, beta, objective),
                        "validation": _metrics(rng, accuracy, beta, objective),
                        "reliability": _reliability(rng, accuracy),
                        "phases": phases(history),
                        "attacks": {name: _attack(rng, name, rates[name]) for name in columns},
                        "outcomes": {name: _outcomes(rng, name, ease, rates[name]) for name in columns},
                        "correct": pack(ease + 0.01 * rng.random(200) > 0.1 - better),
                    }
                )
    results = {
        "schema": 1,
        "versions": {"torch": "2.15"},
        "command": "python scripts/reproduce.py",
        "commit": "abc",
        "kind": "reproduction",
        "experiment": "imdb" if task == "text" else "cifar10",
        "task": task,
        "model": HOSTILE if hostile else "bert-base-uncased",
        "dataset": HOSTILE if hostile else "imdb",
        "settings": {"epochs": epochs, "batch_size": 16, "learning_rate": 1e-4, "seed": 0, "betas": [1e-3, 1e-2, 1e-1]},
        "data": {
            "num_labels": len(classes),
            "num_train": 22500,
            "num_test": 25000,
            "label_entropy": float(np.log(len(classes))),
            "class_names": classes,
            "feature_size": 8,
        },
        "vanilla": {
            "origin": "checkpoint",
            "metrics": {"accuracy": 0.905, "nll": 0.3, "brier": 0.2, "ece": 0.03},
            "validation": {"accuracy": 0.905, "nll": 0.3, "brier": 0.2, "ece": 0.03},
            "reliability": _reliability(rng, 0.905),
            "attacks": {name: _attack(rng, name, 0.8) for name in columns},
            "outcomes": {name: _outcomes(rng, name, ease, 0.8) for name in columns},
            "correct": pack(ease > 0.105),
        },
        "runs": grid,
        "curves": curves,
        "stress": [
            {
                "objective": "vub",
                "head": "vub-0.001-0",
                "kind": "text_attack",
                "attack": "DeepWordBugGao2018",
                "noise": "sampled",
                "how": "stratified",
                "seed": 0,
                "num_examples": 20,
                "num_attacked": 18,
                "num_skipped": 0,
                "clean_accuracy": 0.9,
                "accuracy_under_attack": 0.5,
                "attack_success_rate": 0.44,
            },
            {"objective": "vub", "head": "vub-0.001-0", "kind": "report_card", "attack": "report_card", "passed": False,
             "checks": [{"name": "monotone", "passed": False, "why": "it rises", "figures": {}}]},
        ],
        "examples": _examples(task, classes, hostile),
        "seconds": {"embed": 1.0, "sweep": 2.0},
    }  # fmt: skip
    return results | {"chosen": {}, "statistics": {}, "claims": []}


def _point(objective, beta, seed):
    return {"objective": objective, "beta": beta, "entropy_weight": 1.0, "seed": seed}


def _metrics(rng, accuracy, beta, objective):
    rate = 5.0 / (beta * 100 + 1) * (1 + 0.05 * rng.random())
    cross_entropy = 0.3 + beta + 0.01 * rng.random()
    ece = 0.12 if objective == "vub" else 0.04
    return {
        "accuracy": accuracy,
        "nll": cross_entropy,
        "brier": 0.2,
        "ece": ece + 0.01 * rng.random(),
        "cross_entropy": cross_entropy,
        "rate": rate,
        "entropy": 0.4,
        "information": 10 + rate,
        "bound_vib": beta * rate + cross_entropy,
        "bound_vub": beta * rate + cross_entropy - 0.4,
        "bound_ib": beta * rate + cross_entropy - 0.69,
    }


def _history(rng, epochs, beta):
    steps = np.arange(epochs) / max(1, epochs)
    information = 20 + 8 * np.sin(8 * steps) + 4 * steps + 0.1 * rng.random(epochs)
    cross_entropy = 0.35 - 0.2 * steps + beta + 0.003 * rng.random(epochs)
    return {
        "information": information.tolist(),
        "inverse_cross_entropy": (1 / cross_entropy).tolist(),
        "cross_entropy": cross_entropy.tolist(),
        "rate": (information / 2).tolist(),
        "entropy": [0.3] * epochs,
    }


def _reliability(rng, accuracy):
    edges = np.linspace(0, 1, 16)
    confidence = (edges[:-1] + edges[1:]) / 2
    count = np.where(confidence > 0.5, (100 * confidence**4).astype(int), 0)
    return {
        "lower": edges[:-1].tolist(),
        "upper": edges[1:].tolist(),
        "count": count.tolist(),
        "confidence": [value if number else None for value, number in zip(confidence, count, strict=True)],
        "accuracy": [
            value**0.8 * accuracy if number else None for value, number in zip(confidence, count, strict=True)
        ],
    }


def _attack(rng, name, rate):
    rate = float(np.clip(rate + 0.01 * rng.random(), 0, 1))
    image = name.startswith(("FGS", "CW", "pgd"))
    found = {
        "kind": "image_attack" if image else "text_attack",
        "attack": name.split()[0],
        "noise": "mean",
        "how": "stratified",
        "seed": 0,
        "num_examples": 200,
        "num_attacked": 180,
        "num_skipped": 0,
        "clean_accuracy": 0.9,
        "accuracy_under_attack": 0.9 * (1 - rate),
        "attack_success_rate": rate,
        "attack_success_interval": [max(0.0, rate - 0.05), min(1.0, rate + 0.05)],
    }
    budget = {"8/255": 8 / 255, "0.1": 0.1, "0.5": 0.5}.get(name.split()[-1])
    found |= {"epsilon": budget} if budget else {}
    return found | ({"l2_mean": 2 - rate, "l2_median": 1.9} if image else {"words_perturbed_mean": 4.0})


def _outcomes(rng, name, ease, rate):
    """Return what happened to 200 rows, of which the hardest 20 are misclassified before."""
    hard = ease + 0.01 * rng.random(len(ease))
    letters = ["-" if e < 0.1 else "S" if h < 0.1 + 0.9 * rate else "F" for e, h in zip(ease, hard, strict=True)]
    found = {"letters": "".join(letters)}
    if name == "CW":
        found["l2"] = [2 - rate + 0.2 * e if letter == "S" else None for e, letter in zip(ease, letters, strict=True)]
    return found


def _examples(task, classes, hostile):
    if task == "text":
        original = "this is a great historical movie and it will not allow a viewer to leave once you begin to watch it"
        perturbed = original.replace("great", HOSTILE if hostile else "graet").replace("leave", "elave")
        example = {"attack": "DWB", "head": "vanilla", "index": 3, "original": original, "perturbed": perturbed}
        return {"texts": [{**example, "label": classes[1], "prediction": classes[0]}], "images": []}
    images = []
    for objective in ("vib", "vub"):
        for attack, epsilons in (("fgs", (8 / 255, 0.1, 0.5)), ("cw", (None,))):
            for index in range(3):
                for epsilon in epsilons:
                    images.append(
                        {
                            "attack": attack,
                            "objective": objective,
                            "index": index,
                            "epsilon": epsilon,
                            "l2": 1.5 if epsilon is None else 55 * epsilon,
                            "success": True,
                            "label": classes[index],
                            "prediction": classes[-1],
                            "magnification": 5.0,
                            "original": _png(index, 0.0),
                            "perturbation": _png(index, 0.3),
                            "adversarial": _png(index, epsilon or 0.02),
                        }
                    )
    return {"texts": [], "images": images}


def _png(seed, noise):
    from PIL import Image

    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 32))
    picture = np.stack([x, y, 0.5 + 0.5 * np.sin(6 * (x + seed))], axis=-1)
    picture = np.clip(picture + noise * rng.choice([-1, 1], picture.shape), 0, 1)
    buffer = io.BytesIO()
    Image.fromarray((picture * 255).astype("uint8")).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
