"""PathMMU (Sun et al. 2024, arXiv 2401.16355): expert multiple-choice questions, official and strict score.

Data as published: a folder with ``data.json`` (subset → split → items) and ``images/``; or one JSON file of a subset
without images, which runs text-only (``benchmarks/pathmmu_socialpath_text.json``). Splits: ``val``, ``test_tiny``,
``test``, and ``all``, the published "ALL" (test and tiny together).

The official score draws an answer where none can be read and leaves out what fails; the strict one counts both as
wrong, so it is a share of the published n.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from eval.pathmmu_parser import LETTERS, Unreadable, official_hits, official_options, official_prompt, parse
from eval.task import Item, Response, Root, measures, one_of
from training.data.records import DataError, data_root

SUBSETS = ("PubMed", "SocialPath", "EduContent", "Atlas", "PathCLS")
SPLITS = {"val": ("val",), "test_tiny": ("test_tiny",), "test": ("test",), "all": ("test", "test_tiny")}
TEXT_ONLY = "benchmarks/pathmmu_socialpath_text.json"


class PathMMU:
    """The benchmark.

    Args:
        rotations: How many cyclic rotations of the options are asked, 1 to 5; the first is as published. The measure
            ``consistent`` is the share of questions answered alike (by text) in all of them.
    """

    name = "pathmmu"
    kind = "answer"
    max_new_tokens = 16

    def __init__(self, rotations: int = 1) -> None:
        self.rotations = rotations
        self.version = f"1-rotations{rotations}"
        if rotations > 1:
            self.name = "pathmmu-rotated"

    def load(self, root: Root, split: str) -> list[Item]:
        """Items by subset, split and number, each in all its rotations.

        Raises:
            DataError: No data.json, or it is not as published. BadInput: Unknown split.
        """
        names = SPLITS[one_of(split, list(SPLITS), "split")]
        path = data_file(root)
        published = _read(path)
        out: list[Item] = []
        for subset in [s for s in SUBSETS if s in published] + sorted(set(published) - set(SUBSETS)):
            for name in names:
                for row in published[subset].get(name, []):
                    out += [_item(path, subset, name, row, turn) for turn in range(self.rotations)]
        if not out:
            raise DataError(f"{path} has no items in the split {split!r}; subsets: {', '.join(published)}")
        return out

    def prompt(self, item: Item) -> str:
        return official_prompt(item.fields["question"], item.fields["options"])

    def score(self, item: Item, response: Response) -> dict[str, Any]:
        options = list(item.fields["options"])
        read = parse(response.text, options)
        # A reply that is an option's text and nothing else names it; officially that holds for the right one only.
        chosen = options.index(response.text) if read.index is None and response.text in options else read.index
        return {
            "choice": -1 if read.index is None else read.index,
            "answer": item.answer,
            "options": options,
            "branch": read.branch,
            "parsed": float(chosen is not None),
            "strict": float(chosen == item.answer),
            "said": None if chosen is None else options[chosen],
            "wanted": options[item.answer],
            "question": item.fields["base"],
        }

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        rows = with_official(rows)
        columns = {
            "official": "accuracy (official, random fallback)",
            "strict": "accuracy (strict)",
            "parsed": "parsed",
        }
        table = measures(rows, columns, errors_wrong=("strict",))
        extra = [table, _majority(rows)]
        if self.rotations > 1:
            extra.append(measures(_over_rotations(rows), {"consistent": "same answer in all rotations"}))
        return pd.concat(extra, ignore_index=True)


def data_file(root: Root) -> Path:
    """``data.json`` below a root, or the text-only file of the local sets.

    Raises:
        DataError: Neither is there.
    """
    base = data_root(root)
    for path in (base / "data.json", base / "pathmmu" / "data.json", base / TEXT_ONLY):
        if path.is_file():
            return path
    raise DataError(f"no PathMMU data in {base}; put data.json and images/ there as published")


def with_official(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds the column ``official``: hits with the random fallback, drawn anew for every condition, in stored order."""
    rows = rows.assign(official=float("nan"))
    for _, inside in rows.groupby("condition", sort=False):
        ok = inside[inside["status"] == "ok"]
        if len(ok):
            entries = [
                (None if c < 0 else int(c), str(r), list(o), int(a))
                for c, r, o, a in zip(ok["choice"], ok["response"], ok["options"], ok["answer"], strict=True)
            ]
            rows.loc[ok.index, "official"] = [float(hit) for hit in official_hits(entries)]
    return rows


def _read(path: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}); fetch it again") from error
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        value = {"SocialPath": value}  # one subset on its own
    if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
        raise DataError(f"{path} is not PathMMU's data.json; expected subset → split → list of items")
    return value


def _item(path: Path, subset: str, split: str, row: dict[str, Any], turn: int) -> Item:
    """One question in one rotation; anything wrong with it becomes its problem."""
    base = f"{subset}/{split}/{row.get('No')}"
    identity = base if turn == 0 else f"{base}#r{turn}"
    name = str(row.get("img", ""))
    fields: dict[str, Any] = {"question": str(row.get("question", "")), "options": [], "base": base}
    image = path.parent / "images" / name if name else None
    problem, answer = "", -1
    try:
        options = [str(option) for option in row["options"]]
        cut = official_options(options)
        letter = str(row["answer"])[:1].upper()
        if letter not in LETTERS[: len(cut)]:
            raise Unreadable(f"the answer {row['answer']!r} is not among the options")
        if len(str(row["answer"])) > 1 and str(row["answer"]) not in options:
            raise Unreadable(f"the answer {row['answer']!r} is not among the options")
        answer = (LETTERS.index(letter) - turn) % len(cut)
        fields["options"] = cut[turn % len(cut) :] + cut[: turn % len(cut)]
    except Unreadable as error:
        problem = str(error)
    except (KeyError, TypeError) as error:
        problem = f"the item has no usable {error.args[0] if error.args else 'options'}"
    return Item(identity, f"{subset}/{name or base}", subset, image, answer, fields, problem)


def _majority(rows: pd.DataFrame) -> pd.DataFrame:
    """Control without a model: always the letter that is right most often (seen from the answers: an upper bound)."""
    one = rows[(rows["status"] == "ok") & (rows["condition"] == rows["condition"].iloc[0])]
    if not len(one):
        return measures(one, {})
    best = one["answer"].mode().iloc[0]
    constant = one.assign(condition="majority", hit=(one["answer"] == best).astype(float))
    return measures(constant, {"hit": "accuracy (strict)"})


def _over_rotations(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a question and condition: was the same text chosen every time?"""
    ok = rows[rows["status"] == "ok"]
    out = []
    for (condition, question), inside in ok.groupby(["condition", "question"], sort=False):
        alike = not inside["said"].isna().any() and inside["said"].str.lower().nunique() == 1
        first = inside.iloc[0]
        out.append(
            {"condition": condition, "id": question, "group": first["group"], "part": first["part"], "status": "ok"}
            | {"consistent": float(alike)}
        )
    return pd.DataFrame(out, columns=["condition", "id", "group", "part", "status", "consistent"])


def robustness(summary: pd.DataFrame, metric: str = "accuracy (strict)") -> pd.DataFrame:
    """Accuracy by corruption [rows] and strength [columns], with the clean one as strength 0."""
    inside = summary[(summary["metric"] == metric) & (summary["part"] == "all")]
    clean = inside[inside["condition"] == "image"]["value"]
    kinds: Sequence[tuple[str, int, float]] = [
        (c.split("-")[0], int(c.split("-")[1]), v)
        for c, v in zip(inside["condition"], inside["value"], strict=True)
        if "-" in c and c.split("-")[1].isdigit()
    ]
    table = pd.DataFrame(kinds, columns=["corruption", "strength", "value"])
    table = table.pivot(index="corruption", columns="strength", values="value")
    if len(clean):
        table.insert(0, 0, clean.iloc[0])
    return table
