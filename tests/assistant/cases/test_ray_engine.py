"""The Ray engine against the local one, on real processes and the shipped encoder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.store import open_store
from tests.assistant.cases.conftest import paint

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

SECONDS = 240


def index(source: Path, store: str, *more: str, code: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "assistant", "index", "build", str(source), "--store", store, "--json", *more]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert done.returncode == code, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_same_result_as_the_local_engine(pictures: Path, tmp_path: Path) -> None:
    paint(pictures / "s3" / "copy.png", "red", 0)  # the pixels of s1/a
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    stores = {engine: f"faiss:{tmp_path / engine}" for engine in ("local", "ray")}
    results = {engine: index(pictures, url, "--engine", engine, code=1) for engine, url in stores.items()}
    fields = ("added", "updated", "unchanged", "duplicates", "failed", "total", "errors")
    assert [results["ray"][f] for f in fields] == [results["local"][f] for f in fields]
    assert [results["ray"][f] for f in fields[:6]] == [7, 0, 0, 1, 1, 7]
    local, ray = (open_store(url) for url in stores.values())
    try:
        ids = local.ids()
        assert ray.ids() == ids
        cases = local.get(ids)
        assert ray.get(ids) == cases
        assert np.allclose(ray.vectors(ids), local.vectors(ids), atol=1e-5)
        assert [ray.thumbnail(c) for c in cases] == [local.thumbnail(c) for c in cases]
    finally:
        local.close()
        ray.close()
    again = index(
        pictures, stores["local"], "--engine", "ray", code=1
    )  # the other engine goes on where this one stopped
    assert (again["added"], again["unchanged"], again["duplicates"]) == (0, 7, 1)
