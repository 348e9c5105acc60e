"""Does the embedded chat model gain from the image tower of pathclip-small? Four-choice questions on ``val``.

    pathassist train instruct --recipe training/recipes/embedded-pathclip.yaml --out runs/instruct-pathclip
    python -m eval.chat_tower --run runs/instruct-pathclip --out eval/results

What is shipped against three others, on the open sets: the tower put in its place and nothing else changed; connector
and adapter trained on over that tower; and the mean of those weights and the shipped ones, 0.7 to 0.3, which
``python -m training.run blend`` ships. Differences are paired, with 95 % intervals by bootstrap over slides or groups.
The scores of what is shipped, the cosines of the second look and the controls are those stored beside
``embedded-vqa.md``. The page was made before that mean was shipped, and names the weights that stood there.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from assistant.answer import DISCLAIMER
from assistant.chat.calibration import Calibration
from assistant.errors import BadInput
from assistant.files import write_text
from eval.fit import cross_fitted_confidence, weights_of
from eval.provenance import git_revision, write_json
from eval.stats import cluster_interval, compare
from eval.vqa import questions
from training.data.questions import ChoiceQuestion
from training.data.records import OPEN_SETS

NAME = "chat-tower"
COMMAND = "python -m eval.chat_tower --run runs/instruct-pathclip --out eval/results"
ENCODER = Path("assistant/weights/pathclip-small/model.safetensors")
#: Share of the weights that were trained on, beside the shipped ones.
SHARE = 0.7
_RUN_FILES = ("connector.safetensors", "adapter/adapter_model.safetensors")


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/instruct-pathclip"))
    parser.add_argument("--out", type=Path, default=Path("eval/results"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(run(options.run, options.out, options.seed))


def run(folder: Path, out: Path, seed: int = 0) -> Path:
    """Answer with every variant, write ``chat-tower.{md,json}``, and return the page's path.

    Raises:
        BadInput: No run in ``folder``, or no stored scores of the shipped model.
    """
    for name in _RUN_FILES:
        if not (folder / name).is_file():
            raise BadInput(
                f"no {name} in {folder}; train it: pathassist train instruct "
                f"--recipe training/recipes/embedded-pathclip.yaml --out {folder}"
            )
    stored = out / "embedded-vqa.items.parquet"
    if not stored.is_file():
        raise BadInput(f"no {stored}; answer with the shipped model first: pathassist eval vqa --out {out}")
    shipped = weights_of("embedded")
    assert shipped is not None  # noqa: S101 (the embedded preset ships weights)
    frame = pd.read_parquet(stored)
    frame = frame[frame["open_licence"]].reset_index(drop=True)
    wanted = {q.id: q for q in questions(None, seed) if q.record.dataset in OPEN_SETS}
    items = [wanted[i] for i in frame["id"]]
    trained = {name: _state(folder / name) for name in _RUN_FILES}
    mean = {
        name: {k: SHARE * v.float() + (1 - SHARE) * _state(shipped / name)[k].float() for k, v in state.items()}
        for name, state in trained.items()
    }
    variants = {"tower put in": {}, "trained on": trained, f"mean, {SHARE} of it": mean}
    rows = [row("shipped", frame, frame)]
    for name, states in variants.items():
        scores = answered(shipped, states, items)
        rows.append(row(name, frame.assign(scores=scores), frame))
        print(rows[-1], flush=True)
    result = {"command": COMMAND, "revision": git_revision(), "seed": seed, "recipe": _recipe(folder), "rows": rows}
    result["shipped"] = str(frame["revision"].iloc[0])
    for control, column in (("blank image", "prior"), ("text only", "text")):
        result[control] = float(_alone(frame.assign(scores=frame[column])).mean())
    write_json(out / f"{NAME}.json", result)
    write_text(out / f"{NAME}.md", markdown(result))
    return out / f"{NAME}.md"


def _state(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(path))


def _recipe(folder: Path) -> dict[str, Any]:
    import json

    path = folder / "recipe.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def answered(shipped: Path, states: dict[str, dict[str, Any]], items: list[ChoiceQuestion]) -> list[list[float]]:
    """Log-likelihoods of every item's options by the model with pathclip's tower and other weights for ``states``."""
    import shutil

    from safetensors.torch import save_file

    from assistant.assistant import Assistant
    from assistant.chat.prompt import Question, Turn
    from assistant.images.intake import load_image
    from assistant.model.load import engine_for, load_assistant_parts
    from assistant.model.parts import part_named
    from assistant.model.preset import load_preset
    from assistant.model.store import language_folder
    from assistant.model.vlm import trained_llava

    language: Any = load_preset("embedded").language
    with tempfile.TemporaryDirectory() as name:
        weights = Path(name)
        shutil.copytree(shipped, weights, dirs_exist_ok=True)
        shutil.copyfile(ENCODER, weights / "tower.safetensors")
        for file, state in states.items():
            save_file({k: v.half().contiguous() for k, v in state.items()}, weights / file, {"format": "pt"})
        model, processor = trained_llava(language_folder(part_named(language.source.wheel)), weights)
    parts = load_assistant_parts("embedded") | {"model": model.eval(), "processor": processor}
    assistant = Assistant(**parts | {"engine": engine_for(model), "revision": "pathclip tower"})
    scores = []
    for q in tqdm(items, desc="four-choice questions", unit="item"):
        image = load_image(q.record.image)
        ids = assistant.prompt_ids([Turn("user", Question(q.stem, q.options).prompt(), (image,))])
        scores.append([float(s) for s in assistant.option_scores(ids, [image], q.options)])
    return scores


def row(name: str, frame: pd.DataFrame, first: pd.DataFrame) -> dict[str, Any]:
    """Accuracy by likelihood alone and with the second look, against those of ``first`` on the same items."""
    groups = list(frame["group"])
    found: dict[str, Any] = {"weights": name, "n": len(frame)}
    for look, hits in (("alone", _alone), ("with second look", _with_look)):
        mine = hits(frame)
        found[look] = cluster_interval(mine, groups)
        found[f"{look}, difference"] = asdict(compare(hits(first), mine, groups))
    kinds = frame["dataset"] + ": " + frame["kind"]
    found["sets"] = {k: float(_with_look(frame)[(kinds == k).to_numpy()].mean()) for k in sorted(set(kinds))}
    return found


def _alone(frame: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    best = np.array([int(np.argmax(s)) for s in frame["scores"]])
    return np.asarray(best == frame["answer"].to_numpy(), np.float64)


def _with_look(frame: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The weight of the cosines is fitted on the other groups' items."""
    without_prior = frame.assign(prior=[np.zeros(len(s)) for s in frame["scores"]])
    return np.asarray(cross_fitted_confidence(without_prior, Calibration())[1], np.float64)


def markdown(result: dict[str, Any]) -> str:
    """The page."""
    rows = result["rows"]

    def cells(r: dict[str, Any]) -> str:
        parts = []
        for look in ("alone", "with second look"):
            value, low, high = r[look]
            d = r[f"{look}, difference"]
            parts.append(f"{value:.3f} [{low:.2f}, {high:.2f}]")
            parts.append(f"{d['difference']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]")
        return " | ".join(parts)

    better = [r for r in rows[1:] if r["with second look, difference"]["difference"] > 0]
    said = (
        f"Better with the second look: {', '.join(r['weights'] for r in better)}."
        if better
        else "None is better with the second look, as it answers, so the chat model keeps its tower."
    )
    return "\n".join([
        "# The chat model over the tower of pathclip-small", "",
        f"{DISCLAIMER} Four-choice questions of the open sets on `val`, n {rows[0]['n']}; 95 % intervals by bootstrap"
        f" over slides or groups; *shipped* was {result['shipped']}, differences are to it on these items. The weight"
        f" of the second look is fitted on other groups. Controls: blank image {result['blank image']:.3f}, text only"
        f" {result['text only']:.3f}.", "",
        "| weights | likelihood alone | difference | with the second look | difference |", "|---|---|---|---|---|",
        *(f"| {r['weights']} | {cells(r)} |" for r in rows), "",
        f"| with the second look | {' | '.join(r['weights'] for r in rows)} |",
        "|---|" + "---|" * len(rows),
        *(f"| {kind} | " + " | ".join(f"{r['sets'][kind]:.3f}" for r in rows) + " |" for kind in rows[0]["sets"]), "",
        said, "",
        f"    {result['command']}",
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    main()
