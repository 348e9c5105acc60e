"""What a report consists of: plain dataclasses that a person may edit and that JSON carries both ways."""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from assistant.answer import DISCLAIMER
from assistant.errors import BadInput, TooLarge
from assistant.plain import visible

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("html", "pdf", "docx", "json")
#: Version of the JSON; a reader refuses a newer one.
SCHEMA = 1
MAX_TEXT = 20_000
MAX_ITEMS = 500
MAX_JSON = 64 * 2**20
#: The longer side of a picture in a report, in pixels.
PICTURE_SIDE = 1000

Kind = Literal["answer", "tool", "region", "case", "note"]
Status = Literal["supported", "model only", "none"]
STATUS_TEXT: dict[Status, str] = {
    "supported": "",
    "model only": "the model’s answer alone; no tool, region or case supports it",
    "none": "no evidence",
}


def clean(text: object, limit: int = MAX_TEXT) -> str:
    """Text without control, reordering and invisible characters, cut at ``limit`` characters."""
    plain = visible(str(text))
    return plain if len(plain) <= limit else plain[: limit - 2].rstrip() + " …"


@dataclass
class Evidence:
    """One thing that statements rest on; ``id`` is what they refer to (E1, E2 …)."""

    id: str
    kind: Kind
    text: str
    score: float | None = None


@dataclass
class Statement:
    """A claim of the report.

    Attributes:
        text: As it stands; a person may change it.
        evidence: Ids of :class:`Evidence`.
        confidence: Calibrated probability of the model's answer, 0…1, or None.
        drafted: The text as the program drafted it, empty for one that a person added.
    """

    text: str
    evidence: list[str] = field(default_factory=list)
    confidence: float | None = None
    drafted: str = ""

    @property
    def edited(self) -> bool:
        """A person changed or added it."""
        return bool(self.text) and self.text != self.drafted


@dataclass
class Measurement:
    """A number (or word) that a tool gave."""

    name: str
    value: str
    unit: str
    tool: str
    evidence: list[str] = field(default_factory=list)


@dataclass
class Candidate:
    """One entry of the differential; ``confidence`` is a probability over the options that were asked about."""

    label: str
    confidence: float | None
    evidence: list[str] = field(default_factory=list)


@dataclass
class Similar:
    """A case of the library; ``thumbnail`` is a data URI or empty. Ids and paths stay out: they may name a patient."""

    number: int
    title: str
    score: float
    thumbnail: str = ""


@dataclass
class Mark:
    """A rectangle on a picture, in pixels of the image as given, origin top left."""

    label: str
    xyxy: tuple[float, float, float, float]
    score: float | None = None


@dataclass
class Picture:
    """An image of the report.

    Attributes:
        data: Data URI of a copy of at most :data:`PICTURE_SIDE` pixels.
        width: Of the image as given, in pixels; the space of ``marks``.
        height: As ``width``.
        caption: What it shows.
        marks: Rectangles drawn on it, numbered from 1.
    """

    data: str
    width: int
    height: int
    caption: str = ""
    marks: list[Mark] = field(default_factory=list)

    def image(self) -> Image:
        """The copy as PIL image, decoded under the caps that hold for every image.

        Raises:
            BadInput: ``data`` is no data URI of a JPEG or PNG image.
        """
        from assistant.images.intake import decode_data_uri

        if not self.data.startswith(("data:image/jpeg;base64,", "data:image/png;base64,")):
            raise BadInput(f"a picture starts with {self.data[:30]!r}; it must be a data URI of a JPEG or PNG image")
        return decode_data_uri(self.data)


@dataclass
class Provenance:
    """What the draft was made with: names and SHA-256 hashes, no paths.

    Attributes:
        images: Hash of each image's size and pixels.
        prompts: Hash of each question.
        cases: Hash over the ids of the cases cited, empty without any.
        draft: Hash of the statements as drafted, so that later changes show.
    """

    program: str = ""
    model: str = ""
    revision: str = ""
    created: str = ""
    images: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)
    cases: str = ""
    draft: str = ""


@dataclass
class Report:
    """A draft report. All lists may be edited; :meth:`save` writes it in any of :data:`FORMATS`."""

    title: str = "Draft report"
    specimen: Statement = field(default_factory=lambda: Statement(""))
    stain: Statement = field(default_factory=lambda: Statement(""))
    findings: list[Statement] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    differential: list[Candidate] = field(default_factory=list)
    cases: list[Similar] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    comment: str = ""
    pictures: list[Picture] = field(default_factory=list)
    provenance: Provenance = field(default_factory=Provenance)
    disclaimer: str = DISCLAIMER
    schema: int = SCHEMA

    def status(self, statement: Statement) -> Status:
        """How well a statement is backed: ids that do not exist count for nothing."""
        kinds = {e.kind for e in self.evidence if e.id in statement.evidence}
        if kinds - {"answer"}:
            return "supported"
        return "model only" if kinds else "none"

    def marks_of(self, statement: Statement) -> list[str]:
        """The remarks that go with a statement, in plain words; empty for a supported, unedited one."""
        remark = STATUS_TEXT[self.status(statement)]
        edited = "edited by a person" if statement.drafted else "added by a person"
        return [text for text in (remark, edited if statement.edited else "") if text]

    def cleaned(self) -> Report:
        """A copy in which every text is safe to show (:func:`clean`) and the disclaimer is ours.

        Raises:
            TooLarge: A list holds more than :data:`MAX_ITEMS` entries.
        """
        made: Report = _cleaned(self)
        made.disclaimer = DISCLAIMER
        return made

    def to_json(self) -> str:
        """Indented JSON; :meth:`from_json` reads it back."""
        return json.dumps(asdict(self.cleaned()), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """Read a report that :meth:`to_json` wrote and a person may have edited.

        Raises:
            BadInput: Not JSON, a field of the wrong type, a newer version, a picture that is no data URI of an image.
            TooLarge: Over the caps on bytes, entries or pixels.
        """
        from pydantic import TypeAdapter, ValidationError

        if len(text) > MAX_JSON:
            raise TooLarge(f"the report has {len(text):,} bytes; at most {MAX_JSON:,} are allowed")
        try:
            made = TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise BadInput(
                f"the report is not readable: {place}: {first['msg']}; write one with "
                "`pathassist draft IMAGE --out report.json`"
            ) from None
        if not 1 <= made.schema <= SCHEMA:
            raise BadInput(f"the report has version {made.schema}; this program reads 1 to {SCHEMA}, so update it")
        for picture in [*made.pictures, *(Picture(c.thumbnail, 1, 1) for c in made.cases if c.thumbnail)]:
            picture.image()
        return made.cleaned()

    def to_html(self) -> str:
        """One self-contained page: no script, nothing loaded from elsewhere."""
        from assistant.report.html import to_html

        return to_html(self.cleaned())

    def to_pdf(self, path: str | Path) -> Path:
        """Write a PDF (A4). Raises NotAvailable without reportlab."""
        from assistant.report.pdf import to_pdf

        return write(path, to_pdf(self.cleaned()))

    def to_docx(self, path: str | Path) -> Path:
        """Write a Word document. Raises NotAvailable without python-docx."""
        from assistant.report.docx import to_docx

        return write(path, to_docx(self.cleaned()))

    def save(self, path: str | Path) -> Path:
        """Write the format that the name ends in, whole or not at all.

        Raises:
            BadInput: Another ending, or no such folder.
        """
        kind = format_of(path)
        if kind == "pdf":
            return self.to_pdf(path)
        if kind == "docx":
            return self.to_docx(path)
        return write(path, (self.to_html() if kind == "html" else self.to_json()).encode())


def picture_of(image: Image, caption: str = "", marks: list[Mark] | None = None) -> Picture:
    """A :class:`Picture` of a PIL image; only pixels are kept."""
    small = image.convert("RGB")
    small.info = {}  # a JPEG comment would be carried over
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    data = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(data, *image.size, caption, marks or [])


def format_of(path: str | Path) -> str:
    """The format a file name asks for.

    Raises:
        BadInput: None of :data:`FORMATS`.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    kind = "html" if kind == "htm" else kind
    if kind not in FORMATS:
        allowed = ", ".join(f".{name}" for name in FORMATS)
        raise BadInput(f"the report is to be named {Path(path).name!r}; its name must end in one of: {allowed}")
    return kind


def write(path: str | Path, data: bytes) -> Path:
    """Write a file whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise BadInput(f"the folder {path.parent} cannot be written to: {error.strerror}; choose another") from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        # A data URI is long and has a shape of its own; Picture.image checks it.
        return value if value.startswith("data:image/") and "<" not in value else clean(value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: _cleaned(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, list):
        if len(value) > MAX_ITEMS:
            raise TooLarge(f"a list of the report has {len(value):,} entries; at most {MAX_ITEMS} are allowed")
        return [_cleaned(one) for one in value]
    return value
