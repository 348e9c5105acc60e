"""The local sets as a :class:`~eval.task.Task`: four-choice questions in wording never trained on, for any model.

The same questions as ``eval.vqa`` (which scores options by likelihood and fits the calibration); here the model *says*
which it chooses, so an endpoint or any Hugging Face model can be put beside ours.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from assistant.chat.prompt import LETTERS
from eval.pathmmu_parser import parse
from eval.stats import calibration_error, cluster_statistic
from eval.task import Item, Response, Root, by_part, measures
from training.data.questions import ChoiceQuestion, diagnosis_names, four_choice
from training.data.records import OPEN_SETS, RESTRICTED_SETS, load_records


@dataclass
class LocalVQA:
    """Four-choice questions on the local sets.

    Args:
        per_part: At most so many questions of each set and kind, drawn with a fixed seed; None: all.
        restricted: Also the sets of non-commercial or unclear licence.
    """

    per_part: int | None = None
    restricted: bool = True

    name = "local-vqa"
    kind = "answer"
    max_new_tokens = 16

    @property
    def version(self) -> str:
        return f"1-{self.per_part or 'all'}-{'all' if self.restricted else 'open'}"

    def load(self, root: Root, split: str) -> list[Item]:
        """Questions by set and kind.

        Raises:
            DataError: A set is missing or malformed.
        """
        sets = OPEN_SETS + (RESTRICTED_SETS if self.restricted else ())
        train = load_records(sets, "train", root)
        diagnoses = diagnosis_names([*train, *load_records(["atlas"], "val", root)])
        commonest = _commonest(train)
        parts: dict[str, list[ChoiceQuestion]] = defaultdict(list)
        for question in four_choice(load_records(sets, split, root), diagnoses):
            parts[f"{question.record.dataset}: {question.kind}"].append(question)
        out = []
        for part, questions in parts.items():
            if self.per_part is not None and len(questions) > self.per_part:
                rng = random.Random(part)  # noqa: S311 - reproducible, not secret
                questions = rng.sample(questions, self.per_part)
            out += [_item(part, q, commonest) for q in questions]
        return out

    def prompt(self, item: Item) -> str:
        listed = "\n".join(f"{LETTERS[i]}) {option}" for i, option in enumerate(item.fields["options"]))
        return f"{item.fields['stem']}\n{listed}"

    def score(self, item: Item, response: Response) -> dict[str, Any]:
        options = list(item.fields["options"])
        index = parse(response.text, options).index
        if index is None:  # "B) liver" or the option alone, as small models say it
            said = response.text.strip().casefold()
            named = [i for i, o in enumerate(options) if said in (f"{LETTERS[i]}) {o}".casefold(), o.casefold())]
            index = named[0] if named else None
        return {
            "parsed": float(index is not None),
            "hit": float(index == item.answer),
            "said": None if index is None else options[index],
            "wanted": options[item.answer],
            "majority": item.fields["majority"],
        }

    def summarise(self, rows: pd.DataFrame) -> pd.DataFrame:
        tables = [measures(rows, {"hit": "accuracy", "parsed": "parsed"}, errors_wrong=("hit",))]
        one = rows[rows["condition"] == rows["condition"].iloc[0]]
        ok = one[one["status"] == "ok"]
        if len(ok):
            constant = ok.assign(condition="majority", hit=(ok["majority"] == ok["wanted"]).astype(float))
            tables.append(measures(constant, {"hit": "accuracy"}))
        sure = ok[ok["confidence"].notna()] if len(ok) else ok
        if len(sure):
            tables.append(_calibration(sure))
        return pd.concat(tables, ignore_index=True)


def _calibration(rows: pd.DataFrame) -> pd.DataFrame:
    out = []
    for name, part in by_part(rows)[:1]:
        p, hit = part["confidence"].to_numpy(dtype=float), part["hit"].to_numpy(dtype=float)

        def error(index: Any, p: Any = p, hit: Any = hit) -> float:
            return calibration_error(p[index], hit[index])

        value, low, high = cluster_statistic(error, list(part["group"]))
        condition = part["condition"].iloc[0]
        groups = part["group"].nunique()
        out.append((name, "expected calibration error", condition, value, low, high, len(part), 0, groups))
    from eval.task import SUMMARY

    return pd.DataFrame(out, columns=list(SUMMARY))


def _commonest(train: list[Any]) -> dict[tuple[str, str], Counter[str]]:
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for record in train:
        for kind, value in record.facts.items():
            counts[record.dataset, kind][value] += 1
    return counts


def _item(part: str, q: ChoiceQuestion, commonest: dict[tuple[str, str], Counter[str]]) -> Item:
    seen = [commonest[q.record.dataset, q.kind][option] for option in q.options]
    fields = {"stem": q.stem, "options": list(q.options), "majority": q.options[int(np.argmax(seen))]}
    return Item(q.id, q.record.group, part, q.record.image, q.answer, fields)
