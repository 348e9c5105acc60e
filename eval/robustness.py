"""How much worse are the answers when the image is? Six corruptions at five strengths, on the same questions.

    python -m eval.robustness --model embedded --per-part 6 --results eval/results

The questions are the four-choice ones of the openly licensed sets on ``val`` (``eval.local_vqa``), so many of each set
and kind, drawn with a fixed seed; the corruptions are those of ``eval.corruptions``. Beside every corruption stand the
answers to the untouched image and to a blank one. An interrupted run goes on where it stopped, and a finished one is
only read back, so the command also reprints the page. Any task of the common runner takes the same conditions:
``pathassist eval TASK --show image,blank,robustness``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL.Image import Image

from assistant.answer import DISCLAIMER
from assistant.errors import NotAvailable, PathAssistError
from assistant.files import write_text
from eval.corruptions import CORRUPTIONS, STRENGTHS
from eval.local_vqa import LocalVQA
from eval.models import Model, load_model
from eval.provenance import write_json
from eval.runner import Progress, Run, run_task
from eval.stats import cluster_interval, compare
from eval.task import Root

#: Questions of each set and kind.
PER_PART = 6
SHOWN = ("image", "blank", "robustness")
_REMEMBERED = 4096


def run_robustness(
    model: Model,
    *,
    per_part: int = PER_PART,
    root: Root = None,
    out: str | os.PathLike[str] = "runs/robustness",
    seed: int = 0,
    progress: Progress | None = None,
) -> Run:
    """Answer every question under every condition.

    Args:
        per_part: At most so many questions of each set and kind.

    Raises:
        DataError: The data is missing. NotAvailable: The model does not answer.
    """
    remember_blanks(model)
    task = LocalVQA(per_part, restricted=False)
    return run_task(task, model, root=root, out=out, shown=SHOWN, seed=seed, called=model.name, progress=progress)


def remember_blanks(model: Model) -> None:
    """Let one of our presets keep the option scores of blank images, its prior: the same for every corruption."""
    assistant = getattr(model, "assistant", None)
    if assistant is None or not hasattr(assistant, "option_scores"):
        return
    score = assistant.option_scores
    kept: OrderedDict[str, list[float]] = OrderedDict()

    def scores(ids: list[int], images: Sequence[Image], options: Sequence[str]) -> list[float]:
        if not images or any(image.getextrema() != _one_colour(image) for image in images):
            return list(score(ids, images, options))
        parts = [repr((list(ids), list(options)))]
        parts += [f"{image.mode}{image.size}{image.getextrema()}" for image in images]
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        if key not in kept:
            kept[key] = list(score(ids, images, options))
            while len(kept) > _REMEMBERED:
                kept.popitem(last=False)
        return list(kept[key])

    assistant.option_scores = scores


def _one_colour(image: Image) -> Any:
    """The extrema that the image has when all its pixels are like the first."""
    first = image.getpixel((0, 0))
    return tuple((v, v) for v in first) if isinstance(first, tuple) else (first, first)


def table(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy by corruption and strength, each with its difference from the untouched image on the same questions.

    Args:
        rows: Items as the runner stores them. A question without an answer counts as wrong.

    Returns:
        One entry a condition: ``corruption``, ``strength``, ``n``, ``errors``, ``accuracy`` and ``change``, both as
        [value, low, high]; ``p`` of the permutation test. ``clean`` and ``blank`` come first, with strength 0.

    Raises:
        NotAvailable: A condition is missing.
    """
    hits = rows.assign(hit=rows["hit"].astype("float64").mask(rows["status"] == "error", 0.0))
    by_condition = {str(name): part.set_index("id") for name, part in hits.groupby("condition", sort=False)}
    wanted = [("clean", 0, "image"), ("blank", 0, "blank")]
    wanted += [(kind, strength, f"{kind}-{strength}") for kind in CORRUPTIONS for strength in STRENGTHS]
    missing = [name for *_, name in wanted if name not in by_condition]
    if missing:
        raise NotAvailable(f"the run lacks {', '.join(missing[:4])}; run: python -m eval.robustness")
    clean, out = by_condition["image"], []
    for kind, strength, name in wanted:
        part = by_condition[name].loc[clean.index]
        mean = cluster_interval(part["hit"], list(part["group"]))
        against = compare(clean["hit"], part["hit"], list(part["group"]))
        out.append({
            "corruption": kind, "strength": strength, "n": len(part), "groups": int(part["group"].nunique()),
            "errors": int((part["status"] == "error").sum()), "accuracy": _rounded(*mean),
            "change": _rounded(against.difference, against.low, against.high), "p": round(against.permutation, 4),
        })  # fmt: skip
    return out


def means(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean over the five strengths of each corruption, and over everything, with the change from the clean image."""
    hits = rows.assign(hit=rows["hit"].astype("float64").mask(rows["status"] == "error", 0.0))
    clean = hits[hits["condition"] == "image"].set_index("id")
    bent = hits[hits["condition"].str.rsplit("-", n=1).str[0].isin(list(CORRUPTIONS))]
    out = []
    for name in (*CORRUPTIONS, "all"):
        inside = bent if name == "all" else bent[bent["condition"].str.startswith(f"{name}-")]
        share = inside.groupby("id")["hit"].mean().loc[clean.index]
        groups = list(clean["group"])
        against = compare(clean["hit"], share, groups)
        out.append({
            "corruption": name, "n": len(clean), "accuracy": _rounded(*cluster_interval(share, groups)),
            "change": _rounded(against.difference, against.low, against.high), "p": round(against.permutation, 4),
        })  # fmt: skip
    return out


def numbers(run: Run, per_part: int) -> dict[str, Any]:
    """All of the page as one dictionary."""
    info = run.info
    keys = ("model", "revision", "seed", "n", "errors", "data_hash", "prompt_hash", "fingerprint", "git", "seconds")
    parts = run.rows[run.rows["condition"] == "image"].groupby("part", sort=True).size()
    return {
        "command": f"python -m eval.robustness --model {info['model']} --per-part {per_part} --seed {info['seed']}"
        " --results eval/results",
        "per_part": per_part, "parts": {str(name): int(n) for name, n in parts.items()},
        **{key: info[key] for key in keys}, "means": means(run.rows), "conditions": table(run.rows),
    }  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    """The page of :func:`numbers`."""
    rows = {(row["corruption"], row["strength"]): row for row in found["conditions"]}
    clean, blank = rows["clean", 0], rows["blank", 0]
    parts = ", ".join(f"{name} {n}" for name, n in found["parts"].items())
    lines = [
        f"# Corrupted images: {found['model']}",
        "",
        f"{DISCLAIMER} Reprint: `{found['command']}`. Weights {found['revision']}.",
        f"Four-choice questions of the open sets on `val`: a sub-sample of at most {found['per_part']} of each set and",
        f"kind ({parts}), n = {clean['n']} in {clean['groups']} slides or groups, errors {found['errors']}"
        " (they count as wrong).",
        "The same questions under every condition. Strength 1 is a change that a reader overlooks, 5 one that nobody",
        "would report on; the scale is ours (`eval/corruptions.py`). 95 % intervals by bootstrap over groups.",
        "",
        f"Untouched image: {_value(clean['accuracy'])}. Blank image (control): {_value(blank['accuracy'])}.",
        "",
        "| corruption | " + " | ".join(f"strength {s}" for s in STRENGTHS) + " |",
        "|---" * (len(STRENGTHS) + 1) + "|",
    ]
    for kind in CORRUPTIONS:
        cells = " | ".join(_value(rows[kind, strength]["accuracy"]) for strength in STRENGTHS)
        lines.append(f"| {kind} | {cells} |")
    lines += [
        "",
        "Change from the untouched image on the same questions, paired; p by swapping whole groups:",
        "",
        "| corruption | mean of five strengths | change [95 %] | p | change at strength 5 [95 %] | p |",
        "|---|---|---|---|---|---|",
    ]
    for mean in found["means"]:
        worst = rows.get((mean["corruption"], STRENGTHS[-1]))
        last = f"{_signed(worst['change'])} | {worst['p']:.3f}" if worst else " | "
        first = f"{mean['corruption']} | {_value(mean['accuracy'])} | {_signed(mean['change'])} | {mean['p']:.3f}"
        lines.append(f"| {first} | {last} |")
    return "\n".join(lines) + "\n"


def write_results(run: Run, per_part: int, folder: Path) -> Path:
    """``robustness.md`` and ``robustness.json``; returns the page."""
    found = numbers(run, per_part)
    write_json(folder / "robustness.json", found)
    page = folder / "robustness.md"
    write_text(page, markdown(found))
    return page


def _rounded(*values: float) -> list[float]:
    return [round(float(value), 4) for value in values]


def _value(three: Sequence[float]) -> str:
    return f"{three[0]:.3f} [{three[1]:.2f}, {three[2]:.2f}]"


def _signed(three: Sequence[float]) -> str:
    return f"{three[0]:+.3f} [{three[1]:+.2f}, {three[2]:+.2f}]"


def main() -> None:
    """Command line: ``python -m eval.robustness [--model] [--per-part] [--data] [--out] [--results DIR] [--seed]``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--per-part", type=int, default=PER_PART, help="questions of each set and kind")
    parser.add_argument("--data", help="data root (default: PATHASSIST_DATA or ../shared/data)")
    parser.add_argument("--out", default="runs/robustness")
    parser.add_argument("--results", type=Path, default=Path("eval/results"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.per_part < 1:
        parser.error(f"--per-part {args.per_part}; allowed: 1 or more")
    try:
        run = run_robustness(
            load_model(args.model), per_part=args.per_part, root=args.data, out=args.out, seed=args.seed
        )
        page = write_results(run, args.per_part, args.results)
    except PathAssistError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(page)


if __name__ == "__main__":
    main()
