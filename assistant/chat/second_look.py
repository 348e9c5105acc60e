"""A second look at lettered options: how near each lies to the image in the space of an image-text encoder.

The language model and the encoder err on different questions (a diagnosis that the language model has seldom written, a
stain that the encoder cannot tell), so the cosine counts beside the option's likelihood (``encoder_weight`` of
:class:`~assistant.chat.calibration.Calibration`, fitted on ``val``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from assistant.chat.prompt import YES_NO

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.model.encoders.base import Encoder

PROMPT = "a histology image of {}."
#: Options that name nothing to see.
_NOTHING = re.compile(
    r"\b(?:none|neither|all|both|any) of (?:the|these|them)\b|cannot (?:tell|be)|can't tell|not sure|unknown", re.I
)


def comparable(options: Sequence[str]) -> bool:
    """Whether every option names something that an image can lie near to: not yes or no, not "none of these"."""
    return tuple(options) != YES_NO and not any(_NOTHING.search(option) for option in options)


def cosines(encoder: Encoder, images: Sequence[Image], options: Sequence[str]) -> list[float]:
    """Mean cosine of the images with each option, [K]."""
    import numpy as np

    seen = encoder.embed_images(list(images)).mean(axis=0)
    named = encoder.embed_texts([PROMPT.format(option) for option in options])
    return [float(c) for c in np.asarray(named @ seen)]
