"""A case library together with the encoder that it was built with: what the page and the answers search."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assistant.cases import our_errors
from assistant.cases.decode import pixel_hash
from assistant.cases.find import find_cases
from assistant.cases.ingest import build, identity_of
from assistant.cases.sources import Item
from assistant.errors import BadInput, NotAvailable
from assistant.images.intake import ImageSource, load_image
from assistant.model.encoders.base import Encoder
from retrieval.records import Case, Hit, Region, Where
from retrieval.search import compose, nearest
from retrieval.store import VectorStore, open_store


class Library:
    """An open library. Threads may share one.

    Attributes:
        url: As given to :meth:`open`; it may hold a password, so it is not for showing.
    """

    def __init__(self, store: VectorStore, encoder: Encoder) -> None:
        """Around an open store.

        Raises:
            BadInput: The store was built with another encoder.
        """
        with our_errors():
            store.identity.check(identity_of(encoder), store.url)
        self.url, self.store, self.encoder = store.url, store, encoder
        self._adding = threading.Lock()

    @classmethod
    def open(cls, url: str, load: Callable[[str], Encoder] | None = None) -> Library:
        """Open a library and load the encoder that it names.

        Args:
            load: Encoder name → encoder; default ``assistant.model.encoders.load_encoder``.

        Raises:
            BadInput: No library there. NotAvailable: It, or the encoder's weights, cannot be had.
        """
        from assistant.model.encoders import load_encoder

        with our_errors():
            store = open_store(url)
        try:
            return cls(store, (load or load_encoder)(store.identity.encoder_name))
        except BaseException:
            store.close()
            raise

    def search(
        self, images: Sequence[ImageSource] = (), text: str | None = None, k: int = 5, **options: Any
    ) -> list[Hit]:
        """See :func:`assistant.cases.find.find_cases`."""
        return find_cases(self.store, self.encoder, images, text, k, **options)

    def like(
        self,
        case_id: str,
        text: str | None = None,
        k: int = 5,
        *,
        where: Where | None = None,
        weight: float = 0.5,
        mmr: float | None = None,
    ) -> list[Hit]:
        """The cases most like one of the library, without its own slide or patient.

        Raises:
            BadInput: The case is gone.
        """
        words = text if text and text.strip() else None
        with our_errors():
            own = self.store.get([case_id])
            if not own:
                raise BadInput("that case is no longer in the library; search again")
            vector = compose(
                self.store.vectors([case_id]), self.encoder.embed_texts([words])[0] if words else None, weight
            )
            groups = [own[0].group] if own[0].group else []
            return nearest(
                self.store,
                vector,
                k,
                where=where,
                exclude_groups=groups,
                exclude_ids=[case_id],
                mmr=mmr,
                calibrated=words is None,
            )

    def has_slide(self, case_id: str) -> bool:
        """Whether the case is a region of a slide, or a whole slide; whether the file is there is not looked at."""
        with our_errors():
            found = self.store.get([case_id])
        return bool(found) and _of_slide(found[0])

    def slide_of(self, case_id: str) -> tuple[Path, Region | None]:
        """The slide file of a case and the case's region on it, in pixels of the full resolution; None for all of it.

        The path is for opening the slide, never for showing.

        Raises:
            BadInput: The case is gone or no part of a slide. NotAvailable: The slide file is not there.
        """
        with our_errors():
            found = self.store.get([case_id])
        if not found:
            raise BadInput("that case is no longer in the library; search again")
        if not _of_slide(found[0]):
            raise BadInput("this case is an image of its own, not a region of a slide: there is no slide to open")
        path = Path(found[0].image)
        if not path.is_file():
            raise NotAvailable(
                "the slide of this case is not where it was when the library was built; "
                "put it back, or run pathassist index build again"
            )
        return path, found[0].region

    def values(self, key: str) -> list[str]:
        """Values of a filter, most frequent first."""
        with our_errors():
            return [value for value in self.store.values(key) if value]

    def thumbnail(self, case: Case) -> bytes | None:
        """A small JPEG."""
        with our_errors():
            return self.store.thumbnail(case)

    def thumbnail_uri(self, case: Case) -> str | None:
        """The same as a data URI."""
        picture = self.thumbnail(case)
        return None if picture is None else f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"

    def add(
        self, image: ImageSource, *, title: str, organ: str = "", stain: str = "", diagnosis: str = "", group: str = ""
    ) -> bool:
        """Add one image; the library keeps its vector, a small picture and the labels, not the image itself.

        Returns:
            False where the image, added before, only got new labels.

        Raises:
            BadInput: It cannot be read, or is in the library from a file, whose index has its labels.
            NotAvailable: Someone else is writing to the library.
        """
        picture = load_image(image)
        file = io.BytesIO()
        picture.save(file, "PNG", compress_level=1)
        digest = pixel_hash(picture)
        case = Case("", f"added:{digest}", title=title, organ=organ, stain=stain, diagnosis=diagnosis, group=group)
        with self._adding, our_errors():
            opened = open_store(self.url, identity_of(self.encoder), write=True)
            try:
                done = build([Item(case, file.getvalue())], opened, self.encoder, workers=0)
            finally:
                opened.close()
        if done.failed:
            raise NotAvailable(f"the image was not added: {done.failed[0]}")
        if done.duplicates:
            raise BadInput("this image is in the library already; its labels come from the index it was built from")
        return bool(done.added)

    def close(self) -> None:
        self.store.close()

    def __len__(self) -> int:
        with our_errors():
            return len(self.store)


def _of_slide(case: Case) -> bool:
    return bool(case.image) and (case.region is not None or case.facts.get("kind") == "slide")
