"""Searching a case library with images, words, or both."""

from __future__ import annotations

from collections.abc import Sequence

from assistant.cases import our_errors
from assistant.cases.decode import pixel_hash
from assistant.cases.ingest import identity_of
from assistant.errors import BadInput
from assistant.images.intake import ImageSource, load_images
from assistant.model.encoders.base import Encoder
from retrieval.records import Hit, Where
from retrieval.search import compose, nearest
from retrieval.store import VectorStore


def find_cases(
    store: VectorStore,
    encoder: Encoder,
    images: Sequence[ImageSource] = (),
    text: str | None = None,
    k: int = 5,
    *,
    where: Where | None = None,
    weight: float = 0.5,
    mmr: float | None = None,
    same_group: bool = False,
    groups: Sequence[str] = (),
) -> list[Hit]:
    """The ``k`` cases most like the query, best first.

    A query image that is in the library itself (by its pixels) never comes back, nor do other cases of its slide or
    patient unless ``same_group``.

    Args:
        images: What to look like; several are averaged.
        text: What to look like in words.
        where: Filters, key → value or values.
        weight: Share of the images where a text is given too, 0 to 1.
        mmr: Diversity, see ``retrieval.search.nearest``.
        groups: Slide or patient of the query, where the caller knows it.

    Raises:
        BadInput: Nothing to search for, an image that cannot be read, a wrong option, a store of another encoder.
        NotAvailable: The store cannot be read.
    """
    if not images and not (text and text.strip()):
        raise BadInput("there is nothing to search for; give an image (--image), a text (--text) or both")
    pictures = load_images(list(images)) if images else []
    with our_errors():
        identity_of_store = store.identity
        identity_of_store.check(identity_of(encoder), store.url)
        own = store.by_hash({pixel_hash(picture) for picture in pictures}).values()
        barred = [] if same_group else [*groups, *(case.group for case in own)]
        vector = compose(
            encoder.embed_images(pictures) if pictures else None,
            encoder.embed_texts([text])[0] if text and text.strip() else None,
            weight,
        )
        return nearest(
            store,
            vector,
            k,
            where=where,
            exclude_groups=barred,
            exclude_ids=[case.id for case in own],
            mmr=mmr,
            calibrated=not (text and text.strip()),
        )
