"""The audit log: one JSON line an answer, hashes only, a file a day, old days deleted."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from assistant.errors import BadInput


class AuditLog:
    """Append-only JSONL file: who asked what is told by hashes, never by pixels or text.

    Args:
        path: The file of today.
        keep_days: Days to keep. The file of an earlier day is renamed ``NAME-2026-01-31.jsonl``, and deleted once it is
            older. None keeps everything in one file.

    Raises:
        BadInput: The file cannot be opened for writing.
    """

    def __init__(self, path: Path, keep_days: int | None = None) -> None:
        self.path, self.keep_days = path, keep_days
        self._lock = threading.Lock()
        self._day = self._now().date()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if keep_days is not None and path.is_file():
                self._day = datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
            self._file = self._open()
        except OSError as error:
            raise BadInput(f"cannot write the audit log {path}: {error.strerror}; choose another --audit-log") from None
        self._rotate(self._now().date())

    def write(
        self,
        *,
        request_id: str,
        image_sha256: Iterable[str],
        prompt_sha256: str,
        model: str,
        seconds: float,
        confidence: float,
        abstained: bool,
        client: str = "",
        tools: Iterable[str] = (),
    ) -> None:
        """Add one line, whole. ``client`` is a hash; ``tools`` are names of our tools."""
        now = self._now()
        record: dict[str, Any] = {
            "time": now.isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "images": list(image_sha256),
            "prompt": prompt_sha256,
            "model": model,
            "seconds": round(seconds, 3),
            "confidence": round(confidence, 4),
            "abstained": abstained,
        }
        if client:
            record["client"] = client
        if names := list(tools):
            record["tools"] = names
        with self._lock:
            self._rotate(now.date())
            os.write(self._file, (json.dumps(record) + "\n").encode())

    def close(self) -> None:
        os.close(self._file)

    @staticmethod
    def _now() -> datetime:
        return datetime.now(UTC)

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _dated(self, day: date) -> Path:
        return self.path.with_name(f"{self.path.stem}-{day.isoformat()}{self.path.suffix}")

    def _rotate(self, today: date) -> None:
        """Begin the file of a new day, and delete what is older than the days to keep."""
        if self.keep_days is None:
            return
        if today != self._day:
            os.close(self._file)
            if not (old := self._dated(self._day)).exists():
                self.path.rename(old)  # else a second server has begun the day: go on in its file
            self._file, self._day = self._open(), today
        oldest = today - timedelta(days=self.keep_days)
        form = re.compile(re.escape(self.path.stem) + r"-(\d{4}-\d\d-\d\d)" + re.escape(self.path.suffix))
        for file in self.path.parent.iterdir():
            if (match := form.fullmatch(file.name)) and date.fromisoformat(match[1]) < oldest:
                file.unlink(missing_ok=True)
