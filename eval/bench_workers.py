"""What the benchmark runs in processes of its own; :mod:`eval.bench` starts them and reads their lines of JSON.

llama.cpp's process never imports torch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

QUESTION = "Describe what this field shows and name the tissue."
HF_FLOAT32, HF_BFLOAT16 = "Hugging Face generate, float32", "Hugging Face generate, bfloat16"
OURS, LLAMA_CPP = "ours", "llama.cpp"

#: Decodes so many tokens and returns the moments (``time.perf_counter``) at which the first and the last were there.
Decode = Callable[[int], tuple[float, float]]


def sample_images() -> list[Any]:
    """Four quarters of scikit-image's colon field: new to a process, so that no feature is remembered."""
    from PIL import Image
    from skimage import data

    field = Image.fromarray(data.immunohistochemistry())
    return [field.crop((x, y, x + 256, y + 256)) for x in (0, 256) for y in (0, 256)]


class _Clock:
    """A streamer for ``generate`` that notes when tokens arrive."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        if value.numel():  # the prompt comes first; as embeddings it has no tokens
            self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def hugging_face(model: Any, embeds: torch.Tensor, dtype: torch.dtype) -> Decode:
    """Plain ``generate`` after a prompt of embeddings [1, T, D]; converts the model to ``dtype`` in place."""
    import torch

    model.to(dtype)

    def decode(tokens: int) -> tuple[float, float]:
        clock = _Clock()
        model.generate(
            inputs_embeds=embeds.to(dtype),
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            streamer=clock,
        )
        return clock.times[0], clock.times[-1]

    return decode


def ours(engine: Any, embeds: torch.Tensor) -> Decode:
    """Our engine after a prompt of embeddings [1, T, D]."""

    def decode(tokens: int) -> tuple[float, float]:
        times = [time.perf_counter() for _ in engine.generate(embeds, max_new_tokens=tokens)]
        return times[0], times[-1]

    return decode


def llama_cpp(gguf: Path, ids: list[int], threads: int) -> Decode:
    """llama.cpp after a prompt of token ids."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(gguf)
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.n_ctx, settings.n_parallel, settings.verbosity = 2048, 1, 0
    server = xllamacpp.Server(settings)

    def decode(tokens: int) -> tuple[float, float]:
        times: list[float] = []

        def arrived(piece: Any) -> None:
            if piece["choices"][0]["finish_reason"] is None:  # the closing message has no token
                times.append(time.perf_counter())

        request = {"prompt": ids, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
        server.handle_completions(request | {"cache_prompt": False}, arrived)
        return times[0], times[-1]

    return decode


def serve_decoding(name: str, ids: list[int], threads: int) -> None:
    """Load a contestant and say so; then, for every number of tokens on stdin, its rate in tokens a second.

    Args:
        name: One of the names above.
        ids: Prompt of llama.cpp, as long as the others', which ask :data:`QUESTION` about an image.
        threads: Threads of llama.cpp; torch chooses for itself.
    """
    if name == LLAMA_CPP:
        from assistant.model.parts import part_named
        from assistant.model.store import fetch

        decode = llama_cpp(fetch(part_named("smollm2-135m-instruct")), ids, threads)
    else:
        import torch

        from assistant import Assistant
        from assistant.chat.prompt import Turn

        assistant = Assistant.load("embedded", progress=False)
        image = sample_images()[0]
        embeds = assistant.embed_prompt(assistant.prompt_ids([Turn("user", QUESTION, (image,))]), [image])
        dtypes = {HF_FLOAT32: torch.float32, HF_BFLOAT16: torch.bfloat16}
        dtype = dtypes.get(name)
        decode = hugging_face(assistant.model, embeds, dtype) if dtype else ours(assistant.engine, embeds)
    _say({"ready": name})
    for line in sys.stdin:
        tokens = int(line)
        first, last = decode(tokens)
        _say({"rate": (tokens - 1) / (last - first)})


def serve_start() -> None:
    """Load the assistant and say so; answer an open and a closed question about each image; say what it took."""
    from assistant import Assistant

    assistant = Assistant.load("embedded", progress=False)
    _say({"ready": assistant.name})
    first_token, whole = [], []
    for image in sample_images():
        began = time.perf_counter()
        pieces = assistant.stream([image], QUESTION, max_new_tokens=32)
        next(pieces)
        first_token.append(time.perf_counter() - began)
        list(pieces)
        whole.append(time.perf_counter() - began)
        assistant.ask([image], "Is there a tumour in this field?")
    _say({"first_token": first_token, "answer": whole, "peak": peak_gib()})


def peak_gib() -> float:
    """The most memory this process has held. Linux counts its parent's in ``getrusage``, so not that one there."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes on macOS


def _say(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)
