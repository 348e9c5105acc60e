"""The encoder's numbers as Markdown: value, interval, control beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from assistant.answer import DISCLAIMER

_SEEN = {"colorectal": "never trained on", "cervical": "never trained on", "leucocyte": "never trained on"}


def _wide(values: Sequence[float]) -> str:
    return f"{values[0]:.3f} [{values[1]:.2f}, {values[2]:.2f}]"


def _probes(numbers: dict[str, Any]) -> list[str]:
    ours, base = numbers["probe"]["ours"], numbers["probe"]["imagenet"]
    others = [n for n in numbers["probe"] if n not in ("ours", "imagenet")]
    heads = ["task", "n", "ours, linear", "ImageNet tower, linear", *(f"{n}, linear" for n in others)]
    heads += [
        "ours, 384-d embedding",
        "noise",
        "16 shots: ours",
        "16 shots: ImageNet",
        "zero-shot",
        "zero-shot, five views",
        "random texts",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for task in ours:
        zero = numbers["zero_shot"][task]
        cells = [task + (f" ({_SEEN[task]})" if task in _SEEN else ""), str(ours[task]["n"])]
        cells += [_wide(ours[task]["linear"]), _wide(base[task]["linear"])]
        cells += [f"{numbers['probe'][n][task]['linear'][0]:.3f}" for n in others]
        cells += [f"{numbers[k][task]['linear'][0]:.3f}" for k in ("probe_embedded", "probe_noise")]
        cells += [f"{ours[task]['shots']:.3f}", f"{base[task]['shots']:.3f}"]
        cells += [_wide(zero["accuracy"]), _wide(numbers["zero_shot_views"][task]["accuracy"]), f"{zero['random']:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")

    def mean(table: dict[str, Any], key: str) -> float:
        return float(np.mean([v[key][0] if isinstance(v[key], list) else v[key] for v in table.values()]))

    cells = ["**mean over tasks**", "", f"**{mean(ours, 'linear'):.3f}**", f"**{mean(base, 'linear'):.3f}**"]
    cells += [f"{mean(numbers['probe'][n], 'linear'):.3f}" for n in others]
    cells += [f"{mean(numbers[k], 'linear'):.3f}" for k in ("probe_embedded", "probe_noise")]
    cells += [f"{mean(ours, 'shots'):.3f}", f"{mean(base, 'shots'):.3f}"]
    zero = numbers["zero_shot"]
    cells += [f"{mean(zero, 'accuracy'):.3f}", f"{mean(numbers['zero_shot_views'], 'accuracy'):.3f}"]
    cells += [f"{np.mean([v['random'] for v in zero.values()]):.3f}"]
    lines.append("| " + " | ".join(cells) + " |")
    unseen = [("probe, ours", ours["organ"]["unseen"]), ("probe, ImageNet", base["organ"]["unseen"])]
    unseen += [
        ("probe, 384-d embedding", numbers["probe_embedded"]["organ"]["unseen"]),
        ("zero-shot", zero["organ"]["unseen"]),
        ("zero-shot, five views", numbers["zero_shot_views"]["organ"]["unseen"]),
    ]
    said = "; ".join(f"{name} {_wide(value)}" for name, value in unseen)
    lines += ["", f"Organ of cases never seen (n {ours['organ']['unseen_n']}, five cases): {said}."]
    return lines


def _captions(found: dict[str, Any]) -> list[str]:
    lines = ["| k | image → text [95 %] | unseen cases | chance | text → image | chance |", "|---" * 6 + "|"]
    for k in (1, 5, 10):
        forth, back = found[f"image_to_text@{k}"], found[f"text_to_image@{k}"]
        cells = [str(k), _wide(forth), f"{found[f'image_to_text_unseen@{k}']:.3f}", f"{forth[3]:.3f}"]
        lines.append("| " + " | ".join([*cells, f"{back[0]:.3f} (n {back[1]})", f"{back[2]:.3f}"]) + " |")
    return lines


def _others(numbers: dict[str, Any]) -> list[str]:
    """Other encoders of ours by their own texts, beside the main one."""
    heads = ["encoder", "linear probe, mean", "zero-shot, mean", "organ of unseen cases, zero-shot"]
    heads += [f"captions, recall@{k}" for k in (1, 5, 10)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, found in {"ours": numbers, **numbers["others"]}.items():
        probed, zero = numbers["probe"].get(name), found["zero_shot"]
        cells = [name, f"{np.mean([v['linear'][0] for v in probed.values()]):.3f}" if probed else "–"]
        cells += [f"{np.mean([v['accuracy'][0] for v in zero.values()]):.3f}", _wide(zero["organ"]["unseen"])]
        cells += [_wide(found["captions"][f"image_to_text@{k}"]) for k in (1, 5, 10)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _collapse(found: dict[str, Any]) -> list[str]:
    keys = [k for k in next(iter(found.values())) if k != "fields"]
    lines = ["| vectors | " + " | ".join(k.replace("_", " ") for k in keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, row in found.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[k]:.3f}" for k in keys) + " |")
    return lines


def encoder_markdown(numbers: dict[str, Any]) -> str:
    """The whole report from the numbers of :func:`eval.encoder.run`."""
    captions, slides = numbers["captions"], numbers["slides"]
    lines = [
        "# The encoder on `val`: pathclip-small",
        "",
        f"{DISCLAIMER} Reprint: `python -m eval.encoder`. Intervals: 95 %, bootstrap over slides or groups. Balanced",
        "accuracy unless another measure is named. Probes: logistic regression, one regularisation for all encoders.",
        "",
        "## Classes",
        "",
        *_probes(numbers),
        "",
        "## Captions of the atlas",
        "",
        f"{captions['fields']} fields of `val` ({captions['unseen_fields']} of cases never seen) against all "
        f"{captions['captions']} distinct captions of the atlas, in wording never trained on.",
        "",
        *_captions(captions),
        "",
        "The same with the mean over the field and its four corners (`assistant/model/encoders/views.py`):",
        "",
        *_captions(numbers["captions_views"]),
        "",
        "## Beside other encoders trained here",
        "",
        "*clip-nostain*: small-cpu-nostain.yaml, no stain augmentation, 250 steps in one go. *ours before*: the",
        "encoder that stood here before, small-cpu.yaml with stain augmentation, 100 steps of a longer schedule and",
        "150 of its own; the two are the pair that tells what stain augmentation does. *pathclip-duo*: ours and the",
        "ImageNet tower in one space, as it judges lettered options. What this run did not measure stands from an",
        "earlier one.",
        "",
        *_others(numbers),
        "",
        "## Slides of the same diagnosis",
        "",
        "| vectors | part | n | hit@1 | hit@5 | chance@1 |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in slides.items():
        for part in ("all", "val"):
            row = found[part]
            cells = [name, part, str(row["n"]), *(f"{row[k]:.3f}" for k in ("hit@1", "hit@5", "chance@1"))]
            lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "## Does the slide outweigh the tissue?",
        "",
        "All atlas fields in H&E, those that ours was trained on among them; silhouettes by cosine.",
        "",
    ]
    return "\n".join([*lines, *_collapse(numbers["collapse"]), ""])
