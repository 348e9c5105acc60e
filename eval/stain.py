"""Stain normalisation measured: how near to the reference, how much structure stays, how long it takes.

    python -m eval.stain --out eval/results

H&E fields of ``val`` are moved to the colours of one reference field that comes from elsewhere. Colour is the mean
CIELAB value of the tissue, and of its darkest fifth (nuclei, mostly); a distance of about 2 is just visible. Reinhard's
method equalises the first of the two by construction, so only the second says something about it. Structure is the
structural similarity (SSIM) of the luminance before and after. Methods are compared on the fields that all of them
accept, with intervals over slides.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.files import write_text
from assistant.images.intake import load_image
from assistant.images.stain import Method, StainNormaliser
from eval.provenance import write_json
from eval.stats import cluster_interval
from training.data.records import Record, data_root, load_records

FIELDS = 40
REFERENCE = "samples/torchstain_target.png"
_GLASS = 220  # a pixel with a channel below is tissue
COMMAND = "python -m eval.stain --out eval/results"


def choose_fields(records: list[Record], count: int, seed: int = 0) -> list[Record]:
    """Fields of H&E slides, as many of each slide as possible until ``count`` is reached."""
    generator = np.random.default_rng(seed)
    slides: dict[str, list[Record]] = {}
    for record in records:
        if record.facts.get("stain_class") == "H&E" and "overview" not in record.image.name:
            slides.setdefault(record.group, []).append(record)
    shuffled = [[fields[i] for i in generator.permutation(len(fields))] for _, fields in sorted(slides.items())]
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*shuffled))
    return [record for record in rounds if record is not None][:count]


def tissue_lab(image: Image.Image, tissue: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean CIELAB colour where ``tissue`` [H, W], [3]."""
    from skimage.color import rgb2lab

    mean: NDArray[np.float64] = rgb2lab(np.asarray(image))[tissue].mean(axis=0)
    return mean


def tissue_mask(image: Image.Image) -> NDArray[np.bool_]:
    """What is not empty glass, [H, W]."""
    return np.asarray(np.asarray(image).min(axis=2) < _GLASS)


def dark_mask(image: Image.Image, tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The darkest fifth of the tissue, [H, W]."""
    grey = np.asarray(image.convert("L"))
    return np.asarray(tissue & (grey <= np.percentile(grey[tissue], 20)))


def structure(before: Image.Image, after: Image.Image) -> float:
    """SSIM of the luminance, 1 where every local pattern stayed."""
    from skimage.color import rgb2lab
    from skimage.metrics import structural_similarity

    first, second = (rgb2lab(np.asarray(image))[..., 0] for image in (before, after))
    return float(structural_similarity(first, second, data_range=100))


def spread(colours: NDArray[np.float64], groups: list[str]) -> float:
    """Mean CIELAB distance between the mean colours of two slides."""
    means = [colours[[g == name for g in groups]].mean(axis=0) for name in sorted(set(groups))]
    distances = [float(np.linalg.norm(a - b)) for a, b in itertools.combinations(means, 2)]
    return float(np.mean(distances)) if distances else float("nan")


def measure(records: list[Record], reference: Image.Image) -> dict[str, Any]:
    """All methods on all fields.

    Returns:
        ``fields``, ``slides``, ``compared`` (fields all methods accept), and per method the measures as
        [mean, lower, upper] (95 %, over slides), median CPU seconds per image, and reasons of refusals.
    """
    images = [load_image(record.image) for record in records]
    groups = [record.group for record in records]
    masks = [tissue_mask(image) for image in images]
    whole = tissue_mask(reference)
    target, dark_target = tissue_lab(reference, whole), tissue_lab(reference, dark_mask(reference, whole))
    changed: dict[str, list[Image.Image | None]] = {}
    numbers: dict[str, Any] = {}
    for method in get_args(Method):
        normaliser, took, reasons = StainNormaliser(method).fit(reference), [], Counter[str]()
        changed[method] = []
        for image in images:
            began = time.process_time()  # other programs on the machine do not count
            result = normaliser.transform(image)
            took.append(time.process_time() - began)
            changed[method].append(result.image if result.ok else None)
            if not result.ok:
                reasons[result.reason.partition(" (")[0]] += 1
        numbers[method] = {
            "accepted": sum(image is not None for image in changed[method]),
            "refused": dict(reasons),
            "seconds_median": round(float(np.median(took)), 4),
        }
    changed["none"] = list(images)  # the control: nothing is done
    numbers["none"] = {"accepted": len(images), "refused": {}, "seconds_median": 0.0}
    kept = [i for i in range(len(images)) if all(results[i] is not None for results in changed.values())]
    kept_groups = [groups[i] for i in kept]
    dark = {i: dark_mask(images[i], masks[i]) for i in kept}
    for method, results in changed.items():
        after = [image for i in kept if (image := results[i]) is not None]
        colours = np.array([tissue_lab(image, masks[i]) for image, i in zip(after, kept, strict=True)])
        darkest = np.array([tissue_lab(image, dark[i]) for image, i in zip(after, kept, strict=True)])
        distances = np.linalg.norm(colours - target, axis=1)
        dark_distances = np.linalg.norm(darkest - dark_target, axis=1)
        kept_structure = [structure(images[i], image) for image, i in zip(after, kept, strict=True)]
        numbers[method] |= {
            "distance": _rounded(cluster_interval(distances, kept_groups)),
            "dark_distance": _rounded(cluster_interval(dark_distances, kept_groups)),
            "ssim": _rounded(cluster_interval(kept_structure, kept_groups)),
            "slide_spread": round(spread(colours, kept_groups), 2),
        }
    sizes = {max(image.size) for image in images}
    return {
        "command": COMMAND, "fields": len(images), "slides": len(set(groups)), "compared": len(kept),
        "compared_slides": len(set(kept_groups)), "longest_side": max(sizes), "reference": REFERENCE,
        "methods": numbers,
    }  # fmt: skip


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    lines = [
        "# Stain normalisation on `val`",
        "",
        f"{report['fields']} H&E fields of {report['slides']} atlas slides ({report['longest_side']} px), moved to the "
        f"colours of `{report['reference']}`. Compared on the {report['compared']} fields of "
        f"{report['compared_slides']} slides that all methods accept; intervals are 95 % over slides (bootstrap).",
        "",
        "- *distance*: CIELAB distance of the tissue's mean colour to the reference's; 2 is just visible. Reinhard's "
        "method equalises this by construction.",
        "- *nuclei*: the same for the darkest fifth of the tissue, which no method equalises directly.",
        "- *structure*: SSIM of the luminance before and after; 1 is unchanged.",
        "- *slides apart*: mean distance between the mean colours of two slides; less is more alike.",
        "- *none* is the control: the fields as they are.",
        "",
        "| method | accepted | distance [95 %] | nuclei [95 %] | structure [95 %] | slides apart | CPU s an image |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in ("none", *get_args(Method)):
        row = report["methods"][method]
        distance, low, high = row["distance"]
        dark, dark_low, dark_high = row["dark_distance"]
        ssim, ssim_low, ssim_high = row["ssim"]
        lines.append(
            f"| {method} | {row['accepted']} | {distance:.1f} [{low:.1f}, {high:.1f}] | "
            f"{dark:.1f} [{dark_low:.1f}, {dark_high:.1f}] | "
            f"{ssim:.3f} [{ssim_low:.3f}, {ssim_high:.3f}] | {row['slide_spread']:.1f} | {row['seconds_median']:.3f} |"
        )
    refusals = {m: row["refused"] for m, row in report["methods"].items() if row["refused"]}
    told = "; ".join(f"{m}: " + ", ".join(f"{n} {r}" for r, n in found.items()) for m, found in refusals.items())
    lines += ["", f"Refused, and left as they were: {told or 'none'}.", "", f"    {report['command']}", ""]
    return "\n".join(lines)


def _rounded(interval: tuple[float, float, float]) -> list[float]:
    return [round(value, 4) for value in interval]


def main() -> None:
    """Measure and write ``stain.json`` and ``stain.md``."""
    parser = argparse.ArgumentParser(description="Measure stain normalisation.")
    parser.add_argument("--data", type=Path, help="data root; default PATHASSIST_DATA, else ../shared/data")
    parser.add_argument("--out", type=Path, default=Path("eval/results"), help="folder for the report")
    parser.add_argument("--fields", type=int, default=FIELDS)
    options = parser.parse_args()
    root = data_root(options.data)
    fields = choose_fields(load_records(("atlas",), "val", root=root), options.fields)
    report = measure(fields, load_image(root / REFERENCE))
    write_json(options.out / "stain.json", report)
    write_text(options.out / "stain.md", markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
