"""The report as a PDF, with an embedded font that has Greek, Cyrillic and the signs of measurement."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from assistant.errors import NotAvailable
from assistant.images.intake import decode_data_uri
from assistant.report.draw import drawn, jpeg
from assistant.report.layout import Block, Line, blocks, marks_list

if TYPE_CHECKING:
    from assistant.report.model import Report

_FONT, _BOLD = "ReportSans", "ReportSans-Bold"
_MISSING = "\N{REPLACEMENT CHARACTER}"
#: Characters of one paragraph: a longer one is cut into several, since a paragraph must fit on a page.
_PIECE = 2500
_WIDTH = 469.0  # points between the margins and the frame's padding
_INK, _SOFT, _TEAL, _WARN, _RULE = "#172329", "#46575e", "#0d575e", "#8a4b08", "#d6dfe1"


def to_pdf(report: Report) -> bytes:
    """An A4 document. The same report gives the same bytes.

    Raises:
        NotAvailable: reportlab, or the font, is not installed.
    """
    try:
        from reportlab.lib.pagesizes import A4
        from reportlab.lib.units import mm
        from reportlab.platypus import SimpleDocTemplate
    except ImportError as error:
        raise NotAvailable("PDF needs reportlab; install it with: pip install 'pathassist[report]'") from error
    buffer = io.BytesIO()
    page = _Page(report)
    document = SimpleDocTemplate(
        buffer, pagesize=A4, leftMargin=20 * mm, rightMargin=20 * mm, topMargin=18 * mm, bottomMargin=18 * mm,
        title=page.plain(report.title), subject=report.disclaimer, creator=report.provenance.program, invariant=1,
    )  # fmt: skip
    document.build(page.story(), onFirstPage=page.footer, onLaterPages=page.footer)
    return buffer.getvalue()


class _Page:
    """Turns blocks into what reportlab lays out."""

    def __init__(self, report: Report) -> None:
        from reportlab.lib.styles import ParagraphStyle

        self.report = report
        self.known = _fonts()
        self.lost = 0
        body = ParagraphStyle("body", fontName=_FONT, fontSize=9.5, leading=13.5, textColor=_INK, splitLongWords=1)
        self.styles = {
            "body": body,
            "small": ParagraphStyle("small", body, fontSize=8, leading=11),
            "head": ParagraphStyle("head", body, fontName=_BOLD, fontSize=8, leading=11, textColor=_SOFT),
            "title": ParagraphStyle("title", body, fontName=_BOLD, fontSize=17, leading=22),
            "h2": ParagraphStyle(
                "h2", body, fontName=_BOLD, fontSize=11, leading=15, spaceBefore=11, spaceAfter=3, textColor=_TEAL,
                keepWithNext=1,
            ),
            "use": ParagraphStyle(
                "use", body, fontName=_BOLD, backColor="#fdf3dc", borderPadding=5, spaceBefore=9, spaceAfter=9
            ),
        }  # fmt: skip

    def plain(self, text: str) -> str:
        """Only characters that the font has; each other one becomes one sign and is counted."""
        made = []
        for character in text:
            if character in "\n\t" or ord(character) in self.known:
                made.append(character)
            else:
                made.append(_MISSING)
                self.lost += 1
        return "".join(made)

    def text(self, text: str, style: str = "body") -> list[Any]:
        """Paragraphs of one text; no markup of its own survives."""
        from reportlab.platypus import Paragraph

        safe = self.plain(text)
        pieces = [safe[i : i + _PIECE] for i in range(0, len(safe), _PIECE)] or [""]
        return [Paragraph(escape(p).replace("\n", "<br/>"), self.styles[style]) for p in pieces]

    def story(self) -> list[Any]:
        from reportlab.platypus import Spacer

        parts = [*self.text(self.report.title, "title"), *self.text(self.report.disclaimer, "use")]
        for block in blocks(self.report):
            parts += self.block(block)
        if self.lost:
            lost = f"{self.lost} characters have no sign in this document’s font; the HTML and JSON forms hold them."
            parts += [Spacer(1, 8), *self.text(lost, "small")]
        return parts

    def block(self, block: Block) -> list[Any]:
        parts = self.text(block.heading, "h2")
        if block.pictures:
            for number, picture in enumerate(self.report.pictures):
                parts += [self.image(jpeg(drawn(picture)), 120, 90)]
                parts += self.text("\n".join([picture.caption, *marks_list(self.report, number)]).strip(), "small")
        for line in block.lines:
            parts += self.line(line)
        if block.cases:
            parts.append(self.cases())
        if block.table:
            parts.append(self.table(block.table))
        return parts

    def line(self, line: Line) -> list[Any]:
        from reportlab.platypus import Paragraph

        start = max(0, (len(line.text) - 1) // _PIECE * _PIECE)
        before = self.text("• " + line.text[:start]) if start else []
        words = escape(self.plain(("" if start else "• ") + line.text[start:])).replace("\n", "<br/>")
        if line.aside:
            words += f' <font size="8" color="{_SOFT}">&#160;{escape(self.plain(line.aside))}</font>'
        if line.warn:
            words += f' <font size="8" color="{_WARN}">&#160;[{escape(self.plain(line.warn))}]</font>'
        return [*before, Paragraph(words, self.styles["body"])]

    def table(self, rows: list[list[str]]) -> Any:
        from reportlab.platypus import Table, TableStyle

        shares = {2: (1, 3.4), 3: (3, 1.2, 1), 4: (0.5, 0.9, 3.6, 0.6) if not rows[0][0] else (2.2, 1.6, 1.4, 0.8)}
        share = shares.get(len(rows[0]), (1,) * len(rows[0]))
        width = _WIDTH
        short = [
            ["\n".join(cell[:1500].split("\n")[:30]) for cell in row] for row in rows
        ]  # a cell has to fit on a page
        cells = [[self.text(cell, "head" if not n else "small") for cell in row] for n, row in enumerate(short)]
        table = Table(
            cells, colWidths=[width * s / sum(share) for s in share], repeatRows=1, splitInRow=1, hAlign="LEFT"
        )
        table.setStyle(
            TableStyle(
                [
                    ("VALIGN", (0, 0), (-1, -1), "TOP"),
                    ("LINEBELOW", (0, 0), (-1, -1), 0.4, _RULE),
                    ("LEFTPADDING", (0, 0), (-1, -1), 0),
                    ("TOPPADDING", (0, 0), (-1, -1), 2),
                    ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
                ]
            )
        )
        return table

    def cases(self) -> Any:
        from reportlab.platypus import Table

        rows = []
        for case in self.report.cases:
            title = " ".join(case.title.split())[:1000]  # a cell has to fit on a page
            words = self.text(f"[{case.number}] {title} ({case.score:.2f})", "small")
            thumbnail = case.thumbnail.startswith("data:image/")
            rows.append([self.image(jpeg(decode_data_uri(case.thumbnail)), 18, 18) if thumbnail else "", words])
        style = [("VALIGN", (0, 0), (-1, -1), "MIDDLE"), ("LEFTPADDING", (0, 0), (-1, -1), 0)]
        shown = any(row[0] for row in rows)
        return Table(rows, colWidths=[62 if shown else 1, _WIDTH - 62], style=style, hAlign="LEFT")

    def image(self, data: bytes, width: float, height: float) -> Any:
        """An image within ``width`` × ``height`` millimetres."""
        from reportlab.lib.units import mm
        from reportlab.platypus import Image

        made = Image(io.BytesIO(data), hAlign="LEFT")
        scale = min(width * mm / made.imageWidth, height * mm / made.imageHeight)
        made.drawWidth, made.drawHeight = made.imageWidth * scale, made.imageHeight * scale
        return made

    def footer(self, canvas: Any, document: Any) -> None:
        canvas.saveState()
        canvas.setFont(_FONT, 7.5)
        canvas.setFillColor(_SOFT)
        canvas.drawString(document.leftMargin, 28, self.report.disclaimer)
        canvas.drawRightString(document.pagesize[0] - document.rightMargin, 28, str(document.page))
        canvas.restoreState()


@lru_cache(maxsize=1)
def _fonts() -> frozenset[int]:
    """Register the fonts; returns the characters that they have.

    Raises:
        NotAvailable: matplotlib, which carries the font, is not installed.
    """
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    try:
        from matplotlib import get_data_path
    except ImportError as error:
        raise NotAvailable(
            "PDF needs the DejaVu font of matplotlib; install it with: pip install 'pathassist[report]'"
        ) from error
    folder = Path(get_data_path()) / "fonts" / "ttf"
    regular, bold = TTFont(_FONT, folder / "DejaVuSans.ttf"), TTFont(_BOLD, folder / "DejaVuSans-Bold.ttf")
    pdfmetrics.registerFont(regular)
    pdfmetrics.registerFont(bold)
    pdfmetrics.registerFontFamily(_FONT, normal=_FONT, bold=_BOLD, italic=_FONT, boldItalic=_BOLD)
    return frozenset(regular.face.charToGlyph) & frozenset(bold.face.charToGlyph)
