"""Requests for tools: train and val share no wording, every call can be written, and a step of training learns."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from training.data import tool_phrases as words
from training.data import tool_phrases_wide as wide
from training.data.natural_requests import natural_requests
from training.data.records import DataError
from training.data.tool_calls import Requests, fresh_requests, gold_arguments, planned_tools, usable
from training.data.tool_phrases_fresh2 import FRESH2
from training.data.tool_phrases_fresh3 import FRESH3
from training.data.tool_phrases_fresh4 import FRESH4
from training.data.tool_phrases_fresh5 import FRESH5
from training.data.tool_phrases_fresh6 import FRESH6
from training.data.tool_phrases_val import FRESH


def test_no_wording_of_val_is_in_train() -> None:
    train = {t for ts in words.TRAIN.values() for t in ts} | set(words.NONE_TRAIN)
    val = {t for ts in words.VAL.values() for t in ts} | set(words.NONE_VAL)
    assert not {t.casefold() for t in train} & {t.casefold() for t in val}
    assert not set(words.INJECTED_TRAIN) & set(words.INJECTED_VAL)
    assert not set(words.PHRASES_TRAIN) & set(words.PHRASES_VAL)
    assert not set(words.OTHER_TRAIN) & set(words.OTHER_VAL)
    assert set(words.TRAIN) == set(words.VAL)


def test_no_request_of_training_is_one_of_val_or_fresh() -> None:
    held = {wide.plain(t) for ts in words.VAL.values() for t in ts} | {wide.plain(t) for t in words.NONE_VAL}
    held |= {wide.plain(question) for *_, question in (*FRESH, *FRESH2, *FRESH3, *FRESH4, *FRESH5, *FRESH6)}
    tables = [*wide.WIDE.values(), *wide.CLAIMS.values(), wide.NONE]
    rng = random.Random(0)
    for pattern in [p for ps in tables for p in ps]:
        for _ in range(40):
            assert wide.plain(wide.spelled(pattern, rng)) not in held, pattern
    drawn = Requests("train")
    for i in range(1000):
        question = drawn.draw(i).question
        assert wide.plain(question) not in held
        assert not wide.near(question)


def test_a_held_request_is_drawn_again() -> None:
    assert {wide.spelled("(good morning|good evening)!", random.Random(i)) for i in range(40)} == {"good evening!"}


def test_what_shares_most_words_with_a_fresh_request_is_near() -> None:
    assert wide.near("Good day, is this image ok, quality wise?")
    assert not wide.near("Are the glands well formed?")
    assert not wide.near("nuclei count")  # too short to tell


def test_the_fresh_set_to_measure_by_is_another_than_those_to_choose_by() -> None:
    first, second = ({r.question for r in fresh_requests(s)} for s in (False, True))
    assert not first & second
    assert sum(not r.calls for r in fresh_requests(held=True)) >= 60
    assert {c.name for r in fresh_requests(held=True) for c in r.calls} == {t.name for t in planned_tools()}


@pytest.mark.parametrize("held", [False, True])
def test_the_fresh_requests_can_be_answered(held: bool) -> None:
    requests = fresh_requests(held)
    assert len(requests) >= 120
    assert len({r.question for r in requests}) == len(requests)
    for request in requests:
        made = sum(c.name == "normalise_stain" for c in request.calls)
        for call in request.calls:
            tool = next(t for t in planned_tools() if t.name == call.name)
            assert gold_arguments(tool, call) == call.arguments
            assert call.arguments["image"] <= request.facts.images + made
            for parameter in tool.parameters:
                if parameter.name not in call.arguments:
                    continue
                value = call.arguments[parameter.name]
                # Numbers may lack their nought, and a pixel size be told in nanometres or as pixels in a micrometre.
                others = (value,) if parameter.kind == "number" else ()
                others += (1000 * value, 1 / value) if parameter.name == "mpp" else ()
                there = any(f"{v:g}".lstrip("0") in request.question for v in others)
                there |= value == 12 and "dozen" in request.question
                assert there or usable(parameter, value, request.question), request.question


def test_parts_of_the_training_wordings_share_none() -> None:
    fit, dev = Requests("train", part="fit"), Requests("train", part="dev")
    for key, texts in fit.wide.items():
        assert not set(texts) & set(dev.wide[key]) or len(texts) == len(wide.WIDE[key])  # too few to divide
    assert not set(fit.none_wide) & set(dev.none_wide)


@pytest.mark.parametrize("split", ["train", pytest.param("val", marks=pytest.mark.data)])
def test_every_call_can_be_written(split: str) -> None:
    drawn = Requests(split)  # type: ignore[arg-type]
    kinds = set()
    for i in range(500):
        request = drawn.draw(i)
        kinds.add(request.kind)
        tools = {t.name: t for t in (*planned_tools(), *request.extra)}
        for call in request.calls:
            tool = tools[call.name]
            assert gold_arguments(tool, call) == call.arguments
            for parameter in tool.parameters:
                if parameter.name in call.arguments:
                    assert usable(parameter, call.arguments[parameter.name], request.question), request
    assert len(kinds) == 10
    assert drawn.draw(3) == drawn.draw(3)


def test_the_loss_of_a_tiny_model_falls(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.conftest import tiny_tokenizer
    from training.toolcalls import ToolcallsRecipe, train

    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=4096,
    )  # fmt: skip
    recipe = ToolcallsRecipe(steps=6, batch_size=4, lr=1e-2, checkpoint_every=3, log_every=3, mixed_precision="no")
    losses = train(LlamaForCausalLM(config), tokenizer, recipe, tmp_path)
    assert losses[-1] < losses[0]
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_requests_written_one_by_one_are_none_to_measure_by(tmp_path: Path) -> None:
    written = natural_requests()
    assert len(written) > 400
    assert {c.name for r in written for c in r.calls} == {t.name for t in planned_tools()}
    assert 0.3 < sum(not r.calls for r in written) / len(written) < 0.7
    held = {wide.plain(question) for *_, question in (*FRESH, *FRESH2, *FRESH3, *FRESH4, *FRESH5, *FRESH6)}
    assert not [r.question for r in written if wide.plain(r.question) in held or wide.near(r.question)]
    line = '{"images": 1, "stain": "H&E", "tools": ["%s"], "q": "Outline the capillaries for me."}\n'
    file = tmp_path / "tool_requests_x.jsonl"
    file.write_text(line % "segment_nuclei" + line % "no_such_tool", encoding="utf-8")
    with pytest.raises(DataError, match=r"tool_requests_x\.jsonl:2: no tool 'no_such_tool'; known: check_quality"):
        natural_requests(tmp_path)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"tool_requests_x\.jsonl:1: cannot be read"):
        natural_requests(tmp_path)
