"""Open and yes/no questions on ``val``, and the confidence curve of open answers.

An open answer counts as right when it names the label (case and punctuation aside). Yes/no questions ask for the true
label half of the time and for a wrong one otherwise. Control: the same questions about an empty field.

    python -m eval.free --out eval/results [--fit]
"""

from __future__ import annotations

import os
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from assistant.answer import DISCLAIMER
from assistant.chat.calibration import Calibration
from assistant.model.vlm import write_calibration
from eval.fit import fit_open, weights_of
from eval.run import arguments
from eval.stats import calibration_error, cluster_interval
from training.data.phrases import ASK_HELD_OUT
from training.data.questions import diagnosis_names, draw_options, vocabulary
from training.data.records import OPEN_SETS, Record, load_records

NAME = "free"
KINDS = ("organ", "stain", "lung", "oral", "node")
#: Held-out yes/no wording, one a kind.
YES_NO = {
    "organ": "Does the specimen originate from {}?",
    "stain": "Has the section been stained by {}?",
    "lung": "Would you report this pulmonary sample as {}?",
    "oral": "Would you report this sample of the mouth as {}?",
    "node": "Would you report this nodal tile as {}?",
}


def plain(text: str) -> str:
    """Lower case, letters and digits only: how answers are compared."""
    return " ".join(re.findall(r"[a-z0-9&]+", text.lower()))


def names_label(text: str, label: str) -> bool:
    """Whether an answer names the label as whole words; "no metastasis" does not name "metastasis"."""
    said, wanted = f" {plain(text)} ", f" {plain(label)} "
    return wanted in said and (wanted.startswith(" no ") or f" no{wanted}" not in said)


def pick(records: list[Record], per_kind: int, seed: int) -> list[tuple[Record, str]]:
    """``per_kind`` records of each kind, drawn at random."""
    chosen = []
    for kind in KINDS:
        having = [r for r in records if kind in r.facts and r.dataset != "bccd_boxes"]
        if kind == "organ":
            having = [r for r in having if r.dataset == "atlas"]
        rng = random.Random(f"{seed}:{kind}")  # noqa: S311 - reproducible, not secret
        chosen += [(r, kind) for r in rng.sample(having, min(per_kind, len(having)))]
    return chosen


def answer_all(assistant: Any, chosen: list[tuple[Record, str]], diagnoses: tuple[str, ...], seed: int) -> pd.DataFrame:
    """One open and one yes/no question about every record, each also about an empty field."""
    from assistant.assistant import empty_field
    from assistant.images.intake import load_image

    rows = []
    for record, kind in tqdm(chosen, desc="open questions", unit="record"):
        rng = random.Random(f"{seed}:{record.id}:{kind}")  # noqa: S311
        image = load_image(record.image)
        label = record.facts[kind]
        stem = rng.choice(ASK_HELD_OUT[kind]).replace("which of these", "which")
        said = assistant.ask(image, stem, threshold=0.0, max_new_tokens=24)
        options, _ = draw_options(kind, label, rng, vocabulary(kind, diagnoses))
        truth = rng.random() < 0.5
        asked = YES_NO[kind].format(label if truth else rng.choice([o for o in options if o != label]))
        verdict = assistant.ask(image, asked, threshold=0.0)
        blank = assistant.ask(empty_field(image.size), asked, threshold=0.0)
        right = "Yes" if truth else "No"
        rows.append({
            "id": record.id, "kind": kind, "group": record.group, "label": label, "said": said.best_guess,
            "mean_logprob": said.mean_logprob, "open": names_label(said.best_guess, label), "asked": asked,
            "yes_no": verdict.best_guess == right, "yes_no_blank": blank.best_guess == right,
        })  # fmt: skip
    return pd.DataFrame(rows)


def markdown(frame: pd.DataFrame, calibration: Calibration, model: str, revision: str) -> str:
    """Table by kind with clustered intervals."""
    lines = [
        f"# Open and yes/no questions on `val`: {model}",
        "",
        f"{DISCLAIMER} Reprint: `python -m eval.free --out eval/results`. Weights {revision}.",
        "",
        "| kind | n | open answer names the label [95 %] | yes/no right [95 %] | yes/no, empty field |",
        "|---|---|---|---|---|",
    ]
    for name, part in [("**all**", frame), *frame.groupby("kind", sort=True)]:
        cells = []
        for column in ("open", "yes_no", "yes_no_blank"):
            mean, low, high = cluster_interval(part[column].astype(float), list(part["group"]))
            cells.append(f"{mean:.3f} [{low:.2f}, {high:.2f}]")
        lines.append(f"| {name} | {len(part)} | " + " | ".join(cells) + " |")
    confidence = [calibration.open_answer(m) for m in frame["mean_logprob"]]
    error = calibration_error(confidence, frame["open"])
    lines += ["", f"Expected calibration error of open answers (fitted on these items): {error:.3f}.", ""]
    return "\n".join(lines)


def run(
    model: str = "embedded", data: str | os.PathLike[str] | None = None, out: str | os.PathLike[str] = "eval/results",
    *, per_kind: int = 40, seed: int = 0, fit: bool = False,
) -> Path:  # fmt: skip
    """Ask, (optionally) fit the open-answer curve, write items and table. Returns the path of the table."""
    from assistant import Assistant

    folder, name, weights = Path(out), f"{model}-{NAME}", weights_of(model, fit=fit)
    folder.mkdir(parents=True, exist_ok=True)
    assistant = Assistant.load(model)
    val = load_records(OPEN_SETS, "val", data)
    diagnoses = diagnosis_names(val + load_records(["atlas"], "train", data))
    frame = answer_all(assistant, pick(val, per_kind, seed), diagnoses, seed)
    frame.to_parquet(folder / f"{name}.items.parquet")
    calibration = Calibration.read(weights / "calibration.json") if weights else Calibration()
    if fit and weights:
        fitted = fit_open(frame["mean_logprob"], frame["open"], calibration)
        calibration = replace(calibration, open_slope=fitted.open_slope, open_offset=fitted.open_offset)
        write_calibration(weights, calibration)
    report = folder / f"{name}.md"
    report.write_text(markdown(frame, calibration, model, assistant.revision), encoding="utf-8")
    print(report.read_text(encoding="utf-8"))
    return report


def main() -> None:
    """Command line: ``python -m eval.free [--model] [--data] [--out] [--fit]``."""
    parser = arguments(__doc__)
    args = parser.parse_args()
    run(args.model, args.data, args.out, fit=args.fit)


if __name__ == "__main__":
    main()
