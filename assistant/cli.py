"""The ``pathassist`` command.

Exit codes: 0 ok, 1 failure, 2 bad input, 130 interrupted. Every command takes ``--json``: stdout then holds JSON only,
also for errors. Everything heavy is imported inside the commands, so that ``pathassist --help`` answers at once.
"""

from __future__ import annotations

import importlib
import platform
import threading
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant import DISCLAIMER, __version__, cli_cases, cli_encode, cli_notes, cli_report, cli_tools
from assistant.answer import Answer
from assistant.cli_common import (
    ErrorGroup,
    Json,
    Library,
    Model,
    Notes,
    Quantization,
    Source,
    extra,
    finish,
    load_assistant,
    print_json,
)

if TYPE_CHECKING:
    from assistant.assistant import Assistant

EXAMPLES = """\b
Examples:
  pathassist ask field.png -q "Which tissue is shown?"
  pathassist ui
  pathassist serve --port 8000
  pathassist doctor

\b
Research use only, not for diagnosis.
"""


app = typer.Typer(
    name="pathassist",
    help="Ask about microscope images of tissue and cells.",
    epilog=EXAMPLES,
    cls=ErrorGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # it would print local variables, images and keys among them
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog="""\b
Examples:
  pathassist ask field.png -q "Is there a malignant gland?"
  pathassist ask before.png after.png -q "Which of the two is stained for Ki-67?"
  pathassist ask field.png -q "Which organ is this?" --options "lung, colon, breast" --json
"""
)
def ask(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="PNG, JPEG, TIFF or WebP files.")],
    question: Annotated[str, typer.Option("--question", "-q", help="What you want to know.")],
    model: Model = "embedded",
    options: Annotated[
        str | None, typer.Option(help="Possible answers, separated by commas: one of them is chosen.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Confidence below which it declines to answer.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 128,
    source: Annotated[Source, typer.Option(help="Where missing weights may come from.")] = Source.WHEELS,
    quantization: Annotated[Quantization | None, typer.Option(help="Smaller weights; needs an NVIDIA GPU.")] = None,
    library: Library = None,
    notes: Notes = None,
    as_json: Json = False,
) -> None:
    """Ask a question about one image or several."""
    choices = [option.strip() for option in options.split(",")] if options is not None else None
    chosen = quantization.value if quantization else None
    assistant = load_assistant(
        model, source=source.value, quantization=chosen, library=library, notes=notes, quiet=as_json
    )
    keywords: dict[str, Any] = {"options": choices, "max_new_tokens": max_new_tokens, "threshold": threshold}
    if as_json:
        print_json(_answer_object(assistant.ask(images, question, **keywords)))
        return
    answer = _stream(assistant, images, question, keywords)
    for option, probability in answer.options.items():
        typer.echo(f"  {probability:6.1%}  {option}")
    typer.echo(f"confidence {answer.confidence:.2f}" + (" (declined)" if answer.abstained else ""))
    for warning in answer.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(answer.disclaimer)


@app.command(epilog="\b\nExample:\n  pathassist ui --port 7861 --no-open\n")
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 7860,
    model: Model = "embedded",
    library: Library = None,
    notes: Notes = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    as_json: Json = False,
) -> None:
    """Open the chat page in a browser."""
    with extra("ui"):
        page = importlib.import_module("ui.app")
    page.launch(host=host, port=port, model=model, library=library, notes=notes, open_browser=open_browser)


@app.command(
    epilog="""\b
Examples:
  pathassist serve
  PATHASSIST_API_KEY=$(openssl rand -hex 24) pathassist serve --host 0.0.0.0
"""
)
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that other machines reach needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8000,
    model: Model = "embedded",
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="PATHASSIST_API_KEY",
            show_default=False,
            help="Bearer key that clients must send; better set in the environment, where 'ps' does not show it.",
        ),
    ] = None,
    library: Library = None,
    notes: Notes = None,
    audit_log: Annotated[
        Path | None, typer.Option(help="JSONL file that gets one line per answer: hashes and scores, no content.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve the OpenAI-compatible HTTP API."""
    with extra("serve"):
        api = importlib.import_module("assistant.api")
    key = api_key or None
    listener = api.bind(host, port, key)  # before the model is loaded: a wrong port is known at once
    assistant = load_assistant(model, library=library, notes=notes, quiet=as_json)
    application = api.create_app(assistant, api_key=key, settings=api.ServerSettings(audit_log=audit_log))
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{listener.getsockname()[1]}/v1"
    if as_json:
        print_json({"url": url, "model": assistant.name, "disclaimer": DISCLAIMER})
    else:
        typer.echo(f"{assistant.name} answers on {url} (Ctrl-C stops). {DISCLAIMER}")
    server = api.http_server(application)
    server.run(sockets=[listener])
    if server.should_exit:  # an interrupt; uvicorn raises it anew at the end, which asyncio has been seen to swallow
        raise typer.Exit(130)


@app.command(epilog="\b\nExample:\n  pathassist doctor --fix\n")
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be repaired, for example fetch weights.")] = False,
    as_json: Json = False,
) -> None:
    """Check this machine: packages, weights, memory, ports."""
    checks = importlib.import_module("assistant.doctor").run_checks(fix=fix)
    failed = any(check.status == "FAIL" for check in checks)
    if as_json:
        fields = ("name", "status", "detail", "fix")
        print_json({"ok": not failed, "checks": [{key: getattr(check, key) for key in fields} for check in checks]})
    else:
        for check in checks:
            typer.echo(f"{check.status:<4}  {check.name}: {check.detail}")
            if check.fix and check.status != "PASS":
                typer.echo(f"      fix: {check.fix}")
    raise typer.Exit(1 if failed else 0)


@app.command(
    epilog="""\b
Examples:
  pathassist train connector --recipe training/recipes/embedded-connector.yaml
  pathassist train instruct --recipe training/recipes/embedded-instruct.yaml --resume
"""
)
def train(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="tower, clip, connector, instruct or mllm.")],
    recipe: Annotated[Path, typer.Option(help="YAML file with the settings.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default runs/STAGE.")] = None,
    as_json: Json = False,
) -> None:
    """Train one stage of the model."""
    with extra("train"):
        folder = importlib.import_module("training.run").run(stage=stage, recipe=recipe, out=out, resume=resume)
    finish(as_json, {"stage": stage, "out": str(folder)}, f"{stage}: results are in {folder}")


@app.command()
def version(as_json: Json = False) -> None:
    """Show the versions to name in a bug report."""
    found: dict[str, str | None] = {"pathassist": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "gradio", "fastapi"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    text = "\n".join(f"{name} {number or 'not installed'}" for name, number in found.items())
    finish(as_json, found, text)


cli_report.register(app)
cli_encode.register(app)
cli_cases.register(app)
cli_notes.register(app)
cli_tools.register(app)


def _stream(assistant: Assistant, images: list[Path], question: str, keywords: dict[str, Any]) -> Answer:
    """Print the reply while it is written; an interrupt stops the generation too."""
    stop, shown = threading.Event(), ""
    try:
        for item in assistant.stream(images, question, stop=stop, **keywords):
            if isinstance(item, Answer):
                answer = item
            else:
                typer.echo(item, nl=False)
                shown += item
    finally:
        stop.set()
    if answer.text.strip() == shown.strip():
        typer.echo()
    else:  # an abstention: what was shown above is not the answer
        typer.echo(("\n" if shown else "") + answer.text)
    return answer


def _answer_object(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "model": answer.model,
        "finish_reason": answer.finish_reason,
        "seconds": round(answer.seconds, 3),
        "usage": {
            "prompt_tokens": answer.usage.prompt_tokens,
            "completion_tokens": answer.usage.completion_tokens,
        },
        "pathology": answer.pathology(),
    }


def main() -> None:
    """Entry point of the ``pathassist`` command."""
    app()
