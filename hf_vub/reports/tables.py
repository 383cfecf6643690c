"""Tables as Markdown, as LaTeX and for the terminal, and the numbers in their cells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .rendering import escape_markdown

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass
class Table:
    """A named table: caption, column titles and rows of cells. A row of one cell is the heading of a group."""

    name: str
    caption: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """Return the table in Markdown, with group headings in bold."""
        lines = ["| " + " | ".join(map(escape_markdown, self.columns)) + " |"]
        lines.append("|" + "|".join(["---"] + ["---:"] * (len(self.columns) - 1)) + "|")
        for row in self.rows:
            cells = [f"**{escape_markdown(row[0])}**"] if len(row) == 1 else list(map(escape_markdown, row))
            cells += [""] * (len(self.columns) - len(cells))
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n\n" + escape_markdown(self.caption) + "\n"

    def rich(self) -> "RichTable":
        """Return a table that ``rich.print`` shows in a terminal.

        Raises:
            ImportError: rich is missing; the message has the command that installs it.
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
        """Return a LaTeX table for the package booktabs."""
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


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation (n - 1; 0 for a single value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def mean_and_spread(values: Sequence[float], percent: bool) -> str:
    """Return mean ± standard deviation; percentages get a second decimal where the deviation needs one."""
    mean, deviation = mean_std(values)
    form = (".2%" if 0 < deviation < 5e-4 else ".1%") if percent else ".3g"
    spread = f" ± {deviation:{form if percent else '.2g'}}"
    return f"{mean:{form}}" + (spread if len(values) > 1 else "")


def power(beta: float) -> str:
    """Return a power of ten as 10 with its exponent, any other number as it is, and 0 as "-"."""
    if beta <= 0:
        return "-" if beta == 0 else f"{beta:g}"
    exponent = math.log10(beta)
    if abs(exponent - round(exponent)) > 1e-9:
        return f"{beta:g}"
    return "10" + str(round(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def budget_name(epsilon: float) -> str:
    """Return a budget as people write it: in steps of 1/255 if it is a whole number of them, else as a decimal."""
    steps = epsilon * 255
    return f"{steps:.0f}/255" if abs(steps - round(steps)) < 1e-6 and round(epsilon, 3) != epsilon else f"{epsilon:g}"


def _latex(text: str) -> str:
    """Return the text of a cell with everything escaped that LaTeX would interpret."""
    special = {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
        "β": r"$\beta$", "★": r"$\star$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    }  # fmt: skip
    powers = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    cell, exponent = "", ""
    for sign in text + "\0":
        if sign in "⁻⁰¹²³⁴⁵⁶⁷⁸⁹":
            exponent += sign
            continue
        if exponent:
            cell, exponent = cell + f"$^{{{exponent.translate(powers)}}}$", ""
        cell += special.get(sign, sign) if sign != "\0" else ""
    return cell
