"""Referring expressions with true boxes from labelled objects; ``val`` uses words and forms absent from ``train``.

Every phrase has one meaning in its field: superlatives need a clear winner, positions no object near the border between
two of them, and "nothing like that here" only says what the labels of the set can say. What the edge of a field cuts
must not decide (:func:`clear`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from training.data.objects import SAYS, TISSUES, Field, Object
from training.data.referring_words import ELSEWHERE, FORMS, NAMES, NEVER, PLACES, RELATIONAL

Box = tuple[float, float, float, float]

__all__ = ["ELSEWHERE", "FORMS", "NAMES", "PLACES", "RELATIONAL", "Builder", "Phrase", "distance", "inside", "phrases"]
Pick = Callable[[list[Object]], list[Object] | None]
_BORDER = 0.06
#: By how much something has to be larger, in the log of its area; overlap from which two boxes around groups are one.
_LARGER, _SAME = 0.15, 0.85
#: Kinds that need to see the whole of an object.
_OF_WHOLE = ("largest", "smallest", "elongated", "darkest", "palest", "number")


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
            darkness: One number for each object, then for each unsure one, for the kinds about colour.
        """
        says = [c for c in SAYS[field.dataset] if c in NAMES]
        there = sorted({o.label for o in field.objects if o.label in NAMES})
        if not there or rng.random() < 0.2:
            return self._empty(field, says, there, rng)
        label = rng.choice(there)
        own = [o for o in field.objects if o.label == label]
        kinds = ["one"] if len(own) == 1 else list(FORMS)[1:]
        kind = rng.choice(kinds + (["position", "nearest", "nearest", "farthest"] if len(own) > 1 else ["position"]))
        return self._make(kind, field, label, rng, darkness)

    def _make(
        self, kind: str, field: Field, label: str, rng: random.Random, darkness: Sequence[float] = ()
    ) -> Phrase | None:
        words = {"n": self._name(label, rng)[0], "p": self._name(label, rng)[1], "w": "", "m": "", "k": ""}
        op, place, anchor = kind, "", None
        if kind in ("one", "all", "group"):
            pick: Pick = list
        elif kind in ("position", "positions", "group position"):
            place = rng.choice(list(PLACES))
            words["w"] = rng.choice(PLACES[place][self.side])
            pick = partial(_placed, kind=kind, place=place, size=field.size)
        elif kind in ("nearest", "farthest"):
            found = self._other(field, label, rng)
            if found is None:
                return None
            other, words["m"] = found
            anchor = other.box
            op = f"{kind} to the largest" if other.label == label else kind
            pick = partial(_related, kind=kind, other=other, margin=0.03 * max(field.size))
        elif kind == "number":
            count = rng.choice((2, 2, 3))
            words["k"] = {2: "two", 3: "three"}[count]
            op, pick = f"{words['k']} largest", partial(_largest, count=count)
        else:
            dark = dict(zip((o.box for o in (*field.objects, *field.unsure)), darkness, strict=bool(darkness)))
            pick = partial(_extreme, kind=kind, size=field.size, darkness=dark)
        chosen = clear(kind, pick, field, label)
        if not chosen:
            return None
        text = rng.choice(FORMS[kind][self.side]).format(**words)
        members = tuple(o.box for o in chosen)
        nouns = tuple(words[k] for k in ("n", "p", "m") if words[k] and words[k] in text)
        subjects = tuple(o.box for o in field.objects if o.label == label)
        said = Phrase(text, kind, members, members, nouns, op, place, subjects, anchor)
        if not kind.startswith("group"):
            return said
        return replace(said, boxes=(around(members),)) if len(members) > 1 else None

    def _other(self, field: Field, label: str, rng: random.Random) -> tuple[Object, str] | None:
        """What a relation is to: the only object of another class, or the largest of the same."""
        others = [o for o in field.objects if o.label != label and o.label in NAMES]
        every = [o.label for o in (*others, *field.unsure)]
        unique = [o for o in others if every.count(o.label) == 1]
        if unique and rng.random() < 0.8:
            one = rng.choice(unique)
            return one, self._name(one.label, rng)[0]
        own = sum(o.label == label for o in field.objects)
        pick = partial(_extreme, kind="largest", size=field.size, darkness={})
        largest = clear("largest", pick, field, label) if own > 2 else None
        return (largest[0], f"largest {self._name(label, rng)[0]}") if largest else None

    def _empty(self, field: Field, says: list[str], there: list[str], rng: random.Random) -> Phrase | None:
        """Something that is surely not there: a class, or a class at a place."""
        visible = {*there, *(o.label for o in field.unsure)}
        absent = [c for c in says if c not in visible] + list(NEVER.get(field.dataset, ()))
        if rng.random() < 0.15:
            names = (rng.choice(ELSEWHERE[self.side]),) * 2
            op = rng.choice(("one", "one", "largest", "leftmost"))
            form = rng.choice(FORMS[op][self.side])
            return Phrase(form.format(n=names[0], p=names[1]), "empty", (), op=op)
        if there and rng.random() < 0.5:
            label, place = rng.choice(there), rng.choice(list(PLACES))
            if inside([o for o in (*field.objects, *field.unsure) if o.label == label], place, field.size) != []:
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


def clear(kind: str, pick: Pick, field: Field, label: str) -> list[Object] | None:
    """What ``pick`` chooses among the objects of a class, if it is the same however the field is read.

    With and without what the labels leave out though it can be seen, and for sizes, shapes and colours with and without
    what the edge of the field cuts. Where many are meant, one more or less does not matter.
    """
    own = [o for o in field.objects if o.label == label]
    seen = own + [o for o in field.unsure if o.label == label]
    chosen = pick(own)
    if not chosen or kind in ("all", "positions"):
        return chosen
    readings = [seen]
    if kind in _OF_WHOLE and label not in TISSUES.values():
        readings += [[o for o in r if not at_edge(o, field.size)] for r in (own, seen)]
    for other in map(pick, readings):
        if not other:
            return None
        if kind.startswith("group"):
            if overlap(around([o.box for o in chosen]), around([o.box for o in other])) < _SAME:
                return None
        elif [o.box for o in other] != [o.box for o in chosen]:
            return None
    return chosen


def at_edge(one: Object, size: tuple[int, int]) -> bool:
    """The object touches the edge of the field, so that a part of it may be missing."""
    x0, y0, x1, y1 = one.box
    return x0 < 1 or y0 < 1 or x1 > size[0] - 1 or y1 > size[1] - 1


def around(boxes: Sequence[Box]) -> Box:
    """The box around boxes."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    inner = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return inner / (sum(areas) - inner)


def _placed(objects: list[Object], kind: str, place: str, size: tuple[int, int]) -> list[Object] | None:
    found = inside(objects, place, size)
    return None if found is None or (len(found) == 1) != (kind == "position") else found


def _related(objects: list[Object], kind: str, other: Object, margin: float) -> list[Object] | None:
    rest = [o for o in objects if o is not other]
    gaps = np.array([distance(o.box, other.box) for o in rest])
    return winner(rest, gaps if kind == "nearest" else -gaps, margin) if rest else None


def _largest(objects: list[Object], count: int) -> list[Object] | None:
    area = np.log(np.maximum([o.area for o in objects], 1))
    order = np.argsort(-area)
    if len(order) <= count or area[order[count - 1]] - area[order[count]] <= _LARGER:
        return None
    return [objects[int(i)] for i in order[:count]]


def _extreme(
    objects: list[Object], kind: str, size: tuple[int, int], darkness: Mapping[Box, float]
) -> list[Object] | None:
    """The smallest score wins, by a margin."""
    if not objects:
        return None
    boxes = np.array([o.box for o in objects])
    area = np.log(np.maximum([o.area for o in objects], 1))
    sides = boxes[:, 2:] - boxes[:, :2]
    width, height = size
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    table: dict[str, tuple[NDArray[np.float64], float]] = {
        "largest": (-area, _LARGER), "smallest": (area, _LARGER),
        "leftmost": (centre[:, 0], 0.03 * width), "rightmost": (-centre[:, 0], 0.03 * width),
        "topmost": (centre[:, 1], 0.03 * height), "bottommost": (-centre[:, 1], 0.03 * height),
        "central": (np.hypot(*(centre - np.array([width, height]) / 2).T), 0.03 * max(width, height)),
        "elongated": (-np.abs(np.log(sides[:, 0] / sides[:, 1])), 0.15),
    }  # fmt: skip
    if darkness:
        dark = np.array([darkness[o.box] for o in objects])
        table |= {"darkest": (-dark, 0.03), "palest": (dark, 0.03)}
    return winner(objects, *table[kind]) if kind in table else None


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
    """Mean optical darkness (1 - grey) of the box of each object and each unsure one, 0…1."""
    grey = 1 - np.asarray(field.image().convert("L"), np.float32) / 255
    out = []
    for one in (*field.objects, *field.unsure):
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
