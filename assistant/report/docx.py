"""The report as a Word document that its reader goes on editing."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from assistant.errors import NotAvailable
from assistant.images.intake import decode_data_uri
from assistant.report.draw import drawn, jpeg
from assistant.report.layout import Block, blocks, marks_list

if TYPE_CHECKING:
    from assistant.report.model import Report


def to_docx(report: Report) -> bytes:
    """A document in Word's own styles; it holds no macro, link or field.

    Raises:
        NotAvailable: python-docx is not installed.
    """
    try:
        from docx import Document
        from docx.shared import Pt, RGBColor
    except ImportError as error:
        raise NotAvailable("DOCX needs python-docx; install it with: pip install 'pathassist[report]'") from error
    document = Document()
    document.core_properties.title = report.title[:200]
    document.core_properties.author = report.provenance.program[:255]
    document.core_properties.comments = report.disclaimer
    normal = document.styles["Normal"].font
    normal.name, normal.size = "Calibri", Pt(10.5)
    document.add_heading(report.title, 0)
    document.add_paragraph().add_run(report.disclaimer).bold = True
    for block in blocks(report):
        document.add_heading(block.heading, 2)
        _add(document, report, block, RGBColor(0x46, 0x57, 0x5E), RGBColor(0x8A, 0x4B, 0x08))
    for section in document.sections:
        section.footer.paragraphs[0].text = report.disclaimer
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def _add(document: Any, report: Report, block: Block, soft: Any, warn: Any) -> None:
    from docx.shared import Mm

    if block.pictures:
        for number, picture in enumerate(report.pictures):
            image = drawn(picture)
            wide = image.width >= image.height
            document.add_picture(io.BytesIO(jpeg(image)), **({"width": Mm(120)} if wide else {"height": Mm(110)}))
            for text in filter(None, [picture.caption, *marks_list(report, number)]):
                document.add_paragraph().add_run(text).font.color.rgb = soft
    for line in block.lines:
        paragraph = document.add_paragraph(line.text, style="List Bullet")
        for text, colour in ((line.aside, soft), (f"[{line.warn}]" if line.warn else "", warn)):
            if text:
                paragraph.add_run(f"  {text}").font.color.rgb = colour
    if block.cases:
        for case in report.cases:
            paragraph = document.add_paragraph()
            if case.thumbnail.startswith("data:image/"):
                data = jpeg(decode_data_uri(case.thumbnail))
                paragraph.add_run().add_picture(io.BytesIO(data), height=Mm(16))
            paragraph.add_run(f"  [{case.number}] {case.title} ({case.score:.2f})")
    if block.table:
        table = document.add_table(rows=len(block.table), cols=len(block.table[0]), style="Light List Accent 1")
        for row, values in zip(table.rows, block.table, strict=True):
            for cell, value in zip(row.cells, values, strict=True):
                cell.text = value
