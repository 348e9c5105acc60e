"""The Cases tab: its handlers as plain generators, and what a case shows of itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assistant.answer import Answer, Case, Note
from assistant.cases.library import Library
from assistant.errors import BadInput
from retrieval.records import Case as Record
from retrieval.records import Hit
from tests.assistant.cases.conftest import paint
from tests.ui.library import make_library
from ui.cases import Cases, View, filters, listing
from ui.evidence import evidence_html, record

HERE: Any = SimpleNamespace(client=SimpleNamespace(host="127.0.0.1"))
ELSEWHERE: Any = SimpleNamespace(client=SimpleNamespace(host="192.0.2.7"))


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    library = make_library(tmp_path / "Jane Doe")
    yield library
    library.close()


@pytest.fixture
def cases(library: Library) -> Cases:
    return Cases(library, can_add=True)


def search(cases: Cases, image: str | None = None, words: str = "", **more: Any) -> list[View]:
    settings = {"weight": 0.5, "organs": [], "stains": [], "diagnoses": [], "more": "", "k": 3, "variety": 0.0} | more
    return list(cases.search(image, words, **settings))


def test_words_and_an_image_find_cases(cases: Cases, tmp_path: Path) -> None:
    busy, last = search(cases, words="green")
    assert "Searching" in busy.status
    assert [caption[:1] for _, caption in last.gallery["value"]] == ["1", "2", "3"]
    assert "Green field" in last.listing.split("</li>")[0]
    assert len(last.found) == 3
    assert last.chosen == ""
    *_, last = search(cases, str(paint(tmp_path / "q.png", "blue", 99)))
    assert "by image" in last.status
    assert "Blue field" in last.listing.split("</li>")[0]
    *_, last = search(cases, str(paint(tmp_path / "q.png", "blue", 99)), "red", weight=0.0)
    assert "by image and words" in last.status
    assert "Red field" in last.listing.split("</li>")[0]


def test_filters_and_variety(cases: Cases) -> None:
    *_, last = search(cases, words="red", organs=["liver"], k=8)
    assert last.listing.count("<li>") == last.listing.count("· liver ·") == 3
    *_, last = search(cases, words="red", more="organ=liver, source=archive", k=8)
    assert last.listing.count("<li>") == last.listing.count("· liver ·") == 3
    *_, plain = search(cases, words="red", k=2)
    *_, varied = search(cases, words="red", k=2, variety=0.9)
    assert plain.found != varied.found


def test_going_on_from_a_case(cases: Cases) -> None:
    *_, last = search(cases, words="green")
    view = cases.choose(last.found, SimpleNamespace(index=1))  # type: ignore[arg-type]
    assert view.chosen == last.found[1]
    assert view.again["visible"]
    *_, again = cases.again(view.chosen, "", 0.5, [], [], [], "", 3, 0.0)
    assert view.chosen not in again.found
    assert "by the chosen case" in again.status
    assert cases.choose(last.found, SimpleNamespace(index=9)) == View()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "nothing to search for"),
        ({"words": "red", "more": "organ"}, "not key=value"),
        ({"words": "red", "more": "nobody=x"}, "to filter by"),
        ({"words": "red", "organs": ["spleen"]}, "spleen"),
        ({"image": "/nowhere/x.png"}, "x.png"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(cases: Cases, more: dict[str, Any], says: str) -> None:
    *_, last = search(cases, **more)
    assert 'role="alert"' in last.status
    assert says in last.status
    assert last.gallery is not None


def test_a_library_that_fails_names_no_path(cases: Cases, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: Any, **__: Any) -> None:
        raise BadInput(f"the case store {library.url} is damaged; see {library.url.removeprefix('faiss:')}/x")

    monkeypatch.setattr(library, "search", damaged)
    *_, last = search(cases, words="red")
    assert "is damaged" in last.status
    assert "Jane" not in last.status
    monkeypatch.setattr(library, "search", lambda *_, **__: 1 / 0)
    assert "Internal error" in search(cases, words="red")[-1].status


def test_adding(cases: Cases, library: Library, tmp_path: Path) -> None:
    image = str(paint(tmp_path / "new.png", "white", 5))
    busy, done = cases.add(image, "", "skin", "", "naevus", "p1", HERE)
    assert "Adding" in busy
    assert "Added to the library: naevus, skin. It holds 10 cases." in done
    assert library.store.values("organ")["skin"] == 1
    assert "skin" in cases.choices()[0]["choices"]
    assert "up to date" in list(cases.add(image, "New", "skin", "", "naevus", "p1", HERE))[-1]


@pytest.mark.parametrize(
    ("image", "title", "where", "can_add", "says"),
    [
        (True, "x", ELSEWHERE, True, "on the machine"),
        (True, "x", HERE, False, "on the machine"),
        (False, "x", HERE, True, "no image"),
        (True, " ", HERE, True, "Give the case a title"),
    ],
)
def test_refused_additions(
    library: Library, tmp_path: Path, image: bool, title: str, where: Any, can_add: bool, says: str
) -> None:
    path = str(paint(tmp_path / "new.png", "white", 5)) if image else None
    (notice,) = Cases(library, can_add=can_add).add(path, title, "", "", "", "", where)
    assert says in notice
    assert len(library) == 9


def test_what_is_shown_of_a_case() -> None:
    case = Record("P-1961", "/home/jane/x.png", title="<b>Gland</b>", organ="colon", group="Jane Doe", text="${x}")
    html = listing([Hit(case, 0.51239, 0.834)])
    assert "closer than 83 % of pairs of one diagnosis" in html
    assert "similarity 0.512" in html
    assert "&lt;b&gt;Gland" in html
    assert not any(secret in html.lower() for secret in ("jane", "p-1961", "${"))
    assert "closer" not in listing([Hit(case, 0.5)])


def test_filters() -> None:
    assert filters(" a=1, b = 2,a=3,") == {"a": ["1", "3"], "b": ["2"]}
    assert filters(None) == {}
    with pytest.raises(BadInput, match="key=value"):
        filters("=x")


def test_the_evidence_panel_numbers_cases_and_notes() -> None:
    answer = Answer(
        "Colon.", 0.9, False, "Colon.", cases=(Case("c1", 0.9, "Gland"), Case("secret", 0.8, "")),
        notes=(Note("n/0", 0.5, "On <glands>", "Text."),), support="unsupported", support_text="No supporting case: …",
    )  # fmt: skip
    html = evidence_html(record("q", answer, 0.5))
    assert "<b>[1]</b>" in html
    assert "[3] On &lt;glands&gt; (0.50)" in html
    assert 'class="support unsupported"' in html
    assert "secret" not in html
