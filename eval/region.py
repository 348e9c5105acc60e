"""Are questions about a region answered about the region? Two fields of different organs side by side, one half marked.

Four-choice questions on the organ of the marked half; the organ of the other half is always among the options, so an
answer about the wrong half shows. Conditions: the region's crop without and with surroundings (which here are the other
half's), and the whole picture without a region, the control. An interrupted run goes on where it stopped.

    python -m eval.region -n 100 --seed 0 --out eval/results
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from assistant.chat.prompt import Question, Turn
from assistant.chat.region import region_prompt
from assistant.files import write_text
from assistant.images.intake import load_image
from eval.provenance import write_json
from eval.stats import cluster_interval
from training.data.records import Record, load_records

SIDE = 376
CONDITIONS = ("crop, no context", "crop, context 0.5", "no region")


@dataclass(frozen=True)
class Pair:
    """Two fields, which of them is marked, and the options; ``options[answer]`` is its organ."""

    fields: tuple[Record, Record]
    marked: int
    options: tuple[str, ...]
    answer: int
    other: int


def pairs(records: list[Record], n: int, seed: int) -> list[Pair]:
    """Pairs of fields of two organs, of any stain; both halves are marked equally often."""
    draw = random.Random(seed)  # noqa: S311 (no secret)
    by_organ: dict[str, list[Record]] = {}
    for record in records:
        if (organ := str(record.facts.get("organ") or "")) and record.facts.get("kind", "field") == "field":
            by_organ.setdefault(organ, []).append(record)
    organs = sorted(by_organ)
    found = []
    for number in range(n):
        two = draw.sample(organs, 2)
        fields = (draw.choice(by_organ[two[0]]), draw.choice(by_organ[two[1]]))
        more = draw.sample([organ for organ in organs if organ not in two], min(2, len(organs) - 2))
        options = [*two, *more]
        draw.shuffle(options)
        marked = number % 2
        found.append(Pair(fields, marked, tuple(options), options.index(two[marked]), options.index(two[1 - marked])))
    return found


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two fields as one picture of ``2 SIDE`` x ``SIDE`` pixels."""
    both = Image.new("RGB", (2 * SIDE, SIDE))
    for number, field in enumerate((left, right)):
        both.paste(field.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (number * SIDE, 0))
    return both


def answers(assistant: Any, pair: Pair) -> dict[str, int]:
    """The option chosen in every condition."""
    images = [load_image(record.image) for record in pair.fields]
    both = side_by_side(*images)
    box = (pair.marked * SIDE, 0, (pair.marked + 1) * SIDE, SIDE)
    plain = "Which organ is shown?"
    shown = {
        "crop, no context": region_prompt(both, box, context=0)[0],
        "crop, context 0.5": region_prompt(both, box)[0],
        "no region": both,
    }
    chosen = {}
    for name, image in shown.items():
        ids = assistant.prompt_ids([Turn("user", Question(plain, pair.options).prompt(), (image,))])
        chosen[name] = int(np.argmax(assistant.option_scores(ids, [image], pair.options)))
    return chosen


def table(items: list[Pair], chosen: list[dict[str, int]], seed: int) -> list[dict[str, Any]]:
    """Per condition: share right, and share that names the organ of the other half, with 95 % intervals by case."""
    groups = [str(pair.fields[pair.marked].group) for pair in items]
    rows = []
    for name in CONDITIONS:
        row: dict[str, Any] = {"condition": name, "n": len(items)}
        for metric, wanted in (("right", "answer"), ("other half", "other")):
            hits = np.array([c[name] == getattr(pair, wanted) for c, pair in zip(chosen, items, strict=True)], float)
            row[metric] = [round(v, 4) for v in cluster_interval(hits, groups, seed=seed)]
        rows.append(row)
    return rows


def write(rows: list[dict[str, Any]], info: dict[str, Any], out: Path) -> Path:
    """``region.json`` and ``region.md``."""
    lines = ["# Questions about a region", "", *(__doc__ or "").strip().splitlines()[:6], ""]
    lines += ["| condition | n | names the marked half's organ | names the other half's organ |", "|---|---|---|---|"]
    for row in rows:
        cells = (f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, low, high in (row["right"], row["other half"]))
        lines.append(f"| {row['condition']} | {row['n']} | {' | '.join(cells)} |")
    lines += ["", f"Chance is 0.25 for either. Intervals: 95 %, bootstrap by case. Model {info['model']}, revision "
              f"{info['revision']}, seed {info['seed']}. Reprint: `{info['command']}`.", ""]  # fmt: skip
    write_text(out / "region.md", "\n".join(lines))
    write_json(out / "region.json", info | {"rows": rows})
    return out / "region.md"


def main() -> None:
    """Run and write the tables."""
    from assistant.assistant import Assistant

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("eval/results"))
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.perf_counter()
    assistant = Assistant.load(given.model)
    items = pairs(load_records(["atlas"], "val", given.data), given.n, given.seed)
    store = given.out / f".region-{assistant.name}-{assistant.revision}-{given.seed}.jsonl"
    given.out.mkdir(parents=True, exist_ok=True)
    chosen = [json.loads(line) for line in store.read_text("utf-8").splitlines()] if store.is_file() else []
    with store.open("a", encoding="utf-8") as file:
        for pair in tqdm(items[len(chosen) :], desc="region questions", unit="pair"):
            chosen.append(answers(assistant, pair))
            file.write(json.dumps(chosen[-1]) + "\n")
            file.flush()
    chosen = chosen[: len(items)]
    info = {"model": assistant.name, "revision": assistant.revision, "seed": given.seed, "split": "atlas val",
            "seconds": time.perf_counter() - began,
            "command": f"python -m eval.region --model {given.model} -n {given.n} --seed {given.seed}"}  # fmt: skip
    print(write(table(items, chosen, given.seed), info, given.out).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
