"""What importing the package does and costs, and how checkpoints load where it is not installed."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import torch

from helpers.models import build_model, model_inputs

ROOT = Path(__file__).resolve().parents[1]


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOAD = """
    from transformers import AutoConfig, AutoModelForSequenceClassification
    model = AutoModelForSequenceClassification.from_pretrained({folder!r})
    assert type(model).__module__ == "hf_vub.model.modeling_vub", type(model)
    assert type(AutoConfig.from_pretrained({folder!r})).__module__ == "hf_vub.model.configuration_vub"
"""


@pytest.mark.parametrize(
    "first",
    [
        "import hf_vub",
        "from hf_vub import VUBForSequenceClassification",
        "from hf_vub import VUBConfig",
        "import hf_vub.sweep.heads",
        "import hf_vub.model.trust",
        "from transformers import AutoConfig; import hf_vub",
        "from transformers import AutoModel; import hf_vub",
    ],
)
def test_auto_classes_load_a_checkpoint_whatever_is_imported_first(first, tmp_path):
    build_model("bert").save_pretrained(tmp_path)
    run(first + "\n" + textwrap.dedent(LOAD.format(folder=str(tmp_path))))


def test_importing_the_package_imports_nothing_else():
    """Nothing but its own modules and one small library comes on top of torch and transformers, nothing optional."""
    out = run(
        """
        import sys, torch, transformers
        before = set(sys.modules)
        import hf_vub
        print(sorted(name for name in set(sys.modules) - before if not name.startswith("hf_vub")))
        import hf_vub.training.fine_tuning, hf_vub.sweep.heads, hf_vub.attacks.text.attack
        import hf_vub.attacks.image.attack, hf_vub.paper.report
        optional = {"timm", "textattack", "flair", "foolbox", "art", "matplotlib", "nltk"}
        print(sorted(optional & set(sys.modules)))
        print(sorted(set(hf_vub.__all__) - set(dir(hf_vub))), hf_vub.VUBTrainer.__name__)
        """
    )
    assert out.splitlines() == ["['lazy_loader']", "[]", "[] VUBTrainer"]


REVEALED = {
    "VUBTrainer": r"def \(.*\) -> hf_vub\.training\.trainer\.VUBTrainer",
    "VUBTrainingArguments": r"def \(.*\) -> hf_vub\.training\.arguments\.VUBTrainingArguments",
    "VUBConfig": r"def \(.*pooling: (builtins\.)?str =.*\) -> hf_vub\.model\.configuration_vub\.VUBConfig",
    "VUBOutput": r"def \(.*\) -> hf_vub\.model\.modeling_vub\.VUBOutput",
    "Objective.VUB": r"Literal\[hf_vub\.model\.configuration_vub\.Objective\.VUB\]\?",
    'VUBForSequenceClassification.from_pretrained("x")': r"hf_vub\.model\.modeling_vub\.VUBForSequenceClassification",
    'VUBForImageClassification.from_pretrained("x").train()': r"hf_vub\.model\.modeling_vub\.VUBForImageClassification",
    'VUBForImageClassification.from_pretrained("x", output_loading_info=True)': (
        r"tuple\[hf_vub\.model\.modeling_vub\.VUBForImageClassification, (builtins\.)?dict\[(builtins\.)?str, Any\]\]"
    ),
    "VUBForSequenceClassification(VUBConfig()).forward()": (
        r"hf_vub\.model\.modeling_vub\.VUBOutput \| tuple\[Any, \.\.\.\]"
    ),
}


def test_type_checkers_see_the_public_classes(tmp_path):
    """The names load lazily, so a checker knows them by the stubs alone; the libraries are left out, for speed."""
    api = pytest.importorskip("mypy.api")
    lines = ["from hf_vub import *", *(f"reveal_type({expression})" for expression in REVEALED)]
    (tmp_path / "names.py").write_text("\n".join(lines) + "\n")
    skipped = "torch,transformers,datasets,accelerate,scipy,safetensors,numpy,huggingface_hub,PIL,sklearn,peft"
    sections = [f"[mypy-{library}.*]\nfollow_imports = skip\n" for library in skipped.split(",")]
    config = "[mypy]\nignore_missing_imports = True\nfollow_imports = silent\n" + "\n".join(sections)
    (tmp_path / "mypy.ini").write_text(config.replace("[mypy]\n", f"[mypy]\nmypy_path = {ROOT}\n"))
    options = ["--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(tmp_path / "cache")]
    shown, errors, _ = api.run([*options, str(tmp_path / "names.py")])
    found = re.findall(r'Revealed type is "(.*)"', shown)
    assert len(found) == len(REVEALED), shown + errors
    for expected, revealed in zip(REVEALED.values(), found, strict=True):
        assert re.fullmatch(expected, revealed), revealed


def test_an_unknown_name_is_an_attribute_error():
    import hf_vub

    with pytest.raises(AttributeError, match="No hf_vub attribute VUBBer"):
        _ = hf_vub.VUBBer


@pytest.mark.parametrize(("name", "pooling"), [("bert", "stock"), ("bert", "mean"), ("timm-resnet", "stock")])
def test_remote_code_predicts_the_same_where_the_package_is_not_installed(name, pooling, tmp_path):
    model, inputs = build_model(name, pooling=pooling), model_inputs(name)
    model.save_pretrained(tmp_path / "model")
    torch.save(inputs, tmp_path / "inputs.pt")
    task = "SequenceClassification" if name == "bert" else "ImageClassification"
    code = f"""
        import sys

        class Hidden:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "hf_vub":
                    raise ModuleNotFoundError("hf_vub is hidden", name=name)

        sys.meta_path.insert(0, Hidden())
        import json, torch
        from transformers import AutoModelFor{task}
        try:
            AutoModelFor{task}.from_pretrained("model")
        except ValueError:
            pass
        else:
            raise AssertionError("remote code ran without being asked for")
        model = AutoModelFor{task}.from_pretrained("model", trust_remote_code=True)
        assert "transformers_modules" in type(model).__module__, type(model)
        inputs = torch.load("inputs.pt", weights_only=True)
        print("\\n" + json.dumps(model(**inputs).logits.tolist()))
        model.save_pretrained("again")
        assert (__import__("pathlib").Path("again") / "modeling_vub.py").exists()
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.tensor(json.loads(done.stdout.splitlines()[-1])), model(**inputs).logits)


def test_a_folder_named_like_the_package_does_not_hide_it(tmp_path):
    """An editable install is a path, which Python searches before it makes a namespace package of a checkout's folder.

    With setuptools' other kind of editable install, a finder, ``import hf_vub`` next to a checkout named ``hf_vub``
    would find that folder and in it nothing.
    """
    pytest.importorskip("setuptools", minversion="68")
    checkout = tmp_path / "hf_vub"
    (checkout / "hf_vub" / "model").mkdir(parents=True)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "hf_vub/version.py"):
        shutil.copy(ROOT / name, checkout / name)
    (checkout / "hf_vub" / "__init__.py").write_text("here = True\n")
    (checkout / "hf_vub" / "model" / "__init__.py").write_text("")
    code = f"from setuptools.build_meta import build_editable; build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        paths = [wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".pth")]
    assert [Path(path.strip()) for path in paths] == [checkout]
    code = "import sys; sys.path.append(sys.argv[1]); import hf_vub; print(hf_vub.here)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, ''); {code}", paths[0].strip()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "True", done.stderr
