"""The benchmark's parts on the tiny assistant; the numbers that count come from ``make bench``."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from assistant.chat.prompt import Turn
from eval import bench


@pytest.fixture
def decoders(tiny_assistant: Any, field: Image.Image, monkeypatch: pytest.MonkeyPatch) -> dict[str, bench.Decode]:
    def absent(ids: list[int]) -> bench.Decode:
        raise ImportError("xllamacpp")

    monkeypatch.setattr(bench, "llama_cpp", absent)
    monkeypatch.setattr(bench, "PAUSE", 0)
    ids = tiny_assistant.prompt_ids([Turn("user", bench.QUESTION, (field,))])
    return bench.contestants(tiny_assistant, ids, [field])


def test_every_contestant_decodes_in_every_round(decoders: dict[str, bench.Decode]) -> None:
    rates = bench.measure_decoding(decoders, rounds=2, tokens=5)
    assert list(rates) == ["Hugging Face generate, float32", "Hugging Face generate, bfloat16", bench.OURS]
    assert all(len(values) == 2 and min(values) > 0 for values in rates.values())


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
        "decoding": {bench.OURS: [60.0, 59.0, 61.0], bench.LLAMA_CPP: [110.0, 100.0, 90.0]},
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
