"""Model Context Protocol: asking, grounding, case search and every tool, for other programs' models to call.

``pathassist mcp`` speaks over standard input and output; ``pathassist serve --mcp`` also over HTTP at ``/mcp``, behind
the guard and in the line of the API. Images are data URIs or base64. A path is taken only inside the workspace folder
that the person who starts the server names; without one, and always over HTTP, no argument ever opens a file.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant import DISCLAIMER, __version__
from assistant.errors import BadInput, NotAvailable, PathAssistError

try:
    import anyio.to_thread
    import mcp.types as types
    from mcp.server.lowlevel import Server
    from mcp.server.stdio import stdio_server
except ModuleNotFoundError as error:  # pragma: no cover - depends on what is installed
    raise NotAvailable(
        f"the package {error.name!r} is not installed; install it with: pip install 'pathassist[serve]'"
    ) from error

if TYPE_CHECKING:
    from PIL.Image import Image
    from starlette.routing import BaseRoute

    from assistant.api_line import Line
    from assistant.api_schema import ServerSettings
    from assistant.assistant import Assistant

#: Runs blocking work and returns its result; the event is set when the caller has gone.
Runner = Callable[[Callable[[threading.Event], "Result"]], Awaitable["Result"]]

MAX_IMAGES = 8
_MAX_BYTES = 50 * 2**20
_IMAGE = {
    "type": "string",
    "description": "The image: a data URI, base64 of a PNG, JPEG, TIFF or WebP file, or a path in the workspace.",
}
INSTRUCTIONS = f"Looks at microscope images of tissue and cells: asks, measures, grounds, finds cases. {DISCLAIMER}"


@dataclass(frozen=True)
class Result:
    """What a call returns: a text for the model, the same as JSON, and pictures."""

    text: str
    data: dict[str, Any]
    pictures: tuple[Image, ...] = ()


@dataclass(frozen=True)
class Offered:
    """One MCP tool."""

    name: str
    description: str
    schema: dict[str, Any]
    run: Callable[[dict[str, Any], threading.Event], Result]


class Images:
    """Reads image arguments.

    Args:
        workspace: Folder inside which paths are taken; None takes none.

    Raises:
        BadInput: The workspace is no folder.
    """

    def __init__(self, workspace: Path | None = None) -> None:
        if workspace is not None and not workspace.is_dir():
            raise BadInput(f"--workspace is {workspace}, which is not a folder; name one that exists")
        self._root = workspace.resolve() if workspace is not None else None

    def read(self, value: Any) -> Image:
        """One image.

        Raises:
            BadInput: No string, a path that is not allowed, or no image. The path is not repeated.
        """
        from assistant.images.intake import decode_data_uri, load_image

        if not isinstance(value, str) or not value.strip():
            raise BadInput(f"an image is a {type(value).__name__}; send a data URI or base64 as a string")
        if value[:5].lower() == "data:":
            return decode_data_uri(value)
        if (path := self._inside(value)) is not None:
            return load_image(path.read_bytes())
        try:
            return load_image(base64.b64decode(value, validate=True))
        except ValueError:
            where = "the workspace" if self._root else "base64; paths are not opened here"
            raise BadInput(f"the image is no data URI and not in {where}; send the file's bytes as base64") from None

    def _inside(self, value: str) -> Path | None:
        """The file in the workspace that a string names, links followed; None where there is none."""
        if self._root is None or len(value) > 4096 or "\0" in value or "://" in value:
            return None
        try:
            found = (self._root / value).resolve()
            if not found.is_relative_to(self._root) or not found.is_file():
                return None
            if found.stat().st_size > _MAX_BYTES:
                raise BadInput(f"the image has over {_MAX_BYTES // 2**20} MiB; crop or downsample it")
        except (OSError, RuntimeError):  # too long a name, a loop of links
            return None
        return found


def build_server(assistant: Assistant, *, workspace: Path | None = None, runner: Runner | None = None) -> Server[Any]:
    """The protocol server around a loaded assistant.

    Args:
        workspace: Folder inside which image arguments may be paths.
        runner: How blocking work is run; by default one call at a time in a thread.

    Raises:
        BadInput: The workspace is no folder.
    """
    offered = {one.name: one for one in _offered(assistant, Images(workspace))}
    run = runner or _one_at_a_time()

    async def list_tools(_: Any, __: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[types.Tool(name=o.name, description=o.description, input_schema=o.schema) for o in offered.values()]
        )

    async def call_tool(_: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            if params.name not in offered:
                raise BadInput(f"there is no tool {params.name[:60]!r}; there are: {', '.join(offered)}")
            work = functools.partial(offered[params.name].run, dict(params.arguments or {}))
            result = await run(work)
        except PathAssistError as error:
            return types.CallToolResult(content=[types.TextContent(type="text", text=str(error))], is_error=True)
        content: list[Any] = [types.TextContent(type="text", text=result.text)]
        content += [types.ImageContent(type="image", data=_png(p), mime_type="image/png") for p in result.pictures]
        return types.CallToolResult(content=content, structured_content=result.data)

    return Server(
        "pathassist",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def serve_stdio(assistant: Assistant, workspace: Path | None = None) -> None:
    """Speak over standard input and output until the other side closes."""
    server = build_server(assistant, workspace=workspace)
    async with stdio_server() as (reader, writer):
        await server.run(reader, writer, server.create_initialization_options())


@dataclass(frozen=True)
class Mounted:
    """What the HTTP application needs: a route, and a context to be in while it serves."""

    route: BaseRoute
    run: Callable[[], AbstractAsyncContextManager[None]]


def mounted(assistant: Assistant, line: Line, settings: ServerSettings) -> Mounted:
    """MCP over HTTP at ``/mcp``, without sessions; calls wait in the API's line. The guard checks host and key."""

    async def in_line(work: Callable[[threading.Event], Result]) -> Result:
        place = line.enter("mcp")

        def produce(stop: threading.Event) -> Iterator[Any]:
            yield work(stop)

        try:
            async with aclosing(place.run(produce)) as pieces:
                async for piece in pieces:
                    return piece  # type: ignore[return-value] # what produce yields
        finally:
            place.cancel()
        raise NotAvailable("the server is shutting down; try again later")

    server = build_server(assistant, runner=in_line)
    app = server.streamable_http_app(
        stateless_http=True,
        json_response=True,
        max_request_body_size=settings.max_body_bytes,
        host="",  # names are checked by the guard
    )

    @asynccontextmanager
    async def run() -> AsyncIterator[None]:
        async with server.session_manager.run():
            yield

    return Mounted(app.routes[0], run)


def _one_at_a_time() -> Runner:
    turn = anyio.Lock()

    async def run(work: Callable[[threading.Event], Result]) -> Result:
        stop = threading.Event()
        async with turn:
            try:
                return await anyio.to_thread.run_sync(work, stop, abandon_on_cancel=True)
            finally:
                stop.set()

    return run


def _offered(assistant: Assistant, images: Images) -> Iterator[Offered]:
    """All MCP tools: three of our own, then the registry's."""
    from assistant.tools import find_tools

    yield Offered(
        "ask",
        "Ask a question about microscope images; the answer has a calibrated confidence and may be a refusal.",
        _object(
            {
                "question": {"type": "string", "minLength": 1},
                "images": {"type": "array", "items": _IMAGE, "maxItems": assistant.max_images},
                "options": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 10},
                "tools": {"enum": ["auto", "none"], "description": "auto: measure with tools where it helps"},
            },
            ["question"],
        ),
        functools.partial(_ask, assistant, images),
    )
    yield Offered(
        "ground",
        "Boxes around what a phrase names in one image, in its pixels, best first; none where it is not there.",
        _object({"image": _IMAGE, "phrase": {"type": "string", "minLength": 1}}, ["image", "phrase"]),
        functools.partial(_ground, images),
    )
    if getattr(assistant, "library", None) is not None:
        yield Offered(
            "search",
            "Similar cases of the library, by images, by words, or by both.",
            _object(
                {
                    "images": {"type": "array", "items": _IMAGE, "maxItems": MAX_IMAGES},
                    "text": {"type": "string"},
                    "k": {"type": "integer", "minimum": 1, "maximum": 50, "default": 5},
                },
                [],
            ),
            functools.partial(_search, assistant, images),
        )
    for tool in find_tools().tools.values():
        from assistant.tools.schema import image_parameters, json_schema, summary

        schema, named = json_schema(tool), image_parameters(tool)
        properties = {key: _IMAGE if key in named else value for key, value in schema["properties"].items()}
        required = [*named, *(key for key in schema.get("required", ()) if key not in named)]
        store = getattr(getattr(assistant, "library", None), "url", "")
        yield Offered(
            tool.name,
            f"{summary(tool)} {DISCLAIMER}",
            {**schema, **_object(properties, required)},
            functools.partial(_run_tool, tool.name, named, images, store),
        )


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _text(arguments: dict[str, Any], key: str) -> str:
    value = arguments.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{key} is missing or no text; give it as a string")
    return value


def _several(arguments: dict[str, Any], images: Images) -> list[Image]:
    given = arguments.get("images") or []
    if not isinstance(given, list) or len(given) > MAX_IMAGES:
        raise BadInput(f"images must be a list of at most {MAX_IMAGES} strings")
    return [images.read(one) for one in given]


def _ask(assistant: Assistant, images: Images, arguments: dict[str, Any], stop: threading.Event) -> Result:
    options = arguments.get("options")
    if options is not None and not (isinstance(options, list) and all(isinstance(one, str) for one in options)):
        raise BadInput("options must be a list of texts")
    keywords: dict[str, Any] = {"tools": "auto"} if arguments.get("tools") == "auto" else {}
    question, pictures = _text(arguments, "question"), _several(arguments, images)
    answer = assistant.ask(pictures, question, options=options, stop=stop, **keywords)
    return Result(f"{answer.text}\n\nConfidence {answer.confidence:.2f}. {DISCLAIMER}", answer.pathology())


def _ground(images: Images, arguments: dict[str, Any], stop: threading.Event) -> Result:
    from assistant.api_tools import ground_phrase

    phrase = _text(arguments, "phrase")
    boxes = [box.as_dict() for box in ground_phrase(images.read(arguments.get("image")), phrase)]
    return Result(json.dumps(boxes), {"boxes": boxes, "disclaimer": DISCLAIMER})


def _search(assistant: Assistant, images: Images, arguments: dict[str, Any], stop: threading.Event) -> Result:
    library = assistant.library
    if library is None:
        raise NotAvailable("there is no case library; start the server with --library")
    text, k = arguments.get("text"), arguments.get("k", 5)
    if text is not None and not isinstance(text, str):
        raise BadInput("text must be a string")
    if not isinstance(k, int) or not 1 <= k <= 50:
        raise BadInput(f"k is {str(k)[:20]}; allowed: 1 to 50")
    hits = library.search(_several(arguments, images), text, k)
    cases = [
        {
            "rank": rank,
            "score": round(float(hit.score), 4),
            "title": hit.case.title,
            "organ": hit.case.organ,
            "stain": hit.case.stain,
            "diagnosis": hit.case.diagnosis,
        }
        for rank, hit in enumerate(hits, start=1)
    ]
    return Result(json.dumps(cases, ensure_ascii=False), {"cases": cases, "disclaimer": DISCLAIMER})


def _run_tool(
    name: str, named: list[str], images: Images, store: str, arguments: dict[str, Any], stop: threading.Event
) -> Result:
    from assistant.tools import ToolState, run_call

    pictures: list[Image] = []
    numbered = dict(arguments)
    for key in named:
        if key in arguments or not pictures:
            pictures.append(images.read(arguments.get(key)))
            numbered[key] = len(pictures)
        else:
            numbered[key] = 1
    with ToolState(pictures, store=store) as state:
        call = run_call(name, numbered, state, stop=stop)
    if call.status != "ok":
        raise BadInput(" ".join(call.result.text.split()))
    data = json.loads(json.dumps(call.to_json(), default=str)) | {"disclaimer": DISCLAIMER}
    shown = tuple(picture for picture in list(call.result.overlays.values())[:1])
    warnings = "".join(f"\nwarning: {warning}" for warning in call.result.warnings)
    numbers = json.dumps(call.result.numbers, ensure_ascii=False, default=str)
    return Result(f"{call.result.text}{warnings}\n{numbers}\n{DISCLAIMER}", data, shown)


def _png(picture: Image) -> str:
    small = picture.copy()
    small.thumbnail((1024, 1024))
    file = io.BytesIO()
    small.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
