"""From answers, tool calls and images to a draft: what goes where, and what each statement rests on.

The sorting is done by rules on the questions and on the tools' own fields, never by the language model: a question
about the organ fills the specimen, one about the stain the stain, the options of any other closed question the
differential. What was declined, refused or failed is listed under limits and becomes no finding.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from assistant.answer import Answer
from assistant.chat.evidence import without_evidence
from assistant.chat.prompt import YES_NO, Turn, parse_question
from assistant.errors import BadInput, PathAssistError
from assistant.report.model import (
    Candidate,
    Evidence,
    Kind,
    Mark,
    Measurement,
    Picture,
    Provenance,
    Report,
    Similar,
    Statement,
    clean,
    picture_of,
)

if TYPE_CHECKING:
    from PIL.Image import Image

_SPECIMEN = re.compile(r"\b(organ|specimen|anatomical site|body part|(which|what) tissue|tissue (is|does) th)", re.I)
_STAIN = re.compile(r"\b(stain(s|ed|ing)?|H&E|immunohistochemistry|marker)\b", re.I)
#: Endings of the tools' names that are units.
_UNITS = {"_per_mm2": "1/mm²", "_mm2": "mm²", "_um2": "µm²", "_um": "µm", "_px": "px", "_percent": "%"}
#: About the file, or said elsewhere in the report.
_NOT_MEASURED = {"width", "height", "stain"}
_MAX_NUMBERS = 40
_LETTER = re.compile(r"^\s*\(?[A-Z]\s*[).:]\s*")
NOT_CHECKED = "Drafted by a program from the answers and tool results listed under evidence; nobody has checked it."


def draft(
    answers: Answer | Sequence[Answer],
    images: Image | Sequence[Image] = (),
    *,
    questions: str | Sequence[str] = (),
    tools: Sequence[Any] = (),
    pictures: Sequence[Picture] = (),
    title: str = "Draft report",
    revision: str = "",
    now: datetime | None = None,
) -> Report:
    """A report of answers about images.

    Args:
        answers: One or several, oldest first.
        images: What the answers are about; only pixels are used.
        questions: The question of each answer; without them the answers become findings.
        tools: Tool calls made beside the answers: ``assistant.answer.ToolCall`` or ``assistant.tools.ToolCall``.
        pictures: Pictures that exist already; with them ``images`` gives only hashes.
        title: Heading.
        revision: Of the model's weights.
        now: Time of creation; default: this moment.

    Raises:
        BadInput: Neither an answer nor a tool call, or questions that do not match the answers.
    """
    given = [answers] if isinstance(answers, Answer) else list(answers)
    asked = [questions] if isinstance(questions, str) else list(questions)
    shown = list(images) if isinstance(images, Sequence) else [images]
    if not given and not tools:
        raise BadInput("there is nothing to report; give at least one answer or tool call")
    if asked and len(asked) != len(given):
        raise BadInput(f"there are {len(given)} answers and {len(asked)} questions; give one question an answer")
    made = _Draft(Report(title=title))
    for number, answer in enumerate(given):
        made.add_answer(answer, asked[number] if asked else "")
    for call in tools:
        made.add_tool(call)
    report = made.report
    report.pictures = list(pictures) or [picture_of(image, f"Image {n}") for n, image in enumerate(shown, 1)]
    marks = [Mark(box.label, box.xyxy, box.score) for answer in given for box in answer.boxes]
    if len(report.pictures) == 1 and not report.pictures[0].marks:  # with several, nothing says which is meant
        report.pictures[0].marks = marks
    overlays = [
        (call.name, shot) for call in [*(c for a in given for c in a.tools), *tools] for shot in _overlays(call)
    ]
    report.pictures += [picture_of(shot, f"Drawn by {name}") for name, shot in overlays]
    report.limits = list(dict.fromkeys([NOT_CHECKED, *report.limits]))
    report.provenance = Provenance(
        program=_program(),
        model=", ".join(dict.fromkeys(a.model for a in given if a.model)),
        revision=revision,
        created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        images=[pixel_hash(image) for image in shown],
        prompts=[_sha(question) for question in asked],
        tools=list(dict.fromkeys(made.tools)),
        cases=_sha("\n".join(made.case_ids)) if made.case_ids else "",
    )
    report = report.cleaned()
    for statement in (report.specimen, report.stain, *report.findings):
        statement.drafted = statement.text
    report.provenance.draft = _sha("\n".join(s.text for s in (report.specimen, report.stain, *report.findings)))
    return report


@dataclass
class _Draft:
    """A report that grows answer by answer."""

    report: Report
    tools: list[str] = field(default_factory=list)
    case_ids: list[str] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)

    def note(self, kind: Kind, text: str, score: float | None = None) -> str:
        """Add a piece of evidence; returns its id."""
        found = Evidence(f"E{len(self.report.evidence) + 1}", kind, text, score)
        self.report.evidence.append(found)
        return found.id

    def add_answer(self, answer: Answer, question: str) -> None:
        """Sort one answer into the report, with everything that came with it."""
        # Where the model declined, what its tools measured stands by itself.
        called = [i for call in answer.tools if (i := self.add_tool(call, finding=answer.abstained))]
        self.report.limits += answer.warnings
        text = _claim(answer)
        asked = f"“{clean(question, 300)}”" if question else "The question"
        if answer.finish_reason == "cancelled":
            self.report.limits.append(f"{asked} was stopped before the answer was complete.")
            return
        if answer.abstained or not text:
            guess = clean(answer.best_guess, 200).strip() or "none"
            self.report.limits.append(
                f"{asked} was not answered: not enough evidence "
                f"(best guess {guess}, confidence {answer.confidence:.2f})."
            )
            return
        sure = round(answer.confidence, 4) if answer.confidence_known else None
        said = self.note("answer", f"{asked}: {text}", sure)
        regions = [
            self.note("region", f"{box.label} at {_place(box.xyxy)}{_which(box.image)}", round(box.score, 4))
            for box in answer.boxes
        ]
        cases = [self.add_case(case) for case in answer.cases]
        for note in answer.notes:
            self.note("note", f"{note.title}: “{clean(note.text, 500)}”", note.score)
        # A case counts for the answer only where its label names it; passages are quoted, not weighed.
        backing = [said, *called, *regions, *(cases if answer.support == "supported" else [])]
        if answer.support == "unsupported":
            self.report.limits.append(f"{asked}: {answer.support_text}")
        statement = Statement(text, backing, sure)
        closed = _options(question, answer)
        if question and _SPECIMEN.search(question) and closed != "yes or no" and not self.report.specimen.text:
            self.report.specimen = statement
        elif question and _STAIN.search(question) and closed != "yes or no" and not self.report.stain.text:
            self.report.stain = statement
        else:
            if closed == "yes or no" and question:
                statement.text = f"{clean(question, 300)} {text}"
            self.report.findings.append(statement)
            if closed == "options":
                ranked = sorted(answer.options.items(), key=lambda item: -item[1])
                self.report.differential += [Candidate(_LETTER.sub("", o), round(p, 4), [said]) for o, p in ranked]

    def add_case(self, case: Any) -> str:
        """Add a similar case; the same case found again keeps its number."""
        if case.id in self.case_ids:
            number = self.case_ids.index(case.id) + 1
            return next(e.id for e in self.report.evidence if e.text.startswith(f"Similar case {number}: "))
        self.case_ids.append(case.id)
        number, title = len(self.case_ids), " ".join(case.title.split()) or "untitled"
        inline = case.thumbnail if case.thumbnail and case.thumbnail.startswith("data:image/") else ""
        self.report.cases.append(Similar(number, title, round(case.score, 4), inline))
        return self.note("case", f"Similar case {number}: {title}", round(case.score, 4))

    def add_tool(self, call: Any, *, finding: bool = True) -> str:
        """Add a tool call's numbers, and its sentence as a finding; returns the evidence's id, "" for a failed call."""
        result = call.result if isinstance(call.result, Mapping) else _result_json(call.result)
        text = clean(str(result.get("text") or ""), 1000)
        if not result.get("ok", True) or getattr(call, "status", "ok") != "ok":
            self.report.limits.append(f"{call.name} gave no result: {text or 'no reason was given'}")
            return ""
        key = repr((call.name, text, result.get("numbers")))
        if key in self.results:  # the same call for another question says nothing new
            return self.results[key]
        self.tools.append(call.name)
        self.report.limits += [f"{call.name}: {warning}" for warning in result.get("warnings") or ()]
        identifier = self.results[key] = self.note("tool", f"{call.name}: {text}" if text else call.name)
        numbers = result.get("numbers", {k: v for k, v in result.items() if k not in ("ok", "text", "warnings")})
        for name, value in list(_flat(numbers))[:_MAX_NUMBERS]:
            ending, unit = next(((end, u) for end, u in _UNITS.items() if name.endswith(end)), ("", ""))
            label = name if unit == "%" else name.removesuffix(ending)
            self.report.measurements.append(
                Measurement(label.replace("_", " "), _number(value), unit, call.name, [identifier])
            )
        if stain := numbers.get("stain") if isinstance(numbers, Mapping) else None:
            self.stain_seen(str(stain), identifier)
        elif finding and text:
            self.report.findings.append(Statement(text, [identifier]))
        return identifier

    def stain_seen(self, stain: str, identifier: str) -> None:
        """A stain guessed from colour: it stands where the model said nothing, and backs the model where they agree."""
        now = self.report.stain
        if not now.text:
            self.report.stain = Statement(stain, [identifier])
            return
        key = stain.split("-")[0].split()[0].casefold()
        if key in now.text.casefold():
            now.evidence.append(identifier)
        elif not stain.startswith("other"):
            self.report.limits.append(f"The stain is said to be {now.text!r}, but its colours look like {stain}.")


def pixel_hash(image: Image) -> str:
    """SHA-256 over size and RGB pixels: the same picture in another file format has the same hash."""
    plain = image.convert("RGB")
    return hashlib.sha256(repr(plain.size).encode() + plain.tobytes()).hexdigest()


def _claim(answer: Answer) -> str:
    """The model's own words, without the citations that follow them."""
    return _LETTER.sub("", clean(without_evidence(Turn("assistant", answer.text)).text, 4000).strip())


def _options(question: str, answer: Answer) -> str:
    """What kind of closed question it was: "yes or no", "options", or "" for an open one."""
    if not answer.options:
        return ""
    try:
        yes_no = bool(question) and parse_question(question).options == YES_NO
    except PathAssistError:
        yes_no = False
    return "yes or no" if yes_no or {k.casefold() for k in answer.options} == {"yes", "no"} else "options"


def _result_json(result: Any) -> Mapping[str, Any]:
    return result.to_json() if hasattr(result, "to_json") else {"text": str(result)}


def _overlays(call: Any) -> list[Any]:
    one = getattr(call, "overlay", None)
    return [one] if one is not None else list(getattr(call.result, "overlays", {}).values())


def _flat(numbers: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Plain values of nested numbers; lists, nothing and flags that are not set are left out."""
    if not isinstance(numbers, Mapping):
        return []
    found: list[tuple[str, Any]] = []
    for key, value in numbers.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found += _flat(value, f"{name}: ")
        elif isinstance(value, str | bool | int | float) and value is not False and name not in _NOT_MEASURED:
            found.append((name, value))
    return found


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else clean(str(value), 200)


def _which(image: int) -> str:
    return f" of image {image}" if image != 1 else ""


def _place(xyxy: tuple[float, float, float, float]) -> str:
    left, top, right, bottom = (round(v) for v in xyxy)
    return f"x {left} to {right}, y {top} to {bottom} px"


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _program() -> str:
    from assistant import __version__

    return f"pathassist {__version__}"
