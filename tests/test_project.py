"""Rules that hold for the whole repository: direction of imports, sizes, versions, what a wheel carries."""

from __future__ import annotations

import ast
import fnmatch
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import assistant

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 500
MAX_FILE_BYTES = 20_000_000
MAX_WEIGHTS_BYTES = 60_000_000

#: What each package may import of the others. The command line starts the rest by name, with importlib.
ALLOWED = {
    "retrieval": (),
    "assistant": ("retrieval",),
    "training": ("assistant", "retrieval"),
    "eval": ("assistant", "retrieval", "training.data"),
    "ui": ("assistant", "retrieval"),
}
SOURCES = sorted(p for package in ALLOWED for p in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = [module_name(p) for p in SOURCES]


def imported(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, also inside functions; relative ones are made absolute by ``module``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def forbidden(source: str, module: str) -> list[str]:
    package = module.split(".")[0]
    wrong = []
    for line, name in imported(source, module):
        target = name.split(".")[0]
        if target == "tests" or (target in ALLOWED and target != package):
            permitted = any(f"{name}.".startswith(f"{allowed}.") for allowed in ALLOWED[package])
            if not permitted:
                wrong.append(f"line {line} imports {name}")
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=MODULES)
def test_imports_go_one_way(path: Path) -> None:
    assert forbidden(path.read_text(encoding="utf-8"), module_name(path)) == []


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("assistant.chat.prompt", "from training.data import records", 1),
        ("assistant.chat.prompt", "def f():\n    import ui.app", 1),
        ("assistant.chat.prompt", "from importlib import import_module\nfrom retrieval import store", 0),
        ("retrieval.store", "from assistant.errors import BadInput", 1),
        ("eval.vqa", "from training.data.records import load_records\nfrom training import stages", 1),
        ("training.stages", "from . import features\nfrom assistant import Assistant", 0),
        ("training.stages", "import evaluate, eval", 1),
        ("ui.app", "from tests import conftest", 1),
    ],
)
def test_the_direction_check_finds_wrong_imports(module: str, source: str, count: int) -> None:
    assert len(forbidden(source, module)) == count


@pytest.mark.parametrize("module", [m for m in MODULES if not m.endswith("__main__")])
def test_every_module_imports(module: str) -> None:
    importlib.import_module(module)


@pytest.mark.parametrize("module", ["assistant", "assistant.errors", "assistant.chat.prompt", "assistant.cli"])
def test_start_up_modules_do_not_load_the_heavy_libraries(module: str) -> None:
    heavy = {"torch", "transformers", "gradio", "datasets"}
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


@pytest.mark.parametrize("path", SOURCES, ids=MODULES)
def test_no_module_is_too_long(path: Path) -> None:
    assert path.read_bytes().count(b"\n") <= MAX_LINES


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Files that git knows of or would take, as they lie in the working tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in names.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_no_tracked_file_is_too_large(tracked: list[Path]) -> None:
    assert {p.name: p.stat().st_size for p in tracked if p.stat().st_size > MAX_FILE_BYTES} == {}


def test_the_shipped_weights_stay_small(tracked: list[Path]) -> None:
    weights = [p for p in tracked if p.is_relative_to(ROOT / "assistant" / "weights")]
    assert sum(p.stat().st_size for p in weights) <= MAX_WEIGHTS_BYTES


def test_every_data_file_of_a_package_is_in_the_wheel(tracked: list[Path]) -> None:
    data = project()["tool"]["setuptools"]["package-data"]
    globs = [f"{package.replace('.', '/')}/{pattern}" for package, patterns in data.items() for pattern in patterns]
    globs = [g.replace("**/", "") for g in globs]  # fnmatch's * also crosses folders
    names = [p.relative_to(ROOT) for p in tracked if p.suffix not in {".py", ".md"}]
    needed = [n.as_posix() for n in names if n.parts[0] in {"assistant", "retrieval", "training", "ui"}]
    assert [n for n in needed if not any(fnmatch.fnmatch(n, g) for g in globs)] == []


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_versions_agree() -> None:
    assert project()["project"]["version"] == assistant.__version__


def test_constraints_pin_within_the_bounds_of_the_project() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    settings = project()["project"]
    wanted = [*settings["dependencies"], *(r for extra in settings["optional-dependencies"].values() for r in extra)]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(re.fullmatch(r"([a-z0-9-]+)==(\S+)", line).groups() for line in lines if not line.startswith("#"))
    for requirement in map(Requirement, wanted):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is None or requirement.specifier.contains(pin), f"{requirement} excludes {pin}"
    assert {"torch", "torchvision", "transformers", "gradio"} <= pins.keys()
