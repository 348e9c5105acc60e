"""Write ``docs/reference/cli.md`` from the commands' own ``--help``.

python docs/reference.py           # write it
python docs/reference.py --check   # exit 1 if it is out of date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "reference" / "cli.md"
HEAD = """# Command line

Written by `python docs/reference.py` from `--help`. Every command takes `--json`: stdout then holds JSON only, also for
errors. Exit codes: 0 ok, 1 failure, 2 bad input, 130 interrupted.

"""


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its name as a path."""
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))
    else:
        yield path, command


def page() -> str:
    """The whole page."""
    from assistant.cli import app

    root = typer.main.get_command(app)
    parts = [HEAD]
    for path, command in commands(root):
        context: Any = typer.Context(root, info_name="pathassist")
        for name in path[:-1]:
            context = typer.Context(context.command.commands[name], info_name=name, parent=context)
        own = command.context_class(command, info_name=path[-1], parent=context, max_content_width=110,
                                    terminal_width=110, help_option_names=["-h", "--help"])  # fmt: skip
        text = command.get_help(own).strip()
        parts.append(f"## {' '.join(path)}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def main() -> None:
    """Write or check."""
    text = page()
    if "--check" in sys.argv[1:]:
        if not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
            sys.exit(f"{TARGET.relative_to(ROOT)} is out of date; run: python docs/reference.py")
        return
    partial = TARGET.with_suffix(".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(TARGET)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
