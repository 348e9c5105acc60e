"""Builder: labelled records → conversations with images (TRL messages) in varied wording.

Kinds of conversation and their share are in ``MIX``. Slide-level labels are asked as what they are: organ and stain
hold for each field; a diagnosis belongs to the slide. Every conversation is drawn from a generator keyed by
(seed, index), so a build is reproducible and can be extended without changing what was there.

    python -m training.data.build --out runs/data --count 20000 --seed 0
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from assistant.chat.prompt import Question
from training.data import phrases
from training.data.conversation import Conversation, write_messages
from training.data.questions import LABELS, diagnosis_names, draw_options, vocabulary
from training.data.records import OPEN_SETS, Record, balanced_weights, load_records
from training.data.virtual import MARKER, write_virtual

#: Share of each kind of conversation.
MIX = {"fields": 0.86, "pair": 0.03, "blank": 0.05, "general": 0.06}
#: Share of each form of question about a field.
FORMS = {"choice": 0.62, "yes_no": 0.16, "open": 0.16, "unanswerable": 0.06}
#: Facts that can be asked of a field, with weights.
WEIGHTS = {
    "organ": 5.0, "diagnosis": 3.0, "stain": 1.5, "findings": 1.0, "category": 1.0, "scale": 0.3,
    "lung": 6.0, "oral": 6.0, "node": 6.0, "cells": 1.0,
}  # fmt: skip
_CHOICE_KINDS = {"organ", "stain", "diagnosis", "findings", "category", "lung", "oral", "node"}
#: The marker of an immunostain cannot be seen in a field, so any marker's name stands for "IHC" among other stains.
MARKERS = (
    "Ki-67", "CD3", "CD20", "p53", "HER2", "chromogranin", "synaptophysin", "cytokeratin", "CD117", "S100", "ER",
    "Helicobacter pylori",
)  # fmt: skip
_BLANKS = ((255, 255, 255), (244, 240, 246), (236, 226, 234), (0, 0, 0), (128, 128, 128), (250, 245, 225))


def write_blanks(folder: Path, seed: int = 0) -> list[Path]:
    """Write empty fields (plain and lightly noisy) as PNG; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    paths = []
    for i, colour in enumerate(_BLANKS):
        for noise in (0.0, 4.0, 40.0):
            pixels = np.full((224, 224, 3), colour, dtype=np.float32) + generator.normal(0, noise, (224, 224, 3))
            path = folder / f"blank_{i}_{int(noise)}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
            paths.append(path)
    return paths


class Builder:
    """Draws conversations about ``records``.

    Args:
        records: Training records only.
        blanks: Paths of empty images.
        seed: Together with an index it fixes a conversation.
    """

    def __init__(self, records: list[Record], blanks: list[Path], seed: int = 0) -> None:
        self.records = records
        self.blanks = blanks
        self.seed = seed
        self.diagnoses = diagnosis_names(records)
        self.findings = tuple(sorted({r.facts["findings"] for r in records if "findings" in r.facts}))
        self.weights = _record_weights(records)
        self.with_organ = [r for r in records if "organ" in r.facts]

    def draw(self, index: int) -> Conversation:
        """Conversation number ``index``."""
        rng = random.Random(f"{self.seed}:{index}")  # noqa: S311 - reproducible, not secret
        match rng.choices(list(MIX), list(MIX.values()))[0]:
            case "general":
                turns = rng.sample(phrases.GENERAL, rng.choice((1, 1, 2)))
                return _conversation((), turns, "general")
            case "blank":
                question = self._any_question(rng)
                return _conversation((rng.choice(self.blanks),), [(question, rng.choice(phrases.BLANK))], "blank")
            case "pair":
                return self._pair(rng)
        record = rng.choices(self.records, self.weights)[0]
        turns = self._turns(record, rng, rng.choice((1, 2, 2, 3)))
        return _conversation((record.image,), turns, record.group)

    def _turns(self, record: Record, rng: random.Random, count: int) -> list[tuple[str, str]]:
        kinds = [k for k in WEIGHTS if k in record.facts and not (k == "organ" and record.facts[k] == "blood")]
        turns = []
        for _ in range(count):
            form = rng.choices(list(FORMS), list(FORMS.values()))[0]
            if form == "unanswerable" or not kinds:
                turns.append((rng.choice(phrases.UNANSWERABLE), rng.choice(phrases.CANNOT_TELL)))
                continue
            rare = record.facts.get("stain", "H&E") != "H&E"
            kind = rng.choices(kinds, [WEIGHTS[k] * (4 if rare and k == "stain" else 1) for k in kinds])[0]
            kinds.remove(kind)
            turns.append(self._ask(record, kind, form, rng))
        return turns

    def _ask(self, record: Record, kind: str, form: str, rng: random.Random) -> tuple[str, str]:
        right = record.facts[kind]
        if kind == "stain" and right.endswith("IHC"):
            named = f"{rng.choice(MARKERS)} IHC"
            right = rng.choice((named if right == MARKER else right, named, "immunohistochemistry"))
        if kind == "diagnosis" and form == "choice" and rng.random() < 0.5:
            right = _paraphrase(record, rng) or right
        if form == "yes_no" and kind in phrases.YES_NO:
            asked, truth = right, "Yes"
            if rng.random() < 0.5:
                others = [o for o in self._options(kind, right, rng)[0] if o != right]
                asked, truth = rng.choice(others), "No"
            return rng.choice(phrases.YES_NO[kind]).format(asked), truth
        stem = rng.choice(phrases.ASK[kind])
        if form == "choice" and kind in _CHOICE_KINDS:
            options, _ = self._options(kind, right, rng, record.facts[kind])
            keep = rng.choice((4, 4, 4, 3, 5, 2))
            if keep < 4:
                wrong = [o for o in options if o != right][: keep - 1]
                options = tuple(rng.sample([right, *wrong], keep))
            hint = rng.choice(phrases.LETTER_HINTS)
            question = Question(f"{stem} {hint}".strip() if rng.random() < 0.5 else stem, options)
            return question.prompt(), right
        said = rng.choice((*phrases.SAY[kind], "{}"))
        text = said.format(right)
        return stem, text[0].upper() + text[1:]

    def _options(
        self, kind: str, right: str, rng: random.Random, true: str | None = None
    ) -> tuple[tuple[str, ...], int]:
        pool = self.findings if kind == "findings" else vocabulary(kind, self.diagnoses)
        if kind == "stain":
            pool = (*(o for o in pool if not o.endswith("IHC")), "immunohistochemistry", f"{rng.choice(MARKERS)} IHC")
        if kind == "diagnosis" and true is not None:
            pool = tuple(o for o in pool if o != true)
        return draw_options(kind, right, rng, pool)

    def _any_question(self, rng: random.Random) -> str:
        kind = rng.choice(("organ", "stain", "diagnosis", "lung", "node"))
        stem = rng.choice(phrases.ASK[kind])
        if rng.random() < 0.5:
            return stem
        pool = vocabulary(kind, self.diagnoses) if kind not in LABELS else LABELS[kind]
        return Question(stem, draw_options(kind, rng.choice(pool), rng, pool)[0]).prompt()

    def _pair(self, rng: random.Random) -> Conversation:
        first = rng.choice(self.with_organ)
        same = rng.random() < 0.5
        others = [r for r in self.with_organ if (r.facts["organ"] == first.facts["organ"]) is same and r is not first]
        second = rng.choice(others)
        organs = (first.facts["organ"], second.facts["organ"])
        turn = rng.choice(
            (
                ("Are both images from the same organ?", "Yes" if same else "No"),
                ("Name the organ of each image in order.", f"First {organs[0]}, then {organs[1]}."),
                ("What is the organ of the second image?", organs[1][0].upper() + organs[1][1:]),
                ("What is the organ of the first image?", organs[0][0].upper() + organs[0][1:]),
            )
        )
        return _conversation((first.image, second.image), [turn], first.group)


def _paraphrase(record: Record, rng: random.Random) -> str | None:
    """The diagnosis in words that name no disease, so that an unknown name can win when no known one fits."""
    organ, category = record.facts.get("organ"), record.facts.get("category")
    ways = [record.facts.get("findings")]
    if organ and category:
        noun = (
            category if category.split()[-1] in ("neoplasm", "lesion", "body", "heterotopia") else f"{category} disease"
        )
        ways += [f"{noun} of the {organ}", f"{organ}, {noun}"]
    return rng.choice([w for w in ways if w] or [None])


def _record_weights(records: list[Record]) -> list[float]:
    """How often each record is drawn; few slides have another stain than H&E, so these count more.

    Virtual immunostains are many and come from few ideas, so each counts half; they change no other record's weight.
    """
    real = [r for r in records if r.facts.get("stain") != MARKER]
    balanced = balanced_weights(real, {"atlas": 2.0, "bccd_boxes": 0.3, "dsb2018_stained": 0.2})
    weights = dict(zip((r.image for r in real), balanced, strict=True))
    plain = [weights[r.image] for r in real if r.dataset == "atlas" and r.facts["stain"] == "H&E"]
    usual = sum(plain) / max(1, len(plain))
    factor = {"H&E": 1.0, MARKER: 0.5}
    return [
        weights.get(r.image, usual) * (factor.get(r.facts["stain"], 2.5) if r.dataset == "atlas" else 1.0)
        for r in records
    ]


def _conversation(images: tuple[Path, ...], turns: list[tuple[str, str]], group: str) -> Conversation:
    messages: list[dict[str, Any]] = []
    for number, (question, answer) in enumerate(turns):
        content = [{"type": "image"} for _ in images] if number == 0 else []
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return Conversation(images=images, messages=messages, group=group)


def build(
    count: int, out: Path, seed: int = 0, datasets: tuple[str, ...] = OPEN_SETS, virtual: int = 0
) -> tuple[list[Conversation], list[Path], list[Path]]:
    """Draw ``count`` conversations from the train split; writes ``out/conversations-SEED.jsonl`` and ``out/blanks/``.

    Args:
        virtual: Immunostained fields to make from H&E fields (``training.data.virtual``), in ``out/virtual/``.

    Returns:
        (conversations, paths of the empty images, paths of the virtual immunostains).
    """
    blanks = write_blanks(out / "blanks")
    records = load_records(datasets, "train")
    made = write_virtual(records, out / "virtual", virtual, seed)
    builder = Builder(records + made, blanks, seed)
    conversations = [builder.draw(i) for i in range(count)]
    write_messages(out / f"conversations-{seed}.jsonl", conversations)
    return conversations, blanks, [r.image for r in made]


def main() -> None:
    """Command line of the builder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the conversations and blanks/")
    parser.add_argument("--count", type=int, default=20_000, help="number of conversations (default 20000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--virtual", type=int, default=0, help="immunostains to make from H&E fields (default 0)")
    args = parser.parse_args()
    conversations, _, _ = build(args.count, args.out, args.seed, virtual=args.virtual)
    print(f"{len(conversations):,} conversations in {args.out / f'conversations-{args.seed}.jsonl'}")


if __name__ == "__main__":
    main()
