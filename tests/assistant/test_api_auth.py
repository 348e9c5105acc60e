"""Who may ask, how often, in which order; what is logged and counted."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from assistant.api import create_app
from assistant.api_audit import AuditLog
from assistant.api_auth import Authenticator, Client, RateLimit, new_token, read_tokens
from assistant.api_line import Line
from assistant.api_schema import HttpError, ServerSettings
from assistant.errors import BadInput
from tests.fakes import EchoAssistant
from tests.serving import serving, user, wait_for

CHAT = "/v1/chat/completions"


def send(app: Any, path: str, headers: dict[str, str], address: str = "127.0.0.1", method: str = "GET") -> Any:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://lab.example.org") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(go())


def test_tokens_open_the_api_and_the_file_holds_none_of_them(tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"
    ann, ben = new_token(file, "ann"), new_token(file, "ben", 5)
    assert file.stat().st_mode & 0o777 == 0o600
    assert ann not in file.read_text()
    assert [client for client, _ in read_tokens(file)] == [Client("ann"), Client("ben", 5)]
    app = create_app(EchoAssistant(), settings=ServerSettings(token_file=file))  # type: ignore[arg-type]
    for token, status in ((ann, 200), (ben, 200), (ann[:-1], 401), ("", 401)):
        assert send(app, "/v1/models", {"authorization": f"Bearer {token}"}).status_code == status
    kept = [line for line in file.read_text().splitlines() if line.startswith("ben")]
    file.write_text("\n".join(kept))
    os.utime(file, (1, 1))
    assert send(app, "/v1/models", {"authorization": f"Bearer {ann}"}).status_code == 401
    assert send(app, "/v1/models", {"authorization": f"Bearer {ben}"}).status_code == 200
    file.unlink()  # nobody is let in, rather than everybody
    assert send(app, "/v1/models", {"authorization": f"Bearer {ben}"}).status_code == 401


@pytest.mark.parametrize("text", ["ann", "ann xyz", f"ann {'0' * 64} -1", f"a/b {'0' * 64}", "", f"a {'0' * 64}\n" * 2])
def test_a_malformed_token_file_is_refused_without_its_content(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokens.txt"
    file.write_text(text)
    with pytest.raises(BadInput, match=r"tokens\.txt") as caught:
        Authenticator(token_file=file)
    assert "xyz" not in str(caught.value)
    with pytest.raises(BadInput):
        new_token(tmp_path / "other.txt", "a b")


def test_a_user_header_counts_from_a_trusted_proxy_only() -> None:
    settings = ServerSettings(trusted_proxies=("10.1.0.0/16",))
    app = create_app(EchoAssistant(), settings=settings)  # type: ignore[arg-type]
    headers = {"x-forwarded-user": "ann@example.org"}
    assert send(app, "/v1/models", headers, "10.1.2.3").status_code == 200
    assert send(app, "/v1/models", headers, "10.2.2.3").status_code == 401
    assert send(app, "/v1/models", headers | {"x-forwarded-for": "10.1.2.3"}, "10.2.2.3").status_code == 401
    assert send(app, "/v1/models", {}, "10.1.2.3").status_code == 401
    with pytest.raises(BadInput, match=r"10\.0\.0\.0/24"):
        Authenticator(proxies=("proxy",))


def test_a_rate_is_kept_per_client() -> None:
    rate = RateLimit(2)
    for client in (Client("a"), Client("b")):
        rate.spend(client, 0.0)
        rate.spend(client, 0.0)
        with pytest.raises(HttpError) as caught:
            rate.spend(client, 0.0)
        assert (caught.value.status, int(caught.value.headers["retry-after"]) >= 30) == (429, True)
    rate.spend(Client("a"), 31.0)
    rate.spend(Client("c", 3), 0.0)
    app = create_app(EchoAssistant(), api_key="k", settings=ServerSettings(per_minute=1))  # type: ignore[arg-type]
    headers = {"authorization": "Bearer k"}
    assert [send(app, "/v1/models", headers).status_code for _ in range(2)] == [200, 429]
    assert send(app, "/health", headers).status_code == 200


def test_only_listed_origins_get_permission() -> None:
    settings = ServerSettings(cors_origins=("https://lab.example.org",))
    app = create_app(EchoAssistant(), api_key="k", settings=settings)  # type: ignore[arg-type]
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    good = send(app, CHAT, {"origin": "https://lab.example.org", **ask}, method="OPTIONS")
    assert good.headers["access-control-allow-origin"] == "https://lab.example.org"
    bad = send(app, CHAT, {"origin": "https://evil.example.org", **ask}, method="OPTIONS")
    assert "access-control-allow-origin" not in bad.headers
    for origin in ("*", "lab.example.org", "null"):
        with pytest.raises(BadInput, match="web origin"):
            create_app(EchoAssistant(), settings=ServerSettings(cors_origins=(origin,)))  # type: ignore[arg-type]


def test_turns_go_round_among_clients() -> None:
    async def go() -> list[str]:
        line, order = Line(9), []

        async def ask(client: str) -> None:
            place = line.enter(client)
            async for item in place.run(lambda stop: iter([time.sleep(0.02) or client])):
                order.append(str(item))

        await asyncio.gather(*[ask(client) for client in ("a", "a", "a", "a", "b", "c", "b")])
        assert (line.taken, line.waiting) == (0, 0)
        line.close()
        return order

    order = asyncio.run(go())
    assert order[0] == "a"
    assert sorted(order[1:4]) == ["a", "b", "c"]
    assert sorted(order[4:]) == ["a", "a", "b"]


def test_one_client_cannot_hold_every_place() -> None:
    line = Line(3, max_per_client=2)
    places = [line.enter("a"), line.enter("a")]
    with pytest.raises(HttpError, match="of yours") as caught:
        line.enter("a")
    assert caught.value.headers["retry-after"]
    places.append(line.enter("b"))
    for place in places:
        place.leave()
    assert line.taken == 0


def test_an_answer_that_takes_too_long_is_a_504_and_stops() -> None:
    echo = EchoAssistant()
    echo.gate.clear()
    with serving(echo, settings=ServerSettings(answer_timeout_s=0.3)) as address:
        body = {"model": "echo", "messages": [user("a b c")]}
        response = httpx.post(address + CHAT, json=body, timeout=20)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
        wait_for(lambda: echo.cancelled == 1)
        wait_for(lambda: httpx.get(f"{address}/ready").json()["under_way"] == 0)


def test_numbers_for_prometheus_hold_nothing_that_users_sent() -> None:
    with serving(EchoAssistant()) as address:
        body = {"model": "echo", "messages": [user("SECRETWORD b")], "user": "SECRETWORD"}
        httpx.post(address + CHAT, json=body).raise_for_status()
        httpx.get(f"{address}/SECRETWORD")
        text = httpx.get(f"{address}/metrics").text
    assert 'pathassist_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0' in text
    assert 'route="other",status="404"} 1.0' in text
    assert 'pathassist_tokens_total{kind="reply"} 2.0' in text
    assert "pathassist_first_token_seconds_count 1.0" in text
    assert "SECRETWORD" not in text


def test_old_days_of_the_audit_log_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.jsonl"
    for day in ("2020-01-01", "2020-02-01"):
        (tmp_path / f"audit-{day}.jsonl").write_text("{}\n")
    (tmp_path / "other-2020-01-01.jsonl").write_text("{}\n")
    log = AuditLog(path, keep_days=30)
    line: dict[str, Any] = {"request_id": "r", "image_sha256": [], "prompt_sha256": "p", "model": "m"}
    line |= {"seconds": 1.0, "confidence": 0.5, "abstained": False, "client": Client("ann").hashed}
    log.write(**line)
    yesterday = log._day
    tomorrow = log._now().replace(year=log._now().year + 1)
    monkeypatch.setattr(AuditLog, "_now", staticmethod(lambda: tomorrow))
    log.keep_days = 400
    log.write(**line)
    log.close()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [f"audit-{yesterday.isoformat()}.jsonl", "audit.jsonl", "other-2020-01-01.jsonl"]
    assert isinstance(yesterday, date)
    assert "ann" not in path.read_text()
