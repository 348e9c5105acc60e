"""The Cases tab: similar cases by image, words or both, as plain generators from what the user did to what is shown.

Shown of a case are its labels and a small picture, never its path, id or group, which may name a patient.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr
from PIL import Image

from assistant.api_guard import is_loopback
from assistant.errors import BadInput, PathAssistError
from ui.evidence import empty_html, error_html, escape, info_html

if TYPE_CHECKING:
    from assistant.cases.library import Library
    from retrieval.records import Case, Hit, Region

log = logging.getLogger(__name__)

KEEP: Any = gr.skip()
KEYS = ("organ", "stain", "diagnosis")
START = info_html("Drop an image, type words, or both; then search.")
NO_LIBRARY = empty_html(
    "No case library is in use",
    "Build one with “pathassist index build FOLDER --store faiss:cases”, then start the page with "
    "“pathassist ui --library faiss:cases”.",
)
_KEEP_S = 4 * 3600
_TEXT_CHARS = 220


class View(NamedTuple):
    """New values of the tab's outputs, in their order; ``KEEP`` leaves one as it is."""

    gallery: Any = KEEP
    status: Any = KEEP
    listing: Any = KEEP
    found: Any = KEEP
    chosen: Any = KEEP
    again: Any = KEEP
    slide: Any = KEEP
    said: Any = KEEP


@dataclass(frozen=True)
class CasesTab:
    """What the page needs of the tab, to open the slide of the chosen case.

    Attributes:
        slide: The button, shown where the chosen case has a slide.
        chosen: The chosen case.
        said: Where errors are said, beside the button.
        find: Chosen case → slide file and region.
    """

    slide: gr.Button
    chosen: gr.State
    said: gr.HTML
    find: Callable[[str], tuple[Path, Region | None]]


class Cases:
    """The handlers of the tab.

    Args:
        library: What is searched.
        can_add: The page is served to this machine only, so its user may change the library.
    """

    def __init__(self, library: Library, *, can_add: bool = False) -> None:
        self.library = library
        self.can_add = can_add

    def search(
        self,
        image: str | None,
        words: str | None,
        weight: float,
        organs: Sequence[str] | None,
        stains: Sequence[str] | None,
        diagnoses: Sequence[str] | None,
        more: str | None,
        k: float,
        variety: float,
    ) -> Iterator[View]:
        """Cases like an image, words or both."""

        def find(options: dict[str, Any]) -> list[Hit]:
            if not image and not _text(words):
                raise BadInput("there is nothing to search for; drop an image, type words, or both")
            return self.library.search([image] if image else [], words, int(k), **options)

        kind = "image and words" if image and _text(words) else "image" if image else "words"
        yield from self._run(f"by {kind}", find, weight, (organs, stains, diagnoses), more, variety)

    def again(
        self,
        chosen: str,
        words: str | None,
        weight: float,
        organs: Sequence[str] | None,
        stains: Sequence[str] | None,
        diagnoses: Sequence[str] | None,
        more: str | None,
        k: float,
        variety: float,
    ) -> Iterator[View]:
        """Cases like the chosen one, with the words if there are any."""

        def find(options: dict[str, Any]) -> list[Hit]:
            if not chosen:
                raise BadInput("no case is chosen; click one of the pictures first")
            return self.library.like(chosen, words, int(k), **options)

        kind = "by the chosen case and words" if _text(words) else "by the chosen case"
        yield from self._run(kind, find, weight, (organs, stains, diagnoses), more, variety)

    def choose(self, found: list[str], event: gr.SelectData) -> View:
        """A picture was clicked; only its number comes from the browser."""
        number = int(event.index)
        if not 0 <= number < len(found):
            return View()
        try:
            has_slide = self.library.has_slide(found[number])
        except PathAssistError:
            has_slide = False
        again = gr.update(value=f"Search with case {number + 1}", visible=True)
        return View(chosen=found[number], again=again, slide=gr.update(visible=has_slide), said="")

    def find_slide(self, chosen: str) -> tuple[Path, Region | None]:
        """Slide file and region of the chosen case.

        Raises:
            BadInput, NotAvailable: None is chosen, or there is no slide; the message names no path.
        """
        if not chosen:
            raise BadInput("no case is chosen; click one of the pictures first")
        try:
            return self.library.slide_of(chosen)
        except PathAssistError as error:
            raise type(error)(self._plain(error)) from error

    def add(
        self,
        image: str | None,
        title: str,
        organ: str,
        stain: str,
        diagnosis: str,
        group: str,
        request: gr.Request,
    ) -> Iterator[str]:
        """Put an image into the library; yields the notice to show."""
        try:
            if not self.can_add or not _is_here(request):
                raise BadInput("cases are added on the machine that serves this page only")
            if not image:
                raise BadInput("there is no image to add; drop one")
            labels = {"title": title, "organ": organ, "stain": stain, "diagnosis": diagnosis, "group": group}
            labels = {key: _text(value) for key, value in labels.items()}
            labels["title"] = labels["title"] or ", ".join(filter(None, (labels["diagnosis"], labels["organ"])))
            if not labels["title"]:
                raise BadInput("give the case a title, a diagnosis or an organ, so that it can be recognised")
            yield _busy("Adding…")
            new = self.library.add(image, **labels)
            done = "Added to the library" if new else "The labels of this case are up to date"
            yield info_html(f"{done}: {labels['title']}. It holds {len(self.library):,} cases.")
        except PathAssistError as error:
            yield error_html(self._plain(error))
        except Exception:
            log.exception("a case could not be added")
            yield error_html("internal error: the case was not added; the terminal has the details")

    def choices(self) -> tuple[Any, ...]:
        """Updates of the dropdowns, with the values that the library holds now."""
        try:
            return tuple(gr.update(choices=self.library.values(key)) for key in KEYS)
        except PathAssistError:
            log.warning("the labels of the case library cannot be read")
            return (KEEP,) * len(KEYS)

    def _run(
        self,
        kind: str,
        find: Callable[[dict[str, Any]], list[Hit]],
        weight: float,
        picked: Sequence[Sequence[str] | None],
        more: str | None,
        variety: float,
    ) -> Iterator[View]:
        yield View(status=_busy("Searching…"))
        try:
            where = {key: list(values) for key, values in zip(KEYS, picked, strict=True) if values}
            for key, values in filters(more).items():
                where.setdefault(key, []).extend(values)
            hits = find({"where": where, "weight": float(weight), "mmr": 1 - float(variety) if variety else None})
            pictures = [
                (self._picture(hit.case), f"{n} · {hit.score:.2f} · {hit.case.title or 'untitled'}")
                for n, hit in enumerate(hits, 1)
            ]
        except PathAssistError as error:
            yield View(status=error_html(self._plain(error)))
            return
        except Exception:
            log.exception("cases could not be searched")
            yield View(status=error_html("internal error: the search failed; the terminal has the details"))
            return
        hide = gr.update(visible=False)
        if not hits:
            nothing = info_html("No case is left outside the query's own slide or patient and within the filters.")
            yield View(gr.update(value=[], selected_index=None), nothing, "", [], "", hide, hide, "")
            return
        word = "case" if len(hits) == 1 else "cases"
        status = info_html(
            f"{len(hits)} {word} found {kind}, of {len(self.library):,}. Click a picture to go on from it."
        )
        ids = [hit.case.id for hit in hits]
        yield View(gr.update(value=pictures, selected_index=None), status, listing(hits), ids, "", hide, hide, "")

    def _picture(self, case: Case) -> Image.Image:
        data = self.library.thumbnail(case)
        if data is None:
            return Image.new("RGB", (64, 64), "#d6dfe1")
        with Image.open(io.BytesIO(data)) as picture:
            return picture.convert("RGB")

    def _plain(self, error: PathAssistError) -> str:
        """The message without the library's address, which is a path or names a server."""
        url = self.library.url
        return str(error).replace(url, "in use").replace(url.removeprefix("faiss:"), "the library")


def filters(text: str | None) -> dict[str, list[str]]:
    """``key=value, key=value`` as filters; one key twice means either value.

    Raises:
        BadInput: A part is not of that form.
    """
    found: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        key, equals, value = part.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise BadInput(f"the filter {part!r} is not key=value, for example organ=liver")
        found.setdefault(key.strip(), []).append(value.strip())
    return found


def listing(hits: Sequence[Hit]) -> str:
    """What is known of the cases found, best first, as HTML."""
    return f'<ol class="pa-hits" aria-label="Cases found">{"".join(map(_hit, hits))}</ol>'


def closeness(share: float | None) -> str:
    """A calibrated similarity in words; "" where there is none."""
    return "" if share is None else f"closer than {round(100 * share)} % of pairs of one diagnosis"


def _hit(hit: Hit) -> str:
    case = hit.case
    score = ", ".join(filter(None, (f"similarity {hit.score:.3f}", closeness(hit.as_close))))
    labels = " · ".join(filter(None, (case.diagnosis, case.organ, case.stain)))
    text = case.text if len(case.text) <= _TEXT_CHARS else case.text[:_TEXT_CHARS].rstrip() + " …"
    origin = " · ".join(filter(None, (case.source, case.licence)))
    parts = [
        f"<b>{escape(case.title or 'untitled')}</b>",
        f'<span class="labels">{escape(labels)}</span>' if labels else "",
        f'<span class="score">{escape(score)}</span>',
        f"<span>{escape(text)}</span>" if text else "",
        f"<small>{escape(origin)}</small>" if origin else "",
    ]
    return f"<li>{''.join(parts)}</li>"


def cases_tab(library: Library | None, *, can_add: bool) -> CasesTab | None:
    """Put the tab's content onto the page under construction; None without a library."""
    if library is None:
        gr.HTML(NO_LIBRARY, elem_id="pa-no-library", padding=False, js_on_load=None)
        return None
    cases = Cases(library, can_add=can_add)
    with gr.Row(elem_id="pa-cases", equal_height=False):
        with gr.Column(elem_id="pa-query", min_width=0):
            image = gr.Image(
                label="Like this image", type="filepath", image_mode=None, sources=["upload", "clipboard"],
                height=190, buttons=[], elem_id="pa-case-image",
            )  # fmt: skip
            words = gr.Textbox(label="Like these words", placeholder="in the liver", lines=1, max_length=500)
            with gr.Row(elem_id="pa-case-go"):
                go = gr.Button("Search", variant="primary", elem_id="pa-case-search")
            with gr.Accordion("Filters and ranking", open=False):
                picks = [
                    gr.Dropdown(choices=[], multiselect=True, label=key.capitalize(), allow_custom_value=False)
                    for key in KEYS
                ]
                more = gr.Textbox(label="Other filters", placeholder="source=archive, licence=CC-BY-4.0", lines=1)
                weight = gr.Slider(
                    0, 1, value=0.5, step=0.05, label="Weight of the image",
                    info="Where words are given too; 0 is words alone.",
                )  # fmt: skip
                count = gr.Slider(1, 24, value=8, step=1, label="How many cases")
                variety = gr.Slider(
                    0, 1, value=0, step=0.05, label="Variety",
                    info="0 ranks by similarity alone; more avoids near-twins.",
                )  # fmt: skip
            if can_add:
                _add_form(cases)
        with gr.Column(elem_id="pa-found", min_width=0):
            status = gr.HTML(START, elem_id="pa-case-status", padding=False, js_on_load=None)
            gallery = gr.Gallery(
                label="Cases found", show_label=False, columns=4, height="auto", object_fit="cover",
                allow_preview=False, interactive=False, buttons=[], elem_id="pa-gallery",
            )  # fmt: skip
            with gr.Row(elem_id="pa-case-next"):
                again = gr.Button("Search with this one", visible=False, elem_id="pa-case-again")
                slide = gr.Button("Open in the slide viewer", visible=False, elem_id="pa-case-slide")
            said = gr.HTML("", elem_id="pa-case-slide-said", padding=False, js_on_load=None)
            table = gr.HTML("", elem_id="pa-case-list", padding=False, js_on_load=None)
    found = gr.State([], time_to_live=_KEEP_S)
    chosen = gr.State("", time_to_live=_KEEP_S)
    screen = [gallery, status, table, found, chosen, again, slide, said]
    settings = [words, weight, *picks, more, count, variety]
    slow = {
        "show_progress": "hidden",
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "api_visibility": "undocumented",
    }
    gr.on([go.click, words.submit], cases.search, [image, *settings], screen, **slow, api_name="cases")
    again.click(cases.again, [chosen, *settings], screen, **slow, api_name=False)
    gallery.select(cases.choose, [found], screen, queue=False, show_progress="hidden", api_visibility="private")
    for pick in picks:
        pick.focus(cases.choices, None, picks, queue=False, show_progress="hidden", api_visibility="private")
    return CasesTab(slide, chosen, said, cases.find_slide)


def _add_form(cases: Cases) -> None:
    with gr.Accordion("Add a case", open=False, elem_id="pa-case-add"):
        image = gr.Image(
            label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=150, buttons=[]
        )
        fields = [
            gr.Textbox(label=label, lines=1, max_length=200, info=info)
            for label, info in (
                ("Title", None),
                ("Organ of the case", None),
                ("Stain of the case", None),
                ("Diagnosis of the case", None),
                ("Group", "Slide or patient as a code, never a name: its other cases are left out of a search."),
            )
        ]
        gr.HTML('<p class="pa-hint">The library keeps a small picture and the vector, not the image itself.</p>')
        button = gr.Button("Add to library")
        notice = gr.HTML("", js_on_load=None)
        button.click(
            cases.add, [image, *fields], [notice], show_progress="hidden", concurrency_id="model", concurrency_limit=1,
            api_visibility="private",
        )  # fmt: skip


def _busy(text: str) -> str:
    return f'<div class="notice" role="status" aria-busy="true"><p>{escape(text)}</p></div>'


def _text(value: str | None) -> str:
    return (value or "").strip()


def _is_here(request: gr.Request) -> bool:
    client = getattr(request, "client", None)
    return client is not None and is_loopback(str(client.host))
