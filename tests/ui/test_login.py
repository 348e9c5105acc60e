"""Slides and reports ask for the page's login where one is set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from assistant.slides.store import SlideStore
from tests.ui.conftest import ShowAssistant, served
from tests.ui.library import write_coloured_slide

pytest.importorskip("openslide")
pytest.importorskip("tifffile")
pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'")
USER = {"username": "me", "password": "secret-password"}


@contextmanager
def page_with_a_slide(monkeypatch: pytest.MonkeyPatch, folder: Path, **keywords: Any) -> Iterator[tuple[str, str]]:
    """Address of the page, and the id of a slide that is open on it."""
    made: list[SlideStore] = []

    class Remembered(SlideStore):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            made.append(self)

    monkeypatch.setattr("ui.slides.SlideStore", Remembered)
    with served(ShowAssistant(), **keywords) as url:
        try:
            yield url, made[-1].add(write_coloured_slide(folder / "slide.tif"))
        finally:
            made[-1].close()


def paths(identifier: str) -> list[str]:
    return [
        f"/slides/{identifier}.dzi",
        f"/slides/{identifier}_files/11/0_0.jpeg",
        f"/slides/{identifier}/thumbnail.jpeg",
        f"/slides/{identifier}/info.json",
        f"/slides/{identifier}/annotations.geojson",
        "/slides/assets/viewer.js",
    ]


def test_slides_need_the_login_of_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with page_with_a_slide(monkeypatch, tmp_path, auth=("me", "secret-password")) as (url, identifier):
        for path in [*paths(identifier), "/benchmarks/anything", "/slides/no-such-slide.dzi"]:
            refused = httpx.get(url + path)
            assert (path, refused.status_code) == (path, 401)
            assert refused.json()["error"]["code"] == "login_required"
            assert "content-security-policy" in refused.headers
        collection = {"type": "FeatureCollection", "features": []}
        put = f"{url}/slides/{identifier}/annotations.geojson?layer=x"
        assert httpx.put(put, json=collection).status_code == 401
        wrong = httpx.post(f"{url}/login", data=USER | {"password": "guess"})
        assert wrong.status_code == 400
        forged = {name: "guess" for name in httpx.post(f"{url}/login", data=USER).cookies}
        assert httpx.get(url + paths(identifier)[0], cookies=forged).status_code == 401

        cookies = httpx.post(f"{url}/login", data=USER).cookies
        for path in paths(identifier):
            assert (path, httpx.get(url + path, cookies=cookies).status_code) == (path, 200)
        assert httpx.put(put, json=collection, cookies=cookies).status_code == 200
        assert httpx.get(f"{url}/slides/no-such-slide.dzi", cookies=cookies).status_code == 404


def test_a_page_without_login_is_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with page_with_a_slide(monkeypatch, tmp_path) as (url, identifier):
        for path in paths(identifier):
            assert (path, httpx.get(url + path).status_code) == (path, 200)
        assert httpx.get(f"{url}/slides/no-such-slide.dzi").status_code == 404
        assert httpx.get(f"{url}/benchmarks/anything").status_code == 404


def test_a_guard_that_follows_no_page_lets_nobody_in() -> None:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.testclient import TestClient

    from ui.login import PageLogin

    route = Route("/x", lambda _: PlainTextResponse("secret"))
    PageLogin().guard([route])
    assert TestClient(Starlette(routes=[route])).get("/x").status_code == 401
