"""QuPath's GeoJSON in and out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assistant import geojson
from assistant.errors import BadInput, TooLarge
from assistant.geojson import box, colour_of, moved, points_of, read_geojson, write_geojson

FILE = Path(__file__).with_name("slides") / "qupath.geojson"


def test_round_trip_keeps_everything() -> None:
    text = FILE.read_text(encoding="utf-8")
    shapes = read_geojson(text)
    assert write_geojson(shapes) == json.loads(text)
    assert write_geojson(read_geojson(json.dumps(write_geojson(shapes)))) == json.loads(text)
    area, stroma, cell, point = shapes
    assert (area.kind, area.label, area.colour, area.name) == ("annotation", "Tumor", (200, 0, 0), "Area 1")
    assert area.measurements["Area µm^2"] == 63036
    assert len(area.geometry["coordinates"]) == 2  # with a hole
    assert len(stroma.geometry["coordinates"]) == 2  # of two parts
    assert (cell.kind, cell.nucleus is not None) == ("cell", True)
    assert (point.geometry, point.label) == ({"type": "Point", "coordinates": [900, 700]}, "")


def test_older_forms() -> None:
    old: list[Any] = [
        {
            "type": "Feature",
            "id": "PathAnnotationObject",
            "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4]]]},
            "properties": {
                "classification": {"name": "Tumor", "colorRGB": -3670016},
                "isLocked": False,
                "measurements": [{"name": "Score", "value": 0.5}, {"name": "Bad", "value": "NaN"}],
            },
        }
    ]
    for value in (old, json.dumps(old), json.dumps(old[0]), {"type": "FeatureCollection", "features": old}):
        (shape,) = read_geojson(value)
        assert (shape.kind, shape.colour, dict(shape.measurements)) == ("annotation", (200, 0, 0), {"Score": 0.5})
        assert shape.geometry["coordinates"][0][-1] == [0, 0]
        assert len(shape.id) == 36


def test_moving_there_and_back() -> None:
    shapes = read_geojson(FILE.read_text(encoding="utf-8"))
    there = moved(shapes, 1000, 2000, 2)
    assert list(points_of(there[3].geometry)) == [(2800, 3400)]
    assert there[2].nucleus is not None
    assert there[2].nucleus["coordinates"][0][0] == [2284, 3008]
    assert moved(there, -500, -1000, 0.5)[1].geometry == shapes[1].geometry
    rectangle = write_geojson([box((1, 2, 3, 4), label="gland")])["features"][0]
    assert rectangle["geometry"]["coordinates"] == [[[1, 2], [3, 2], [3, 4], [1, 4], [1, 2]]]
    assert rectangle["properties"]["classification"] == {"name": "gland", "color": list(colour_of("gland"))}


def feature(**changes: Any) -> str:
    ring = [[0, 0], [4, 0], [4, 4], [0, 0]]
    base: dict[str, Any] = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    return json.dumps([base | changes])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ('{"type": "Topology"}', "not GeoJSON: type is 'Topology'"),
        ("[1]", "feature 1 of the GeoJSON is not a Feature"),
        (feature(geometry=None), "geometry of type 'None'"),
        (feature(geometry={"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}), "fewer than 3 different points"),
        (feature(geometry={"type": "Polygon", "coordinates": [[0, 0, 1]]}), "not lists of points"),
        (feature(geometry={"type": "Point", "coordinates": [0, "x"]}), "not two numbers"),
        (feature(geometry={"type": "Point", "coordinates": [float("nan"), 0]}), "not two numbers"),
        (feature(geometry={"type": "Point", "coordinates": [1e300, 0]}), "not two numbers"),
        (feature(properties={"objectType": "virus"}), "allowed: annotation, detection"),
        (feature(properties={"classification": 5}), "neither an object nor a name"),
        (feature(properties={"measurements": 5}), "neither an object nor a list"),
        (feature(properties=[1]), "not an object"),
    ],
)
def test_wrong_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_geojson(text)


def test_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geojson, "MAX_POINTS", 3)
    with pytest.raises(TooLarge, match="more than 3 points"):
        read_geojson(feature())
    monkeypatch.setattr(geojson, "MAX_FEATURES", 0)
    with pytest.raises(TooLarge, match="limit is 0"):
        read_geojson(feature())
    monkeypatch.setattr(geojson, "MAX_BYTES", 10)
    with pytest.raises(TooLarge, match="MiB"):
        read_geojson(feature())


def test_numbers_too_large_for_a_float_do_not_stop_the_reading() -> None:
    huge = 10**400
    shape = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]}
    feature = {"type": "Feature", "geometry": shape, "properties": {"measurements": {"area": huge, "length": 3}}}
    (found,) = read_geojson(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert found.measurements == {"length": 3.0}
    shape["coordinates"][0][1][0] = huge
    with pytest.raises(BadInput, match="not two numbers"):
        read_geojson(json.dumps({"type": "FeatureCollection", "features": [feature]}))
