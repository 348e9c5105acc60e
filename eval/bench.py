"""Speed and memory of the assistant on this machine: ``python -m eval.bench`` (``make bench``).

One run measures, and writes as JSON and Markdown:

- decoding, tokens a second: plain Hugging Face ``generate`` in float32 and bfloat16, our engine, and llama.cpp
  (``xllamacpp``), on a prompt of the same length, by turns within each round, so that all meet the same machine;
- what our engine's 8-bit decoding changes: its predictions against float32 over a fixed text;
- in a fresh process: start to ready, first token with one image, peak memory.

Everything timed runs in processes of its own (:mod:`eval.bench_workers`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from assistant.files import write_text
from eval.bench_workers import HF_BFLOAT16, HF_FLOAT32, LLAMA_CPP, OURS, QUESTION, sample_images
from eval.provenance import write_json

GOALS = {"ready": 10.0, "first_token": 2.0, "peak": 3.0, "ratio": 0.6}
PAUSE = 0.5  # seconds between contestants: threads of the last one spin for a while before they sleep
FLAGS = ("avx2", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimd", "i8mm")
LLAMA_CPP_PACKAGE = "xllamacpp"
TRIED = Path(__file__).with_name("bench-tried.md")
#: Prose of about 200 tokens to compare predictions over.
TEXT = (
    "Histopathology is the microscopic examination of tissue in order to study the manifestations of disease. The "
    "tissue is fixed in formalin and embedded in paraffin wax so that it can be cut into thin sections with a "
    "microtome. The sections are stained with hematoxylin and eosin, which colours nuclei blue and cytoplasm and "
    "extracellular matrix pink. Adenocarcinoma of the colon shows irregular glands lined by tall columnar cells with "
    "large, dark, crowded nuclei, and necrotic debris within the lumen. In lymph node sections, metastatic deposits of"
    " breast carcinoma form cohesive nests of large pale cells that replace the normal small lymphocytes. Squamous "
    "cell carcinoma can be recognised by keratin pearls and intercellular bridges. The tumour stroma shows a dense "
    "desmoplastic reaction with many fibroblasts and collagen fibres; eosinophils, plasma cells and lymphocytes are "
    "scattered through it. When the image is blurred, or the field holds no tissue, the honest answer is that there is"
    " not enough evidence."
)


class Worker:
    """A function of :mod:`eval.bench_workers` in a process of its own, which answers in lines of JSON.

    Apart from each other because they are not independent inside one process: beside a loaded llama.cpp our decoding
    took more than twice as long.
    """

    def __init__(self, function: str, *arguments: Any) -> None:
        code = f"import json, sys; from eval.bench_workers import {function}; {function}(*json.loads(sys.argv[1]))"
        command = [sys.executable, "-c", code, json.dumps(arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603

    def read(self) -> Any:
        """The next answer; anything else a library prints is passed over."""
        for line in self.process.stdout or ():
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise SystemExit(f"a process of the benchmark ended with exit code {self.process.wait()}; its error is above")

    def decode(self, tokens: int) -> float:
        """Tokens a second, for a worker that decodes."""
        print(tokens, file=self.process.stdin, flush=True)
        return float(self.read()["rate"])

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # closes the pipes, which ends it, and waits
            pass


def measure_decoding(
    decoders: Mapping[str, Callable[[int], float]], rounds: int, tokens: int
) -> dict[str, list[float]]:
    """Tokens a second after the first one, by contestant, one value a round."""
    rates: dict[str, list[float]] = {name: [] for name in decoders}
    for decode in decoders.values():
        decode(4)  # warm up
    for number in range(rounds):
        for name, decode in decoders.items():
            time.sleep(PAUSE)
            rates[name].append(decode(tokens))
            print(f"round {number + 1}: {name}: {rates[name][-1]:.1f} tokens/s", file=sys.stderr)
    return rates


def race(ids: list[int], threads: int, rounds: int, tokens: int) -> dict[str, list[float]]:
    """:func:`measure_decoding` with every contestant that is installed."""
    names = [HF_FLOAT32, HF_BFLOAT16, OURS, LLAMA_CPP]
    if _version(LLAMA_CPP_PACKAGE) is None:
        print("xllamacpp is not installed, so llama.cpp is left out: `make setup-dev`", file=sys.stderr)
        names.remove(LLAMA_CPP)
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker("serve_decoding", name, ids, threads)) for name in names}
        for worker in workers.values():
            worker.read()  # loaded
        return measure_decoding({name: worker.decode for name, worker in workers.items()}, rounds, tokens)


def measure_start(rounds: int) -> dict[str, list[float]]:
    """Seconds from launching Python to ready, seconds to the first token, and peak GiB, one process a round."""
    found: dict[str, list[float]] = {"ready": [], "first_token": [], "first_token_cold": [], "answer": [], "peak": []}
    for _ in range(rounds):
        began = time.perf_counter()
        with Worker("serve_start") as worker:
            worker.read()
            found["ready"].append(time.perf_counter() - began)
            values = worker.read()
        found["first_token_cold"].append(values["first_token"][0])
        found["first_token"] += values["first_token"]
        found["answer"] += values["answer"]
        found["peak"].append(values["peak"])
    return found


def fidelity(assistant: Any) -> dict[str, float]:
    """Our engine's predictions over :data:`TEXT` beside float32's, each step given the true tokens before it."""
    import torch

    with torch.inference_mode():
        ids = assistant.processor.tokenizer(TEXT, return_tensors="pt")["input_ids"].to(assistant.model.device)
        embeds = assistant.model.get_input_embeddings()(ids)
        exact = torch.log_softmax(assistant.model(inputs_embeds=embeds).logits[0, 1:-1].float().cpu(), -1)
        step = assistant.engine.stepper(assistant.engine.prefill(embeds[:, :1]), ids.shape[1])
        ours = torch.log_softmax(torch.stack([step(token) for token in ids[0, 1:-1].tolist()]), -1)
        true = ids[0, 2:, None].cpu()
        error = (ours.gather(1, true) - exact.gather(1, true)).squeeze(1)
        values = {
            "tokens": float(true.shape[0]),
            "argmax_agreement": (ours.argmax(-1) == exact.argmax(-1)).float().mean(),
            "kl_divergence": (exact.exp() * (exact - ours)).sum(-1).mean(),
            "mean_log_probability_float32": exact.gather(1, true).mean(),
            "mean_log_probability_ours": ours.gather(1, true).mean(),
            "mean_absolute_difference": error.abs().mean(),
            "max_absolute_difference": error.abs().max(),
        }
    return {name: round(float(value), 5) for name, value in values.items()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """What the numbers depend on: processor, load and versions."""
    import psutil
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = (line.partition(":") for line in (cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []))
    facts = {key.strip(): value.strip() for key, _, value in lines}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "system": platform.platform(terse=True),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        **{name: _version(name) or "not installed" for name in ("torch", "transformers", LLAMA_CPP_PACKAGE)},
    }


def _spread(values: list[float], digits: int = 1) -> str:
    return f"**{statistics.median(values):.{digits}f}** ({min(values):.{digits}f}–{max(values):.{digits}f})"


def _met(value: float, goal: float, *, at_least: bool = False) -> str:
    return "met" if (value >= goal if at_least else value <= goal) else "**not met**"


def markdown(result: dict[str, Any]) -> str:
    """The report: median (smallest–largest) of every measurement, the goals, the machine, and what was tried."""
    rates, start, facts, exact = (result[key] for key in ("decoding", "start", "machine", "fidelity"))
    median = {name: statistics.median(values) for name, values in rates.items()}
    weights = {
        OURS: f"{result['engine']}, merged weights",
        LLAMA_CPP: "Q4_1 layers, Q8_0 head: the GGUF our language model comes from, without the adapter",
    }
    lines = [
        "# Speed and memory",
        "",
        f"Reprint: `make bench`. Median (smallest–largest) of {result['rounds']} rounds; decoding {result['tokens']} "
        f"tokens after a prompt of {result['prompt_tokens']}:",
        "",
        "| | weights | tokens/s | of llama.cpp |",
        "|---|---|---|---|",
    ]
    for name, values in rates.items():
        share = f"{median[name] / median[LLAMA_CPP]:.2f}×" if LLAMA_CPP in median else "–"
        lines.append(f"| {name} | {weights.get(name, 'merged weights')} | {_spread(values)} | {share} |")
    lines += ["", "| goal | measured | |", "|---|---|---|"]
    if LLAMA_CPP in median:
        ratio = median[OURS] / median[LLAMA_CPP]
        lines.append(
            f"| decoding ≥ {GOALS['ratio']}× llama.cpp | {ratio:.2f}× | {_met(ratio, GOALS['ratio'], at_least=True)} |"
        )
    for key, words, unit, digits in (
        ("ready", "start to ready", "s", 1),
        ("first_token", "first token with one image", "s", 2),
        ("peak", "peak memory", "GiB", 2),
    ):
        state = _met(max(start[key]), GOALS[key])
        lines.append(f"| {words} ≤ {GOALS[key]:.0f} {unit} | {_spread(start[key], digits)} {unit} | {state} |")
    lines += [
        "",
        f"First token in a process that has not answered yet: {_spread(start['first_token_cold'], 2)} s. "
        f"Whole answer of up to 32 tokens: {_spread(start['answer'], 2)} s.",
        "",
        f"Our decoding against float32 over {exact['tokens']:.0f} tokens of text: the likeliest token agrees in "
        f"{exact['argmax_agreement']:.1%}; log-probability of the true token {exact['mean_log_probability_ours']:.4f} "
        f"against {exact['mean_log_probability_float32']:.4f} on average, absolute difference "
        f"{exact['mean_absolute_difference']:.3f} on average, {exact['max_absolute_difference']:.3f} at most; "
        f"divergence {exact['kl_divergence']:.4f} nats. Prefill and scoring use bfloat16 where the processor has it.",
        "",
        f"Machine: {facts['processor']}, {facts['cores']} cores ({', '.join(facts['flags'])}), {facts['memory_gib']} "
        f"GiB, {facts['threads']} threads, load {facts['load_before'][0]} before; Python {facts['python']}, "
        f"torch {facts['torch']}, transformers {facts['transformers']}, xllamacpp {facts['xllamacpp']}.",
        "",
        TRIED.read_text(encoding="utf-8"),
    ]
    return "\n".join(lines)


def run(rounds: int = 3, tokens: int = 64) -> dict[str, Any]:
    """All measurements, as written to the JSON file."""
    from assistant import Assistant
    from assistant.chat.prompt import Turn

    facts = machine()
    assistant = Assistant.load("embedded")  # also puts the model together, so that the starts below are warm ones
    ids = assistant.prompt_ids([Turn("user", QUESTION, tuple(sample_images()[:1]))])
    image_token = assistant.model.config.image_token_id
    result = {
        "machine": facts,
        "engine": type(assistant.engine).__name__,
        "revision": assistant.revision,
        "rounds": rounds,
        "tokens": tokens,
        "prompt_tokens": len(ids),
        "fidelity": fidelity(assistant),
    }
    del assistant
    text_ids = [ids[-1] if token == image_token else token for token in ids]  # llama.cpp has no visual tokens
    result["decoding"] = race(text_ids, facts["threads"], rounds, tokens)
    result["start"] = measure_start(rounds)
    return result


def main() -> None:
    """Command line: ``python -m eval.bench [--out FILE.json] [--rounds N] [--tokens N]``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("eval/results/bench.json"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    result = run(options.rounds, options.tokens)
    table = markdown(result)
    write_json(options.out, result)
    write_text(options.out.with_suffix(".md"), table)
    print(table)


if __name__ == "__main__":
    main()
