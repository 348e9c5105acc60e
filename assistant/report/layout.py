"""The report as a sequence of headed blocks, shared by HTML, PDF and DOCX so that none says more than another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from assistant.report.model import Report, Statement

KINDS = {"answer": "model’s answer", "tool": "tool", "region": "region", "case": "similar case", "note": "note"}


@dataclass
class Line:
    """A line of text; ``aside`` is shown smaller, ``warn`` marks what lacks evidence."""

    text: str
    aside: str = ""
    warn: str = ""


@dataclass
class Block:
    """A heading with lines, or with a table whose first row is its head; ``pictures`` asks for the pictures here."""

    heading: str
    lines: list[Line] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    pictures: bool = False
    cases: bool = False


def blocks(report: Report) -> Iterator[Block]:
    """The blocks in their order; sections without content say so instead of being left out."""
    if report.pictures:
        yield Block("Images", pictures=True)
    yield Block("Specimen", [_statement(report, report.specimen)])
    yield Block("Stain", [_statement(report, report.stain)])
    yield Block("Findings", [_statement(report, one) for one in report.findings] or [Line("None.")])
    if report.measurements:
        rows = [[m.name, f"{m.value} {m.unit}".strip(), m.tool, ", ".join(m.evidence)] for m in report.measurements]
        yield Block("Measurements", table=[["Quantity", "Value", "Tool", "Evidence"], *rows])
    if report.differential:
        rows = [[c.label, _share(c.confidence), ", ".join(c.evidence)] for c in report.differential]
        yield Block(
            "Differential",
            [Line("Among the options that were asked about; what was not asked is not weighed.")],
            [["Possibility", "Confidence", "Evidence"], *rows],
        )
    if report.cases:
        yield Block("Similar cases", cases=True)
    if report.comment.strip():
        yield Block("Comment", [Line(report.comment)])
    yield Block("Limits", [Line(text) for text in report.limits] or [Line("None were noted.")])
    if report.evidence:
        rows = [[e.id, KINDS[e.kind], e.text, "" if e.score is None else f"{e.score:.2f}"] for e in report.evidence]
        yield Block("Evidence", table=[["", "Kind", "What", "Score"], *rows])
    yield Block("Made with", table=provenance_rows(report))


def provenance_rows(report: Report) -> list[list[str]]:
    """Names and hashes; the first row is the head."""
    p = report.provenance
    rows = [["Program", p.program], ["Model", " ".join(filter(None, (p.model, p.revision)))], ["Created", p.created]]
    rows += [[f"Image {n}, SHA-256", value] for n, value in enumerate(p.images, 1)]
    rows += [[f"Question {n}, SHA-256", value] for n, value in enumerate(p.prompts, 1)]
    rows += [["Tools", ", ".join(p.tools)], ["Cases cited, SHA-256", p.cases], ["Draft, SHA-256", p.draft]]
    return [["Item", "Value"], *([name, value] for name, value in rows if value)]


def marks_list(report: Report, picture: int) -> list[str]:
    """The labels of the rectangles on one picture."""
    marks = report.pictures[picture].marks
    return [f"{n}  {m.label}" + ("" if m.score is None else f" ({m.score:.2f})") for n, m in enumerate(marks, 1)]


def _statement(report: Report, statement: Statement) -> Line:
    if not statement.text.strip():
        return Line("Not stated.")
    parts = [", ".join(statement.evidence)]
    if statement.confidence is not None:
        parts.append(f"confidence {statement.confidence:.2f}")
    return Line(statement.text, " · ".join(filter(None, parts)), "; ".join(report.marks_of(statement)))


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
