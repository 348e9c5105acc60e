"""PathVQA (He et al. 2020): open and yes/no questions, scored as LLaVA-Med and as PA-LLaVA score them, and strictly.

Files, in any of the published shapes: LLaVA-Med's list of ``{id, image, conversations, answer_type}``, PA-LLaVA's
object ``{id: {image, question, answer, answer_type}}``, or the hub's parquet with ``image, question, answer``. A split
is the file ``SPLIT.json`` or ``SPLIT*.parquet`` in the folder or in ``pathvqa/`` below it, its images in ``images/``
beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from assistant.files import whole
from eval.metrics.text import llava_med_closed, llava_med_scores, pa_llava_exact, token_f1, yes_no
from eval.task import Item, Response, Root, measures
from training.data.records import DataError, data_root

_CLOSED_TYPES = {"yes/no", "closed"}


class PathVQA:
    """The benchmark. Parts: ``closed`` (the answer is yes or no) and ``open``."""

    name = "pathvqa"
    kind = "answer"
    version = "1"
    max_new_tokens = 64

    def load(self, root: Root, split: str) -> list[Item]:
        """Items of a split in published order.

        Raises:
            DataError: No such file, or it is in none of the published shapes.
        """
        path = _find(data_root(root), split)
        rows = _read_parquet(path) if path.suffix == ".parquet" else _read_json(path)
        return [_item(path, split, *row) for row in rows]

    def prompt(self, item: Item) -> str:
        return str(item.fields["question"])

    def score(self, item: Item, response: Response) -> dict[str, Any]:
        said, wanted = response.text, str(item.answer)
        row: dict[str, Any] = {"answer": wanted, "pa_exact": float(pa_llava_exact(said, wanted))}
        if item.part == "closed":
            published = llava_med_closed(said, wanted)
            row["med_closed"] = float("nan") if published is None else published
            row["closed_strict"] = float(yes_no(said) == wanted.strip().lower())
            row["said"], row["wanted"] = yes_no(said) or "neither", wanted.strip().lower()
            return row
        scores = llava_med_scores(said, wanted)
        row |= {f"med_{name}": value for name, value in scores.items()}
        return row | {"token_f1": token_f1(said, wanted)}

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        columns = {
            "closed_strict": "closed accuracy (strict: first word)",
            "pa_exact": "exact match (PA-LLaVA)",
            "med_closed": "closed accuracy (LLaVA-Med: other answers left out)",
            "med_recall": "open recall (LLaVA-Med)",
            "med_exact": "open 'exact match' (LLaVA-Med: share of words)",
            "med_f1": "open F1 (LLaVA-Med)",
            "token_f1": "open F1 (SQuAD)",
            "med_bleu": "BLEU (LLaVA-Med)",
            "med_bleu_1": "BLEU-1 (LLaVA-Med)",
        }
        inside = {"closed": ("closed_strict", "pa_exact", "med_closed"), "open": ("pa_exact", "token_f1")}
        tables = []
        for part, strict in inside.items():
            kept = {c: n for c, n in columns.items() if part == "open" or c in strict}
            if part == "open":
                kept = {c: n for c, n in kept.items() if "closed" not in c}
            wrong = tuple(c for c in kept if not c.startswith("med_"))
            some = rows[rows["part"] == part]
            if len(some):
                tables.append(measures(some, kept, errors_wrong=wrong).assign(part=part))
        closed = rows[(rows["part"] == "closed") & (rows["status"] == "ok")]
        if len(closed):
            one = closed[closed["condition"] == closed["condition"].iloc[0]]
            hit = (one["wanted"] == one["wanted"].mode().iloc[0]).astype(float)
            constant = one.assign(condition="majority", closed_strict=hit)
            tables.append(measures(constant, {"closed_strict": columns["closed_strict"]}).assign(part="closed"))
        return pd.concat(tables, ignore_index=True) if tables else measures(rows, {})


def _find(base: Path, split: str) -> Path:
    for folder in (base, base / "pathvqa", base / "PathVQA"):
        for path in (folder / f"{split}.json", *sorted(folder.glob(f"{split}*.parquet"))):
            if path.is_file():
                return path
    raise DataError(f"no PathVQA split {split!r} in {base}; put {split}.json or {split}.parquet there")


#: id, image name or bytes, question, answer, answer type
_Row = tuple[str, Any, str, str, str]


def _read_json(path: Path) -> Iterator[_Row]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}); fetch it again") from error
    rows = data.items() if isinstance(data, dict) else ((row.get("id"), row) for row in data)
    for number, (identity, row) in enumerate(rows, 1):
        try:
            turns = row.get("conversations") or row.get("conversatons")  # the published file has the misspelling
            if turns:
                question, answer = str(turns[0]["value"]), str(turns[1]["value"])
            else:
                question, answer = str(row["question"]), str(row["answer"])
            question = question.replace("<image>", "").strip()
            yield str(identity), str(row["image"]), question, answer, str(row.get("answer_type", ""))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, item {number}: needs image, question and answer ({error!r})") from error


def _read_parquet(path: Path) -> Iterator[_Row]:
    frame = pd.read_parquet(path)
    missing = {"image", "question", "answer"} - set(frame.columns)
    if missing:
        raise DataError(f"{path} has no column {', '.join(sorted(missing))}; expected image, question, answer")
    folder = path.parent / "images" / path.stem
    for number, row in enumerate(frame.to_dict("records")):
        image = row["image"]
        if isinstance(image, dict):  # bytes inside the table: written out once, so that hashes and galleries have files
            name = str(image.get("path") or f"{number}.jpg")
            target = folder / Path(name).name
            if image.get("bytes") and not target.is_file():
                with whole(target) as partial:
                    partial.write_bytes(image["bytes"])
            image = f"{path.stem}/{target.name}"
        yield str(number), str(image), str(row["question"]), str(row["answer"]), ""


def _item(path: Path, split: str, identity: str, image: str, question: str, answer: str, kind: str) -> Item:
    closed = kind.lower() in _CLOSED_TYPES if kind else answer.strip().lower() in {"yes", "no"}
    places = [path.parent / "images" / image, path.parent / "images" / split / image, path.parent / image]
    place = next((p for p in places if p.is_file()), places[0])
    problem = "" if question and answer.strip() else "the question or the answer is empty"
    part = "closed" if closed else "open"
    return Item(f"{split}/{identity}", f"{split}/{image}", part, place, answer, {"question": question}, problem)
