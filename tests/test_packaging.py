"""The container files: linted, every path there, every command one that exists, and a wheel from just that context."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_project import ROOT, project

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def instructions(text: str) -> list[tuple[str, str]]:
    """(keyword, rest) of each instruction, comments and line ends joined away."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def copied() -> list[str]:
    """Sources of COPY from the build context."""
    found = []
    for keyword, rest in instructions(DOCKERFILE):
        if keyword == "COPY" and "--from=" not in rest:
            found += rest.split()[:-1]
    return found


def command_help(words: list[str]) -> str:
    command = [sys.executable, "-m", "assistant", *words, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_the_dockerfile_passes_its_linter() -> None:
    done = subprocess.run([tool("hadolint"), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_compose_file_passes_its_linter() -> None:
    done = subprocess.run(
        [tool("compose-lint"), str(ROOT / "compose.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_copied_path_is_there_and_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied()
    for path in copied():
        assert (ROOT / path).exists(), path
        assert path in allowed, f"{path} is not in the build context"


def test_the_packages_of_the_project_are_all_copied() -> None:
    packages = {pattern.rstrip("*") for pattern in project()["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= set(copied())


def test_python_and_extras_are_those_of_the_project() -> None:
    version = re.search(r"^ARG PYTHON=(\d+\.\d+)", DOCKERFILE, re.MULTILINE)
    assert version
    assert version[1] == project()["project"]["requires-python"].removeprefix(">=")
    extras = re.search(r"'\.\[([^]]+)\]'", DOCKERFILE)
    assert extras
    assert set(extras[1].split(",")) <= set(project()["project"]["optional-dependencies"])


def test_it_runs_as_nobody_special_and_is_watched() -> None:
    found = instructions(DOCKERFILE.split(" AS run")[1])
    users = [rest for keyword, rest in found if keyword == "USER"]
    assert users == ["10001:10001"]
    health = next(rest for keyword, rest in found if keyword == "HEALTHCHECK")
    assert "/health" in health
    settings = " ".join(rest for keyword, rest in found if keyword == "ENV")
    assert "PATHASSIST_OFFLINE=1" in settings
    assert "HF_HUB_OFFLINE=1" in settings
    assert not re.search(r"(PASSWORD|TOKEN|KEY|AUTH)=", settings)


def commands() -> list[list[str]]:
    default = json.loads(next(rest for keyword, rest in instructions(DOCKERFILE) if keyword == "CMD"))
    return [default, *(s["command"] for s in COMPOSE["services"].values() if "command" in s)]


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[:2]))
def test_every_command_exists_with_its_options(words: list[str]) -> None:
    name = [word for word in words[:2] if not word.startswith("-")]
    text = command_help(name)
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{re.escape(option)}\b", text), f"{' '.join(name)} has no {option}"


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_is_confined(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert {"mem_limit", "pids_limit", "cpus"} <= service.keys()
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "only this machine may reach it"
    for network in service["networks"]:
        assert network in COMPOSE["networks"]
    for other in service.get("depends_on", ()):
        assert other in COMPOSE["services"]


def test_no_secret_is_written_in_the_compose_file() -> None:
    for name, service in COMPOSE["services"].items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|AUTH|KEY|TOKEN", key):
                assert value.startswith("${"), f"{name}: {key}"
    assert COMPOSE["networks"]["back"]["internal"] is True


def test_shell_lines_parse() -> None:
    for keyword, rest in instructions(DOCKERFILE):
        if keyword == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)
            shlex.split(rest)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_wheel_is_built_from_the_copied_files_alone(tmp_path: Path) -> None:
    """What the image installs: only the copied paths, and in it code, weights, presets and templates."""
    pytest.importorskip("setuptools", minversion="77")
    context = tmp_path / "context"
    context.mkdir()
    skip = shutil.ignore_patterns("__pycache__", "results")
    for name in copied():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=skip)
        else:
            shutil.copy(source, context / name)
    build = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=context, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    for wanted in (
        "assistant/cli.py", "ui/app.py", "retrieval/store.py", "assistant/weights/embedded/connector.safetensors",
        "assistant/model/presets/embedded.yaml", "ui/static/style.css", "assistant/report/templates/report.html.j2",
    ):  # fmt: skip
        assert wanted in names
    assert not [n for n in names if n.startswith(("tests/", "docs/"))]
