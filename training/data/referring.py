"""Referring expressions with true boxes from labelled objects; ``val`` uses words and forms absent from ``train``.

Every phrase has one meaning in its field: superlatives need a clear winner, positions no object near the border between
two of them, and "nothing like that here" only says what the labels of the set can say.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.data.objects import SAYS, Field, Object
from training.data.referring_words import ELSEWHERE, FORMS, NAMES, NEVER, PLACES, RELATIONAL

Box = tuple[float, float, float, float]

__all__ = ["ELSEWHERE", "FORMS", "NAMES", "PLACES", "RELATIONAL", "Builder", "Phrase", "distance", "inside", "phrases"]
_BORDER = 0.06


@dataclass(frozen=True)
class Phrase:
    """One expression and what it means in one field.

    Attributes:
        kind: A key of ``FORMS``, or ``"empty"`` when nothing is meant.
        boxes: True boxes, pixels of the field; empty for ``"empty"``.
        members: Boxes of the objects themselves where ``boxes`` is the one around a group.
        nouns: Names of classes in ``text``.
        op: What it asks of the objects of its class, one of ``program.OPS``.
        place: A key of ``PLACES`` or "".
        subjects: Boxes of all objects of the class that is meant.
        anchor: Box of the object that a relation is to.
    """

    text: str
    kind: str
    boxes: tuple[Box, ...]
    members: tuple[Box, ...] = ()
    nouns: tuple[str, ...] = ()
    op: str = ""
    place: str = ""
    subjects: tuple[Box, ...] = ()
    anchor: Box | None = None

    @property
    def grouped(self) -> bool:
        """One box around several objects is meant."""
        return self.kind.startswith("group")


class Builder:
    """Draws phrases about fields.

    Args:
        split: ``"train"`` or ``"val"``: which words and forms are used.
    """

    def __init__(self, split: str) -> None:
        self.side = 0 if split == "train" else 1

    def draw(self, field: Field, rng: random.Random, darkness: Sequence[float] = ()) -> Phrase | None:
        """One phrase, or None where the drawn kind has no clear meaning in this field.

        Args:
            darkness: One number for each object, for the kinds about colour.
        """
        says = [c for c in SAYS[field.dataset] if c in NAMES]
        there = sorted({o.label for o in field.objects if o.label in NAMES})
        if not there or rng.random() < 0.2:
            return self._empty(field, says, there, rng)
        label = rng.choice(there)
        own = [i for i, o in enumerate(field.objects) if o.label == label]
        kinds = ["one"] if len(own) == 1 else list(FORMS)[1:]
        kind = rng.choice(kinds + (["position", "nearest", "nearest", "farthest"] if len(own) > 1 else ["position"]))
        return self._make(kind, field, label, own, rng, darkness)

    def _make(
        self, kind: str, field: Field, label: str, own: list[int], rng: random.Random, darkness: Sequence[float]
    ) -> Phrase | None:
        objects = [field.objects[i] for i in own]
        words = {"n": self._name(label, rng)[0], "p": self._name(label, rng)[1], "w": "", "m": "", "k": ""}
        chosen: list[Object] | None = None
        op, place, anchor = kind, "", None
        subjects = tuple(o.box for o in objects)
        if kind in ("one", "all", "group"):
            chosen = objects
        elif kind in ("position", "positions", "group position"):
            place = rng.choice(list(PLACES))
            words["w"] = rng.choice(PLACES[place][self.side])
            chosen = inside(objects, place, field.size)
            if chosen is not None and ((len(chosen) == 1) != (kind == "position") or not chosen):
                chosen = None
        elif kind in ("nearest", "farthest"):
            found = self._other(field, label, objects, rng)
            if found is None:
                return None
            other, words["m"] = found
            objects, anchor = [o for o in objects if o is not other], other.box
            op = f"{kind} to the largest" if other.label == label else kind
            gaps = np.array([distance(o.box, other.box) for o in objects])
            chosen = winner(objects, gaps if kind == "nearest" else -gaps, 0.03 * max(field.size))
        elif kind == "number":
            area = np.log(np.maximum([o.area for o in objects], 1))
            order, count = np.argsort(-area), rng.choice((2, 2, 3))
            if len(order) > count and area[order[count - 1]] - area[order[count]] > 0.12:
                chosen = [objects[int(i)] for i in order[:count]]
            words["k"] = {2: "two", 3: "three"}[count]
            op = f"{words['k']} largest"
        else:
            scores, margin = self._scores(kind, objects, field, [darkness[i] for i in own] if darkness else [])
            chosen = winner(objects, scores, margin) if len(scores) else None
        if not chosen:
            return None
        text = rng.choice(FORMS[kind][self.side]).format(**words)
        members = tuple(o.box for o in chosen)
        nouns = tuple(words[k] for k in ("n", "p", "m") if words[k] and words[k] in text)
        said = Phrase(text, kind, members, members, nouns, op, place, subjects, anchor)
        if not kind.startswith("group"):
            return said
        if len(members) < 2:
            return None
        table = np.array(members)
        x0, y0, x1, y1 = (float(v) for v in (*table[:, :2].min(axis=0), *table[:, 2:].max(axis=0)))
        return replace(said, boxes=((x0, y0, x1, y1),))

    def _other(self, field: Field, label: str, objects: list[Object], rng: random.Random) -> tuple[Object, str] | None:
        """What a relation is to: the only object of another class, or the largest of the same."""
        others = [o for o in field.objects if o.label != label and o.label in NAMES]
        unique = [o for o in others if sum(p.label == o.label for p in others) == 1]
        if unique and rng.random() < 0.8:
            one = rng.choice(unique)
            return one, self._name(one.label, rng)[0]
        areas = -np.log(np.maximum([o.area for o in objects], 1))
        largest = winner(objects, areas, 0.15) if len(objects) > 2 else None
        return (largest[0], f"largest {self._name(label, rng)[0]}") if largest else None

    def _scores(
        self, kind: str, objects: list[Object], field: Field, darkness: list[float]
    ) -> tuple[NDArray[np.float64], float]:
        """The smallest wins; by how much it has to."""
        boxes = np.array([o.box for o in objects])
        area = np.log(np.maximum([o.area for o in objects], 1))
        size = boxes[:, 2:] - boxes[:, :2]
        width, height = field.size
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        table: dict[str, tuple[NDArray[np.float64], float]] = {
            "largest": (-area, 0.15), "smallest": (area, 0.15),
            "leftmost": (centre[:, 0], 0.03 * width), "rightmost": (-centre[:, 0], 0.03 * width),
            "topmost": (centre[:, 1], 0.03 * height), "bottommost": (-centre[:, 1], 0.03 * height),
            "central": (np.hypot(*(centre - np.array([width, height]) / 2).T), 0.03 * max(width, height)),
            "elongated": (-np.abs(np.log(size[:, 0] / size[:, 1])), 0.15),
        }  # fmt: skip
        if darkness:
            dark = np.array(darkness)
            table |= {"darkest": (-dark, 0.03), "palest": (dark, 0.03)}
        return table.get(kind, (np.zeros(0), 0.0))

    def _empty(self, field: Field, says: list[str], there: list[str], rng: random.Random) -> Phrase | None:
        """Something that is surely not there: a class, or a class at a place."""
        absent = [c for c in says if c not in there] + list(NEVER.get(field.dataset, ()))
        if rng.random() < 0.15:
            names = (rng.choice(ELSEWHERE[self.side]),) * 2
            op = rng.choice(("one", "one", "largest", "leftmost"))
            form = rng.choice(FORMS[op][self.side])
            return Phrase(form.format(n=names[0], p=names[1]), "empty", (), op=op)
        if there and rng.random() < 0.5:
            label, place = rng.choice(there), rng.choice(list(PLACES))
            if inside([o for o in field.objects if o.label == label], place, field.size) != []:
                return None
            names, word = self._name(label, rng), rng.choice(PLACES[place][self.side])
            kind = rng.choice(("position", "positions"))
            text = rng.choice(FORMS[kind][self.side]).format(n=names[0], p=names[1], w=word)
            subjects = tuple(o.box for o in field.objects if o.label == label)
            return Phrase(text, "empty", (), nouns=names, op=kind, place=place, subjects=subjects)
        if not absent:
            return None
        names = self._name(rng.choice(absent), rng)
        kind = rng.choice(("one", "all", "largest", "leftmost"))
        text = rng.choice(FORMS[kind][self.side]).format(n=names[0], p=names[1])
        return Phrase(text, "empty", (), nouns=names, op=kind)

    def _name(self, label: str, rng: random.Random) -> tuple[str, str]:
        return rng.choice(NAMES[label][self.side])


def inside(objects: list[Object], place: str, size: tuple[int, int]) -> list[Object] | None:
    """The objects in a half or quarter of the field; None when one lies too near its border to tell."""
    tests: list[Callable[[float, float], float]] = []
    if "left" in place:
        tests.append(lambda x, y: 0.5 - x)
    if "right" in place:
        tests.append(lambda x, y: x - 0.5)
    if "upper" in place or place == "top":
        tests.append(lambda x, y: 0.5 - y)
    if "lower" in place or place == "bottom":
        tests.append(lambda x, y: y - 0.5)
    found = []
    for one in objects:
        x, y = (one.box[0] + one.box[2]) / 2 / size[0], (one.box[1] + one.box[3]) / 2 / size[1]
        margin = min(test(x, y) for test in tests)
        if abs(margin) < _BORDER:
            return None
        if margin > 0:
            found.append(one)
    return found


def winner(objects: list[Object], scores: NDArray[np.float64], margin: float) -> list[Object] | None:
    """The object of the smallest score, if it is smaller than the next by ``margin``."""
    order = np.argsort(scores, kind="stable")
    if len(order) > 1 and scores[order[1]] - scores[order[0]] < margin:
        return None
    return [objects[int(order[0])]]


def distance(a: Box, b: Box) -> float:
    """Between centres, pixels."""
    return float(np.hypot((a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2))


def darkness_of(field: Field) -> list[float]:
    """Mean optical darkness (1 - grey) of each object's box, 0…1."""
    grey = 1 - np.asarray(field.image().convert("L"), np.float32) / 255
    out = []
    for one in field.objects:
        x0, y0, x1, y1 = (int(v) for v in one.box)
        out.append(float(grey[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)].mean()))
    return out


def phrases(
    fields: list[Field], split: str, per_field: int, seed: int = 0, darkness: list[list[float]] | None = None
) -> list[tuple[int, Phrase]]:
    """(index of the field, phrase): up to ``per_field`` different ones a field, the same for the same seed."""
    builder = Builder(split)
    out: list[tuple[int, Phrase]] = []
    for number, field in enumerate(fields):
        rng = random.Random(f"{seed}:{field.dataset}:{field.image_path.name}:{field.cut}")  # noqa: S311 - reproducible
        dark = darkness_of(field) if darkness is None else darkness[number]
        seen: dict[str, Phrase] = {}
        # Fields with one object have little to say.
        wanted = min(per_field, 2) if len(field.objects) < 2 else per_field
        for _ in range(per_field * 6):
            one = builder.draw(field, rng, dark)
            if one is not None and one.text not in seen:
                seen[one.text] = one
            if len(seen) == wanted:
                break
        out += [(number, one) for one in seen.values()]
    return out
