"""Shapes on a slide as QuPath reads and writes them: GeoJSON with coordinates in pixels of the full resolution.

QuPath writes a FeatureCollection, or with older settings a bare list of Features or one Feature::

    {"type": "Feature", "id": "<uuid>", "geometry": {"type": "Polygon", "coordinates": [[[x, y], …]]},
     "properties": {"objectType": "annotation" | "detection" | "cell" | "tile", "name": "…",
                    "classification": {"name": "Tumor", "color": [200, 0, 0]}, "isLocked": false,
                    "measurements": {"Area µm^2": 12.5}}}

Cells carry a ``nucleusGeometry`` beside ``geometry``; before version 0.4 colours were one packed number (``colorRGB``)
and measurements a list of names and values. All of that is read; the first form is written. What is not named here is
kept as it came. Origin is the top left corner of the image, or of its bounds where QuPath crops a slide to them (MRXS).
"""

from __future__ import annotations

import colorsys
import json
import math
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from assistant.errors import BadInput, TooLarge

MAX_BYTES = 64 * 1024 * 1024
MAX_FEATURES = 200_000
MAX_POINTS = 5_000_000
OBJECT_TYPES = ("annotation", "detection", "cell", "tile", "tma_core")
_ALIASES = {"path_annotation_object": "annotation", "pathannotationobject": "annotation", "tmacore": "tma_core"}
#: Nesting of the coordinates of each kind of geometry.
_DEPTH = {"Point": 0, "MultiPoint": 1, "LineString": 1, "MultiLineString": 2, "Polygon": 2, "MultiPolygon": 3}
_FAR = 1e8  # no slide is larger


@dataclass(frozen=True)
class Shape:
    """One object.

    Attributes:
        geometry: GeoJSON geometry: Polygon (first ring outside, others holes), MultiPolygon, points and lines.
        kind: One of :data:`OBJECT_TYPES`.
        label: Name of the class, empty for none.
        colour: Of the class, 0 to 255 each.
        name: Of this object.
        id: UUID, kept in a round trip.
        measurements: Name → number.
        nucleus: Geometry of the nucleus of a cell.
        extra: Further properties, as they came.
    """

    geometry: dict[str, Any]
    kind: str = "annotation"
    label: str = ""
    colour: tuple[int, int, int] | None = None
    name: str = ""
    id: str = ""
    measurements: Mapping[str, float] = field(default_factory=dict)
    nucleus: dict[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def read_geojson(source: str | bytes | Mapping[str, Any] | list[Any]) -> list[Shape]:
    """Check a GeoJSON text or value and take its shapes.

    Raises:
        TooLarge: More bytes, objects or points than the caps.
        BadInput: Not GeoJSON of the kinds above; the message says which feature and what is wrong.
    """
    value = _parse(source) if isinstance(source, (str, bytes)) else source
    features = _features(value)
    if len(features) > MAX_FEATURES:
        raise TooLarge(f"the GeoJSON has {len(features):,} features; the limit is {MAX_FEATURES:,}: split the file")
    points = [0]
    return [_shape(feature, number, points) for number, feature in enumerate(features, start=1)]


def write_geojson(shapes: Iterable[Shape]) -> dict[str, Any]:
    """A FeatureCollection as QuPath writes it; colours that are missing are made from the class name."""
    return {"type": "FeatureCollection", "features": [_feature(shape) for shape in shapes]}


def moved(shapes: Iterable[Shape], x: float, y: float, scale: float = 1.0) -> list[Shape]:
    """Shapes at ``(x, y) + scale * point``: from pixels of a view to those of the slide it shows."""
    return [
        replace(
            shape,
            geometry=_moved(shape.geometry, x, y, scale),
            nucleus=_moved(shape.nucleus, x, y, scale) if shape.nucleus else None,
        )
        for shape in shapes
    ]


def box(xyxy: Iterable[float], **attributes: Any) -> Shape:
    """A rectangle."""
    x0, y0, x1, y1 = (float(value) for value in xyxy)
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    return Shape({"type": "Polygon", "coordinates": [ring]}, **attributes)


def colour_of(label: str) -> tuple[int, int, int]:
    """A bright colour that is always the same for a label."""
    hue = zlib.crc32(label.encode("utf-8", "replace")) % 360 / 360
    red, green, blue = colorsys.hls_to_rgb(hue, 0.45, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def _parse(source: str | bytes) -> Any:
    if len(source) > MAX_BYTES:
        raise TooLarge(f"the GeoJSON has {len(source) >> 20} MiB; the limit is {MAX_BYTES >> 20} MiB: split the file")
    try:
        return json.loads(source, parse_constant=lambda word: None)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
        raise BadInput(f"this is not a JSON file: {reason}; export it again as GeoJSON") from error


def _features(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "FeatureCollection" and isinstance(value.get("features"), list):
        return list(value["features"])
    if kind == "Feature":
        return [value]
    raise BadInput(
        f"this is not GeoJSON: type is {str(kind)[:40]!r}; a FeatureCollection, a Feature or a list of those is needed"
    )


def _shape(feature: Any, number: int, points: list[int]) -> Shape:
    where = f"feature {number} of the GeoJSON"
    if not isinstance(feature, Mapping) or feature.get("type") != "Feature":
        raise BadInput(f'{where} is not a Feature; each needs "type": "Feature"')
    given = feature.get("properties") or {}
    if not isinstance(given, Mapping):
        raise BadInput(f"{where} has properties that are not an object")
    properties = dict(given)
    kind = str(properties.pop("objectType", properties.pop("object_type", "annotation"))).lower()
    kind = _ALIASES.get(kind, kind)
    if kind not in OBJECT_TYPES:
        raise BadInput(f"{where} has objectType {kind[:40]!r}; allowed: {', '.join(OBJECT_TYPES)}")
    label, colour = _class(properties.pop("classification", None), where)
    nucleus = feature.get("nucleusGeometry") or properties.pop("nucleusGeometry", None)
    return Shape(
        geometry=_geometry(feature.get("geometry"), where, points),
        kind=kind,
        label=label,
        colour=colour,
        name=str(properties.pop("name", "") or "")[:500],
        id=_id(feature.get("id")),
        measurements=_measurements(properties.pop("measurements", None), where),
        nucleus=_geometry(nucleus, where, points) if nucleus else None,
        extra=properties,
    )


def _geometry(value: Any, where: str, points: list[int]) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind not in _DEPTH:
        raise BadInput(f"{where} has a geometry of type {str(kind)[:40]!r}; allowed: {', '.join(_DEPTH)}")
    coordinates = _coordinates(value.get("coordinates"), _DEPTH[kind], where, points)
    if kind == "Polygon":
        coordinates = _closed(coordinates, where)
    elif kind == "MultiPolygon":
        coordinates = [_closed(polygon, where) for polygon in coordinates]
    # QuPath adds "plane" (z and t) and "isEllipse" here.
    rest = {key: item for key, item in value.items() if key in ("plane", "isEllipse")}
    return {"type": kind, "coordinates": coordinates, **rest}


def _coordinates(value: Any, depth: int, where: str, points: list[int]) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise BadInput(f"{where} has coordinates that are not lists of points")
    if depth:
        return [_coordinates(item, depth - 1, where, points) for item in value]
    points[0] += 1
    if points[0] > MAX_POINTS:
        raise TooLarge(f"the GeoJSON has more than {MAX_POINTS:,} points; split the file")
    numbers = [item for item in value[:2] if isinstance(item, (int, float)) and not isinstance(item, bool)]
    if len(numbers) < 2 or not all(_finite(item) and abs(item) <= _FAR for item in numbers):
        raise BadInput(f"{where} has a point that is not two numbers in pixels: {str(value)[:60]}")
    return numbers


def _closed(rings: list[Any], where: str) -> list[Any]:
    """Rings with the last point equal to the first."""
    closed = [ring if ring and ring[0] == ring[-1] else [*ring, *ring[:1]] for ring in rings]
    if not closed or any(len(ring) < 4 for ring in closed):
        raise BadInput(f"{where} has a ring of fewer than 3 different points")
    return closed


def _class(value: Any, where: str) -> tuple[str, tuple[int, int, int] | None]:
    if value is None:
        return "", None
    if isinstance(value, str):
        return value[:200], None
    if not isinstance(value, Mapping):
        raise BadInput(f"{where} has a classification that is neither an object nor a name")
    names = value.get("names")
    name = value.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else "")
    colour = value.get("color")
    if isinstance(packed := value.get("colorRGB"), int):
        colour = [packed >> 16 & 255, packed >> 8 & 255, packed & 255]
    if isinstance(colour, list) and len(colour) >= 3 and all(isinstance(c, int) and 0 <= c <= 255 for c in colour[:3]):
        return str(name)[:200], (colour[0], colour[1], colour[2])
    return str(name)[:200], None


def _measurements(value: Any, where: str) -> dict[str, float]:
    if isinstance(value, list):
        value = {str(row.get("name")): row.get("value") for row in value if isinstance(row, Mapping)}
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadInput(f"{where} has measurements that are neither an object nor a list")
    # QuPath writes NaN for what it could not measure; JSON has no such number, so it is left out.
    return {
        str(key)[:200]: float(number)
        for key, number in value.items()
        if isinstance(number, (int, float)) and _finite(number)
    }


def _finite(number: float) -> bool:
    """Whether a number fits a float; JSON's integers may have any length."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _id(value: Any) -> str:
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        return str(uuid.uuid4())


def _feature(shape: Shape) -> dict[str, Any]:
    properties: dict[str, Any] = {**shape.extra, "objectType": shape.kind}
    if shape.name:
        properties["name"] = shape.name
    if shape.label:
        properties["classification"] = {
            "name": shape.label,
            "color": list(shape.colour or colour_of(shape.label)),
        }
    if shape.measurements:
        properties["measurements"] = dict(shape.measurements)
    feature: dict[str, Any] = {"type": "Feature", "id": _id(shape.id), "geometry": shape.geometry}
    if shape.nucleus:
        feature["nucleusGeometry"] = shape.nucleus
    return {**feature, "properties": properties}


def _moved(geometry: dict[str, Any], x: float, y: float, scale: float) -> dict[str, Any]:
    def move(value: Any, depth: int) -> Any:
        if depth:
            return [move(item, depth - 1) for item in value]
        return [round(x + scale * value[0], 2), round(y + scale * value[1], 2)]

    return {**geometry, "coordinates": move(geometry["coordinates"], _DEPTH[geometry["type"]])}


def points_of(geometry: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    """All points of a geometry."""

    def walk(value: Any, depth: int) -> Iterator[tuple[float, float]]:
        if depth:
            for item in value:
                yield from walk(item, depth - 1)
        else:
            yield value[0], value[1]

    return walk(geometry["coordinates"], _DEPTH[geometry["type"]])
