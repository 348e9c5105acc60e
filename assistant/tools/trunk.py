"""What the tools share of the region network: when it may run, and which stain it may be shown."""

from __future__ import annotations

from typing import Annotated

from PIL import Image
from pydantic import Field

from assistant.errors import BadInput, NotAvailable
from assistant.regions.model import Regions, load_regions
from assistant.tools import fields
from assistant.tools.base import Context

Mpp = Annotated[float, Field(ge=0.1, le=2.0)]
#: What a tool is told when it is called as a plain function.
DEFAULT = Context()
LICENCE = "research-only (CC BY-NC-SA and sources without a stated licence)"
TRAINING = (
    "one network for MoNuSeg, CoNSeP, DSB 2018 (nuclei), another for WSSS4LUAD (tissue) and BCCD (blood cells), over "
    "its encoder a decoder for GlaS (glands), train splits"
)


def network(context: Context) -> Regions:
    """The shipped network with all its heads.

    Raises:
        NotAvailable: Its weights are missing, or research parts are switched off.
    """
    if not context.research:
        raise NotAvailable("the region network was trained on research-only data and is switched off here")
    return load_regions()


def require_he(image: Image.Image) -> tuple[str, ...]:
    """Refuse what a tool for H&E cannot measure; the warnings that go with what it can.

    Raises:
        BadInput: Tiny, blank, or a DAB immunostain.
    """
    fields.require_field(image)
    stain, _ = fields.guess_stain(image)
    if stain == "DAB immunostain":
        raise BadInput("the field looks like a DAB immunostain, and this tool reads H&E; use score_ihc")
    return () if stain == "H&E-like" else ("the stain does not look like H&E",)
