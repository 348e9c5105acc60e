"""What can be put into a case library: a folder, a JSONL index, a CSV table, a ``datasets`` dataset, or slides.

Labels come from the columns of the index, never from file names, which may name patients. A column that is not one of
the names below becomes a fact to filter by, if its values are plain texts or numbers.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assistant.cases.slides import SUFFIXES as SLIDE_SUFFIXES
from assistant.cases.slides import Tiling, is_slide, tiles
from assistant.errors import BadInput, PathAssistError
from retrieval.records import Case

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"}
INDEX_NAME = "index.jsonl"

#: Other names for the columns of a case, in order of preference.
_ALIASES = {
    "image": ("image", "image_path", "file_name"),
    "title": ("title",),
    "text": ("text", "caption"),
    "organ": ("organ",),
    "stain": ("stain",),
    "diagnosis": ("diagnosis", "label"),
    "group": ("group", "slide", "patient", "case", "source_image"),
    "licence": ("licence", "license"),
    "source": ("source",),
    "id": ("id",),
    "region": ("region",),
}
_NOT_FACTS = {
    "image",
    "image_path",
    "file_name",
    "id",
    "region",
    "mask",
    "instances",
    "types",
    "text",
    "caption",
    "title",
}


@dataclass(frozen=True)
class Item:
    """A case before its image has been read.

    Attributes:
        case: With the locator, but without hash and stamp; ``id`` may be empty.
        image: A path, or the bytes of a file.
        stamp: Set where it is known without the file.
        tile_pixels: Above 0, the image is a slide and the region of the case is scaled to this size.
        error: Why there is nothing to read, for a slide that cannot be cut.
    """

    case: Case
    image: Path | bytes
    stamp: str = ""
    tile_pixels: int = 0
    error: str = ""


def read_source(source: str, tiling: Tiling | None = None) -> Iterator[Item]:
    """The cases of a source, in a fixed order; a slide without a region becomes its tiles with tissue.

    Args:
        source: A folder with an ``index.jsonl``; a folder that ``datasets`` saved; any other folder of images; a
            ``.jsonl`` or ``.csv`` file; a slide. Paths in an index are relative to its folder.
        tiling: How slides are cut; default 256 pixels at full resolution.

    Raises:
        BadInput: Nothing there, another kind of file, or an index with a bad line, which is named.
    """
    return _cut(_read_source(source), tiling or Tiling())


def _read_source(source: str) -> Iterator[Item]:
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / INDEX_NAME).is_file():
            return _from_rows(_jsonl(path / INDEX_NAME), path / INDEX_NAME)
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return read_dataset(path)
        return _folder(path)
    if not path.is_file():
        raise BadInput(f"{source!r} does not exist; give a folder of images, an index.jsonl or a .csv file")
    match path.suffix.lower():
        case ".jsonl":
            return _from_rows(_jsonl(path), path)
        case ".csv":
            return _from_rows(_csv(path), path)
    if is_slide(path):
        return iter([Item(Case("", image=str(path.resolve()), title="untitled"), path)])
    raise BadInput(
        f"{path.name!r} is not a source of cases; allowed: a folder of images, a folder saved by datasets, a slide,"
        " a .jsonl or a .csv file with an 'image' column"
    )


def _cut(items: Iterable[Item], tiling: Tiling) -> Iterator[Item]:
    """Items, with slides replaced by their tiles, which keep the labels of the slide."""
    for item in items:
        if not isinstance(item.image, Path) or item.case.region is not None or not is_slide(item.image):
            yield item
            continue
        try:
            found = tiles(item.image, tiling)
        except PathAssistError as error:
            yield replace(item, error=str(error))
            continue
        for number, tile in enumerate(found, 1):
            case = replace(
                item.case,
                id=f"{item.case.id}/{number}" if item.case.id else "",
                region=tile.region,
                title=tile.title if item.case.title == "untitled" else item.case.title,
                group=item.case.group or tile.group,
                facts={**item.case.facts, **tile.facts},
            )
            yield Item(case, item.image, tile_pixels=tiling.pixels)


def case_from(row: Mapping[str, Any], image: str) -> Case:
    """The record of one row of labels."""
    values = {name: _first(row, aliases) for name, aliases in _ALIASES.items()}
    used = {alias for name in ("organ", "stain", "diagnosis", "licence", "source") for alias in _ALIASES[name]}
    group_column = next((alias for alias in _ALIASES["group"] if _plain(row.get(alias))), "")
    facts = {
        key: text
        for key, value in row.items()
        if key not in _NOT_FACTS | used | {group_column} and (text := _plain(value)) and '"' not in key
    }
    title = values["title"] or ", ".join(filter(None, (values["diagnosis"], values["organ"]))) or "untitled"
    kept = {name: values[name] for name in ("id", "text", "organ", "stain", "diagnosis", "group", "licence", "source")}
    return Case(image=image, title=title, region=_region(row.get("region")), facts=facts, **kept)


def read_dataset(path: Path) -> Iterator[Item]:
    """A dataset saved with ``Dataset.save_to_disk``; splits of a ``DatasetDict`` become the fact ``split``.

    Raises:
        BadInput: It cannot be read, or has no column of images.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets raises nearly anything for a damaged folder
        raise BadInput(f"{str(path)!r} cannot be read as a dataset: {str(error).splitlines()[0]}") from error
    parts = loaded.items() if isinstance(loaded, datasets.DatasetDict) else [("", loaded)]
    for split, part in parts:
        columns = [name for name, feature in part.features.items() if isinstance(feature, datasets.Image)]
        if not columns:
            raise BadInput(f"the dataset {str(path)!r} has no image column; it has: {', '.join(part.features)}")
        plain = part.cast_column(columns[0], datasets.Image(decode=False))  # we decode, within our limits
        for number, row in enumerate(plain):
            picture = row.pop(columns[0]) or {}
            data = picture.get("bytes")
            place = f"{path.resolve()}#{split}{'/' if split else ''}{number}"
            image: Path | bytes = data if data is not None else Path(picture.get("path") or place)
            yield Item(case_from(({"split": split} if split else {}) | row, place), image, part._fingerprint)


def _folder(path: Path) -> Iterator[Item]:
    """Images and slides below a folder; those of one subfolder are one group, whose name is not kept."""
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES | SLIDE_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise BadInput(f"no images in {str(path)!r}; expected files ending in {', '.join(sorted(SUFFIXES))}")
    for file in files:
        parent = file.relative_to(path).parent
        group = "" if parent == Path() else hashlib.sha256(str(parent).encode()).hexdigest()[:12]
        yield Item(Case("", image=str(file.resolve()), title="untitled", group=group), file)


def _from_rows(rows: list[tuple[int, dict[str, Any]]], index: Path) -> Iterator[Item]:
    """Rows of an index with their line numbers."""
    items = []
    for number, row in rows:
        image = _first(row, _ALIASES["image"])
        if not image or "\0" in image:
            raise BadInput(f"{index}, line {number}: no 'image'; it has: {', '.join(map(str, row)) or 'nothing'}")
        path = (index.parent / image).resolve()
        try:
            items.append(Item(case_from(row, str(path)), path))
        except BadInput as error:
            raise BadInput(f"{index}, line {number}: {error}") from error
    if not items:
        raise BadInput(f"{str(index)!r} names no images; it needs one row an image, with an 'image' column")
    return iter(items)


def _jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{path}, line {number}: not JSON ({error}); expected one object a line") from error
        if not isinstance(row, dict):
            raise BadInput(f"{path}, line {number}: expected an object, saw {type(row).__name__}")
        rows.append((number, row))
    return rows


def _csv(path: Path) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(_text(path).splitlines())
    try:
        # Cells beyond the header come under the key None.
        return [(reader.line_num, {key: value for key, value in row.items() if key}) for row in reader]
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{str(path)!r} cannot be read: {error}; save it as UTF-8 text") from error


def _first(row: Mapping[str, Any], names: Iterable[str]) -> str:
    return next((text for name in names if (text := _plain(row.get(name)))), "")


def _plain(value: Any) -> str:
    """A text or number as text; "" for anything else."""
    return str(value).strip() if isinstance(value, (str, int, float)) else ""


def _region(value: Any) -> tuple[int, int, int, int] | None:
    """x, y, width, height; a list, or a text with commas."""
    if value is None or value == "":
        return None
    try:
        x, y, width, height = (int(part) for part in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        raise BadInput(f"region {value!r} is not x, y, width, height in pixels") from None
    if min(x, y) < 0 or min(width, height) < 1:
        raise BadInput(f"region {value!r} is outside the image; x and y start at 0, width and height at 1")
    return x, y, width, height
