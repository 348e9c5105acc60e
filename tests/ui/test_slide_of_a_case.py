"""From a case to its slide: what the page is given, what it never sees, and what is said when there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assistant.cases.library import Library
from assistant.errors import BadInput, NotAvailable
from tests.assistant.cases.conftest import ColourEncoder
from tests.ui.library import PATCHES, make_slide_library, write_coloured_slide
from ui.cases import Cases
from ui.slides import KEEP, Slides

pytest.importorskip("openslide")
pytest.importorskip("tifffile")

ONE: Any = SimpleNamespace(session_hash="one")
OTHER: Any = SimpleNamespace(session_hash="other")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[Library, Path]]:
    library, slide = make_slide_library(tmp_path)
    yield library, slide
    library.close()


@pytest.fixture
def library(made: tuple[Library, Path]) -> Library:
    return made[0]


@pytest.fixture
def slides(tmp_path: Path) -> Iterator[Slides]:
    slides = Slides(tmp_path, None)
    yield slides
    slides.close()


def case_like(library: Library, colour: str) -> str:
    return library.search([], colour, k=1)[0].case.id


def test_a_tile_a_whole_slide_and_a_picture(made: tuple[Library, Path]) -> None:
    library, slide = made
    for colour, (x, y) in PATCHES.items():
        assert library.slide_of(case_like(library, colour)) == (slide, (x, y, 256, 256))
        assert library.has_slide(case_like(library, colour))
    whole = library.store.ids({"kind": "slide"})
    assert [library.slide_of(one) for one in whole] == [(slide, None)]
    alone = case_like(library, "white")
    assert not library.has_slide(alone)
    with pytest.raises(BadInput, match="not a region of a slide"):
        library.slide_of(alone)
    with pytest.raises(BadInput, match="no longer in the library"):
        library.slide_of("gone")
    assert not library.has_slide("gone")


def test_the_button_is_for_cases_of_a_slide(library: Library) -> None:
    cases = Cases(library)
    found = [case_like(library, "red"), case_like(library, "white"), "gone"]
    shown = [cases.choose(found, SimpleNamespace(index=n)).slide["visible"] for n in range(3)]  # type: ignore[arg-type]
    assert shown == [True, False, False]
    *_, fresh = cases.search(None, "red", 0.5, [], [], [], "", 3, 0.0)
    assert fresh.slide["visible"] is False
    with pytest.raises(BadInput, match="no case is chosen"):
        cases.find_slide("")


def test_a_slide_that_has_gone_is_said_without_its_path(made: tuple[Library, Path]) -> None:
    library, slide = made
    case = case_like(library, "blue")
    slide.unlink()
    with pytest.raises(NotAvailable, match="not where it was") as raised:
        Cases(library).find_slide(case)
    assert not any(word in str(raised.value) for word in ("Jane", str(slide.parent), "\n"))


def test_the_region_is_marked_and_the_path_stays_here(made: tuple[Library, Path], slides: Slides) -> None:
    library, slide = made
    path, region = library.slide_of(case_like(library, "green"))
    opened, shown, status = slides.open_place(path, region, "", ONE)
    assert opened == shown.split(".")[0]
    assert shown.split(".")[2] == "1280,256,256,256"
    (mark,) = slides.store.layers(opened)["Chosen case"]
    assert mark.geometry["coordinates"][0][:3] == [[1280, 256], [1536, 256], [1536, 512]]
    said = f"{opened} {shown} {status} {slides.store.info(opened)}"
    assert not any(word in said for word in ("Jane", slide.parent.name, str(slide.parent)))


def test_the_same_slide_stays_open_with_its_layers(library: Library, slides: Slides) -> None:
    first, *_ = slides.open_place(*library.slide_of(case_like(library, "green")), "", ONE)
    slides.store.put_layer(first, "mine", slides.store.layers(first)["Chosen case"])
    again, shown, _ = slides.open_place(*library.slide_of(case_like(library, "red")), first, ONE)
    assert again == first
    assert shown.endswith(".256,256,256,256")
    assert set(slides.store.layers(first)) == {"Chosen case", "mine"}
    # Another session gets a slide of its own, and a closed one is opened again.
    other, *_ = slides.open_place(*library.slide_of(case_like(library, "red")), "", OTHER)
    assert other != first
    slides.store.close_session("one")
    reopened, *_ = slides.open_place(*library.slide_of(case_like(library, "red")), first, ONE)
    assert reopened not in (first, other)
    assert slides.store.layers(other).keys() == slides.store.layers(reopened).keys() == {"Chosen case"}
    slides.store.close()
    assert slides._places == {}


def test_a_whole_slide_has_all_of_it_marked(library: Library, slides: Slides) -> None:
    _, shown, _ = slides.open_place(*library.slide_of(library.store.ids({"kind": "slide"})[0]), "", ONE)
    assert shown.endswith(".0,0,2048,1280")


def test_another_file_in_its_place(made: tuple[Library, Path], slides: Slides) -> None:
    library, slide = made
    path, region = library.slide_of(case_like(library, "red"))
    with pytest.raises(BadInput, match="ends before the case's region"):
        slides.open_place(path, (2000, 0, 256, 256), "", ONE)
    assert len(slides.store) == 0
    keep, *_ = slides.open_place(path, region, "", ONE)
    broken = slide.with_name("broken.svs")
    broken.write_bytes(b"nothing")
    with pytest.raises(BadInput, match="cannot be read") as raised:
        slides.open_place(broken, region, keep, ONE)
    assert "broken" not in str(raised.value)
    assert slides.store.layers(keep).keys() == {"Chosen case"}
    assert slides.open_listed(0, keep, ONE)[0] is KEEP


def test_the_slides_of_the_tests_are_cut_where_they_are_coloured(tmp_path: Path) -> None:
    from assistant.cases.slides import Tiling, tiles

    found = tiles(write_coloured_slide(tmp_path / "x.tif"), Tiling(256))
    assert {case.region[:2] for case in found if case.region} == set(PATCHES.values())
    assert ColourEncoder().info.name == "colours"
