"""The served page and API, reached as a client reaches them: one process, real HTTP."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from assistant.errors import BadInput
from tests.serving import image_part, png, user
from tests.ui.conftest import ShowAssistant, served
from ui.app import launch

pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'")


@pytest.fixture(scope="module")
def client(page_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from gradio_client import Client

    client = Client(page_url, verbose=False, analytics_enabled=False, download_files=False)
    yield client
    client.close()


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "field.png"
    path.write_bytes(png())
    return path


def chat_of(result: Any) -> list[Any]:
    return result[0] if isinstance(result, (list, tuple)) else result


def message(text: str, *files: Path) -> dict[str, Any]:
    from gradio_client import handle_file

    return {"text": text, "files": [handle_file(str(f)) for f in files]}


def test_a_question_with_an_image_is_sent_and_answered(client: Any, page_assistant: ShowAssistant, red: Path) -> None:
    sent = client.predict(message("what is it", red), [], api_name="/submit")
    history = chat_of(sent)
    assert history[-1]["role"] == "user"
    job = client.submit(history, 0.4, 128, 0, api_name="/respond")
    answered = chat_of(job.result(timeout=120))
    assert answered[-1]["role"] == "assistant"
    assert "#ff0000 what is it" in str(answered[-1]["content"])
    assert page_assistant.calls[-1]["question"] == "what is it"


def test_a_program_is_refused_in_words(client: Any, tmp_path: Path) -> None:
    program = tmp_path / "setup.exe"
    program.write_bytes(b"MZ" + bytes(100))
    with pytest.raises(Exception, match=r"(?i)invalid file type"):
        client.predict(message("what", program), [], api_name="/submit")


def test_a_corrupt_image_is_refused_in_words(client: Any, tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt.png"
    corrupt.write_bytes(png()[:40])
    sent = client.predict(message("what", corrupt), [], api_name="/submit")
    assert 'role="alert"' in str(sent)
    assert "corrupt.png" in str(sent)


def test_page_and_api_are_one_process(page_url: str) -> None:
    assert httpx.get(f"{page_url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{page_url}/v1/models").json()["data"][0]["id"] == "embedded"
    body = {"model": "embedded", "messages": [user("what is it", image_part(png()))]}
    reply = httpx.post(f"{page_url}/v1/chat/completions", json=body, timeout=60).json()
    assert reply["choices"][0]["message"]["content"] == "#ff0000 what is it"
    assert httpx.get(page_url).text.count("<html")


def test_headers_keep_the_page_at_home(page_url: str) -> None:
    page, api = httpx.get(page_url).headers, httpx.get(f"{page_url}/v1/models").headers
    assert "connect-src 'self'" in page["content-security-policy"]
    assert "default-src 'none'" in api["content-security-policy"]
    assert page["x-content-type-options"] == "nosniff"


def test_a_foreign_host_name_is_refused(page_url: str) -> None:
    for path in ("/", "/v1/models"):
        assert httpx.get(page_url + path, headers={"host": "evil.example"}).status_code in (400, 403)


def test_no_file_of_the_machine_is_served(page_url: str) -> None:
    for path in ("/etc/passwd", str(Path(__file__).resolve())):
        assert httpx.get(f"{page_url}/gradio_api/file={path}").status_code in (403, 404)


def test_an_overlarge_upload_is_refused(page_url: str) -> None:
    files = {"files": ("big.png", bytes(51 * 2**20), "image/png")}
    assert httpx.post(f"{page_url}/gradio_api/upload", files=files, timeout=120).status_code == 413


def test_history_and_telemetry_are_off(page_url: str) -> None:
    config = httpx.get(f"{page_url}/config").json()
    assert config["analytics_enabled"] is False
    assert not config.get("run_history")
    assert config["footer_links"] == []
    assert httpx.get(f"{page_url}/monitoring").status_code in (403, 404)


def test_a_login_guards_page_and_api() -> None:
    with served(ShowAssistant(), auth=("me", "secret-password")) as url:
        assert httpx.get(f"{url}/config").status_code == 401
        assert httpx.get(f"{url}/v1/models").status_code == 401
        key = {"authorization": "Bearer secret-password"}
        assert httpx.get(f"{url}/v1/models", headers=key).status_code == 200
        login = httpx.post(f"{url}/login", data={"username": "me", "password": "secret-password"})
        assert login.status_code == 200
        assert httpx.get(f"{url}/config", cookies=login.cookies).status_code == 200


def test_launch_refuses_other_machines_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATHASSIST_UI_AUTH", raising=False)
    with pytest.raises(BadInput, match="no login is set"):
        launch(host="192.0.2.1", model="no such model")


def test_launch_tells_of_a_taken_port(page_url: str) -> None:
    with pytest.raises(BadInput, match="cannot listen"):
        launch(ShowAssistant(), port=int(page_url.rsplit(":", 1)[1]))


def test_upload_folder_is_private_and_goes_away(tmp_path: Path) -> None:
    from ui.app import build

    demo = build(ShowAssistant())
    assert demo.files.stat().st_mode & 0o077 == 0
    assert len(list((demo.files / "examples").glob("*.png"))) == 3
    shutil.rmtree(demo.files)
