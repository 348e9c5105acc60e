"""Four-choice questions on ``val``: our model beside a blank image, text only, majority and a linear probe.

The questions come from ``training.data.questions`` in wording never trained on; options, order and wording are fixed by
the record's id and the seed. One pass stores the option scores of every item (with the image, with an empty field,
without an image), so calibration and the table are recomputed from ``*.items.parquet`` in seconds.

    pathassist eval vqa --model embedded --out eval/results            # answers what is not stored yet, and reports
    python -m eval.vqa --out eval/results --report-only                # reprints the table from the stored scores
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from assistant.chat.calibration import Calibration
from assistant.chat.prompt import Question, Turn
from assistant.files import whole
from assistant.model.vlm import write_calibration
from eval.fit import fit_options, weights_of
from eval.report import vqa_markdown
from eval.run import arguments
from training.data.questions import ChoiceQuestion, diagnosis_names, four_choice
from training.data.records import OPEN_SETS, RESTRICTED_SETS, load_records

NAME = "vqa"
_SAVE_EVERY = 100


def questions(root: str | os.PathLike[str] | None, seed: int, split: str = "val") -> list[ChoiceQuestion]:
    """The benchmark's questions over all sets, open ones first."""
    sets = OPEN_SETS + RESTRICTED_SETS
    names = diagnosis_names(load_records(["atlas"], "train", root) + load_records(["atlas"], "val", root))
    return four_choice(load_records(sets, split, root), names, seed)


def answer_all(assistant: Any, items: list[ChoiceQuestion], out: Path) -> pd.DataFrame:
    """Option scores of every item under three inputs. Goes on from a partial file of the same model and questions."""
    from assistant.assistant import empty_field
    from assistant.images.intake import load_image

    path = out / f"{assistant.name}-{NAME}.items.parquet"
    rows: list[dict[str, Any]] = []
    if path.is_file():
        old = pd.read_parquet(path)
        if set(old["revision"]) == {assistant.revision}:
            rows = old.to_dict("records")
    done = {r["id"] for r in rows}
    todo = [q for q in items if q.id not in done]
    for number, q in enumerate(tqdm(todo, desc="four-choice questions", unit="item"), 1):
        asked = Question(q.stem, q.options)
        image = load_image(q.record.image)
        began = time.perf_counter()
        with_image = assistant.prompt_ids([Turn("user", asked.prompt(), (image,))])
        scores = assistant.option_scores(with_image, [image], q.options)
        prior = assistant.option_scores(with_image, [empty_field(image.size)], q.options)
        seconds = time.perf_counter() - began
        text = assistant.option_scores(assistant.prompt_ids([Turn("user", asked.prompt())]), [], q.options)
        rows.append({
            "id": q.id, "dataset": q.record.dataset, "kind": q.kind, "group": q.record.group,
            "unseen_case": q.record.unseen_case, "open_licence": q.record.dataset in OPEN_SETS,
            "stem": q.stem, "options": list(q.options), "answer": q.answer, "scores": scores, "prior": prior,
            "text": text, "seconds": seconds, "revision": assistant.revision,
        })  # fmt: skip
        if number % _SAVE_EVERY == 0:
            _write(pd.DataFrame(rows), path)
    frame = pd.DataFrame(rows)
    _write(frame, path)
    return frame


def add_cosines(assistant: Any, frame: pd.DataFrame, items: list[ChoiceQuestion]) -> pd.DataFrame:
    """Columns ``cosines`` and ``cosines_blank``: how near each option lies to the image, and to an empty field.

    They are kept where they are of the same encoder, whose id is the column ``encoder``.
    """
    from assistant.assistant import empty_field
    from assistant.images.intake import load_image
    from assistant.model.encoders.load import load_encoder

    encoder = load_encoder(assistant.second_look).id if assistant.second_look else ""
    if {"cosines", "encoder"} <= set(frame.columns) and set(frame["encoder"]) == {encoder}:
        return frame
    wanted = {q.id: q for q in items}
    near, blank = [], []
    for q in tqdm([wanted[i] for i in frame["id"]], desc="second look", unit="item"):
        image = load_image(q.record.image)
        near.append(assistant.option_cosines([image], q.options))
        blank.append(assistant.option_cosines([empty_field(image.size)], q.options))
    return frame.assign(cosines=near, cosines_blank=blank, encoder=encoder)


def add_baselines(
    frame: pd.DataFrame, items: list[ChoiceQuestion], root: str | os.PathLike[str] | None
) -> pd.DataFrame:
    """Columns ``majority`` and ``probe``: the index of the option each would choose."""
    from eval.probe import majority_choices, probe_choices

    wanted = {q.id: q for q in items}
    ordered = [wanted[i] for i in frame["id"]]
    train = load_records(OPEN_SETS + RESTRICTED_SETS, "train", root)
    return frame.assign(majority=majority_choices(ordered, train), probe=probe_choices(ordered, train))


def _write(frame: pd.DataFrame, path: Path) -> None:
    with whole(path) as partial:
        frame.to_parquet(partial)


def decide(frame: pd.DataFrame, calibration: Calibration) -> pd.DataFrame:
    """Columns ``choice``, ``confidence`` and ``hit`` for ours, and hits of every control."""
    columns = zip(frame["scores"], frame["prior"], frame["cosines"], strict=True)
    chances = [calibration.options(*row) for row in columns]
    # Shown an empty field, the prior is all there is.
    alone = replace(calibration, prior_weight=0.0)
    blanks = zip(frame["prior"], frame["cosines_blank"], strict=True)
    blank = [int(alone.options(scores, cosines=cosines).argmax()) for scores, cosines in blanks]
    text = [int(np.argmax(s)) for s in frame["text"]]
    answer = frame["answer"].to_numpy()
    return frame.assign(
        choice=[int(c.argmax()) for c in chances],
        confidence=[float(c.max()) for c in chances],
        hit=[int(c.argmax()) == a for c, a in zip(chances, answer, strict=True)],
        hit_likelihood=np.array([int(np.argmax(s)) for s in frame["scores"]]) == answer,
        hit_blank=np.array(blank) == answer,
        hit_text=np.array(text) == answer,
        hit_majority=frame["majority"].to_numpy() == answer,
        hit_probe=frame["probe"].to_numpy() == answer,
    )


def run(
    model: str = "embedded", data: str | None = None, out: str | os.PathLike[str] = "eval/results", *,
    seed: int = 0, fit: bool = False, source: str = "wheels", report_only: bool = False,
) -> Path:  # fmt: skip
    """Answer, (optionally) fit the calibration on ``val``, and write items, JSON and Markdown.

    Args:
        fit: Fit the calibration of options and write it to the shipped ``calibration.json``.
        report_only: Take the stored scores; no model is loaded.

    Returns:
        Path of the Markdown table.
    """
    folder, name = Path(out), f"{model}-{NAME}"
    weights = weights_of(model, fit=fit)
    items = questions(data, seed)
    path = folder / f"{name}.items.parquet"
    if report_only:
        frame = pd.read_parquet(path)
    else:
        from assistant import Assistant

        assistant = Assistant.load(model, source=source)
        frame = answer_all(assistant, items, folder)
        frame = add_cosines(assistant, frame, items)
        _write(frame, path)
    if "probe" not in frame.columns:
        frame = add_baselines(frame, items, data)
        _write(frame, path)
    calibration = Calibration.read(weights / "calibration.json") if weights else Calibration()
    if fit and weights:
        calibration = fit_options(frame[frame["open_licence"]], calibration)
        write_calibration(weights, calibration)
    decided = decide(frame, calibration)
    table, numbers = vqa_markdown(decided, calibration, model)
    numbers["provenance"] = {"seed": seed, "revision": str(frame["revision"].iloc[0]), "machine": platform.machine()}
    (folder / f"{name}.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    report = folder / f"{name}.md"
    report.write_text(table, encoding="utf-8")
    print(table)
    return report


def main() -> None:
    """Command line: ``python -m eval.vqa [--model] [--data] [--out] [--fit] [--report-only]``."""
    parser = arguments(__doc__)
    parser.add_argument("--report-only", action="store_true", help="reprint from the stored scores")
    args = parser.parse_args()
    run(args.model, args.data, args.out, fit=args.fit, report_only=args.report_only)


if __name__ == "__main__":
    main()
