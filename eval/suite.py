"""The whole local suite for one model, sized for two CPU cores and 30 minutes; a second run goes on where it stopped.

    python -m eval.suite --model embedded --out runs/suite
    python -m eval.suite --model embedded --before lora-off:embedded --results eval/results
    python -m eval.suite --model trained:runs/pathmmu --before embedded

A model is named as for ``pathassist eval``, or ``trained:FOLDER`` for what stage ``instruct`` wrote there. With
``--before`` every task is also compared with an earlier suite of another model in the same folder, on the same
items: what a training won on one task, and what it made the model forget on the others.

Every task has its own run folder, so an interrupted suite loses at most one batch, and a finished one is read back in
seconds. A task whose data or model part is missing is listed as skipped, with the reason; it is never silently left
out.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant.answer import DISCLAIMER
from assistant.errors import NotAvailable, PathAssistError
from assistant.model.encoders.base import Encoder
from eval.conditions import CONTROLS
from eval.local_vqa import LocalVQA
from eval.models import Model, load_encoder
from eval.page import compared, main_condition, write_report
from eval.pathmmu import PathMMU
from eval.pathvqa import PathVQA
from eval.provenance import read_json, write_json
from eval.refpath import RefPath
from eval.runner import Progress, Run, read_run, run_task, save_run
from eval.task import Root, Task
from eval.trained import load_any
from training.data.records import data_root

#: Questions of each set and kind: enough for an interval, few enough for the half hour with three controls.
PER_PART = 40


@dataclass(frozen=True)
class Step:
    """One task of the suite with its split and what is shown."""

    task: Task
    split: str
    shown: Sequence[str]


def steps() -> list[Step]:
    """The suite; benchmarks whose files are absent are skipped with their reason."""
    return [
        Step(LocalVQA(PER_PART), "val", ("image", *CONTROLS)),
        Step(PathMMU(), "val", ("image", *CONTROLS)),
        Step(PathMMU(rotations=5), "val", ("text",)),
        Step(RefPath(), "testA", ("image", "blank", "shuffled")),
        Step(PathVQA(), "test", ("image", *CONTROLS)),
    ]


def run_suite(
    model: Model,
    *,
    encoder: Callable[[], Encoder] | None = None,
    root: Root = None,
    out: str | os.PathLike[str] = "runs/suite",
    seed: int = 0,
    progress: Progress | None = None,
    plan: Sequence[Step] | None = None,
) -> tuple[list[Run], dict[str, str], Path]:
    """Run every step, then write ``suite.json`` and ``report.html``.

    Args:
        encoder: Makes the encoder of the embedding tasks; None skips them.
        plan: Steps other than :func:`steps`.

    Returns:
        Finished runs, reasons of what was skipped, and the path of the report.

    Raises:
        NotAvailable: Nothing could be run.
    """
    folder = Path(out)
    began = time.perf_counter()
    runs: list[Run] = []
    skipped: dict[str, str] = {}
    for step in steps() if plan is None else plan:
        try:
            runs.append(
                run_task(
                    step.task,
                    model,
                    root=root,
                    split=step.split,
                    out=folder,
                    shown=step.shown,
                    seed=seed,
                    progress=progress,
                )
            )
        except PathAssistError as error:
            skipped[step.task.name] = str(error)
    try:
        if encoder is None:
            raise NotAvailable("no encoder was named; add --encoder NAME")
        runs.append(_embedding(encoder(), root, folder, seed))
    except PathAssistError as error:
        skipped["pmeb-style"] = str(error)
    if not runs:
        raise NotAvailable(f"no task could be run: {'; '.join(skipped.values())}")
    write_json(folder / "suite.json", {
        "model": model.name, "revision": model.revision, "seconds_now": round(time.perf_counter() - began, 2),
        "seconds": round(sum(float(run.info["seconds"]) for run in runs), 2), "skipped": skipped,
        "runs": [run.folder.name for run in runs],
    })  # fmt: skip
    return runs, skipped, write_report([run.folder for run in runs], folder / "report.html")


def _embedding(encoder: Encoder, root: Root, folder: Path, seed: int) -> Run:
    """The embedding tasks; a finished run of the same weights is read back."""
    from eval.pmeb import VERSION, run_pmeb

    for path in folder.glob("pmeb-style-val-*/run.json"):
        info = read_json(path)
        if (info["revision"], info["version"], info["seed"]) == (encoder.id, VERSION, seed):
            return read_run(path.parent)
    began = time.perf_counter()
    rows, summary = run_pmeb(encoder, root, "val", seed=seed)
    seconds = time.perf_counter() - began
    return save_run(
        "pmeb-style",
        VERSION,
        encoder.info.name,
        encoder.id,
        rows,
        summary,
        split="val",
        out=folder,
        seconds=seconds,
        seed=seed,
    )


def finished(folder: Path, model: str) -> list[Run]:
    """The runs of a model that were finished in a folder.

    Raises:
        NotAvailable: There is none.
    """
    found = [read_run(p.parent) for p in sorted(folder.glob("*/run.json")) if read_json(p)["model"] == model]
    if not found:
        raise NotAvailable(
            f"{folder} holds no finished run of {model}; run first: python -m eval.suite --model {model}"
        )
    return found


def changes(before: Sequence[Run], after: Sequence[Run]) -> list[str]:
    """A table of what changed from one model to another: every task that both ran, item by item."""
    lines = ["", f"## From {before[0].info['model']} to {after[0].info['model']}", ""]
    lines += [
        "| task | measure | n | before | after | difference [95 %] | p (permutation) |",
        "|---|---|---|---|---|---|---|",
    ]
    for old in before:
        for new in after:
            if (old.info["task"], old.info["split"]) != (new.info["task"], new.info["split"]):
                continue
            row = compared(old, main_condition(old.rows), new, main_condition(new.rows))
            if row is not None:
                c = row["result"]
                difference = f"{c.difference:+.3f} [{c.low:+.2f}, {c.high:+.2f}]"
                means = " | ".join(f"{mean:.3f}" for mean in row["means"])
                name = f"{old.info['task']} | {row['column']}"
                lines.append(f"| {name} | {c.n} | {means} | {difference} | {c.permutation:.3f} |")
    return lines


def markdown(model: Model, runs: Sequence[Run], skipped: dict[str, str], before: Sequence[Run] = ()) -> str:
    """Every run's totals with their controls; the parts and failures are in the HTML report."""
    again = f" --before {before[0].info['model']}" if before else ""
    lines = [
        f"# The local suite: {model.name}",
        "",
        f"{DISCLAIMER} Reprint: `python -m eval.suite --model {model.name}{again}`. Weights {model.revision}.",
        "95 % intervals by bootstrap over slides or groups; `majority` is seen from the answers, an upper bound",
        "without a model.",
    ]
    for run in runs:
        info = run.info
        head = (
            f"n {info['n']}, errors {info['errors']}, {info['seconds']:.0f} s, prompt {info['prompt_hash'][:12] or '–'}"
        )
        lines += ["", f"## {info['task']} on `{info['split']}` ({head})", ""]
        rows = [r for r in info["summary"] if r["part"] == "all"] or info["summary"]
        lines += ["| part | measure | shown | n | value [95 %] |", "|---|---|---|---|---|"]
        for r in rows:
            value = f"{r['value']:.3f} [{r['low']:.2f}, {r['high']:.2f}]"
            lines.append(f"| {r['part']} | {r['metric']} | {r['condition']} | {r['n']} | {value} |")
    lines += changes(before, runs) if before else []
    lines += ["", *(f"Skipped: {task}, {_without_root(reason)}" for task, reason in skipped.items())]
    return "\n".join(lines).rstrip() + "\n"


def _without_root(reason: str) -> str:
    """A reason without the place of the data on this machine."""
    return reason.replace(str(data_root()), "the data root")


def main() -> None:
    """Command line: ``python -m eval.suite [--model] [--encoder] [--data] [--out] [--results DIR] [--seed]``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--encoder", help="encoder of the embedding tasks, for example pathclip-small")
    parser.add_argument("--before", metavar="MODEL", help="compare with this model's finished suite in the same folder")
    parser.add_argument("--data", help="data root (default: PATHASSIST_DATA or ../shared/data)")
    parser.add_argument("--out", default="runs/suite")
    parser.add_argument("--results", type=Path, help="also write the totals as suite-MODEL.md there")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    keywords: dict[str, Any] = {"root": args.data, "out": args.out, "seed": args.seed}
    try:
        encoder = (lambda: load_encoder(args.encoder)) if args.encoder else None
        before = finished(Path(args.out), args.before) if args.before else []
        model = load_any(args.model)
        runs, skipped, report = run_suite(model, encoder=encoder, **keywords)
    except PathAssistError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    for run in runs:
        print(f"{run.info['task']}: n {run.info['n']}, errors {run.info['errors']}, {run.info['seconds']:.0f} s")
    for task, reason in skipped.items():
        print(f"{task}: skipped, {reason}")
    if args.results:
        args.results.mkdir(parents=True, exist_ok=True)
        name = "".join(c if c.isalnum() or c in ".-_" else "-" for c in model.name)
        table = args.results / f"suite-{name}.md"
        table.write_text(markdown(model, runs, skipped, before), encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
