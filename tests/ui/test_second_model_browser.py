"""Two real models in one page: one of this process, the other behind the API of another server, as `remote` is used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import make_tiny_llava
from tests.serving import serving
from tests.ui.conftest import served
from tests.ui.test_browser import ask, browser, page, pytestmark, shot, upload

__all__ = ["browser", "page", "pytestmark"]


def real(name: str, seed: int) -> Any:
    """A real assistant over a tiny model of its own."""
    from assistant.assistant import Assistant
    from assistant.model.engine import make_engine

    model, processor = make_tiny_llava(seed)
    return Assistant(model, processor, make_engine(model), name=name, revision=f"seed {seed}")


@pytest.fixture(scope="module")
def page_url() -> Iterator[str]:
    with serving(real("far", 1)) as far, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATHASSIST_REMOTE_URL", f"{far}/v1")
        patch.setenv("PATHASSIST_REMOTE_MODEL", "far")
        with served(real("near", 0)) as url:
            yield url


def switch(page: Any, name: str) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("radio", name=name).check()
    page.locator("#pa-model-said").get_by_text(f"{name} answers from the next question on").wait_for()
    page.get_by_role("button", name="Close", exact=True).click()


def test_a_conversation_goes_on_with_a_second_real_model(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "field.png"
    Image.effect_noise((160, 120), 60).convert("RGB").save(path)
    evidence = page.locator("#pa-evidence")
    upload(page, str(path))
    ask(page, "Which organ is it? A) liver B) colon")
    evidence.get_by_text("near · ").first.wait_for()
    switch(page, "remote")
    ask(page, "And is it malignant? A) yes B) no")
    evidence.get_by_text("remote:far · ").first.wait_for()
    page.locator("#pa-chat .bot").nth(1).wait_for()
    shot(page, "second-model")
    switch(page, "near")
    ask(page, "Which stain? A) H&E B) PAS")
    evidence.get_by_text("near · ").first.wait_for()
    assert page.locator("#pa-chat .user.message").count() == 3
