"""The report as one HTML page without scripts and without anything loaded from elsewhere."""

from __future__ import annotations

import base64
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.report.draw import drawn, jpeg
from assistant.report.layout import blocks, marks_list

if TYPE_CHECKING:
    from jinja2 import Template

    from assistant.report.model import Report

_TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"


def to_html(report: Report) -> str:
    """A page with every text escaped by the template engine."""
    pictures = [
        (_uri(jpeg(drawn(picture))), picture.caption, marks_list(report, number))
        for number, picture in enumerate(report.pictures)
    ]
    return _template().render(report=report, blocks=list(blocks(report)), pictures=pictures)


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


def _uri(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
