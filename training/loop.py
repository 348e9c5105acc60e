"""What the loops of the stages share: the schedule, the JSONL log, and checkpoints that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from assistant.files import whole, write_text
from assistant.model.cache import atomic_folder


def cosine_schedule(optimizer: Any, steps: int, warmup: float) -> Any:
    """Learning rates: linear warm-up over the share ``warmup`` of ``steps``, then half a cosine down to zero."""
    warm = max(1, round(steps * warmup))
    return torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_warm_cosine, warm=warm, total=steps))


def _warm_cosine(step: int, warm: int, total: int) -> float:
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))


def log_step(out: Path, step: int, losses: Sequence[float], began: float) -> None:
    """Append step, mean of ``losses`` and seconds since ``began`` to ``out/log.jsonl``, and print them."""
    row = {"step": step, "loss": sum(losses) / len(losses), "seconds": round(time.time() - began, 1)}
    with (out / "log.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def write_recipe(out: Path, recipe: Any) -> None:
    """``out/recipe.json`` from a dataclass: what a run was made with."""
    write_text(out / "recipe.json", json.dumps(asdict(recipe), indent=1) + "\n")


def save_adapter(model: Any, folder: Path, base: str | None = None) -> None:
    """A peft model's adapter in fp16, whole or not at all; ``base`` is the name its language model has on the hub."""
    from safetensors.torch import load_file, save_file

    with atomic_folder(folder) as staging:
        model.save_pretrained(staging)
        file = staging / "adapter_model.safetensors"
        save_file({k: v.half() for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
        if base is not None:
            settings = staging / "adapter_config.json"
            config = json.loads(settings.read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
            settings.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        (staging / "README.md").unlink(missing_ok=True)


def save_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], optimizer: Any, scheduler: Any, step: int) -> None:
    """Everything that ``step`` steps have changed."""
    state = {
        "trainable": {n: t.detach() for n, t in tensors.items()},
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "step": step,
    }
    with whole(path) as partial:
        torch.save(state, partial)


def load_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], optimizer: Any, scheduler: Any) -> int:
    """Copy a checkpoint, if there is one, into ``tensors``. Returns the number of steps already done."""
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(state["trainable"][name])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    return int(state["step"])


def follow(average: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], ema: float, step: int) -> None:
    """Move running averages towards tensors after step ``step`` (from 0), in place; the first steps count more."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            average[name].lerp_(tensor, 1 - min(ema, (step + 1) / (step + 10)))


def finish(accelerator: Any) -> None:
    """Wait until every process has written what it writes, then leave the process group."""
    accelerator.wait_for_everyone()
    accelerator.end_training()


def leave() -> None:
    """The last call of a program that ``accelerate launch`` may have started: of several processes, none is torn down.

    A thread of gloo that wants Python's lock while the interpreter ends aborts the process ("terminate called without
    an active exception", exit code -6), now and then and after everything is written; the launcher then calls the run
    failed and stops the others.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
