"""Colours, type and style sheet: calm, readable in light and dark, and nothing loaded from elsewhere."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

STATIC = Path(__file__).with_name("static")
CSS = STATIC / "style.css"
CASES_CSS = STATIC / "cases.css"
PAGE_CSS = STATIC / "page.css"
PAGE_JS = STATIC / "page.js"
ICON = STATIC / "icon.svg"

_TEAL = gr.themes.Color(
    name="teal",
    c50="#edf6f6",
    c100="#d5eaeb",
    c200="#aed6d8",
    c300="#7dbcc0",
    c400="#4a9da3",
    c500="#247f86",
    c600="#0f6a72",
    c700="#0d575e",
    c800="#0d464c",
    c900="#0c3a3f",
    c950="#06242a",
)
_INK = gr.themes.Color(
    name="ink",
    c50="#f5f8f8",
    c100="#e9eff0",
    c200="#d6dfe1",
    c300="#b4c2c6",
    c400="#84969c",
    c500="#5c6f76",
    c600="#46575e",
    c700="#33434a",
    c800="#1f2d33",
    c900="#172329",
    c950="#10191e",
)
_SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def theme() -> gr.themes.Base:
    """The theme; its fonts are those of the reader's system, by name."""
    return gr.themes.Base(
        primary_hue=_TEAL,
        secondary_hue=_TEAL,
        neutral_hue=_INK,
        radius_size=gr.themes.sizes.radius_md,
        font=[*_SANS],
        font_mono=[*_MONO],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_300",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_700",
        block_shadow="none",
        block_label_text_color="*neutral_600",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        color_accent_soft="*primary_50",
        color_accent_soft_dark="*neutral_800",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
    )
