"""Instruction data for tool use: requests in varied wording, and the calls that answer them.

Kinds: one call, several calls, chained calls (the second works on the picture the first made), no call (ordinary visual
questions and talk about tools), a tool that fails, a stain that is wrong for the tool (it is called and refuses, which
the user gets to see), a result to be checked against another tool, texts that pretend to be the user, and tools of
other programs. ``val`` shares no wording with ``train``.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from assistant.chat.grammar import FunctionTool, Parameter, from_schema, from_tool, numbers_in
from assistant.chat.planner import SUMMARIES, Facts
from assistant.chat.prompt import Question
from training.data import tool_phrases as words
from training.data import tool_phrases_more as more
from training.data import tool_phrases_wide as wide
from training.data.phrases import ASK, GENERAL, UNANSWERABLE
from training.data.questions import LABELS, ORGANS, STAINS, draw_options, four_choice, vocabulary
from training.data.records import OPEN_SETS, load_records
from training.data.tool_phrases_fresh2 import FRESH2
from training.data.tool_phrases_fresh3 import FRESH3
from training.data.tool_phrases_fresh4 import FRESH4
from training.data.tool_phrases_fresh5 import FRESH5
from training.data.tool_phrases_fresh6 import FRESH6
from training.data.tool_phrases_val import FRESH

Split = Literal["train", "val"]
#: Of the training wordings: all, or three quarters to fit on and the rest to choose settings by.
Part = Literal["all", "fit", "dev"]

KINDS = {
    "call": 0.40, "choice": 0.10, "none": 0.28, "several": 0.05, "chained": 0.03, "fails": 0.03, "wrong stain": 0.03,
    "contradiction": 0.03, "injected": 0.03, "other tools": 0.02,
}  # fmt: skip
#: Of ``train``: more of what is hard.
TRAIN_KINDS = {
    "call": 0.36, "choice": 0.06, "none": 0.27, "several": 0.12, "chained": 0.05, "fails": 0.02, "wrong stain": 0.02,
    "contradiction": 0.06, "injected": 0.03, "other tools": 0.01,
}  # fmt: skip
STAIN_WORDS = {"H&E-like": "H&E", "DAB immunostain": "DAB immunostain", "other or uncertain": "other stain"}
_FITTING = {
    "score_ihc": "DAB immunostain", "classify_cervical_cell": "other stain", "detect_blood_cells": "other stain",
}  # fmt: skip
#: Arguments of tools that may not be there yet; those of the others are read from the tools themselves.
_PLANNED: dict[str, dict[str, Any]] = {
    "segment_glands": {}, "segment_tissue": {}, "detect_blood_cells": {},
    "ground_phrase": {"phrase": {"type": "string"}},
}  # fmt: skip
_CHOICES = {"colorectal": "classify_tissue", "cervical": "classify_cervical_cell", "leucocyte": "detect_blood_cells"}


@dataclass(frozen=True)
class Expected:
    """A call that is right, and whether the tool then works."""

    name: str
    arguments: dict[str, Any]
    ok: bool = True


@dataclass(frozen=True)
class Request:
    """A user's turn with the calls it needs.

    Attributes:
        extra: Tools of another program that come with it.
        wording: The templates it was made from; requests that share one are not independent.
    """

    question: str
    facts: Facts
    calls: tuple[Expected, ...]
    kind: str
    extra: tuple[FunctionTool, ...] = ()
    wording: str = ""


@lru_cache(maxsize=1)
def planned_tools() -> tuple[FunctionTool, ...]:
    """All tools to plan for, in the order of the prompt."""
    from assistant.tools.registry import find_tools

    there = find_tools().tools
    out = []
    for name, summary in SUMMARIES.items():
        if name in there:
            out.append(from_tool(there[name], summary))
            continue
        image = {"image": {"type": "integer", "minimum": 1}}
        schema = {"properties": image | _PLANNED[name], "required": list(_PLANNED[name])}
        out.append(from_schema(name, summary, schema, frozenset({"image"})))
    return tuple(out)


def other_tools(split: Split) -> dict[str, FunctionTool]:
    """Tools of other programs."""
    table = words.OTHER_TRAIN if split == "train" else words.OTHER_VAL
    return {
        name: from_schema(
            name, summary, {"properties": {k: {"type": t} for k, t in kinds.items()}, "required": list(kinds)}
        )
        for name, (summary, kinds, _) in table.items()
    }


class Requests:
    """Draws requests: number ``index`` of a split is always the same.

    Args:
        split: Decides wording, slot values and the visual questions among those that need no tool.
        part: Of the wordings of ``train``.
    """

    def __init__(self, split: Split, seed: int = 0, part: Part = "all") -> None:
        train = split == "train"
        self.split, self.seed = split, seed
        self.kinds = TRAIN_KINDS if train else KINDS

        def kept(texts: tuple[str, ...]) -> tuple[str, ...]:
            """The wordings of the part; all where there are too few to divide."""
            mine = [t for t in texts if part == "all" or (zlib.crc32(t.encode()) % 4 == 0) == (part == "dev")]
            return tuple(mine) or texts

        def tables(tables: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
            return {key: kept(texts) for key, texts in tables.items()}

        self.wording = tables(words.TRAIN) if train else words.VAL
        self.wide = tables(wide.WIDE) if train else {}
        self.claims = tables(wide.CLAIMS) if train else {}
        self.one, self.two, self.three = kept(wide.ONE), kept(wide.TWO), kept(wide.THREE)
        self.none = kept(words.NONE_TRAIN) if train else words.NONE_VAL
        self.none_wide = kept(wide.NONE) if train else ()
        self.frames = (*words.FRAMES_TRAIN, *wide.FRAMES) if train else words.FRAMES_VAL
        self.injected = words.INJECTED_TRAIN if train else words.INJECTED_VAL
        self.images = words.IMAGE_TRAIN if train else words.IMAGE_VAL
        self.numbered = words.NUMBERED_TRAIN if train else words.NUMBERED_VAL
        self.phrases = (*words.PHRASES_TRAIN, *more.PHRASES) if train else words.PHRASES_VAL
        self.texts = words.TEXTS_TRAIN if train else words.TEXTS_VAL
        self.mpp = words.MPP_TRAIN if train else words.MPP_VAL
        self.other = words.OTHER_TRAIN if train else words.OTHER_VAL
        self.other_tools = other_tools(split)
        self.visual = _visual(split)
        self.choices = _choices(split)

    def draw(self, index: int) -> Request:
        """Request number ``index``."""
        rng = random.Random(f"{self.split}:{self.seed}:{index}")  # noqa: S311 - reproducible, not secret
        kind = rng.choices(list(self.kinds), list(self.kinds.values()))[0]
        self._used: list[str] = []
        made: Request = getattr(self, "_" + kind.replace(" ", "_"))(rng)
        while self.split == "train" and (wide.plain(made.question) in wide.HELD or wide.near(made.question)):
            self._used = []
            made = getattr(self, "_" + kind.replace(" ", "_"))(rng)
        return replace(made, wording=" | ".join(self._used) or made.question.split("\n")[0])

    # -- kinds -----------------------------------------------------------------------------------------------------

    def _call(self, rng: random.Random) -> Request:
        if self.wide and rng.random() < 0.12:
            text, calls = self._listed(1, rng)
            return self._request(text, 1, calls, "call", rng)
        key = rng.choices(list(self.wording), [0.5 if "+" in k else 1.0 for k in self.wording])[0]
        count = 1 if rng.random() < 0.65 else rng.randint(2, 4)
        if key.startswith("normalise"):
            count = rng.randint(2, 4)
        question, call = self._worded(key, rng, count)
        return self._request(question, count, (call,), "call", rng)

    def _choice(self, rng: random.Random) -> Request:
        kind = rng.choice(list(_CHOICES))
        labels = LABELS[kind]
        options, _ = draw_options(kind, rng.choice(labels), rng, labels)
        stem = rng.choice(self.choices[kind])
        name = _CHOICES[kind]
        arguments: dict[str, Any] = {"image": 1} | ({"site": "colorectal"} if kind == "colorectal" else {})
        return self._request(
            Question(stem, options).prompt(), 1, (Expected(name, arguments),), "choice", rng, frame=False
        )

    def _none(self, rng: random.Random) -> Request:
        if rng.random() < (0.2 if self.none_wide else 0.6):
            return self._request(rng.choice(self.visual), rng.choice((1, 1, 1, 2)), (), "none", rng, frame=False)
        text = rng.choice(self.none_wide if self.none_wide and rng.random() < 0.85 else self.none)
        self._used.append(text)
        text = wide.spelled(text, rng) if self.none_wide else text
        count = rng.choice((0, 1, 1, 1, 2)) if "{img}" not in text else 1
        text = text.replace("{img}", rng.choice(self.images)).replace("{num}", str(rng.randint(2, 400)))
        return self._request(text, count, (), "none", rng)

    def _several(self, rng: random.Random) -> Request:
        if self.wide and rng.random() < 0.45:
            text, calls = self._listed(2 if rng.random() < 0.7 else 3, rng)
            return self._request(text, 1, calls, "several", rng)
        first, second = rng.sample([k for k in self.wording if not k.startswith("normalise")], 2)
        while second.split("+")[0] == first.split("+")[0]:
            second = rng.choice([k for k in self.wording if not k.startswith("normalise")])
        one, call_one = self._worded(first, rng, 1)
        two, call_two = self._worded(second, rng, 1)
        joint = rng.choice(
            wide.JOINTS if self.wide else ("{} Then: {}", "{} {}", "First: {} Second: {}", "{} Also: {}")
        )
        return self._request(_joined(joint, one, two), 1, (call_one, call_two), "several", rng)

    def _listed(self, count: int, rng: random.Random) -> tuple[str, tuple[Expected, ...]]:
        """A list of what tools give, and their calls."""
        names = rng.sample(list(wide.NOUNS), count)
        frame = rng.choice({1: self.one, 2: self.two, 3: self.three}[count])
        nouns, calls = [], []
        for name in names:
            noun = rng.choice(wide.NOUNS[name])
            arguments: dict[str, Any] = {"image": 1}
            if "{phrase}" in noun:
                arguments["phrase"] = rng.choice(self.phrases)
            if name == "classify_tissue":
                arguments["site"] = "colorectal"
            nouns.append(noun.format(phrase=arguments.get("phrase", "")))
            calls.append(Expected(name, arguments))
        self._used.append(frame)
        self._used += names
        return frame.replace("{img}", rng.choice(self.images)).format(*nouns), tuple(calls)

    def _chained(self, rng: random.Random) -> Request:
        count = rng.randint(2, 3)
        one, call_one = self._worded("normalise_stain", rng, count)
        key = rng.choice(("segment_nuclei", "segment_glands", "segment_tissue", "check_quality"))
        table = self.wide[key] if self.wide and rng.random() < 0.6 else self.wording[key]
        fitting = [
            [t for t in ts if "{num}" not in t and "{img}" in t and "\n" not in t] for ts in (table, words.TRAIN[key])
        ]
        template = rng.choice(fitting[0] or fitting[1])
        self._used.append(template)
        while "{img}" not in (two := wide.spelled(template, rng) if self.wide else template):
            pass
        if self.wide:
            made, joint = rng.choice(wide.MADE), rng.choice(wide.CHAINS)
        else:
            made = rng.choice(("the result", "the normalised image", "the new image"))
            joint = rng.choice(("{} Then: {}", "{} Afterwards: {}", "{} {}"))
        two = two.replace("{img}", made)
        call_two = Expected(key, {"image": count + 1})
        return self._request(_joined(joint, one, two), count, (call_one, call_two), "chained", rng)

    def _fails(self, rng: random.Random) -> Request:
        """A failed call is not made again."""
        base = self._call(rng)
        failed = Expected(base.calls[0].name, base.calls[0].arguments, ok=False)
        return Request(base.question, base.facts, (failed,), "fails")

    def _wrong_stain(self, rng: random.Random) -> Request:
        """The tool that was asked for is called and refuses; no other is put in its place."""
        key = rng.choice(("score_ihc", "segment_nuclei", "segment_glands", "score_ihc+membrane"))
        question, call = self._worded(key, rng, 1)
        stain = "H&E" if key.startswith("score") else "DAB immunostain"
        refused = Expected(call.name, call.arguments, ok=False)
        return Request(self._framed(question, rng), Facts(1, stain), (refused,), "wrong stain")

    def _contradiction(self, rng: random.Random) -> Request:
        """A result that the user doubts is checked by another tool; a claim that a tool can check, by that tool."""
        if self.claims and rng.random() < 0.5:
            key = rng.choice(list(self.claims))
            pattern = rng.choice(self.claims[key])
            self._used.append(pattern)
            said = wide.spelled(pattern, rng).replace("{num}", str(rng.choice((5, 12, 30, 60, 90, 150, 400))))
            arguments = {"image": 1} | ({"site": "colorectal"} if key == "classify_tissue" else {})
            claimed = said.replace("{img}", rng.choice(self.images))
            return self._request(claimed, 1, (Expected(key, arguments),), "contradiction", rng)
        key = rng.choice(("segment_nuclei", "segment_glands", "detect_blood_cells", "classify_cervical_cell"))
        question, call = self._worded(key, rng, 1)
        doubt = rng.choice(
            wide.DOUBTS
            if self.split == "train"
            else (
                "{} Also verify the image quality, since I doubt it.",
                "{} Please assess too whether it is in focus.",
            )
        )
        check = Expected("check_quality", {"image": 1})
        return self._request(doubt.format(question), 1, (call, check), "contradiction", rng)

    def _injected(self, rng: random.Random) -> Request:
        base = self._none(rng)
        pattern = rng.choice((*self.injected, *wide.INJECTED) if self.wide else self.injected)
        pattern = wide.spelled(pattern, rng).replace("{x}", rng.choice(wide.ORDERS)) if self.wide else pattern
        text = pattern.format(base.question)
        return Request(text, base.facts, (), "injected")

    def _other_tools(self, rng: random.Random) -> Request:
        name = rng.choice(list(self.other))
        _, kinds, templates = self.other[name]
        values = {k: rng.choice(words.FILL[k]) for k in kinds}
        template = rng.choice(templates)
        self._used.append(template)
        question = template.format(**values)
        arguments = {k: v if kinds[k] == "string" else _plain(float(v)) for k, v in values.items()}
        extra = [name, *rng.sample([n for n in self.other_tools if n != name], 2)]
        rng.shuffle(extra)
        tools = tuple(self.other_tools[n] for n in extra)
        count = rng.choice((0, 1))
        return Request(
            self._framed(question, rng), Facts(count, self._stain("", rng) if count else ""),
            (Expected(name, arguments),), "other tools", tools,
        )  # fmt: skip

    # -- wording ---------------------------------------------------------------------------------------------------

    def _worded(self, key: str, rng: random.Random, count: int) -> tuple[str, Expected]:
        """A template filled in, and the call it asks for."""
        name, _, variant = key.partition("+")
        template = rng.choice(self.wide[key] if self.wide and rng.random() < 0.75 else self.wording[key])
        self._used.append(template)
        template = wide.spelled(template, rng) if self.wide else template
        number = 1 if "{img}" not in template else rng.randint(1, count)
        arguments: dict[str, Any] = {"image": number}
        values = {"img": self._image(number, count, rng), "num": str(rng.choice((5, 10, 20, 50, 100, 200)))}
        if name == "normalise_stain":
            reference = rng.choice([n for n in range(1, count + 1) if n != number])
            arguments["reference"] = reference
            values["ref"] = self._image(reference, count, rng)
        match variant:
            case "mpp":
                arguments["mpp"] = rng.choice(self.mpp)
                values["mpp"] = str(arguments["mpp"])
            case "membrane":
                arguments["compartment"] = "membrane"
            case "method":
                arguments["method"] = rng.choice(("vahadane", "reinhard"))
                values["method"] = rng.choice((arguments["method"], arguments["method"].title()))
            case "k":
                arguments["k"] = rng.choice((1, 2, 3, 4, 6, 8, 10, 12, 15, 20))
                spelled = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
                small = arguments["k"] <= 10 and rng.random() < 0.4
                values["k"] = spelled[arguments["k"] - 1] if small else str(arguments["k"])
            case "text":
                arguments["text"] = values["text"] = rng.choice(self.texts)
        if name == "ground_phrase":
            arguments["phrase"] = values["phrase"] = rng.choice(self.phrases)
        if name == "classify_tissue" and any(
            w in template.lower() for w in ("colo", "bowel", "polyp", "rect", "intestin")
        ):
            arguments["site"] = "colorectal"
        return template.format(**values), Expected(name, arguments)

    def _image(self, number: int, count: int, rng: random.Random) -> str:
        if count == 1:
            return rng.choice(self.images)
        if rng.random() < 0.3:
            return f"the {words.ORDINALS[number - 1]} image"
        return rng.choice(self.numbered).format(number)

    def _framed(self, text: str, rng: random.Random) -> str:
        if self.wide and text[-1:].isalnum() and rng.random() < 0.6:
            text += rng.choice(".!?")
        framed = rng.choice(self.frames).format(text)
        if rng.random() < 0.12:
            framed = framed.lower()
        return framed.rstrip("?.") if rng.random() < 0.08 else framed

    def _stain(self, name: str, rng: random.Random) -> str:
        fits = _FITTING.get(name, "H&E")
        return rng.choices((fits, *(s for s in STAIN_WORDS.values() if s != fits)), (0.8, 0.1, 0.1))[0]

    def _request(
        self, question: str, count: int, calls: tuple[Expected, ...], kind: str, rng: random.Random, frame: bool = True
    ) -> Request:
        stain = self._stain(calls[0].name if calls else "", rng) if count else ""
        if not count and calls:
            raise ValueError("a call needs an image")
        return Request(self._framed(question, rng) if frame else question, Facts(count, stain), calls, kind)


def _joined(joint: str, one: str, two: str) -> str:
    """Two requests in one: ``s`` without the closing mark, ``l`` beginning small."""
    small = [t[:1].lower() + t[1:] for t in (one, two)]
    bare = [t.rstrip(".?! ") for t in (one, two)]
    return joint.format(one, two, **{"0s": bare[0], "1s": bare[1], "0l": small[0], "1l": small[1]})


def fresh_requests(held: bool = False) -> list[Request]:
    """The requests of ``FRESH`` to ``FRESH5``, by which settings and rules are chosen, or of ``FRESH6``, on which
    nothing is tuned; those of kind "fails" and "wrong stain" get no result."""
    refused = ("fails", "wrong stain")
    return [
        Request(
            question, Facts(images, stain), tuple(Expected(n, dict(a), kind not in refused) for n, a in calls), kind,
            wording=question,
        )
        for kind, images, stain, calls, question in (FRESH6 if held else (*FRESH, *FRESH2, *FRESH3, *FRESH4, *FRESH5))
    ]  # fmt: skip


def _plain(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _choices(split: Split) -> dict[str, tuple[str, ...]]:
    """How four-choice questions on sets only a tool knows are asked."""
    from training.data.phrases import ASK_HELD_OUT

    if split == "val":
        return {kind: ASK_HELD_OUT[kind] for kind in _CHOICES}
    return {
        "colorectal": (
            "What does this colorectal tile show?", "Classify this colon tissue.", "Which polyp is this?",
            "Which colorectal tissue class is it?", "What is the diagnosis in this colon image?",
            "What is seen in this large bowel biopsy?",
        ),
        "cervical": (
            "What kind of cervical cell is this?", "Classify this Pap smear cell.", "Which cervical cell class is it?",
            "What is the grade of this cervical cell?", "Name the class of the cell in this Pap smear.",
        ),
        "leucocyte": (
            "What kind of white blood cell is this?", "Classify this leucocyte.", "Which leucocyte is it?",
            "Name the white cell in the smear.", "What is the type of this leukocyte?",
            "Which white cell does the smear show?",
        ),
    }  # fmt: skip


@lru_cache(maxsize=2)
def _visual(split: Split) -> tuple[str, ...]:
    """Ordinary visual questions, with and without options, as the chat model is trained on or measured by."""
    rng = random.Random(f"visual:{split}")  # noqa: S311 - reproducible, not secret
    if split == "val":
        diagnoses = tuple(f"disease {i}" for i in range(8))
        try:
            records = load_records(OPEN_SETS, "val")
            diagnoses = tuple(sorted({r.facts["diagnosis"] for r in records if "diagnosis" in r.facts}))
            found = [Question(q.stem, q.options).prompt() for q in four_choice(records, diagnoses)]
            stems = [q.split("\n")[0] for q in found[::7]]
            return tuple(rng.sample([*found, *stems], min(600, len(found) + len(stems))))
        except Exception as error:
            raise RuntimeError("the val questions need the data sets") from error
    out = [question for question, _ in GENERAL]
    out += [text for text in UNANSWERABLE if "HER2" not in text]
    lesions = (
        "adenocarcinoma", "squamous cell carcinoma", "chronic gastritis", "tubular adenoma", "granuloma", "amyloidosis",
        "melanoma", "carcinoid", "intestinal metaplasia", "Giardia infection", "haemangioma", "leiomyoma",
    )  # fmt: skip
    pools = {"organ": ORGANS, "stain": STAINS, "diagnosis": lesions, "findings": lesions, "category": ()}
    for kind, stems in ASK.items():
        if kind in ("scale", "cells"):
            continue
        for stem in stems:
            out.append(stem)
            pool = pools.get(kind) or vocabulary(kind)
            for _ in range(6):
                right = rng.choice(pool)
                options, _ = draw_options(kind, right, rng, pool)
                out.append(Question(stem, options).prompt())
                if rng.random() < 0.4:
                    out.append(f"Is this {right}?")
    return tuple(out)


def gold_arguments(tool: FunctionTool, expected: Expected) -> dict[str, Any]:
    """Arguments in the order of the schema; what the tool does not have is left out."""
    return {p.name: expected.arguments[p.name] for p in tool.parameters if p.name in expected.arguments}


def usable(parameter: Parameter, value: Any, question: str) -> bool:
    """Whether a value could be chosen under the grammar (used by the tests of this data)."""
    if parameter.kind in ("integer", "number"):
        return float(value) in numbers_in(question)
    return parameter.kind != "string" or str(value).casefold() in " ".join(question.casefold().split())
