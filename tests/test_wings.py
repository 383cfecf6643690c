"""The architecture: which wing may import which, and how large a module may grow."""

import ast
from importlib.util import resolve_name
from pathlib import Path

import pytest

import hf_vub

PACKAGE = Path(hf_vub.__file__).parent
GROUND = {"model", "data", "compute", "runs", "metrics"}
ABOVE = {"embeddings", "sweep", "reports", "training", "attacks", "uncertainty", "certify", "paper"}
MAY_IMPORT = {
    "model": set(),
    "data": {"model", "runs"},
    "compute": {"model"},
    "metrics": {"model"},
    "runs": {"model"},
    "embeddings": {"model", "data", "compute", "runs"},
    "sweep": {"model", "compute", "runs", "metrics"},
    "reports": {"runs", "metrics", "data"},
    "training": GROUND | {"embeddings", "sweep", "reports"},
    "attacks": GROUND | {"embeddings", "reports"},
    "uncertainty": GROUND | {"embeddings", "sweep", "reports"},
    "certify": GROUND | {"embeddings", "reports"},
    "paper": GROUND | ABOVE,
    "evaluate_modules": {"model", "metrics"},
}
MODULES = {
    path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))
}


def imported_wings(path: Path) -> set[str]:
    """Return the wings, or modules next to them, that a module imports anywhere."""
    names = []
    for node in ast.walk(MODULES[path]):
        if isinstance(node, ast.ImportFrom):
            home = resolve_name("." * node.level + (node.module or ""), ".".join(("hf_vub", *path.parent.parts)))
            names += [f"{home}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [f"{alias.name}." for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("hf_vub.")}


@pytest.mark.parametrize("wing", sorted(MAY_IMPORT))
def test_a_wing_imports_only_the_wings_below_it(wing: str) -> None:
    for path in MODULES:
        if path.parts[0] == wing:
            assert imported_wings(path) <= {wing, *MAY_IMPORT[wing]}, path


def test_every_folder_is_a_wing() -> None:
    assert {path.parts[0] for path in MODULES if len(path.parts) > 1} == MAY_IMPORT.keys()


def test_modules_stay_small() -> None:
    """About 300 lines of code; docstrings, which carry the formulas, do not count against a module."""
    for path, tree in MODULES.items():
        documented = sum(
            node.body[0].end_lineno - node.body[0].lineno + 1
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)
        )
        lines = len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) - documented
        assert lines <= 400, f"{path} has {lines} lines of code"
