"""The numbers of ``eval.vit_tower`` as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from assistant.answer import DISCLAIMER

#: The ViT becomes the default tower only when its mean lies no further than this below its teacher's.
WITHIN = 0.02


def _wide(values: Sequence[float], sign: str = "") -> str:
    return f"{values[0]:{sign}.3f} [{values[1]:{sign}.3f}, {values[2]:{sign}.3f}]"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(r) + " |" for r in (heads, ["---"] * len(heads), *rows)]


def _number(tower: dict[str, Any], key: str, unit: float, digits: int) -> str:
    return f"{tower[key] / unit:.{digits}f}" if key in tower else ""


def verdict(towers: dict[str, Any]) -> str:
    """The rule and what follows from it."""
    vit = towers["ViT"]
    gap = max(vit["minus_teacher"][0], vit["with_patches"]["minus_teacher"][0])
    said = f"The better of the ViT's two vectors is {abs(gap) * 100:.1f} points {'below' if gap < 0 else 'above'} it"
    rule = f"Rule: the ViT becomes the default tower only within {WITHIN * 100:.0f} points of the teacher's mean."
    if gap >= -WITHIN:
        return f"{rule} {said}: **the rule is met**."
    return f"{rule} {said}: **the rule is not met, the EfficientNet tower stays the default** and no ViT is shipped."


def _towers(towers: dict[str, Any]) -> list[str]:
    names = list(towers)
    tasks = [t for t, v in towers["ViT"].items() if isinstance(v, dict) and "balanced_accuracy" in v]
    rows = [
        [task, str(towers["ViT"][task]["n"]), *(_wide(towers[n][task]["balanced_accuracy"]) for n in names)]
        for task in tasks
    ]
    rows.append(["**mean over tasks**", "", *(f"**{_wide(towers[n]['mean'])}**" for n in names)])
    rows.append(["mean less the teacher's, paired", "", *(_wide(towers[n]["minus_teacher"], "+") for n in names)])
    extra = [towers[n].get("with_patches") for n in names]
    rows.append(["mean, class token and mean of patches", "", *(_wide(e["mean"]) if e else "" for e in extra)])
    rows.append(["the same less the teacher's", "", *(_wide(e["minus_teacher"], "+") if e else "" for e in extra)])
    rows.append(["numbers of the vector", "", *(str(towers[n]["dimension"]) for n in names)])
    rows.append(["million parameters", "", *(_number(towers[n], "parameters", 1e6, 2) for n in names)])
    rows.append(["GFLOPs an image", "", *(_number(towers[n], "gflops", 1, 2) for n in names)])
    rows.append(
        ["images a second of one core, float32", "", *(_number(towers[n], "images_per_s", 1, 1) for n in names)]
    )
    return _table(["task", "n", *names], rows)


def _merging(rows: Sequence[dict[str, Any]]) -> list[str]:
    base = rows[0]
    cells = []
    for r in rows:
        speed = f"{r['images_per_s']:.1f}" if r["images_per_s"] else "not timed"
        cells.append([
            f"{r['keep']:g}", r["rule"], str(r["tokens"]), f"{r['gflops']:.2f} ({r['gflops'] / base['gflops']:.0%})",
            speed, _wide(r["mean"]), _wide(r["minus_unmerged"], "+"),
        ])  # fmt: skip
    heads = ["kept a layer", "rule", "patch tokens at the end", "GFLOPs", "images/s", "mean balanced accuracy"]
    return _table([*heads, "less unmerged, paired"], cells)


def _chat(chat: dict[str, Any]) -> list[str]:
    rows = [
        [str(r["tokens"]), r["rule"], _wide(r["accuracy"]), _wide(r["minus_unmerged"], "+"), str(r["changed"]),
         f"{r['seconds']:.2f}"] for r in chat["rows"]
    ]  # fmt: skip
    heads = ["tokens", "merged by", "accuracy", "less unmerged, paired", "answers hit or missed otherwise"]
    return _table([*heads, "processor seconds a question"], rows)


def vit_markdown(numbers: dict[str, Any]) -> str:
    """The whole report from the numbers of :func:`eval.vit_tower.run`."""
    tower, training = numbers["tower"], numbers["training"]
    shape = f"{tower['layers']} layers, {tower['width']} wide, {tower['heads']} heads, patch {tower['patch_size']}"
    how = (
        f" Trained for {training['steps']:,} steps of {training['batch_size']} images ({training['views']} views of "
        f"each) in {training['seconds'] / 60:.0f} minutes on one shared core; loss {training['first_loss']:.2f} to "
        f"{training['last_loss']:.2f}." if training else ""
    )  # fmt: skip
    return "\n".join([
        "# A ViT tower and PiToMe on `val`",
        "",
        f"{DISCLAIMER} Reprint: `python -m eval.vit_tower`. Intervals: 95 %, bootstrap over slides or groups.",
        "",
        "## A ViT distilled from the EfficientNet tower",
        "",
        f"ViT in CLIP's layout ({shape}), random start, taught by the embedded chat model's tower on the open sets; no "
        f"pretrained ViT was at hand.{how} Linear probes as in `encoder.md` (balanced accuracy), the ViT's on its",
        "class token, all vectors in bfloat16. Control: the same network untrained, beside the trained one where both",
        "probes see every fourth training image (columns `quarter`). Colorectal, cervical and leucocyte images were",
        "never trained on.",
        "",
        *_towers(numbers["towers"]),
        "",
        verdict(numbers["towers"]),
        "",
        "## PiToMe inside the ViT",
        "",
        "Probes fitted on unmerged vectors, nothing retrained; the class token as vector. Controls: ToMe's rule (every",
        "other token joins its like), and pairs at random. GFLOPs are products as torch counts them, those of the",
        "merging rule among them; speed is one core, float32, batches of 16.",
        "",
        *_merging(numbers["merging"]),
        "",
        "## PiToMe before the chat model's connector",
        "",
        f"The embedded chat model (EfficientNet tower, whose tokens are all there are), {numbers['chat']['n']} "
        "four-choice questions of `val` drawn at random, judged by the language model's likelihoods alone (no second",
        f"look), nothing retrained. Chance {numbers['chat']['chance']:.2f}. Controls: the mean over a coarser grid,",
        "and groups at random. Off by default; a preset turns it on with `connector: {merge_to: 9}`.",
        "",
        *_chat(numbers["chat"]),
        "",
    ])  # fmt: skip
