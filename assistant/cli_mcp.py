"""``pathassist mcp`` and ``pathassist token``: for programs that call us, and for those who let them."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import Annotated

import typer

from assistant.cli_common import Json, Library, Model, Notes, extra, finish, load_assistant


def register(app: typer.Typer) -> None:
    """Add the commands to ``pathassist``."""
    app.command(
        epilog="""\b
Examples:
  pathassist mcp
  pathassist mcp --workspace fields/ --library faiss:cases
"""
    )(mcp)
    app.command(
        epilog="""\b
Examples:
  pathassist token ann --file tokens.txt
  pathassist serve --host 0.0.0.0 --token-file tokens.txt
"""
    )(token)


def mcp(
    model: Model = "embedded",
    workspace: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder whose images may be named by path; none otherwise.")
    ] = None,
    library: Library = None,
    notes: Notes = None,
    as_json: Json = False,
) -> None:
    """Serve asking, search and all tools over the Model Context Protocol on standard input and output."""
    with extra("serve"):
        server = importlib.import_module("assistant.mcp_server")
    server.Images(workspace)  # before the model is loaded: a wrong folder is known at once
    assistant = load_assistant(model, library=library, notes=notes, quiet=True)
    asyncio.run(server.serve_stdio(assistant, workspace))


def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The client that the token is for.")],
    file: Annotated[Path, typer.Option(help="Token file; made when missing. It holds hashes only.")] = Path(
        "tokens.txt"
    ),
    per_minute: Annotated[int | None, typer.Option(min=1, help="This client's own limit of requests a minute.")] = None,
    as_json: Json = False,
) -> None:
    """Make a token for a client of the API, shown once, and add its hash to a token file."""
    with extra("serve"):
        auth = importlib.import_module("assistant.api_auth")
    made = auth.new_token(file, name, per_minute)
    finish(as_json, {"client": name, "token": made, "file": str(file)}, made)
