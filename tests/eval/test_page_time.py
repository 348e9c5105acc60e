"""The measurement of the page: intervals, the page of results, and a server that does not start."""

from __future__ import annotations

import sys

import pytest

from assistant.errors import NotAvailable
from eval.page_time import markdown, median_interval, serving


def test_the_interval_holds_the_median_and_narrows_with_n() -> None:
    few, many = median_interval([1.0, 2.0, 3.0] * 3), median_interval([1.0, 2.0, 3.0] * 300)
    assert few["low"] <= few["p50"] == 2.0 <= few["high"]
    assert many["high"] - many["low"] < few["high"] - few["low"]
    assert (few["n"], many["p95"]) == (9, 3.0)


def test_the_page_has_every_number_its_n_and_the_control() -> None:
    row = median_interval([0.5, 0.6, 0.7])
    result = {
        "command": "COMMAND", "code": "abc", "processors": 1, "load_average": [1.0, 2.0],
        "page_s": dict.fromkeys(("first", "again", "empty_first", "empty_again"), row),
    }  # fmt: skip
    shown = markdown(result)
    assert shown.count("| 3 | 0.60 [0.50, 0.70] | 0.69 |") == 4
    assert "empty Gradio page" in shown
    assert "Tiles" not in shown
    result["tiles_ms"] = {"whole": row, "server": row, "control": row, "mean_kb": 11.8}
    assert "small file of the same server | 3 | 0.6" in markdown(result)


def test_a_server_that_ends_at_once_is_told() -> None:
    with pytest.raises(NotAvailable, match="did not start"), serving([sys.executable, "-c", "pass"]):
        pass


def test_a_server_is_found_by_the_address_it_prints_and_ended() -> None:
    code = (
        "import http.server, socketserver\n"
        "s = socketserver.TCPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n"
        "print(f'http://127.0.0.1:{s.server_address[1]} x', flush=True); s.serve_forever()"
    )
    with serving([sys.executable, "-c", code]) as url:
        assert url.startswith("http://127.0.0.1:")
