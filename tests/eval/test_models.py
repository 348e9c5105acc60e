"""Models by name: our server through the OpenAI client, endpoints that misbehave, presets, a Hugging Face folder."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from assistant.answer import Box
from assistant.errors import BadInput, NotAvailable
from eval.models import HFModel, NoReply, OpenAIModel, PresetModel, load_encoder, load_model
from eval.pathmmu_parser import official_prompt, parse
from tests.fakes import EchoAssistant
from tests.serving import Quiet, answering, serving

RED = Image.new("RGB", (8, 6), "red")


def test_our_own_api_through_the_openai_client() -> None:
    echo = EchoAssistant()
    with serving(echo) as address:
        model = load_model(f"openai:{address}/v1#echo")
        said = model.answer(RED, "hello there", max_new_tokens=9)
        assert (said.text, said.confidence) == ("#ff0000 hello there", 0.9)
        assert model.answer(None, "just text", max_new_tokens=9).text == "just text"
        # A declined answer is scored by its best guess, as a preset's is.
        assert model.answer(None, "DOUBT it", max_new_tokens=9).text == "DOUBT it"
        assert echo.calls[0]["max_new_tokens"] == 9
        with pytest.raises(Exception, match="refused: say something else"):
            model.answer(None, "REFUSE", max_new_tokens=9)
        with pytest.raises(BadInput, match="offers echo, pathclip-small; choose one"):
            OpenAIModel(f"{address}/v1")


@contextmanager
def endpoint(body: Any, delay: threading.Event | None = None) -> Iterator[str]:
    """A server that answers every request with one body, or not before ``delay`` is set."""

    class Handler(Quiet):
        def do_POST(self) -> None:
            if delay is not None:
                delay.wait(20)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send(200, "application/json", data)

    with answering(Handler) as address:
        yield f"{address}/v1"


@pytest.mark.parametrize(
    "body",
    [
        {"choices": []}, {"choices": [{"message": {"content": None}}]}, {"hello": 1}, [], "text",
        b"<html>nonsense</html>", {"choices": [{"message": {"content": [1]}}]}, {"choices": None},
    ],
)  # fmt: skip
def test_nonsense_is_an_error_and_never_an_answer(body: Any) -> None:
    with endpoint(body) as address, pytest.raises(NoReply):
        OpenAIModel(f"{address}#m").answer(RED, "q", max_new_tokens=5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_timeout_is_an_error() -> None:
    import openai

    late = threading.Event()
    with endpoint({"choices": []}, late) as address:
        model = OpenAIModel(f"{address}#m", seconds=0.3)
        model._client = model._client.with_options(max_retries=0)
        with pytest.raises(openai.APITimeoutError):
            model.answer(None, "q", max_new_tokens=5)
        late.set()


def test_bad_names() -> None:
    with pytest.raises(BadInput, match="not a URL"):
        load_model("openai:localhost#m")
    with pytest.raises(NotAvailable, match="is it running"):
        OpenAIModel("http://127.0.0.1:9/v1", seconds=2)
    with pytest.raises(BadInput, match=r"no config\.json"):
        load_model("hf:/nowhere")
    with pytest.raises(BadInput, match="allowed: lora-off:embedded"):
        load_model("lora-off:qwen-7b")
    with pytest.raises(BadInput, match="embedding tasks only"):
        load_model("open_clip:ViT-B-32")
    with pytest.raises((BadInput, NotAvailable), match="nonesuch"):
        load_encoder("nonesuch")


@pytest.mark.slow
def test_without_its_adapter_the_language_model_is_as_it_was() -> None:
    from transformers import AutoModelForCausalLM

    from assistant.model.parts import part_named
    from assistant.model.store import language_folder

    model = load_model("lora-off:embedded")
    plain = AutoModelForCausalLM.from_pretrained(language_folder(part_named("smollm2-135m-instruct"))).state_dict()
    ours = model.assistant.model.model.language_model.state_dict()
    name = "layers.3.self_attn.q_proj.weight"
    assert (ours[name].float() == plain[f"model.{name}"].float()).all()
    assert model.answer(None, "What is H&E?", max_new_tokens=4).text


def test_a_preset_gives_its_best_guess_with_the_letter_in_brackets() -> None:
    class Closed(EchoAssistant):
        revision = "abc"

        def ask(self, images: Any, question: str, **keywords: Any) -> Any:
            from dataclasses import replace

            assert keywords["threshold"] == 0.0
            return replace(super().ask(images, question, max_new_tokens=9), best_guess="B) liver")

        def ground(self, image: Any, phrase: str) -> list[Box]:
            return [Box(phrase, (0, 0, 1, 1), 0.2), Box(phrase, (1, 2, 3, 4), 0.7)] if phrase != "none" else []

    model = PresetModel(Closed())
    assert model.revision.startswith("abc-")
    recalibrated = Closed()
    recalibrated.calibration = "another"  # type: ignore[attr-defined]
    assert PresetModel(recalibrated).revision != model.revision  # a run does not go on with another calibration
    assert model.answer(RED, "q", max_new_tokens=5).text == "(B) liver"
    assert model.ground(RED, "cell").box == (1, 2, 3, 4)
    assert model.ground(RED, "none").box is None
    with pytest.raises(NoReply):
        model.ground(None, "cell")
    with pytest.raises(NotAvailable, match="cannot ground"):
        PresetModel(EchoAssistant()).ground(RED, "cell")


def test_a_text_model_grounds_in_words() -> None:
    reply = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "at [1, 2, 3, 4]"}}]}
    with endpoint(reply) as address:
        assert OpenAIModel(f"{address}#m").ground(RED, "cell").box == (1, 2, 3, 4)


@pytest.mark.slow
def test_our_assistant_answers_the_official_prompt_in_brackets(tiny_assistant: Any) -> None:
    options = ["Random distribution", "Palisading arrangement", "Rosette formation", "Whorled pattern"]
    said = PresetModel(tiny_assistant).answer(RED, official_prompt("Which pattern?", options), max_new_tokens=16)
    assert parse(said.text, options).branch == "bracket"
    assert said.confidence is not None
    assert 0 <= said.confidence <= 1


@pytest.mark.slow
def test_a_hugging_face_folder(tiny_assistant: Any, tmp_path: Path) -> None:
    tiny_assistant.model.save_pretrained(tmp_path / "tiny")
    tiny_assistant.processor.save_pretrained(tmp_path / "tiny")
    model = HFModel(tmp_path / "tiny")
    first = model.answer(RED, "Which organ?", max_new_tokens=4)
    assert first.text == model.answer(RED, "Which organ?", max_new_tokens=4).text
    assert model.name == "hf-tiny"
    assert len(model.revision) == 12
    model.answer(None, "no image", max_new_tokens=2)
