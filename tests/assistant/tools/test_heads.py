"""Heads: files that read back, probabilities, and "other"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assistant.errors import NotAvailable
from assistant.tools.heads import Head


def test_a_head_reads_back(tmp_path: Path) -> None:
    head = Head(
        ("a", "b"), np.asfortranarray(np.eye(2, 4, dtype=np.float32)), np.zeros(2, np.float32), 0.7, "0123456789ab"
    )
    head.save(tmp_path / "h.safetensors")
    again = Head.read(tmp_path / "h.safetensors")
    assert (again.classes, again.threshold, again.encoder) == (head.classes, 0.7, "0123456789ab")
    shares = again.probabilities(np.array([[3, 0, 0, 0], [0, 0, 1, 0]], np.float32))
    assert shares.sum(axis=1) == pytest.approx([1, 1])
    assert shares[0, 0] == pytest.approx(1 / (1 + np.exp(-3)), rel=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.safetensors"]


def test_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"no weights none\.safetensors"):
        Head.read(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(NotAvailable, match="is not a head"):
        Head.read(tmp_path / "bad.safetensors")
