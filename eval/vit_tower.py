"""A ViT tower distilled from the EfficientNet tower, and PiToMe on it, on ``val``.

Three questions: does the ViT see what its teacher sees (linear probes, beside the same ViT untrained); what does
merging tokens inside it save and cost (beside ToMe's rule and merging at random); and how few tokens of the embedded
chat model's tower does its connector need (beside the mean over a coarser grid and merging at random)? Vectors and
answers are kept under ``runs/encoder``, so a reprint is quick.

    python -m training.run distill --recipe training/recipes/vit-tower.yaml --out runs/vit
    python -m eval.vit_tower --tower runs/vit/vit --out eval/results
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from assistant.files import write_text
from eval.encoder import Bank, cached
from eval.encoder_metrics import TASKS
from eval.run import arguments
from eval.token_merging import measure_chat, measure_merging
from eval.vit_probes import (
    Features,
    class_and_patches,
    class_token,
    difference,
    fit_probes,
    gflops,
    guesses,
    scores,
    speeds,
    vectors_of,
)
from eval.vit_tower_report import vit_markdown
from training.data.records import OPEN_SETS, RESTRICTED_SETS, Record, load_records

NAME = "vit-tower"


def thinned(records: Sequence[Record]) -> list[int]:
    """Indices of all of ``val`` and of every fourth other record."""
    return [i for i, r in enumerate(records) if r.split == "val" or i % 4 == 0]


def measure_towers(vit: Any, key: str, records: Sequence[Record], kept: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Probes, size and speed of teacher and ViT, and of ViT and untrained ViT on a quarter of ``train`` (the control).

    Returns:
        The numbers by tower, and the ViT's probes on its class token.
    """
    from transformers import CLIPVisionModel

    teacher, mark = _teacher()
    torch.manual_seed(0)
    raw: Any = CLIPVisionModel(vit.config).eval()
    c, few = vit.config, thinned(records)
    part = [records[i] for i in few]
    shape = f"untrained-{c.hidden_size}-{c.num_hidden_layers}-{c.num_attention_heads}-{c.patch_size}-quarter"
    pooled: Features = lambda x: teacher(x).pooler_output  # noqa: E731
    banks = {
        "teacher": cached(kept / f"{NAME}-{mark}.npz", lambda: Bank(vectors_of(pooled, records))).pooled,
        "ViT": cached(
            kept / f"{NAME}-{key}.npz", lambda: Bank(vectors_of(partial(class_and_patches, vit), records))
        ).pooled,
        "untrained ViT, quarter": cached(
            kept / f"{NAME}-{shape}.npz", lambda: Bank(vectors_of(partial(class_and_patches, raw), part))
        ).pooled,
    }
    banks["ViT, quarter"] = banks["ViT"][few]
    cost: dict[str, tuple[Features, Any]] = {"teacher": (pooled, teacher), "ViT": (partial(class_token, vit), vit)}
    fast = speeds({name: call for name, (call, _) in cost.items()})
    out: dict[str, Any] = {}
    said, probes = {}, {}
    for name in ("teacher", "ViT", "ViT, quarter", "untrained ViT, quarter"):
        seen = part if "quarter" in name else records
        vectors = banks[name] if name == "teacher" else banks[name][:, : c.hidden_size]
        probes[name] = fit_probes(vectors, seen)
        said[name] = guesses(probes[name], vectors, seen)
        out[name] = scores(said[name], seen) | {
            "dimension": vectors.shape[1],
            "minus_teacher": difference(said[name], said["teacher"], seen),
        }
        if name in cost:
            call, network = cost[name]
            out[name] |= {
                "parameters": sum(p.numel() for p in network.parameters()), "gflops": gflops(call, network),
                "images_per_s": fast[name],
            }  # fmt: skip
        if name != "teacher":
            both = guesses(fit_probes(banks[name], seen), banks[name], seen)
            out[name]["with_patches"] = {
                "mean": scores(both, seen)["mean"], "minus_teacher": difference(both, said["teacher"], seen)
            }  # fmt: skip
    return out, probes["ViT"]


def _teacher() -> tuple[Any, str]:
    """The embedded chat model's tower and a short hash of its weights."""
    from assistant.model.cache import sha256
    from assistant.model.convert import read_state
    from assistant.model.towers import TimmTower, TimmTowerConfig
    from assistant.model.vlm import WEIGHTS

    path = WEIGHTS / "embedded" / "tower.safetensors"
    teacher = TimmTower(TimmTowerConfig()).eval()
    state = {k: v.float() if v.is_floating_point() else v for k, v in read_state(path).items()}
    teacher.backbone.load_state_dict(state)
    return teacher, f"teacher-{sha256(path)[:12]}"


def run(
    tower: str = "runs/vit/vit", data: str | None = None, out: str | Path = "eval/results",
    cache: str | Path = "runs/encoder",
) -> Path:  # fmt: skip
    """Measure and write ``vit-tower.{json,md}``; returns the table's path."""
    from transformers import CLIPVisionModel

    from assistant.errors import NotAvailable
    from assistant.model.cache import sha256
    from assistant.model.vlm import WEIGHTS, weights_hash

    folder, kept, source = Path(out), Path(cache), Path(tower)
    weights = source / "model.safetensors"
    if not weights.is_file():
        raise NotAvailable(
            f"no ViT in {source}; run `python -m training.run distill --recipe training/recipes/vit-tower.yaml "
            "--out runs/vit` first"
        )
    vit: Any = CLIPVisionModel.from_pretrained(source, attn_implementation="eager").eval()  # faster on processors
    key = sha256(weights)[:12]
    everything = [r for split in ("train", "val") for r in load_records(OPEN_SETS + RESTRICTED_SETS, split, data)]
    records = [r for r in everything if any(r.dataset == TASKS[t] and t in r.facts for t in TASKS)]
    towers, probes = measure_towers(vit, key, records, kept)
    numbers: dict[str, Any] = {
        "tower": {"sha256": key, "layers": vit.config.num_hidden_layers, "width": vit.config.hidden_size,
                  "heads": vit.config.num_attention_heads, "patch_size": vit.config.patch_size},
        "training": _training(source.parent), "towers": towers,
        "merging": measure_merging(vit, probes, records, kept / f"{NAME}-{key}"),
        "chat": _kept(kept / f"{NAME}-chat-{weights_hash(WEIGHTS / 'embedded')}.json", lambda: measure_chat(data)),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    report = folder / f"{NAME}.md"
    report.write_text(vit_markdown(numbers), encoding="utf-8")
    print(report.read_text(encoding="utf-8"))
    return report


def _training(folder: Path) -> dict[str, Any]:
    """Recipe and last line of the log, where the training run lies beside the checkpoint."""
    log, metrics = folder / "log.jsonl", folder / "metrics.json"
    if not log.is_file() or not metrics.is_file():
        return {}
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    recipe = json.loads(metrics.read_text(encoding="utf-8"))["recipe"]
    times = [line["seconds"] for line in lines]
    # Each resumed call counts from zero.
    seconds = sum(t for t, after in zip(times, [*times[1:], 0.0], strict=True) if after <= t)
    return {"steps": lines[-1]["step"], "first_loss": lines[0]["loss"], "last_loss": lines[-1]["loss"],
            "seconds": seconds, "batch_size": recipe["batch_size"], "views": recipe["views"]}  # fmt: skip


def _kept(path: Path, make: Callable[[], Any]) -> Any:
    """A part of the numbers from ``path``, or made and kept there."""
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    found = make()
    write_text(path, json.dumps(found) + "\n")
    return found


def main() -> None:
    """Command line: ``python -m eval.vit_tower [--tower DIR] [--data] [--out]``."""
    parser = arguments(__doc__)
    parser.add_argument("--tower", default="runs/vit/vit", help="folder of a CLIPVisionModel")
    args = parser.parse_args()
    run(args.tower, args.data, args.out)


if __name__ == "__main__":
    main()
