"""Referring phrases as conversations: what a chat model learns to point from.

    python -m training.data.grounded_conversations --out grounded/train.jsonl
    python -m training.data.grounded_conversations --out grounded/train.json --format llava --per-field 4 --open-only

One phrase is one conversation: the question of ``assistant.grounding.chat_boxes``, and the answer in its text format
(``assistant.grounding.boxes_text``), with several boxes or "Nothing like that here." The images are written beside the
file, so the folder can be moved; name the file under ``data:`` in a recipe. Only ``train`` is written.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from assistant.errors import BadInput, PathAssistError
from assistant.files import whole, write_text
from assistant.grounding.boxes_text import write_boxes
from assistant.grounding.chat_boxes import LIMIT, grounding_prompt
from training.data.conversation import Conversation, write_messages
from training.data.objects import OPEN, SETS, Field, load_regions
from training.data.records import DataError
from training.data.referring import Phrase, phrases

FORMATS = ("trl", "llava")


def conversation(image: Path, field: Field, phrase: Phrase) -> Conversation:
    """One question with its answer.

    Raises:
        DataError: A box of the phrase lies outside the field.
    """
    try:
        answer = write_boxes(phrase.boxes, field.size)
    except BadInput as error:
        raise DataError(f"{field.image_path.name}, {phrase.text!r}: {error}") from error
    asked = [{"type": "image"}, {"type": "text", "text": grounding_prompt(phrase.text)}]
    messages = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    return Conversation((image,), messages, f"{field.dataset}/{field.group}")


def conversations(
    fields: Sequence[Field], folder: Path, per_field: int, seed: int = 0
) -> Iterator[tuple[Phrase, Conversation]]:
    """Phrases about the fields with their conversations; pictures are written to ``folder`` as they are needed.

    Phrases that mean more boxes than a model here may write (``LIMIT``) are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, phrase in phrases(list(fields), "train", per_field, seed):
        if len(phrase.boxes) <= LIMIT:
            yield phrase, conversation(_picture(fields[number], folder), fields[number], phrase)


def _picture(field: Field, folder: Path) -> Path:
    """The field as a file of its own: a cut is saved as PNG, a whole image is copied without its metadata."""
    where = "" if field.cut is None else "-{}-{}".format(*field.cut[:2])
    path = folder / f"{field.dataset}-{field.image_path.stem}{where}.png"
    if not path.is_file():
        with whole(path) as partial:
            field.image().save(partial)
    return path


def write_llava(path: Path, rows: Sequence[Conversation]) -> int:
    """Conversations as a LLaVA JSON array, images relative to the file; it appears whole or not at all."""
    out = []
    for number, one in enumerate(rows, 1):
        one.check()
        turns = []
        for message in one.messages:
            text = "\n".join("<image>" if p["type"] == "image" else p["text"] for p in message["content"])
            turns.append({"from": "human" if message["role"] == "user" else "gpt", "value": text})
        image = one.images[0].relative_to(path.parent.absolute()).as_posix()
        out.append({"id": str(number), "image": image, "conversations": turns, "group": one.group})
    write_text(path, json.dumps(out, ensure_ascii=False, indent=1) + "\n")
    return len(out)


def build(
    out: Path, *, root: Path | None, sets: Sequence[str], per_field: int, form: str, split: str = "train", seed: int = 0
) -> Counter[str]:
    """Write the file and its images; how many answers of each number of boxes it holds.

    Raises:
        DataError: Another split than train, an unknown set or form, sets that are absent or malformed.
    """
    if split != "train":
        raise DataError(f"the split is {split!r}; only 'train' becomes training data, the rest is for measuring")
    unknown = sorted(set(sets) - set(SETS))
    if unknown:
        raise DataError(f"unknown set {unknown[0]!r}; allowed: {', '.join(SETS)}")
    if form not in FORMATS:
        raise DataError(f"unknown format {form!r}; allowed: {', '.join(FORMATS)}")
    if per_field < 1:
        raise DataError(f"per_field is {per_field}; at least one phrase a field is needed")
    out = out.absolute()
    fields = load_regions(split, root, tuple(sets))
    rows = list(conversations(fields, out.parent / "images", per_field, seed))
    if not rows:
        raise DataError(f"no phrase fits the {len(fields)} fields of {', '.join(sets)}; give other sets")
    said = [one for _, one in rows]
    if form == "llava":
        write_llava(out, said)
    else:
        write_messages(out, said, out.parent)
    return Counter("nothing" if not p.boxes else "one box" if len(p.boxes) == 1 else "several boxes" for p, _ in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m training.data.grounded_conversations", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="file to write; images go into a folder beside it")
    parser.add_argument("--format", default="trl", dest="form", help="trl (messages, JSONL) or llava (JSON array)")
    parser.add_argument("--data", type=Path, default=None, help="data root; default PATHASSIST_DATA")
    parser.add_argument("--sets", default="", help="sets with commas; default all")
    parser.add_argument("--open-only", action="store_true", help=f"only openly licensed sets: {', '.join(OPEN)}")
    parser.add_argument("--per-field", type=int, default=6, help="phrases a field at most")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    sets = tuple(s.strip() for s in given.sets.split(",") if s.strip()) or SETS
    sets = tuple(s for s in sets if s in OPEN) if given.open_only else sets
    try:
        if not sets:
            raise DataError(f"none of the sets is openly licensed; those that are: {', '.join(OPEN)}")
        counts = build(
            given.out, root=given.data, sets=sets, per_field=given.per_field, form=given.form, seed=given.seed
        )
    except PathAssistError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    told = ", ".join(f"{count} with {name}" for name, count in sorted(counts.items()))
    licence = "openly licensed sets only" if set(sets) <= set(OPEN) else "for research only: not all sets are open"
    print(f"{sum(counts.values())} conversations in {given.out} ({told}); {licence}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
