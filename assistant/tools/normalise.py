"""``normalise_stain``: a field in the colours of another field."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

from assistant.errors import BadInput
from assistant.images.stain import StainNormaliser
from assistant.tools import fields
from assistant.tools.base import Card, ToolResult, tool

_MAX_PIXELS = 16_000_000


@tool(
    Card(
        task="Give an H&E field the colours of another H&E field.",
        training_data="none",
        licence="Apache-2.0",
        stains=("H&E",),
        limits="undefined for anything but H&E; fields over 16 million pixels are made smaller",
    )
)
def normalise_stain(
    image: Image.Image,
    reference: Image.Image,
    method: Literal["macenko", "vahadane", "reinhard"] = "macenko",
) -> ToolResult:
    """Change an H&E field so that it looks stained like a reference field.

    Args:
        image: Field to change.
        reference: Field whose colours to take over.
        method: macenko (usual), vahadane (sparse, slower) or reinhard (colour statistics only).
    """
    fields.require_field(image)
    small, factor = fields.working_copy(image, _MAX_PIXELS)
    model = StainNormaliser(method).fit(fields.working_copy(reference, _MAX_PIXELS)[0])
    done = model.transform(small)
    if not done.ok:
        raise BadInput(f"the field {done.reason}, so it was left as it is; normalisation is for H&E fields")
    before, after = (np.asarray(one, dtype=float).mean(axis=(0, 1)).round(1).tolist() for one in (small, done.image))
    shift = float(np.abs(np.asarray(small, dtype=float) - np.asarray(done.image, dtype=float)).mean())
    warnings = (f"made smaller by {factor:.1f} first",) if factor > 1 else ()
    return ToolResult(
        f"The field was normalised by {method}; channels changed by {shift:.1f} of 255 on average.",
        {"method": method, "mean_rgb_before": before, "mean_rgb_after": after, "mean_change": round(shift, 2)},
        {"normalised": done.image},
        warnings=warnings,
    )
