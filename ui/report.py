"""The Report tab: a draft from the conversation, edited in plain text fields, previewed and exported.

Statements are lines that end in the evidence they rest on, ``Tubular adenoma [E1, E4]``. A line whose evidence is that
of a drafted one but whose words differ is marked as edited; one without evidence as having none.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from assistant.answer import DISCLAIMER
from assistant.errors import PathAssistError
from assistant.report import Candidate, Mark, Picture, Report, Statement, draft
from assistant.report.model import FORMATS, picture_of
from ui.evidence import empty_html, error_html, escape, info_html

log = logging.getLogger(__name__)

KEEP: Any = gr.skip()
_KEEP_S = 4 * 3600
START = info_html("Ask about an image in the Chat tab first; then draft a report from the conversation.")
_REFERENCES = re.compile(r"\s*\[\s*(E\d+(?:\s*,\s*E\d+)*)\s*\]\s*$")
_SHARE = re.compile(r"\s*[:=]\s*([01](?:\.\d+)?)\s*$")
_LINE_CHARS, _TEXT_CHARS = 1_000, 20_000
EMPTY_PREVIEW = empty_html("No draft yet", "The report shows here as it will be exported.")


class Fields(NamedTuple):
    """What a person edits, in the order of the components."""

    title: Any = KEEP
    specimen: Any = KEEP
    stain: Any = KEEP
    findings: Any = KEEP
    differential: Any = KEEP
    measurements: Any = KEEP
    limits: Any = KEEP
    comment: Any = KEEP


class View(NamedTuple):
    """New values of the tab's outputs; ``KEEP`` leaves one as it is."""

    report: Any = KEEP
    status: Any = KEEP
    editor: Any = KEEP
    preview: Any = KEEP
    download: Any = KEEP


def report_tab(records: gr.State) -> None:
    """Put the tab's content onto the page under construction.

    Args:
        records: The page's list of ``ui.evidence.Record``.
    """
    state = gr.State("", time_to_live=_KEEP_S)
    with gr.Row(elem_id="pa-report", equal_height=False):
        with gr.Column(elem_id="pa-report-fields", min_width=0):
            begin = gr.Button("Draft from the conversation", variant="primary", elem_id="pa-report-draft")
            status = gr.HTML(START, elem_id="pa-report-status", padding=False, js_on_load=None)
            with gr.Column(visible=False, elem_id="pa-report-editor") as editor:
                fields = Fields(
                    gr.Textbox(label="Title", lines=1, max_length=200),
                    gr.Textbox(label="Specimen", lines=1, max_length=_LINE_CHARS),
                    gr.Textbox(label="Stain", lines=1, max_length=_LINE_CHARS),
                    gr.Textbox(
                        label="Findings", lines=4, max_lines=14, max_length=_TEXT_CHARS,
                        info="One a line; the evidence it rests on at the end, as in [E1, E4].",
                    ),
                    gr.Textbox(
                        label="Differential", lines=2, max_lines=8, max_length=_TEXT_CHARS,
                        info="One a line, with a probability if there is one: adenoma = 0.70 [E3].",
                    ),
                    gr.CheckboxGroup(label="Measurements to include", choices=[]),
                    gr.Textbox(label="Limits", lines=3, max_lines=10, max_length=_TEXT_CHARS, info="One a line."),
                    gr.Textbox(label="Comment", lines=2, max_lines=10, max_length=_TEXT_CHARS),
                )  # fmt: skip
                update = gr.Button("Update the preview", elem_id="pa-report-update")
                with gr.Row():
                    kind = gr.Radio(list(FORMATS), value="pdf", label="Export as", elem_id="pa-report-kind")
                    export = gr.Button("Export", variant="primary", elem_id="pa-report-export")
                download = gr.DownloadButton("Download", visible=False, elem_id="pa-report-download")
        with gr.Column(elem_id="pa-report-page", min_width=0):
            preview = gr.HTML(EMPTY_PREVIEW, elem_id="pa-report-view", padding=False, js_on_load=None)
    outputs = [state, status, editor, preview, download, *fields]
    quick = {"show_progress": "hidden", "concurrency_limit": 2, "api_visibility": "private"}
    begin.click(start, [records], outputs, **quick)
    update.click(preview_again, [state, *fields], outputs, **quick)
    export.click(export_file, [state, kind, *fields], outputs, **quick)


def start(records: Sequence[Any]) -> tuple[Any, ...]:
    """Draft from all answers of the conversation."""

    def make() -> tuple[View, Fields]:
        report = from_records(records or [])
        ready = info_html(
            f"Drafted from {len(records)} answers. Edit what is wrong, then update the preview or export."
        )
        hide = gr.update(visible=False)
        return View(report.to_json(), ready, gr.update(visible=True), framed(report), hide), shown(report)

    return _guarded(make)


def preview_again(state: str, *values: Any) -> tuple[Any, ...]:
    """Show the report with the fields as they are now."""

    def make() -> tuple[View, Fields]:
        report = edited(Report.from_json(state), Fields(*values))
        return View(status=info_html("The preview is up to date."), preview=framed(report)), Fields()

    return _guarded(make)


def export_file(state: str, kind: str, *values: Any) -> tuple[Any, ...]:
    """Write the report into a new folder of Gradio's own place for files, under a name that nobody can guess."""

    def make() -> tuple[View, Fields]:
        report = edited(Report.from_json(state), Fields(*values))
        folder = Path(gr.utils.get_upload_folder()) / secrets.token_hex(20)
        folder.mkdir(parents=True, mode=0o700)
        path = report.save(folder / f"pathassist-report.{kind}")
        label = f"Download the {kind.upper()} ({_size(path.stat().st_size)})"
        ready = info_html(f"The {kind.upper()} is ready. {DISCLAIMER}")
        return View(status=ready, preview=framed(report), download=gr.update(value=str(path), label=label,
                                                                            visible=True)), Fields()  # fmt: skip

    return _guarded(make)


def from_records(records: Sequence[Any]) -> Report:
    """The draft of a conversation's records; pictures are those that the records hold, each once."""
    images: list[Any] = []
    pictures: list[Picture] = []
    for number, record in enumerate(records, 1):
        caption = f"Image of question {number}"
        new = [i for i in getattr(record, "images", None) or () if not any(i is other for other in images)]
        images += new
        if record.picture and all(record.picture != other.data for other in pictures):
            marks = [Mark(b.label, b.xyxy, b.score) for b in record.answer.boxes]
            pictures.append(Picture(record.picture, *record.size, caption, marks))
        elif not record.picture:
            pictures += [picture_of(image, caption) for image in new]
    answers = [record.answer for record in records]
    return draft(answers, images, questions=[record.question for record in records], pictures=pictures)


def shown(report: Report) -> Fields:
    """The fields of a report as the text that a person edits."""
    rows = [f"{m.name} = {m.value} {m.unit}".strip() + f" ({m.tool})" for m in report.measurements]
    labels = [(row, str(n)) for n, row in enumerate(rows)]
    return Fields(
        report.title,
        line(report.specimen.text, report.specimen.evidence),
        line(report.stain.text, report.stain.evidence),
        "\n".join(line(f.text, f.evidence) for f in report.findings),
        "\n".join(
            line(c.label + ("" if c.confidence is None else f" = {c.confidence:.2f}"), c.evidence)
            for c in report.differential
        ),
        gr.update(choices=labels, value=[n for _, n in labels], visible=bool(labels)),
        "\n".join(" ".join(text.split()) for text in report.limits),
        report.comment,
    )


def edited(report: Report, fields: Fields) -> Report:
    """The drafted report with a person's changes; what it was made with and its evidence stay as they are."""
    report.title = str(fields.title or "").strip() or "Draft report"
    report.specimen = _statement(fields.specimen, [report.specimen], only=True)
    report.stain = _statement(fields.stain, [report.stain], only=True)
    report.findings = [_statement(text, report.findings) for text in _lines(fields.findings)]
    report.differential = [_candidate(text) for text in _lines(fields.differential)]
    kept = set(fields.measurements or ())
    report.measurements = [m for n, m in enumerate(report.measurements) if str(n) in kept]
    report.limits = _lines(fields.limits)
    report.comment = str(fields.comment or "")
    return report.cleaned()


def line(text: str, evidence: Sequence[str]) -> str:
    """One statement as a line."""
    plain = " ".join(text.split())
    return f"{plain} [{', '.join(evidence)}]" if plain and evidence else plain


def framed(report: Report) -> str:
    """The report's own page in a frame without rights: no scripts, no forms, nothing loaded."""
    return f'<iframe sandbox="" title="Preview of the report" srcdoc="{escape(report.to_html())}"></iframe>'


def _lines(text: Any) -> list[str]:
    return [one.strip() for one in str(text or "").splitlines() if one.strip()]


def _split(text: Any) -> tuple[str, list[str]]:
    plain = str(text or "").strip()
    found = _REFERENCES.search(plain)
    return (plain[: found.start()], re.findall(r"E\d+", found[1])) if found else (plain, [])


def _statement(text: Any, drafted: Sequence[Statement], *, only: bool = False) -> Statement:
    """A line as a statement; the confidence stays only while the words do."""
    words, evidence = _split(text)
    for one in drafted:
        if words == " ".join(one.text.split()):
            return Statement(one.text, evidence, one.confidence, one.drafted)
    before = next((one.drafted for one in drafted if evidence and one.evidence == evidence), "")
    if only:  # specimen and stain have one place each
        before = drafted[0].drafted
    return Statement(words, evidence, None, before)


def _candidate(text: str) -> Candidate:
    words, evidence = _split(text)
    found = _SHARE.search(words)
    share = min(1.0, float(found[1])) if found else None
    return Candidate(words[: found.start()] if found else words, share, evidence)


def _guarded(make: Callable[[], tuple[View, Fields]]) -> tuple[Any, ...]:
    try:
        view, fields = make()
    except PathAssistError as error:
        view, fields = View(status=error_html(str(error))), Fields()
    except Exception:
        log.exception("a report could not be made")
        problem = "internal error: the report was not made; the terminal has the details"
        view, fields = View(status=error_html(problem)), Fields()
    return (*view, *fields)


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{max(1, round(count / 1024))} KB"
