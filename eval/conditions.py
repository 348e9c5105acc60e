"""What the model is shown: the image, or a control in its place.

``blank``     an empty field of the same size: what the question alone gives away to a model that expects an image
``shuffled``  the image of an item of another group: whether *this* image matters
``text``      no image at all
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL.Image import Image

from assistant.images.intake import load_image
from eval.task import Item, one_of

CONTROLS = ("blank", "shuffled", "text")

#: Loads the picture of the item at a position of the list.
Show = Callable[[Sequence[Item], int], Image | None]


@dataclass(frozen=True)
class Condition:
    """A name, and what is shown for the item at a position."""

    name: str
    show: Show


def own_image(items: Sequence[Item], index: int) -> Image | None:
    """The image as it is."""
    image = items[index].image
    return None if image is None else load_image(image)


def _blank(items: Sequence[Item], index: int) -> Image | None:
    from assistant.assistant import empty_field

    image = own_image(items, index)
    return None if image is None else empty_field(image.size)


def stable_seed(*words: str) -> int:
    """A seed that depends on the words only."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:8], "big")


def _shuffled(seed: int) -> Show:
    def show(items: Sequence[Item], index: int) -> Image | None:
        item = items[index]
        others = sorted({str(o.image) for o in items if o.image and o.group != item.group and not o.problem})
        if not others:
            return None
        pick = np.random.default_rng(stable_seed(str(seed), item.id)).integers(len(others))
        return load_image(others[int(pick)])

    return show


def expanded(names: Sequence[str]) -> list[str]:
    """Names with ``controls`` and ``robustness`` (the image and every corruption at every strength) written out."""
    from eval.corruptions import CORRUPTIONS, STRENGTHS

    groups = {
        "controls": CONTROLS,
        "robustness": ("image", *(f"{kind}-{strength}" for kind in CORRUPTIONS for strength in STRENGTHS)),
    }
    return list(dict.fromkeys(name for given in names for name in groups.get(given, (given,))))


def conditions(names: Sequence[str], seed: int = 0) -> list[Condition]:
    """Conditions by name: ``image``, the controls, and ``KIND-STRENGTH`` for a corruption (``jpeg-3``).

    Raises:
        BadInput: Unknown name.
    """
    from eval.corruptions import CORRUPTIONS, STRENGTHS, corrupt

    known: dict[str, Show] = {
        "image": own_image,
        "blank": _blank,
        "shuffled": _shuffled(seed),
        "text": lambda _items, _index: None,
    }

    def corrupted(kind: str, strength: int) -> Show:
        def show(items: Sequence[Item], index: int) -> Image | None:
            image = own_image(items, index)
            return (
                None if image is None else corrupt(image, kind, strength, seed=stable_seed(str(seed), items[index].id))
            )

        return show

    known |= {f"{kind}-{strength}": corrupted(kind, strength) for kind in CORRUPTIONS for strength in STRENGTHS}
    return [Condition(name, known[one_of(name, list(known), "condition")]) for name in names]
