"""A table as data, and how it is written in Markdown and in LaTeX (booktabs)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "–": "--", "−": "$-$", "→": r"$\to$", "≥": r"$\geq$", "Σ": r"$\Sigma$", "²": r"$^2$",
    "·": r"$\cdot$", "×": r"$\times$", "’": "'", "|": r"$|$", "\N{NO-BREAK SPACE}": "~",
}  # fmt: skip
MARKDOWN = {"|": r"\|", "<": "&lt;", ">": "&gt;", "\n": " "}


@dataclass(frozen=True)
class Sheet:
    """One table of a report. All cells are text as a reader sees it."""

    title: str
    head: tuple[str, ...]
    rows: list[list[str]]
    note: str = ""
    texts: tuple[int, ...] = (0,)
    """Columns that hold words: aligned left."""
    leaks: tuple[int, ...] = ()
    """Rows whose figures leak, marked as such."""
    strong: tuple[int, ...] = ()
    """Rows that are printed bold: the headline."""
    key: str = ""
    """Name of the table's anchor and LaTeX label."""
    notes: tuple[str, ...] = ()
    """Further remarks, one per line below the table."""

    def only(self, columns: Sequence[int]) -> Sheet:
        """The table with these columns alone."""
        return replace(
            self,
            head=tuple(self.head[place] for place in columns),
            rows=[[row[place] for place in columns] for row in self.rows],
            texts=tuple(new for new, place in enumerate(columns) if place in self.texts),
        )


def markdown(sheet: Sheet) -> str:
    """The table in Markdown (GitHub's), titled, with its note below."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(_plain, cells)) + " |"

    rule = "|" + "|".join(" --- " if place in sheet.texts else " ---: " for place in range(len(sheet.head))) + "|"
    rows = [
        [f"**{cell}**" if cell else "" for cell in row] if n in sheet.strong else row
        for n, row in enumerate(sheet.rows)
    ]
    text = [f"### {sheet.title}", "", line(sheet.head), rule, *map(line, rows), ""]
    text += [sheet.note, ""] if sheet.note else []
    return "\n".join([*text, *(f"- {_plain(note)}" for note in sheet.notes), *([""] if sheet.notes else [])])


def _plain(text: str) -> str:
    """Text that Markdown prints as it is, in a table's cell too."""
    return "".join(MARKDOWN.get(letter, letter) for letter in text)


def latex(sheet: Sheet) -> str:
    """The table in LaTeX: a table environment with booktabs rules, caption from title and note."""
    columns = "".join("l" if place in sheet.texts else "r" for place in range(len(sheet.head)))
    lines = [r"\begin{table}[t]", r"  \centering", f"  \\caption{{{escape(sheet.title)}. {escape(sheet.note)}}}"]
    lines += [f"  \\label{{tab:{sheet.key}}}", f"  \\begin{{tabular}}{{{columns}}}", r"    \toprule"]
    lines += [f"    {_row(sheet.head)}", r"    \midrule"]
    for place, row in enumerate(sheet.rows):
        cells = [rf"\textbf{{{escape(cell)}}}" if place in sheet.strong and cell else escape(cell) for cell in row]
        lines.append("    " + " & ".join(cells) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    lines += [rf"  \par\smallskip\footnotesize {escape(' '.join(sheet.notes))}"] if sheet.notes else []
    return "\n".join([*lines, r"\end{table}", ""])


def _row(cells: Sequence[str]) -> str:
    """A row of escaped cells."""
    return " & ".join(map(escape, cells)) + r" \\"


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX.get(letter, letter) for letter in text)
