"""The code of the package, as syntax trees."""

import ast
from pathlib import Path

import hf_vub

CODE = [*Path(hf_vub.__file__).parent.rglob("*.py"), *(Path(__file__).parents[2] / "scripts").glob("*.py")]


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
