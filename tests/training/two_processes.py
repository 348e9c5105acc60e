"""Run by ``accelerate launch``: a few steps on text-only conversations; each rank writes what it ended with."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from tests.conftest import make_tiny_llava
from tests.training.test_stages import RECIPE, conversation
from training.loop import leave
from training.stages import tokenise, train_stage


def main() -> None:
    out = Path(sys.argv[1])
    model, processor = make_tiny_llava()
    conversations = [conversation(None, f"Count to {i}", " ".join(map(str, range(i)))) for i in range(2, 12)]
    samples = tokenise(processor, conversations, 4, 200)
    losses = train_stage(model, processor, samples, None, RECIPE, out / "run")
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if "lora" in name:
            digest.update(value.numpy().tobytes())
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    (out / f"rank{rank}.json").write_text(json.dumps({"losses": losses, "digest": digest.hexdigest(), "world": world}))


if __name__ == "__main__":
    main()
    leave()
