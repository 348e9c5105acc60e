"""Open slides of a server: ids, limits, threads, routes, layers."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from assistant.errors import BadInput, NotAvailable, TooLarge
from assistant.geojson import box
from assistant.slides import base, openseadragon
from assistant.slides.deepzoom import slide_routes
from assistant.slides.store import SlideStore
from tests.ui.slides_page import write_slide

pytest.importorskip("openslide")
pytest.importorskip("tifffile")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("store") / "Jane Doe.tif")


@pytest.fixture
def store() -> Iterator[SlideStore]:
    store = SlideStore(max_open=4, per_session=2, cache_bytes=60_000)
    yield store
    store.close()


@pytest.fixture
def client(store: SlideStore, tmp_path: Path) -> TestClient:
    (tmp_path / "viewer.js").write_text("1")
    assets: Any = {"viewer.js": lambda: tmp_path / "viewer.js", "other.js": lambda: None}
    return TestClient(Starlette(routes=slide_routes(store, assets)), raise_server_exceptions=False)


def test_limits_and_closing(store: SlideStore, path: Path) -> None:
    closed: list[int] = []
    ids = [store.add(path, session="a", on_close=lambda n=n: closed.append(n)) for n in range(3)]
    assert closed == [0]
    with pytest.raises(BadInput, match="not open any more"), store.use(ids[0]):
        pass
    with store.use(ids[1]) as slide:
        store.remove(ids[1])
        assert closed == [0]  # it is being read
        assert slide.read(0, 0, 10, 10).size == (10, 10)
    assert closed == [0, 1]
    others = [store.add(path, session=f"s{n}") for n in range(4)]
    assert closed == [0, 1, 2]
    assert len(store) == 4
    store.close_session("s1")
    assert len(store) == 3
    assert len(set(ids + others)) == 7
    store.close()
    assert len(store) == 0


def test_threads_share_a_slide(store: SlideStore, path: Path) -> None:
    identifier = store.add(path)
    expected = {(c, r): store.tile(identifier, 12, c, r) for c in range(8) for r in range(7)}
    assert store._tile_bytes <= 60_000
    start = threading.Barrier(8)

    def read(number: int) -> bool:
        start.wait(10)
        return all(store.tile(identifier, 12, *key) == data for key, data in list(expected.items())[number::3])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def test_routes(client: TestClient, store: SlideStore, path: Path) -> None:
    identifier = store.add(path, title="Mine")
    descriptor = client.get(f"/slides/{identifier}.dzi")
    assert 'Width="2400" Height="1800"' in descriptor.text
    tile = client.get(f"/slides/{identifier}_files/12/1_2.jpeg")
    assert (tile.status_code, tile.headers["content-type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(tile.content)).size == (256, 256)
    assert "private" in tile.headers["cache-control"]
    thumbnail = client.get(f"/slides/{identifier}/thumbnail.jpeg?side=300")
    assert Image.open(io.BytesIO(thumbnail.content)).size == (300, 225)
    info = client.get(f"/slides/{identifier}/info.json")
    assert (info.json()["mpp"], info.json()["title"]) == (pytest.approx(0.5), "Mine")
    for answer in (descriptor, info):
        assert "Jane" not in answer.text + str(answer.headers)
    assert client.get("/slides/assets/viewer.js").text == "1"
    for wrong in (
        "assets/other.js", "assets/x.js", "assets/..%2f..%2fpyproject.toml", f"{'0' * 32}.dzi", f"{identifier}.txt",
        f"{identifier}_files/12/99_0.jpeg", f"{identifier}_files/99/0_0.jpeg", f"{identifier}_files/-1/0_0.jpeg",
        f"{identifier}/thumbnail.jpeg?side=99999", f"{identifier}/label.jpeg", f"{identifier}/shapes.json?layer=x",
    ):  # fmt: skip
        assert client.get(f"/slides/{wrong}").status_code in (400, 404), wrong
    store.remove(identifier)
    gone = client.get(f"/slides/{identifier}/info.json")
    assert (gone.status_code, gone.json()["error"]["message"]) == (
        404,
        "this slide is not open any more; open it again",
    )


def test_layers_over_http(client: TestClient, store: SlideStore, path: Path) -> None:
    identifier = store.add(path)
    address = f"/slides/{identifier}/annotations.geojson"
    text = Path(__file__).with_name("qupath.geojson").read_text()
    assert client.put(address, content=text, params={"layer": "mine"}).json() == {"shapes": 4}
    shapes = client.get(f"/slides/{identifier}/shapes.json?layer=mine").json()["shapes"]
    assert shapes[0]["colour"] == [200, 0, 0]
    back = client.get(address).json()
    assert [one["id"] for one in back["features"]] == [one["id"] for one in json.loads(text)["features"]]
    assert client.put(address, content='{"type": "FeatureCollection", "features": []}', params={"layer": "mine"}).json()
    assert store.layers(identifier) == {}
    assert client.put(address, content="[{]").status_code == 400
    assert client.put(f"/slides/{'0' * 32}/annotations.geojson", content="[]").status_code == 404
    assert client.post(address).status_code == 405


def test_bounds_are_where_qupath_begins(store: SlideStore, path: Path) -> None:
    identifier = store.add(path)
    with store.use(identifier) as slide:
        slide.bounds = base.Window(100, 50, 2000, 1500)
    assert store.import_shapes(identifier, "a", [box((0, 0, 10, 10))]) == 1
    assert store.layers(identifier)["a"][0].geometry["coordinates"][0][0] == [100, 50]
    assert store.export_shapes(identifier)[0].geometry["coordinates"][0][0] == [0, 0]


def test_layer_limits(store: SlideStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identifier = store.add(path)
    monkeypatch.setattr("assistant.slides.store.MAX_FEATURES", 3)
    store.put_layer(identifier, "a", [box((0, 0, 1, 1))] * 2)
    with pytest.raises(TooLarge, match="would have 4 shapes; the limit is 3"):
        store.put_layer(identifier, "b", [box((0, 0, 1, 1))] * 2)
    monkeypatch.setattr("assistant.slides.store._MAX_LAYERS", 1)
    with pytest.raises(TooLarge, match="has 1 layers"):
        store.put_layer(identifier, "b", [box((0, 0, 1, 1))])
    with pytest.raises(BadInput, match="there are: a"):
        store.export_shapes(identifier, "c")


def test_viewer_script_is_the_pinned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "openseadragon-6.1.1.tgz"
    other.write_bytes(b"something else")
    with pytest.raises(NotAvailable, match="it was not used"):
        openseadragon.check(other)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(NotAvailable, match="npm is not installed; install Node"):
        openseadragon.install(tmp_path)
    monkeypatch.setenv("PATHASSIST_OFFLINE", "1")
    with pytest.raises(NotAvailable, match="PATHASSIST_OFFLINE"):
        openseadragon.install(tmp_path)
    assert openseadragon.script(tmp_path) is None


@pytest.mark.network
@pytest.mark.slow
def test_viewer_script_from_npm(tmp_path: Path) -> None:
    import shutil

    if shutil.which("npm") is None:
        pytest.skip("no npm here")
    script = openseadragon.install(tmp_path)
    assert b"OpenSeadragon" in script.read_bytes()
    assert sorted(path.name for path in script.parent.iterdir()) == ["LICENSE.txt", "openseadragon.min.js"]
