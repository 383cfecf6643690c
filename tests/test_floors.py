"""The package is built in floors: a module imports only from floors below, or from beside itself without a cycle."""

import ast
from pathlib import Path

import hf_vub

FLOORS = [
    {
        "version",
        "results",
        "information",
        "configuration_vub",
        "metrics",
        "data",
        "preprocessing",
        "synthetic",
        "command_line",
        "nltk_resources",
        "textattack_compat",
        "run_log",
        "hub",
        "trust",
        "streams",
        "model_cards",
    },
    {"objectives", "head", "image_processing"},
    {
        "modeling_vub",
        "information_plane",
        "safeguards",
        "seeding",
        "cores",
        "kernels",
        "inputs",
        "embeddings",
        "stacked_head",
        "tokens",
        "pixels",
        "convolutions",
        "adversaries",
        "image_examples",
    },
    {"trainer", "registration", "fine_tuning", "sweep", "attack_text", "attack_image", "masking", "recipes"},
    {"experiments", "grid_attacks", "attack_examples", "claims", "tables", "figures"}
    | {"report", "reproduction", "baselines", "victims", "measuring", "benchmarks", "growth"},
]
MODULES = {path.stem: path for path in Path(hf_vub.__file__).parent.glob("*.py") if path.stem != "__init__"}


def imports(path):
    """Names of this package's modules that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                yield from [node.module] if node.module else [alias.name for alias in node.names]
            elif node.module and node.module.startswith("hf_vub."):
                yield node.module.removeprefix("hf_vub.")


def test_every_module_has_a_floor():
    assert set(MODULES) == set().union(*FLOORS)


def test_no_import_goes_up():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    up = [
        (name, used)
        for name, path in MODULES.items()
        for used in imports(path)
        if used in floor and floor[used] > floor[name]
    ]
    assert up == []


def test_no_import_goes_round():
    graph = {name: set(imports(path)) & set(MODULES) for name, path in MODULES.items()}
    while graph:
        leaves = [name for name, used in graph.items() if not used & graph.keys()]
        assert leaves, f"imports go round among {sorted(graph)}"
        for name in leaves:
            del graph[name]


def test_modules_stay_small():
    """About 300 lines of code; docstrings, which carry the formulas, do not count against a module."""
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = sum(
            node.body[0].end_lineno - node.body[0].lineno + 1
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)
        )
        lines = len(path.read_text(encoding="utf-8").splitlines()) - documented
        assert lines <= 400, f"{name}.py has {lines} lines of code"
