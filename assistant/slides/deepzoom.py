"""HTTP routes of open slides, as Deep Zoom viewers ask for them.

    GET  /slides/{id}.dzi                               descriptor
    GET  /slides/{id}_files/{level}/{column}_{row}.jpeg tiles
    GET  /slides/{id}/thumbnail.jpeg?side=512           the whole slide
    GET  /slides/{id}/info.json                         size, µm per pixel, pyramid, layers
    GET  /slides/{id}/annotations.geojson?layer=NAME    shapes in QuPath's coordinates
    GET  /slides/{id}/shapes.json?layer=NAME            in pixels of the full resolution, short form for drawing
    PUT  /slides/{id}/annotations.geojson?layer=NAME    set a layer; an empty collection removes it
    GET  /slides/assets/{name}                          scripts and styles of a viewer, when given

The id is random and is the right to see the slide; paths and file names appear nowhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from assistant.errors import BadInput, PathAssistError, TooLarge
from assistant.geojson import MAX_BYTES, colour_of, read_geojson, write_geojson
from assistant.slides.store import OVERLAP, TILE, SlideStore, encode

_MAX_SIDE = 2048
_PRIVATE = {"cache-control": "private, max-age=3600", "x-content-type-options": "nosniff"}
_FRESH = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_XML = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" '
    'Format="jpeg" Overlap="{overlap}" TileSize="{tile}"><Size Width="{width}" Height="{height}"/></Image>\n'
)
Assets = Mapping[str, Callable[[], Path | None]]


def slide_routes(store: SlideStore, assets: Assets | None = None) -> list[Route]:
    """Routes to put into an application before anything that catches all paths.

    Args:
        store: The open slides.
        assets: File name → function that gives its path, or None while it is not installed.
    """
    routes = _Routes(store, assets or {})
    return [
        Route("/slides/assets/{name}", _guarded(routes.asset)),
        Route("/slides/{id}.dzi", _guarded(routes.descriptor)),
        Route("/slides/{id}_files/{level:int}/{column:int}_{row:int}.jpeg", _guarded(routes.tile)),
        Route("/slides/{id}/thumbnail.jpeg", _guarded(routes.thumbnail)),
        Route("/slides/{id}/info.json", _guarded(routes.info)),
        Route("/slides/{id}/shapes.json", _guarded(routes.shapes)),
        Route("/slides/{id}/annotations.geojson", _guarded(routes.annotations)),
        Route("/slides/{id}/annotations.geojson", _put(routes), methods=["PUT"]),
    ]


class _Routes:
    def __init__(self, store: SlideStore, assets: Assets) -> None:
        self.store = store
        self.assets = assets

    def descriptor(self, request: Request) -> Response:
        with self.store.use(request.path_params["id"]) as slide:
            text = _XML.format(overlap=OVERLAP, tile=TILE, width=slide.size[0], height=slide.size[1])
        return Response(text, media_type="application/xml", headers=_PRIVATE)

    def tile(self, request: Request) -> Response:
        place = request.path_params
        data = self.store.tile(place["id"], place["level"], place["column"], place["row"])
        return Response(data, media_type="image/jpeg", headers=_PRIVATE)

    def thumbnail(self, request: Request) -> Response:
        side = request.query_params.get("side", "512")
        if not side.isdecimal() or not 16 <= int(side) <= _MAX_SIDE:
            raise BadInput(f"side is {side[:20]!r}; allowed: 16 to {_MAX_SIDE}")
        with self.store.use(request.path_params["id"]) as slide:
            return Response(encode(slide.thumbnail(int(side))), media_type="image/jpeg", headers=_PRIVATE)

    def info(self, request: Request) -> Response:
        return JSONResponse(self.store.info(request.path_params["id"]), headers=_FRESH)

    def annotations(self, request: Request) -> Response:
        shapes = self.store.export_shapes(request.path_params["id"], request.query_params.get("layer"))
        headers = {**_FRESH, "content-disposition": 'attachment; filename="annotations.geojson"'}
        return JSONResponse(write_geojson(shapes), media_type="application/geo+json", headers=headers)

    def shapes(self, request: Request) -> Response:
        layers = self.store.layers(request.path_params["id"])
        name = request.query_params.get("layer", "")
        if name not in layers:
            raise BadInput(f"the slide has no layer {name[:80]!r}")
        rows: list[dict[str, Any]] = [
            {
                "geometry": shape.geometry,
                "label": shape.label or shape.name or name,
                "colour": shape.colour or colour_of(shape.label or name),
            }
            for shape in layers[name]
        ]
        return JSONResponse({"shapes": rows}, headers=_FRESH)

    def asset(self, request: Request) -> Response:
        find = self.assets.get(request.path_params["name"])
        path = find() if find is not None else None
        if path is None or not path.is_file():
            return JSONResponse({"error": {"message": "not installed", "code": "not_available"}}, 404, _FRESH)
        return FileResponse(path, headers={**_FRESH, "cache-control": "private, max-age=300"})


def _put(routes: _Routes) -> Callable[[Request], Awaitable[Response]]:
    async def put(request: Request) -> Response:
        try:
            identifier, layer = request.path_params["id"], request.query_params.get("layer", "Imported")
            routes.store.layers(identifier)  # an unknown slide takes no body
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise TooLarge(f"the GeoJSON has over {MAX_BYTES >> 20} MiB; split the file")
            shapes = await run_in_threadpool(read_geojson, bytes(body))
            count = await run_in_threadpool(routes.store.import_shapes, identifier, layer, shapes)
            return JSONResponse({"shapes": count}, headers=_FRESH)
        except PathAssistError as error:
            return _error(error)

    return put


def _guarded(handle: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Our own errors as JSON, as in the rest of the API."""

    def guarded(request: Request) -> Response:
        try:
            return handle(request)
        except PathAssistError as error:
            return _error(error)

    return guarded


def _error(error: PathAssistError) -> Response:
    status = 404 if str(error).startswith("this slide is not open") else error.status
    value = {"error": {"message": str(error), "type": type(error).__name__, "code": error.code}}
    return JSONResponse(value, status, _FRESH)
