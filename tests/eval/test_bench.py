"""The benchmark's parts on the tiny assistant; the numbers that count come from ``make bench``."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import torch
from PIL import Image

from assistant.chat.prompt import Turn
from eval import bench
from eval.bench_workers import LLAMA_CPP, OURS, QUESTION, hugging_face, ours, peak_gib


@pytest.fixture
def prompt(tiny_assistant: Any, field: Image.Image) -> Any:
    ids = tiny_assistant.prompt_ids([Turn("user", QUESTION, (field,))])
    return tiny_assistant.embed_prompt(ids, [field])


def test_contestants_decode_as_much_as_they_are_asked(tiny_assistant: Any, prompt: Any) -> None:
    decoders = [ours(tiny_assistant.engine, prompt)]
    for dtype in (torch.float32, torch.bfloat16):
        decoders.append(hugging_face(copy.deepcopy(tiny_assistant.model), prompt, dtype))
    for decode in decoders:
        began = time.perf_counter()
        first, last = decode(5)
        assert began < first < last < time.perf_counter()


def test_contestants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PAUSE", 0)
    calls: list[tuple[str, int]] = []

    def decoder(name: str) -> Any:
        return lambda tokens: calls.append((name, tokens)) or float(len(calls))

    rates = bench.measure_decoding({"a": decoder("a"), "b": decoder("b")}, rounds=2, tokens=7)
    assert calls == [("a", 4), ("b", 4), ("a", 7), ("b", 7), ("a", 7), ("b", 7)]
    assert rates == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_a_worker_that_fails_ends_the_benchmark(capfd: pytest.CaptureFixture[str]) -> None:
    with bench.Worker("llama_cpp", "nowhere.gguf", [1], 1) as worker, pytest.raises(SystemExit, match="exit code 1"):
        worker.read()
    capfd.readouterr()


def test_peak_memory_is_this_processes() -> None:
    assert 0.1 < peak_gib() < 64


def test_our_predictions_are_compared_with_float32(tiny_assistant: Any) -> None:
    values = bench.fidelity(tiny_assistant)
    assert values["tokens"] > 500  # bytes, here
    assert 0 < values["mean_absolute_difference"] < 1
    assert values["argmax_agreement"] > 0.5
    assert values["mean_log_probability_ours"] == pytest.approx(values["mean_log_probability_float32"], abs=0.5)


def test_the_report_says_which_goals_are_met() -> None:
    result = {
        "machine": bench.machine(),
        "engine": "Int8LlamaEngine",
        "rounds": 3,
        "tokens": 64,
        "prompt_tokens": 40,
        "fidelity": {
            "tokens": 190.0,
            "argmax_agreement": 0.97,
            "kl_divergence": 0.005,
            "mean_log_probability_float32": -3.7,
            "mean_log_probability_ours": -3.71,
            "mean_absolute_difference": 0.08,
            "max_absolute_difference": 0.6,
        },
        "decoding": {OURS: [60.0, 59.0, 61.0], LLAMA_CPP: [110.0, 100.0, 90.0]},
        "start": {
            "ready": [6.0, 11.0],
            "first_token": [0.5],
            "first_token_cold": [1.0],
            "answer": [2.0],
            "peak": [2.5],
        },
    }
    table = bench.markdown(result)
    assert "| ours | Int8LlamaEngine, merged weights | **60.0** (59.0–61.0) | 0.60× |" in table
    assert "| decoding ≥ 0.6× llama.cpp | 0.60× | met |" in table
    assert "| start to ready ≤ 10 s | **8.5** (6.0–11.0) s | **not met** |" in table
    assert "| peak memory ≤ 3 GiB | **2.50** (2.50–2.50) GiB | met |" in table
