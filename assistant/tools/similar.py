"""``find_similar_cases``: what the user's own archive holds that looks like this field."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

from PIL import Image
from pydantic import Field

from assistant.errors import BadInput
from assistant.tools import fields
from assistant.tools.base import Card, Context, ToolResult, tool

if TYPE_CHECKING:
    from assistant.model.encoders.base import Encoder


@tool(
    Card(
        task="Find the cases of a library that look most like a field.",
        training_data="PathCLIP-small (open sets only)",
        licence="Apache-2.0",
        limits="similar in look, which need not mean the same diagnosis; needs a case library",
    ),
    timeout=120,
)
def find_similar_cases(
    image: Image.Image, context: Context, k: Annotated[int, Field(ge=1, le=20)] = 5, text: str = ""
) -> ToolResult:
    """Find cases in the user's own library that look like a field.

    Args:
        image: Field to compare.
        k: How many cases.
        text: Words to look for as well.
    """
    from assistant.cases import our_errors
    from assistant.cases.find import find_cases
    from assistant.cases.ingest import identity_of
    from retrieval.store import open_store

    if not context.store:
        raise BadInput(
            "no case library is set; make one with `pathassist index build SOURCE --store faiss:cases` and name it"
            " with --store or PATHASSIST_STORE"
        )
    fields.require_field(image)
    encoder = _encoder()
    with our_errors():
        store = open_store(context.store, identity_of(encoder))
    try:
        hits = find_cases(store, encoder, [image], text or None, k)
    finally:
        store.close()
    cases = [
        {"id": hit.case.id, "score": round(float(hit.score), 4), "title": hit.case.title, "organ": hit.case.organ,
         "diagnosis": hit.case.diagnosis}
        for hit in hits
    ]  # fmt: skip
    best = "; ".join(f"{case['title'] or case['id']} ({case['score']:.2f})" for case in cases[:3])
    return ToolResult(
        f"{len(cases)} similar cases: {best}." if cases else "No similar case was found.", {"cases": cases}
    )


@lru_cache(maxsize=1)
def _encoder() -> Encoder:
    from assistant.model.encoders import load_encoder

    return load_encoder("pathclip-small")
