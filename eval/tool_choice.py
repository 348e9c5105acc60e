"""Does the assistant call the right tool, and do its answers get better for it?

Planning is measured on requests in words never trained on (``training.data.tool_calls``, split ``val``) beside a
keyword baseline and the language model without its adapter; answering with tools against answering without, on
``val`` questions of the sets that only a tool knows and on counts.

Settings and rules were chosen by the wordings of ``val`` and the requests of ``FRESH`` to ``FRESH5``, whose errors were
read; those of ``FRESH6`` were written by somebody else before they were measured, and nothing was tuned on them: they
are reported apart. Parts can be measured one at a time (``--parts``); the others are kept.

    OMP_NUM_THREADS=1 python -m eval.tool_choice --out eval/results
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from assistant.answer import Answer
from assistant.chat.grammar import FunctionTool, Parameter
from assistant.chat.intent import FILE
from assistant.chat.planner import NAME, Facts, PlannedCall, Planner, Step, load_planner
from assistant.chat.tool_loop import MAX_STEPS
from assistant.files import write_text
from assistant.images.intake import load_image
from assistant.model.cache import sha256
from assistant.model.vlm import WEIGHTS
from eval.provenance import write_json
from eval.stats import cluster_interval, compare
from training.data.questions import diagnosis_names, four_choice
from training.data.records import data_root, load_records, read_jsonl
from training.data.tool_calls import Expected, Request, Requests, fresh_requests, planned_tools

#: The sets as the page names them.
VAL, DEVELOPMENT, FRESH = "val", "development", "fresh6"
COMMAND = "OMP_NUM_THREADS=1 python -m eval.tool_choice --out eval/results"
TOOL_SETS = {"crc_polyp5": "colorectal", "herlev_pap": "cervical", "wbc_seg": "white blood cells"}
#: Control: the first pattern found in the question decides.
KEYWORDS = (
    ("score_ihc", r"ki.?67|her2|h.score|pd.?l1|ihc|immun|positiv|dab|brown"),
    ("normalise_stain", r"normali[sz]|colours of|match the (?:colour|stain)|staining of"),
    ("find_similar_cases", r"similar|archive|library|look.?alike|cases"),
    ("classify_cervical_cell", r"cervi|pap\b|pap.stain|herlev"),
    ("detect_blood_cells", r"blood|platelet|rbc|wbc|erythrocyt|leu[ck]ocyt|white cell|red cell"),
    ("ground_phrase", r"\bbox\b|where|locate|point to|mark the|highlight|rectangle"),
    ("check_quality", r"quality|blur|sharp|focus|pen\b|ink|fold|artefact|usable"),
    ("segment_glands", r"gland|crypt"),
    ("segment_tissue", r"tumou?r|stroma|epitheli"),
    ("segment_nuclei", r"nucle|cell|cellular"),
    ("classify_tissue", r"colo|polyp|bowel"),
)


class Keywords:
    """The baseline as a planner: one call to the tool of the first keyword, on image 1."""

    def plan(
        self, question: str, tools: Sequence[FunctionTool], facts: Facts, done: Sequence[Step] = ()
    ) -> PlannedCall | None:
        """See :meth:`assistant.chat.planner.Planner.plan`."""
        names = {tool.name for tool in tools}
        for name, pattern in KEYWORDS:
            if not done and facts.images and name in names and re.search(pattern, question, re.IGNORECASE):
                return PlannedCall(name, {"image": 1})
        return None


def plan_all(planner: Any, request: Request, **options: Any) -> tuple[list[PlannedCall], list[float]]:
    """Every call planned for a request and the seconds of each planning step; calls turn out as the request says."""
    tools = [*planned_tools(), *request.extra]
    named = {tool.name: tool for tool in tools}
    calls: list[PlannedCall] = []
    seconds: list[float] = []
    done: list[Step] = []
    made = 0
    while len(calls) < MAX_STEPS:
        began = time.perf_counter()
        facts = Facts(request.facts.images, request.facts.stain, made)
        planned = planner.plan(request.question, tools, facts, done, **options)
        seconds.append(time.perf_counter() - began)
        if planned is None or any(c.name == planned.name and c.arguments == planned.arguments for c in calls):
            break
        calls.append(planned)
        right = next((c for c in request.calls if c.name == planned.name), None)
        ok = right is None or right.ok
        made += planned.name == "normalise_stain" and ok
        done.append(Step(named[planned.name], planned.arguments, ok))
    return calls, seconds


def valid(tool: FunctionTool, arguments: dict[str, Any], images: int) -> bool:
    """Whether arguments fit their schema, independent of the grammar that wrote them."""
    by_name = {p.name: p for p in tool.parameters}
    if any(p.required and p.name not in arguments for p in tool.parameters) or set(arguments) - set(by_name):
        return False
    return all(_fits(by_name[name], value, images) for name, value in arguments.items())


def _fits(parameter: Parameter, value: Any, images: int) -> bool:
    match parameter.kind:
        case "image":
            return type(value) is int and 1 <= value <= images
        case "integer":
            return type(value) is int and parameter.allows(value)
        case "number":
            return type(value) in (int, float) and parameter.allows(value)
        case "string":
            return isinstance(value, str) and len(value) <= parameter.longest
    return value in parameter.values


def planning(planner: Any, requests: Sequence[Request], whole: int | None = None) -> list[dict[str, Any]]:
    """One row a request: was the tool right, were its arguments, and how long did it take.

    Args:
        whole: Arguments are planned for that many requests; for those after them only the tools are chosen.
    """
    rows = []
    for number, request in enumerate(requests):
        complete = whole is None or number < whole
        if not complete and request.extra:
            continue  # the language model would have to choose
        calls, seconds = plan_all(planner, request, **({} if complete else {"arguments": False}))
        tools = {tool.name: tool for tool in (*planned_tools(), *request.extra)}
        got, wanted = [c.name for c in calls], [c.name for c in request.calls]
        room = request.facts.images + got.count("normalise_stain")
        right = Counter(got) == Counter(wanted)
        rows.append({
            "kind": request.kind, "group": request.wording, "right": right, "over": bool(got) and not wanted,
            "first": got[:1] == wanted[:1], "complete": complete,
            "valid": [valid(tools[c.name], c.arguments, room) for c in calls if complete],
            "exact": right and _plain(calls) == _plain(request.calls),
            "seconds": seconds, "question": request.question, "got": got, "wanted": wanted,
        })  # fmt: skip
    return rows


def _plain(calls: Sequence[PlannedCall] | Sequence[Expected]) -> list[str]:
    """Calls in an order of their own, to be compared; defaults and a leading article of a phrase make no difference."""
    tools = {tool.name: tool for tool in planned_tools()}
    out = []
    for call in calls:
        defaults = {p.name: p.default for p in (tools[call.name].parameters if call.name in tools else ())}
        arguments = {k: v for k, v in call.arguments.items() if k == "image" or v != defaults.get(k)}
        if "phrase" in arguments:
            arguments["phrase"] = re.sub(r"^(?:the|an?|any)\s+", "", str(arguments["phrase"]), flags=re.I).casefold()
        out.append(json.dumps([call.name, arguments], sort_keys=True))
    return sorted(out)


def planning_table(name: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rates with 95 % intervals, by bootstrap over wordings."""
    out = []
    kinds = ["all", *sorted({r["kind"] for r in rows})]
    for kind in kinds:
        part = [r for r in rows if kind in ("all", r["kind"])]
        for metric, wanted, value in (
            ("right tool", part, "right"), ("over-call", [r for r in part if not r["wanted"]], "over"),
            ("right arguments too", [r for r in part if r["wanted"] and r["complete"]], "exact"),
        ):  # fmt: skip
            if wanted:
                mean, low, high = cluster_interval([float(r[value]) for r in wanted], [r["group"] for r in wanted])
                out.append(_row(name, kind, metric, mean, low, high, len(wanted)))
        checked = [v for r in part for v in r["valid"]]
        if checked:
            out.append(_row(name, kind, "valid arguments", float(np.mean(checked)), None, None, len(checked)))
    return out


def _row(model: str, part: str, metric: str, value: float, low: Any, high: Any, n: int) -> dict[str, Any]:
    bounds = (None if low is None else round(float(low), 4), None if high is None else round(float(high), 4))
    return {"model": model, "part": part, "metric": metric, "value": round(float(value), 4), "low": bounds[0],
            "high": bounds[1], "n": n}  # fmt: skip


def questions(per_set: int) -> Iterator[tuple[str, str, Path, str, tuple[str, ...], int]]:
    """``(set, group, image, stem, options, answer)`` of the sets only a tool knows, and of counts."""
    for name, label in TOOL_SETS.items():
        records = load_records([name], "val")
        train = load_records([name], "train")
        found = four_choice(records, diagnosis_names(train))
        rng = random.Random(name)  # noqa: S311 - reproducible, not secret
        for q in rng.sample(found, min(per_set, len(found))):
            yield label, q.record.group, q.record.image, q.stem, q.options, q.answer
    for name in ("monuseg", "consep_patches", "bccd_boxes"):
        rows = [r for r in read_jsonl(data_root() / name / "index.jsonl") if r["split"] == "val"]
        rng = random.Random(name)  # noqa: S311 - reproducible, not secret
        for row in rng.sample(rows, min(per_set, len(rows))):
            if name == "bccd_boxes":
                count, what = sum(b["label"].upper().startswith("R") for b in row["boxes"]), "red blood cells"
            else:
                instances = np.asarray(Image.open(data_root() / name / str(row["instances"])))
                count, what = len(np.unique(instances)) - 1, "nuclei"
            if count < 4:
                continue
            place = rng.randrange(4)
            options = [round(count * 1.6 ** (i - place)) for i in range(4)]
            stem = f"How many {what} are in this field?"
            group = str(row.get("source_image") or row["image"])
            path = data_root() / name / str(row["image"])
            yield f"counts: {name}", group, path, stem, tuple(map(str, options)), place


def answering(per_set: int) -> Iterator[dict[str, Any]]:
    """One row a question: answered right without and with tools, and which tools ran."""
    from assistant import Assistant
    from assistant.tools.run import ToolState

    assistant = Assistant.load("embedded", progress=False)
    with ToolState() as state:
        for part, group, path, stem, options, answer in questions(per_set):
            image = load_image(path)
            began = time.perf_counter()
            helped = assistant.ask(image, stem, options=options, tools="auto", tool_state=state)
            right = [f"{'ABCDEFGHIJ'[answer]}) {options[answer]}" == a for a in (without(helped), helped.best_guess)]
            state.calls.clear()
            yield {
                "part": part, "group": group, "without": right[0], "with": right[1],
                "called": [f"{c.name}:{c.status}" for c in helped.tools], "seconds": time.perf_counter() - began,
                "confidence": round(helped.confidence, 4),
            }  # fmt: skip


def without(helped: Answer) -> str:
    """What the chat model would have answered without tools: it is asked in any case, and where a tool overrules it the
    answer says so."""
    for warning in helped.warnings:
        if found := re.match(r"the chat model without \w+ would answer (.*)", warning, re.DOTALL):
            return found.group(1)
    return helped.best_guess


def answering_table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy without and with tools and their difference, with intervals by bootstrap over groups."""
    out = []
    for part in dict.fromkeys(r["part"] for r in rows):
        mine = [r for r in rows if r["part"] == part]
        groups = [r["group"] for r in mine]
        for way in ("without", "with"):
            mean, low, high = cluster_interval([float(r[way]) for r in mine], groups)
            out.append(_row(f"{way} tools", part, "accuracy", mean, low, high, len(mine)))
        c = compare([float(r["without"]) for r in mine], [float(r["with"]) for r in mine], groups)
        out.append(_row("with − without", part, "difference", c.difference, c.low, c.high, len(mine)))
        out.append(_row("with − without", part, "p, McNemar", c.mcnemar, None, None, len(mine)))
        out.append(_row("with − without", part, "p, permutation", c.permutation, None, None, len(mine)))
        called = float(np.mean([any(c.endswith(":ok") for c in r["called"]) for r in mine]))
        out.append(_row("with tools", part, "a tool gave a result", called, None, None, len(mine)))
    return out


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    total = sum(result["requests"].values())
    listed = ", ".join(f"{name} {n} in {result['wordings'][name]} wordings" for name, n in result["requests"].items())
    lines = [
        "# Calling tools: the right one, and better answers for it", "", f"Printed by `{result['command']}`.",
        f"{total} requests in words never trained on ({listed}).",
        "*val*: generated from wordings by which the classifier's settings are chosen. *development*: whole requests,",
        "once five fresh sets; settings and rules for arguments are chosen by them too. *fresh6*: whole requests by",
        "one who had seen neither the code nor the training words, most of them with arguments (which of several",
        "images, a pixel size, a count); nothing was tuned on them, and their errors are unread.",
        "Intervals are 95 %, by bootstrap over wordings (planning) or slides and images (answering). Goals: right tool",
        "≥ 0.97, over-call ≤ 0.03, valid arguments 1.00. *right tool*: exactly the calls wanted, none included.",
        "*over-call*: of the requests that need no tool, those with a call. *keywords*: the first pattern of a fixed",
        "list. *no adapter*: the same language model under the same grammar without the trained adapter, on fewer",
        "requests. *right arguments too*: all are the ones wanted; defaults and the article of a phrase to box do",
        "not count.", "",
        "## Planning", "", "| planner | requests | metric | value | 95 % interval | n |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [_line(row) for row in result["planning"]]
    s = result["seconds"]
    lines += [
        "",
        f"A planning step takes {s['median']:.2f} s on a busy, shared core (median of {s['n']}; 90 % under",
        f"{s['p90']:.2f} s). A tool is chosen by the classifier, most arguments by rules over the words that ask",
        "for it; texts, phrases and references are written by the language model, whose list of tools is",
        f"{result['prompt_tokens']} tokens, read once.",
        "",
    ]
    if result["answering"]:
        lines += [
            "## Answers with and without tools", "",
            "The same questions of `val`, four options each. Without tools the chat model decides; with tools the",
            "result of the tool that the planner called, where one worked. *p*: paired, two-sided; permutation over",
            "slides and images. Sets with fewer val fields than asked for are taken whole.",
            *([f"Printed by `{result['answered_command']}`."] if "answered_command" in result else []), "",
            "| way | set | metric | value | 95 % interval | n |", "|---|---|---|---|---|---|",
            *[_line(row) for row in result["answering"]], "",
        ]  # fmt: skip
        if result.get("answered_by") != result.get("classifier"):
            lines += ["Measured with an earlier classifier than the one above; `--parts answering` measures again.", ""]
    lines += ["## Requests of *val* planned wrongly (at most 20)", ""]
    lines += [
        f"- {w['kind']}: “{w['question']}” → {w['got'] or 'none'}, wanted {w['wanted'] or 'none'}"
        for w in result["wrong"]
    ]
    fresh = f"{result['wrong_fresh']} of fresh6 were planned wrongly; they are not listed, to stay fresh."
    lines += ["", fresh]
    return "\n".join(lines).rstrip() + "\n"


def _line(row: dict[str, Any]) -> str:
    interval = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
    return f"| {row['model']} | {row['part']} | {row['metric']} | {row['value']:.3f} | {interval} | {row['n']} |"


def measure_planning(args: argparse.Namespace, old: dict[str, Any]) -> dict[str, Any]:
    """The planning part of the result.

    The model without its adapter, which is slow, is measured only where asked for (``args.control`` requests), else
    kept from ``old``.
    """
    adapter, whole, control = args.adapter, args.whole, args.control
    drawn = Requests("val", args.seed)
    sets = {VAL: [drawn.draw(i) for i in range(args.requests)], DEVELOPMENT: fresh_requests()}
    sets[FRESH] = fresh_requests(held=True)
    planner: Planner = load_planner(adapter)
    rows = {name: planning(planner, part, None if name == FRESH else whole) for name, part in sets.items()}
    tables = []
    for name, part in rows.items():
        tables += planning_table(f"trained, {name}", part)
    print(json.dumps([t for t in tables if t["part"] == "all"], indent=1), flush=True)
    for name, part in sets.items():
        words = planning_table(f"keywords, {name}", planning(Keywords(), part))
        tables += [t for t in words if t["part"] == "all"]
    if not control:
        tables += [t for t in old.get("planning", []) if t["model"].startswith("no adapter")]
    if control:
        bare = planning(load_planner(bare=True), sets[VAL][:control])
        tables += [t for t in planning_table("no adapter, val", bare) if t["part"] == "all"]
    seconds = [s for part in rows.values() for r in part if r["complete"] for s in r["seconds"]]
    wrong = [{k: r[k] for k in ("kind", "question", "got", "wanted")} for r in rows[VAL] if not r["right"]]
    return {
        "command": _command(sys.argv[1:]), "classifier": _classifier(adapter), "seed": args.seed,
        "requests": {name: len(part) for name, part in rows.items()},
        "wordings": {name: len({r["group"] for r in part}) for name, part in rows.items()},
        "planning": tables, "prompt_tokens": planner.prompt_tokens(planned_tools()),
        "seconds": {"median": round(float(np.median(seconds)), 3), "p90": round(float(np.quantile(seconds, 0.9)), 3),
                    "n": len(seconds)},
        "wrong": wrong[:20], "wrong_fresh": sum(not r["right"] for r in rows[FRESH]),
    }  # fmt: skip


def _command(words: list[str]) -> str:
    """The command that prints the page again."""
    return " ".join([*COMMAND.split(" ")[:4], *words])


def _classifier(adapter: Path | None) -> str:
    """Short hash of the classifier in use."""
    return sha256((WEIGHTS / NAME if adapter is None else adapter) / FILE)[:12]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("eval/results"))
    parser.add_argument("--parts", nargs="*", choices=("planning", "answering"), default=("planning", "answering"))
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--whole", type=int, default=120, help="requests for which arguments are planned too")
    parser.add_argument("--control", type=int, default=12, help="requests for the model without its adapter")
    parser.add_argument("--per-set", type=int, default=40, help="questions a set for answering")
    parser.add_argument("--adapter", type=Path, help="another adapter than the shipped one")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    path = args.out / "tool-choice.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"answering": []}
    if "planning" in args.parts:
        result |= measure_planning(args, result)
        _write(args.out, result)
    if "answering" in args.parts:
        rows: list[dict[str, Any]] = []
        by = {"answered_by": _classifier(None), "answered_command": _command(sys.argv[1:])}
        for row in answering(args.per_set):
            print(json.dumps(row), flush=True)
            rows.append(row)
            if len(rows) % 20 == 0:
                result |= {"answering": answering_table(rows), **by}
                _write(args.out, result)
        result |= {"answering": answering_table(rows), **by}
        _write(args.out, result)


def _write(out: Path, result: dict[str, Any]) -> None:
    write_json(out / "tool-choice.json", result)
    write_text(out / "tool-choice.md", markdown(result))


if __name__ == "__main__":
    main()
