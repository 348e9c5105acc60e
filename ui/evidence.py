"""The evidence panel: what an answer rests on, as HTML. Everything that is not ours is escaped."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL.Image import Image

from assistant.answer import DISCLAIMER, NO_CONFIDENCE, Answer, Box, Case, Note, ToolCall

NOT_ENOUGH = "Not enough evidence"
_PICTURE_SIDE = 640
_MAX_TOOL_TEXT = 2_000
_NAME = re.compile(r"\w+")
# Gradio fills templates written with ``${…}`` and ``{{…}}`` in the browser; as entities these stay plain text.
_TEMPLATE_SIGNS = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})


@dataclass(frozen=True)
class Record:
    """One answered question of a conversation.

    Attributes:
        question: As the user typed it.
        answer: What came back.
        threshold: Confidence below which the answer was to be declined, 0…1.
        picture: Data URI of the question's image, only where boxes are drawn on it.
        size: Width and height of that image in pixels, the space of the boxes.
        overlays: Data URI of what each tool drew, "" where it drew nothing; in the order of the calls.
        asked: Where the question was about a region: the whole picture with it, as data URI, and a sentence on it.
    """

    question: str
    answer: Answer
    threshold: float
    picture: str = ""
    size: tuple[int, int] = (0, 0)
    overlays: tuple[str, ...] = ()
    asked: tuple[str, str] | None = None


def record(
    question: str,
    answer: Answer,
    threshold: float,
    images: Sequence[Image] = (),
    asked: tuple[str, str] | None = None,
) -> Record:
    """A record with the pictures that boxes and tools need; boxes that lie in several images are only listed."""
    drawn = tuple(picture_uri(call.overlay) if call.overlay is not None else "" for call in answer.tools)
    # The panel needs the small pictures only; the session would keep the large ones for hours.
    answer = replace(answer, tools=tuple(replace(call, overlay=None) for call in answer.tools))
    shown = {box.image for box in answer.boxes}
    if len(shown) != 1 or max(shown) > len(images):  # in none, in several, or in a picture that a tool made
        return Record(question, answer, threshold, overlays=drawn, asked=asked)
    image = images[shown.pop() - 1]
    return Record(question, answer, threshold, picture_uri(image), image.size, drawn, asked)


def picture_uri(image: Image) -> str:
    """A small JPEG of an image, as text for the page."""
    small = image.convert("RGB")
    small.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def escape(text: object) -> str:
    """Text that means nothing in HTML, in an attribute and in the template of the panel's component."""
    return html.escape(str(text)).translate(_TEMPLATE_SIGNS)


def chat_text(answer: Answer) -> str:
    """What the conversation shows: the answer, or that there is not enough evidence and the guess as a guess."""
    if answer.abstained:
        return f"{NOT_ENOUGH} — best guess: {answer.best_guess.strip() or 'none'}"
    return answer.text.strip() or "(The model gave no text.)"


EMPTY = (
    '<section class="evidence empty" aria-label="Evidence"><h2>Evidence</h2>'
    "<p>Drop in a microscope field and ask. Confidence, the options that were weighed, and warnings about the image "
    "appear here.</p><p class='meta'>A closed question gets the most reliable confidence: write its options as "
    "<b>A)</b> … <b>B)</b> …, or ask something that yes or no answers.</p></section>"
)


def panel(records: Sequence[Record]) -> str:
    """The latest answer in full and earlier ones folded; ``EMPTY`` before the first."""
    if not records:
        return EMPTY
    return evidence_html(records[-1]) + _earlier(records[:-1])


def working(text: str, records: Sequence[Record] = (), calls: Sequence[ToolCall] = ()) -> str:
    """While an answer is awaited or written; tool calls show as they end."""
    bones = '<div class="bone" aria-hidden="true"></div>' * 3
    return (
        '<section class="evidence working" aria-label="Evidence" aria-busy="true"><h2>Evidence</h2>'
        f'<p role="status">{escape(text)}</p>{"".join(map(_tool, calls))}{bones}</section>{_earlier(records)}'
    )


def in_words(confidence: float) -> str:
    """A confidence as a word, so that colour and length of a bar are not the only signs."""
    if confidence >= 0.9:
        return "high"
    return "moderate" if confidence >= 0.6 else "low"


def evidence_html(record: Record) -> str:
    """The panel for one answer."""
    return f'<section class="evidence" aria-label="Evidence"><h2>Evidence</h2>{_body(record)}</section>'


def error_html(*problems: str) -> str:
    """The box for input that could not be used: one line for each problem, read out at once."""
    items = "".join(f"<li>{escape(_sentence(p))}</li>" for p in problems)
    return f'<div class="notice error" role="alert"><ul>{items}</ul></div>'


def info_html(text: str) -> str:
    """The box for news that is no error."""
    return f'<div class="notice" role="status"><p>{escape(text)}</p></div>'


def empty_html(title: str, *lines: str) -> str:
    """What a place says that has nothing to show yet."""
    said = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f'<section class="pa-empty"><h2>{escape(title)}</h2>{said}</section>'


def _earlier(records: Sequence[Record]) -> str:
    if not records:
        return ""
    folded = "".join(
        f'<details class="evidence"><summary><span>{escape(r.question)}</span>'
        f"<span>{_state(r.answer)}{_percent(r.answer)}</span></summary>{_body(r)}</details>"
        for r in reversed(records)
    )
    return f'<section class="earlier" aria-label="Earlier answers"><h2>Earlier answers</h2>{folded}</section>'


def _percent(answer: Answer) -> str:
    return f", {round(100 * answer.confidence)} %" if answer.confidence_known else ""


def _body(record: Record) -> str:
    answer = record.answer
    parts = [
        _verdict(answer),
        f'<p class="asked" title="{escape(record.question)}">{escape(record.question)}</p>',
    ]
    of_confidence, of_tools, of_image = sorted_warnings(answer)
    if answer.confidence_known:
        low = "Below" if answer.confidence < record.threshold else "At or above"
        parts.append(_bar("Confidence", answer.confidence, in_words(answer.confidence), tick=record.threshold))
        parts.append(f'<p class="meta">{low} the threshold of {round(100 * record.threshold)} %</p>')
    else:
        parts.append('<p class="unknown"><span>Confidence</span> <span>not known</span></p>')
    parts += [f'<p class="meta basis">{escape(_sentence(one))}</p>' for one in of_confidence]
    for heading, lines in (("About the image", of_image), ("About the tools", of_tools)):
        if lines:
            items = "".join(f"<li>{escape(_sentence(one))}</li>" for one in lines)
            parts.append(f'<div class="warnings" role="note"><h3>{heading}</h3><ul>{items}</ul></div>')
    if record.asked:
        picture, words = record.asked
        parts.append(
            f'<h3>Region asked about</h3><img class="drawn" src="{picture}" alt="The picture with the region">'
            f'<p class="meta">{escape(words)}</p>'
        )
    if answer.options:
        rows = sorted(answer.options.items(), key=lambda item: -item[1])
        bars = "".join(_bar(label, share, "", small=True) for label, share in rows)
        parts.append(f'<h3>Options weighed</h3><div class="options">{bars}</div>')
    if answer.boxes:
        parts.append(f"<h3>Regions</h3>{regions_html(answer.boxes, record.picture, record.size, answer.text)}")
    if answer.tools:
        drawn = [*record.overlays, *[""] * len(answer.tools)]
        parts.append(f"<h3>Tools</h3>{''.join(map(_tool, answer.tools, drawn))}")
    if answer.cases:
        items = "".join(_case(number, case) for number, case in enumerate(answer.cases, 1))
        parts.append(f'<h3>Similar cases</h3>{_support(answer)}<ul class="cases">{items}</ul>')
    if answer.notes:
        items = "".join(_note(number, note) for number, note in enumerate(answer.notes, len(answer.cases) + 1))
        parts.append(f"<h3>From the notes</h3>{items}")
    ended = " · ended at the length limit" if answer.finish_reason == "length" else ""
    parts.append(
        f'<p class="meta">{escape(answer.model)} · {answer.seconds:.1f} s · {answer.usage.prompt_tokens} + '
        f"{answer.usage.completion_tokens} tokens{ended}</p><p class='meta'>{escape(DISCLAIMER)}</p>"
    )
    return "".join(parts)


def sorted_warnings(answer: Answer) -> tuple[list[str], list[str], list[str]]:
    """The warnings of an answer: what its confidence rests on or why it has none, about its tools, about the image."""
    names = {call.name for call in answer.tools}
    found: tuple[list[str], list[str], list[str]] = ([], [], [])
    for warning in answer.warnings:
        if warning.casefold().startswith(("confidence ", NO_CONFIDENCE)):
            found[0].append(warning)
        else:
            found[1 if names & set(_NAME.findall(warning)) else 2].append(warning)
    return found


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _state(answer: Answer) -> str:
    if answer.finish_reason == "cancelled":
        return "Stopped"
    return NOT_ENOUGH if answer.abstained else "Answered"


def _verdict(answer: Answer) -> str:
    if answer.finish_reason == "cancelled":
        return (
            '<p class="verdict stopped">Stopped</p><p class="meta">Ended before the answer was complete; '
            "the confidence covers this part.</p>"
        )
    if answer.abstained:
        guess = escape(answer.best_guess.strip() or "none")
        return f'<p class="verdict abstained">{NOT_ENOUGH}</p><p class="guess"><span>Best guess</span> {guess}</p>'
    return '<p class="verdict answered">Answered</p>'


def regions_html(boxes: Sequence[Box], picture: str, size: tuple[int, int], text: str = "") -> str:
    """Boxes on their image, the text with what they point to underlined, and a list.

    Pointing at a phrase or an entry, or moving to it by keyboard, lights up its boxes; the style sheet does that alone.
    """
    several = any(b.image != 1 for b in boxes)
    items = "".join(
        f'<li><span class="link" tabindex="0" data-box="{n}">{escape(b.label)}</span> '
        f"<small>{f'image {b.image} · ' if several else ''}{b.score:.2f}</small></li>"
        for n, b in enumerate(boxes, 1)
    )
    words = linked(text, boxes)
    said = f'<p class="linked">{words}</p>' if "<mark" in words else ""
    return f'{_overlay(boxes, picture, size)}{said}<ol class="regions">{items}</ol>'


def linked(text: str, boxes: Sequence[Box]) -> str:
    """Escaped text in which the boxes' labels are marked, each with the numbers of its boxes."""
    numbers: dict[str, list[int]] = {}
    for number, box in enumerate(boxes, 1):
        if box.label.strip():
            numbers.setdefault(box.label.strip().casefold(), []).append(number)
    if not numbers:
        return escape(text)
    longest_first = sorted(numbers, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
    parts = []
    for number, part in enumerate(pattern.split(text)):
        found = numbers.get(part.casefold()) if number % 2 else None
        if found is None:
            parts.append(escape(part))
        else:
            parts.append(
                f'<mark class="link" tabindex="0" data-box="{" ".join(map(str, found))}">{escape(part)}</mark>'
            )
    return "".join(parts)


def _overlay(boxes: Sequence[Box], picture: str, size: tuple[int, int]) -> str:
    """The image with numbered rectangles, drawn in the image's own pixels; nothing where there is no picture."""
    if not picture:
        return ""
    width, height = size
    unit = max(width, height) / 100
    marks = []
    for number, box in enumerate(boxes, start=1):
        left, top, right, bottom = box.xyxy
        x, y = left + unit, top + 5 * unit
        if min(right - left, bottom - top) < 8 * unit:  # a number inside would hide what is boxed
            x, y = left, top - unit if top > 6 * unit else bottom + 5 * unit
        marks.append(
            f'<g class="box b{number}"><rect x="{left:g}" y="{top:g}" width="{right - left:g}" '
            f'height="{bottom - top:g}"/><text x="{x:g}" y="{y:g}" '
            f'font-size="{5 * unit:g}">{number}</text></g>'
        )
    return (
        f'<svg class="overlay" viewBox="0 0 {width} {height}" role="img" aria-label="The image with '
        f'{len(boxes)} numbered regions"><image href="{picture}" width="{width}" '
        f'height="{height}"/>{"".join(marks)}</svg>'
    )


def _tool(call: ToolCall, drawn: str = "") -> str:
    """One call: its state in words, what it said, what it drew, and arguments and numbers as they are."""
    result = call.result if isinstance(call.result, dict) else {"result": call.result}
    shown = {"arguments": call.arguments, "result": result.get("numbers", result)}
    text = json.dumps(shown, indent=1, ensure_ascii=False, default=str)
    cut = text if len(text) <= _MAX_TOOL_TEXT else text[:_MAX_TOOL_TEXT] + " …"
    state = "" if call.status == "ok" else f", {call.status}"
    said = f"<p>{escape(result['text'])}</p>" if isinstance(result.get("text"), str) else ""
    notes = "".join(f'<p class="meta">{escape(note)}</p>' for note in result.get("warnings") or ())
    picture = f'<img class="drawn" src="{drawn}" alt="What {escape(call.name)} found">' if drawn else ""
    return (
        f'<details class="tool {escape(call.status)}"{" open" if drawn else ""}><summary>{escape(call.name)} '
        f"({call.seconds:.1f} s{escape(state)})</summary>{said}{notes}{picture}<pre>{escape(cut)}</pre></details>"
    )


def _support(answer: Answer) -> str:
    """How the labels of the cases go with the answer, in words and not by colour alone."""
    if not answer.support_text:
        return ""
    return f'<p class="support {escape(answer.support)}" role="note">{escape(answer.support_text)}</p>'


def _note(number: int, note: Note) -> str:
    head = f"[{number}] {escape(note.title)} ({note.score:.2f})"
    return f"<details><summary>{head}</summary><p>{escape(note.text)}</p></details>"


def _case(number: int, case: Case) -> str:
    """Only pixels that came with the answer are shown: a path or URL is not for the browser to follow."""
    inline = case.thumbnail if case.thumbnail and case.thumbnail.startswith("data:image/") else ""
    picture = f'<img src="{escape(inline)}" alt="" width="48" height="48">' if inline else ""
    title = escape(case.title or "untitled")
    return f"<li><b>[{number}]</b>{picture}<span>{title}</span> <small>{case.score:.2f}</small></li>"


def _bar(label: str, share: float, word: str, *, small: bool = False, tick: float | None = None) -> str:
    percent = round(100 * min(1.0, max(0.0, share)))
    text = f"{percent} %" + (f", {word}" if word else "")
    mark = "" if tick is None else f'<div class="tick" style="left:{tick:.0%}"></div>'
    kind = "bar small" if small else f"bar confidence {word}"
    return (
        f'<div class="{kind}"><div class="label"><span>{escape(label)}</span><span>{text}</span></div>'
        f'<div class="track" role="meter" aria-label="{escape(label)}" aria-valuetext="{text}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}">'
        f'<div class="fill" style="width:{percent}%"></div>{mark}</div></div>'
    )
