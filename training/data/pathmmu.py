"""PathMMU's ``data.json`` as training conversations, so that a recipe can fine-tune on it (``data:``).

    python -m training.data.pathmmu PATHMMU/data.json --split train --out runs/pathmmu.jsonl
    pathassist train instruct --recipe training/recipes/pathmmu.yaml

A question is asked as our four-choice questions are, and the answer is the option's text: closed questions are scored
by the likelihood of that text. With ``--explain`` the published explanation follows as a second turn.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assistant.chat.prompt import Question
from training.data import phrases
from training.data.conversation import Conversation, write_messages
from training.data.records import DataError

#: Splits that benchmarks report; training on them would spoil the numbers.
REPORTED = ("val", "test", "test_tiny")
_LETTER = re.compile(r"^\s*[A-Z]\s*\)\s*")


def read_pathmmu(path: Path, split: str = "train", *, explain: bool = False, seed: int = 0) -> list[Conversation]:
    """Conversations of one split of all subsets; options are shuffled anew, images lie in ``images/`` beside the file.

    Raises:
        DataError: A split that benchmarks report, a file that is not as published, or an item that is not; it is named.
    """
    if split in REPORTED:
        raise DataError(f"split {split!r} is what benchmarks report; train on another one, for example 'train'")
    found = [
        _conversation(path, where, row, explain, random.Random(f"{seed}:{where}"))  # noqa: S311 - not secret
        for where, row in _rows(path, split)
    ]
    if not found:
        raise DataError(f"{path} has no items in the split {split!r}")
    return found


def _rows(path: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        published = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); give PathMMU's data.json") from error
    if not isinstance(published, dict) or not all(isinstance(v, dict) for v in published.values()):
        raise DataError(f"{path} is not PathMMU's data.json; expected subset → split → list of items")
    for subset, splits in published.items():
        for number, row in enumerate(splits.get(split, [])):
            yield f"{subset}/{split}/{row.get('No', number)}", row


def _conversation(path: Path, where: str, row: dict[str, Any], explain: bool, rng: random.Random) -> Conversation:
    try:
        options = [_LETTER.sub("", option) for option in row["options"]]
        right, question = _LETTER.sub("", row["answer"]), str(row["question"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}, {where}: no usable {error.args[0] if error.args else 'options'}") from error
    if right not in options or len(set(options)) < len(options):
        raise DataError(f"{path}, {where}: the answer {right[:60]!r} must be one of options that differ")
    image = path.parent / "images" / str(row.get("img", ""))
    if not row.get("img") or not image.is_file():
        raise DataError(f"{path}, {where}: no image at {image}")
    rng.shuffle(options)
    asked = Question(f"{question} {rng.choice(phrases.LETTER_HINTS)}".strip(), tuple(options)).prompt()
    turns = [(asked, right)]
    if explain and row.get("explanation"):
        turns.append(("Why?", str(row["explanation"])))
    messages: list[dict[str, Any]] = []
    for number, (ask, say) in enumerate(turns):
        content = [{"type": "image"}] if number == 0 else []
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": ask}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": say}]})
    return Conversation(images=(image,), messages=messages, group=f"pathmmu:{image.name}")


def main() -> None:
    """Command line: ``python -m training.data.pathmmu DATA_JSON --out FILE [--split train] [--explain]``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="PathMMU's data.json")
    parser.add_argument("--out", type=Path, required=True, help="JSONL of TRL messages")
    parser.add_argument("--split", default="train")
    parser.add_argument("--explain", action="store_true", help="add the explanation as a second turn")
    args = parser.parse_args()
    count = write_messages(args.out, read_pathmmu(args.data.resolve(), args.split, explain=args.explain))
    print(f"{count:,} conversations in {args.out}")


if __name__ == "__main__":
    main()
