"""A file is there whole or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from assistant.files import whole, write_text


def test_a_file_appears_when_it_is_complete_and_its_folder_is_made(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with whole(target) as partial:
        partial.write_text("half", encoding="utf-8")
        assert not target.exists()
        assert partial.suffix == ".txt"
    assert target.read_text(encoding="utf-8") == "half"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "before")
    with pytest.raises(UnicodeEncodeError), whole(target) as partial:
        partial.write_text("half" * 10_000 + "\ud800", encoding="utf-8")
    assert target.read_text(encoding="utf-8") == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_private_file_may_be_read_like_its_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with whole(tmp_path / "a") as partial:
        partial.touch(mode=0o600)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_what_a_killed_writer_leaves_matches_no_pattern(tmp_path: Path) -> None:
    with whole(tmp_path / "a.txt") as partial:
        partial.write_text("half", encoding="utf-8")
        assert list(tmp_path.glob("*.txt")) == []
        assert list(tmp_path.glob("*/*.txt")) == [partial]
    assert list(tmp_path.glob("*.txt")) == [tmp_path / "a.txt"]
