"""Figures of the report as inline SVG or PNG, so that the page needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.errors import PathAssistError
from assistant.images.intake import load_image

_SIDE, _LEFT, _BOTTOM = 240, 44, 34


def reliability(confidence: Sequence[float], hit: Sequence[float], bins: int = 10) -> str:
    """Reliability diagram as SVG: accuracy of each tenth of confidence; the width of a bar's line shows its share."""
    p, y = np.asarray(confidence, dtype=float), np.asarray(hit, dtype=float)
    index = np.minimum((p * bins).astype(int), bins - 1)
    shapes = []
    for b in range(bins):
        inside = index == b
        if not inside.any():
            continue
        accuracy, share = float(y[inside].mean()), float(inside.mean())
        x, width = _LEFT + _SIDE * b / bins, _SIDE / bins
        height = _SIDE * accuracy
        title = f"confidence {b / bins:.1f}–{(b + 1) / bins:.1f}: accuracy {accuracy:.2f}, n {int(inside.sum())}"
        shapes.append(
            f'<rect x="{x + 1:.1f}" y="{10 + _SIDE - height:.1f}" width="{width - 2:.1f}" height="{max(height, 1):.1f}"'
            f' fill="#3b6ea5" fill-opacity="{0.25 + 0.75 * share**0.5:.2f}"><title>{title}</title></rect>'
        )
    diagonal = (
        f'<line x1="{_LEFT}" y1="{10 + _SIDE}" x2="{_LEFT + _SIDE}" y2="10" stroke="#a33" stroke-dasharray="4 3"/>'
    )
    return _axes("confidence", "accuracy", "".join(shapes) + diagonal, "Reliability diagram")


def curves(lines: dict[str, list[tuple[float, float]]], x: str, y: str, title: str, top: float = 1.0) -> str:
    """Lines in the unit square as SVG with a legend; x runs from 0 to the largest value."""
    colours = ("#3b6ea5", "#a33b3b", "#3b8a4d", "#8a6d3b", "#6b3ba5", "#3b9aa5")
    most = max((px for points in lines.values() for px, _ in points), default=1.0) or 1.0
    shapes = []
    for i, (name, points) in enumerate(lines.items()):
        colour = colours[i % len(colours)]
        path = " ".join(f"{_LEFT + _SIDE * px / most:.1f},{10 + _SIDE * (1 - py / top):.1f}" for px, py in points)
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        shapes.append(
            f'<text x="{_LEFT + _SIDE + 8}" y="{22 + 15 * i}" fill="{colour}" font-size="12">{html.escape(name)}</text>'
        )
    return _axes(x, y, "".join(shapes), title, legend=110, most=most)


def _axes(x: str, y: str, inside: str, title: str, legend: int = 0, most: float = 1.0) -> str:
    width, height = _LEFT + _SIDE + 12 + legend, _SIDE + 10 + _BOTTOM
    ticks = "".join(
        f'<text x="{_LEFT + _SIDE * t:.0f}" y="{_SIDE + 24}" font-size="10" text-anchor="middle">{t * most:g}</text>'
        f'<text x="{_LEFT - 6}" y="{14 + _SIDE * (1 - t):.0f}" font-size="10" text-anchor="end">{t:g}</text>'
        for t in (0, 0.5, 1)
    )
    return (
        f'<svg role="img" aria-label="{html.escape(title)}" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" font-family="sans-serif">'
        f'<rect x="{_LEFT}" y="10" width="{_SIDE}" height="{_SIDE}" fill="#f6f7f9" stroke="#bbb"/>{inside}{ticks}'
        f'<text x="{_LEFT + _SIDE / 2}" y="{height - 2}" font-size="12" text-anchor="middle">{html.escape(x)}</text>'
        f'<text x="12" y="{10 + _SIDE / 2}" font-size="12" text-anchor="middle"'
        f' transform="rotate(-90 12 {10 + _SIDE / 2})">{html.escape(y)}</text></svg>'
    )


def confusion_table(labels: Sequence[str], counts: NDArray[np.int64]) -> str:
    """Confusion matrix as an HTML table, shaded by the share of each row."""
    head = "".join(f'<th class="turned"><span>{html.escape(label)}</span></th>' for label in labels)
    rows = []
    for label, row in zip(labels, counts, strict=True):
        total = max(1, int(row.sum()))
        cells = "".join(
            f'<td style="background:rgba(59,110,165,{0.75 * int(n) / total:.2f})">{int(n) or ""}</td>' for n in row
        )
        rows.append(f"<tr><th>{html.escape(label)}</th>{cells}</tr>")
    return f'<table class="confusion"><tr><th>truth ↓ said →</th>{head}</tr>{"".join(rows)}</table>'


def thumbnail(path: str | Path, side: int = 160) -> str | None:
    """A small JPEG as data URI, without metadata; None when the image cannot be read."""
    try:
        image = load_image(path)
    except PathAssistError:
        return None
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
