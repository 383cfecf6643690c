"""The wheel holds the package with its data files, and neither tests nor scripts."""

import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(find_spec("setuptools") is None, reason="setuptools builds the wheel")
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "hf_vub", source / "hf_vub", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("tests", "scripts"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {str(path.relative_to(source)) for path in (source / "hf_vub").rglob("*") if path.is_file()}
    assert packed == package
    assert {"hf_vub/py.typed", "hf_vub/__init__.pyi", "hf_vub/attacks/__init__.pyi"} <= packed
    assert any(name.startswith("hf_vub/reports/templates/") for name in packed)
