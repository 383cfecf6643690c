"""Tables as Markdown and LaTeX, and attacked texts with their changes marked."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .model_cards import escape_markdown

_CONTEXT = 12


@dataclass
class Table:
    """A caption, the titles of the columns, and rows of cells; a row of one cell is the head of a group."""

    name: str
    caption: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """A Markdown table, with groups in bold."""
        lines = ["| " + " | ".join(map(escape_markdown, self.columns)) + " |"]
        lines.append("|" + "|".join(["---"] + ["---:"] * (len(self.columns) - 1)) + "|")
        for row in self.rows:
            cells = [f"**{escape_markdown(row[0])}**"] if len(row) == 1 else list(map(escape_markdown, row))
            cells += [""] * (len(self.columns) - len(cells))
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n\n" + escape_markdown(self.caption) + "\n"

    def rich(self) -> Any:
        """A table for the terminal, to be printed with ``rich.print``.

        Raises:
            ImportError: with the command to install rich.
        """
        try:
            from rich.table import Table as RichTable
            from rich.text import Text
        except ImportError as error:
            raise ImportError('tables for the terminal need rich: pip install "hf_vub[report]"') from error
        shown = RichTable(title=Text(self.caption), title_justify="left")
        for place, column in enumerate(self.columns):
            shown.add_column(Text(column), justify="right" if place else "left")
        for row in self.rows:
            if len(row) == 1:
                shown.add_section()
            shown.add_row(*map(Text, row), style="bold" if len(row) == 1 else None)
        return shown

    def latex(self) -> str:
        """A LaTeX table for the package booktabs."""
        width = len(self.columns)
        lines = [r"\begin{table}", r"\centering", r"\begin{tabular}{l" + "r" * (width - 1) + "}", r"\toprule"]
        lines.append(" & ".join(map(_latex, self.columns)) + r" \\")
        for row in self.rows:
            if len(row) == 1:
                lines += [r"\midrule", rf"\multicolumn{{{width}}}{{c}}{{\textbf{{{_latex(row[0])}}}}} \\", r"\midrule"]
            else:
                lines.append(" & ".join(map(_latex, row)) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{_latex(self.caption)}}}"]
        return "\n".join([*lines, rf"\label{{tab:{self.name}}}", r"\end{table}"]) + "\n"


def marked_texts(examples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Table 3: texts before and after an attack, with ``parts`` (kind, text): "same", "removed" or "inserted".

    Args:
        examples: rows of ``hf_vub.reports.examples.text_examples``, each with its ``attack``.
    """
    return [{**example, "parts": _parts(example)} for example in examples]


def marked_texts_markdown(examples: Sequence[Mapping[str, Any]]) -> str:
    """Table 3 in Markdown: inserted words bold and underlined, removed ones struck through."""
    marks = {"same": ("", ""), "removed": ("<del>", "</del>"), "inserted": ("<u>**", "**</u>")}
    lines = ["| attack | class | taken for | text |", "|---|---|---|---|"]
    for example in marked_texts(examples):
        cells = [escape_markdown(example[name]) for name in ("attack", "label", "prediction")]
        parts = [f"{marks[kind][0]}{escape_markdown(text)}{marks[kind][1]}" for kind, text in example["parts"]]
        lines.append("| " + " | ".join([*cells, " ".join(parts)]) + " |")
    return "\n".join(lines) + "\n"


def _parts(example: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The words of two texts as runs of same, removed and inserted ones; long unchanged runs are cut."""
    before, after = example["original"].split(), example["perturbed"].split()
    parts: list[tuple[str, str]] = []
    blocks = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    for place, (kind, a, b, c, d) in enumerate(blocks):
        if kind == "equal":
            words = before[a:b]
            first = [] if place == 0 else words[:_CONTEXT]
            last = [] if place == len(blocks) - 1 else words[-_CONTEXT:]
            shown = words if len(words) <= len(first) + len(last) else [*first, "[...]", *last]
            parts.append(("same", " ".join(shown)))
            continue
        if b > a:
            parts.append(("removed", " ".join(before[a:b])))
        if d > c:
            parts.append(("inserted", " ".join(after[c:d])))
    return parts


def power(beta: float) -> str:
    """A power of ten as 10 with its exponent, any other number as it is, and 0 as "-"."""
    if beta <= 0:
        return "-" if beta == 0 else f"{beta:g}"
    power = math.log10(beta)
    if abs(power - round(power)) > 1e-9:
        return f"{beta:g}"
    return "10" + str(round(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def budget_name(epsilon: float) -> str:
    """A budget as people write it: in steps of 1/255 where it is a whole number of these, else as a decimal."""
    steps = epsilon * 255
    return f"{steps:.0f}/255" if abs(steps - round(steps)) < 1e-6 and round(epsilon, 3) != epsilon else f"{epsilon:g}"


def _latex(text: str) -> str:
    """A cell for LaTeX, whatever is in it."""
    special = {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
        "β": r"$\beta$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    }  # fmt: skip
    powers = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    cell, power = "", ""
    for sign in text + "\0":
        if sign in "⁻⁰¹²³⁴⁵⁶⁷⁸⁹":
            power += sign
            continue
        if power:
            cell, power = cell + f"$^{{{power.translate(powers)}}}$", ""
        cell += special.get(sign, sign) if sign != "\0" else ""
    return cell
