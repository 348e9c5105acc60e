from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import tiny_tokenizer
from training.data.conversation import Conversation, split_by_group, write_messages
from training.data.readers import read_conversations
from training.data.records import DataError

IMAGE = {"type": "image"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder with three small images, and one image beside it."""
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "sub/c.png", "../outside.png"):
        Image.new("RGB", (2, 2)).save(folder / name)
    return folder


def save(root: Path, rows: list[Any], jsonl: bool = False, name: str = "data.json") -> Path:
    path = root / name
    path.write_text("\n".join(json.dumps(r) for r in rows) if jsonl else json.dumps(rows, indent=1), encoding="utf-8")
    return path


def llava(value: str = "<image>\nWhat is this?", answer: str = "A gland.", **row: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
    return {"image": "a.png", "conversations": turns, **row}


def trl(*content: Any, answer: Any = "A gland.", **row: Any) -> dict[str, Any]:
    question = content[0] if len(content) == 1 and isinstance(content[0], str) else list(content)
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"images": ["a.png"], "messages": turns, **row}


def read_one(root: Path, row: Any, **options: Any) -> Conversation:
    (found,) = read_conversations(save(root, [row]), **options)
    return found


def test_llava_and_trl_records_become_the_same_conversation(root: Path) -> None:
    expected = Conversation(
        images=(root / "a.png",),
        messages=[
            {"role": "user", "content": [IMAGE, text("What is this?")]},
            {"role": "assistant", "content": [text("A gland.")]},
        ],
        group="7",
    )
    assert read_one(root, llava(slide=7)) == expected
    assert read_one(root, trl(IMAGE, text("What is this?"), answer=[text("A gland.")], patient="7")) == expected
    assert read_one(root, trl("What is this?", group="7")) == expected  # TRL puts images before the first question
    assert read_one(root, trl("<image>\nWhat is this?", group="7")) == expected


@pytest.mark.parametrize("jsonl", [False, True])
def test_array_and_lines_read_alike_and_formats_may_mix(root: Path, jsonl: bool) -> None:
    rows = [llava(), trl("Which organ?"), llava("Only text?", image=None)]
    found = read_conversations(save(root, rows, jsonl))
    assert [c.images for c in found] == [(root / "a.png",), (root / "a.png",), ()]


def test_system_turn_several_images_and_turns(root: Path) -> None:
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "<image>\n<image>\nCompare."},
        {"from": "gpt", "value": "Alike."},
        {"from": "human", "value": "And <image> this?"},
        {"from": "gpt", "value": "Not."},
    ]
    found = read_one(root, {"image": ["a.png", "b.png", "sub/c.png"], "conversations": turns})
    assert [m["role"] for m in found.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert found.messages[1]["content"] == [IMAGE, IMAGE, text("Compare.")]
    assert found.messages[3]["content"] == [text("And"), IMAGE, text("this?")]
    assert found.images == (root / "a.png", root / "b.png", root / "sub/c.png")


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("<image>\nWhat does <image> mean?", [IMAGE, text("What does <image> mean?")]),
        ("What does <image> mean?\n<image>", [text("What does <image> mean?"), IMAGE]),
        ("<image> What does <image> mean?", [IMAGE, text("What does <image> mean?")]),
        ("  <image>\r\nOne line", [IMAGE, text("One line")]),
        ("In <image> which organ?", [text("In"), IMAGE, text("which organ?")]),
    ],
)
def test_a_typed_image_token_stays_text(root: Path, value: str, content: list[dict[str, str]]) -> None:
    assert read_one(root, llava(value)).messages[0]["content"] == content


def test_image_tokens_in_answers_and_parts_are_text(root: Path) -> None:
    assert read_one(root, llava(answer="<image>")).messages[1]["content"] == [text("<image>")]
    assert read_one(root, llava("What is an <image> tag?", image=None)).images == ()
    parts = [IMAGE, text("<image>\nWhy <image>?")]
    assert read_one(root, trl(*parts)).messages[0]["content"] == parts


def test_typed_image_tokens_do_not_become_image_tokens_in_the_prompt(root: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{% for p in m.content %}"
        "{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}{% endfor %}"
    )
    found = read_one(root, llava("<image>\nWhat does <image> mean?", answer="<image> is a tag."))
    ids = tokenizer.apply_chat_template(found.messages, sanitize_control_tokens=True)["input_ids"]
    assert ids.count(tokenizer.convert_tokens_to_ids("<image>")) == 1
    assert "What does <image> mean?<image> is a tag." in tokenizer.decode(ids)


def test_null_keys_that_tables_add_are_ignored(root: Path) -> None:
    row = trl({"type": "image", "text": None}, {"type": "text", "text": "Why?", "image": None})
    assert read_one(root, row).messages[0]["content"] == [IMAGE, text("Why?")]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (llava("What is this?"), r"0 image placeholder\(s\) for 1 image"),
        (llava(image=None), r"1 image placeholder\(s\) for 0 image"),
        (llava("<image>\n<image>\nWhat?"), r"2 image placeholder\(s\) for 1 image"),
        (trl(IMAGE, IMAGE, text("What?")), r"2 image placeholder\(s\) for 1 image"),
        (trl(text("What?")), r"0 image placeholder\(s\) for 1 image"),
        (llava("<image>\n  "), r"turn 1 \(user\): no text"),
        (llava(answer=" \n"), r"turn 2 \(assistant\): no text"),
        (llava(answer="\ud800"), "turn 2 .*surrogate"),
        (llava(slide="\ud800"), "group: half a surrogate"),
        (llava(image="none.png"), "no image file .*none.png"),
        (llava(image="sub"), "no image file"),
        (llava(image="../outside.png"), "lies outside"),
        (llava(image="/etc/hostname"), "lies outside"),
        (llava(image="sub/../../outside.png"), "lies outside"),
        (llava(image="https://example.org/a.png"), "is a URL"),
        (llava(image="data:image/png;base64,AAAA"), "is a URL"),
        (llava(image="a\0.png"), "not a usable path"),
        (llava(image="a" * 5000), "not a usable path"),
        (llava(image=3), "expected a file name"),
        (llava(image=[""]), "expected a file name"),
        (llava(images=["b.png"]), "keep one"),
        (llava(slide=["x"]), "'slide' reads"),
        (llava(messages=[]), "either 'conversations'"),
        ({"image": "a.png", "text": "x"}, "either 'conversations'.*'image', 'text'"),
        ({"conversations": "x"}, "expected a list of turns"),
        ({"conversations": []}, "ends with nothing"),
        ({"messages": ["x"]}, "turn 1: expected an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'role' is 'tool'; allowed"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "allowed"),
        ({"messages": [{"role": "user", "content": None}]}, "expected text"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "ends with 'user'"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "turn 1 is 'assistant' where 'user' is due"),
        ({"conversations": [*llava("Q")["conversations"], {"from": "system", "value": "x"}]}, "where 'user' is due"),
        (trl({"type": "image", "url": "file:///etc/passwd"}, text("Q")), "carries 'url'"),
        (trl(IMAGE, {"type": "video"}, text("Q")), "a part reads .*video"),
        (trl(text("Q"), answer=[IMAGE, text("A")]), "only user turns may"),
        ("x", "expected an object, saw str"),
    ],
)
@pytest.mark.parametrize("jsonl", [False, True])
def test_a_bad_record_is_named_by_file_and_place(root: Path, row: Any, says: str, jsonl: bool) -> None:
    path = save(root, [llava(), row], jsonl)
    with pytest.raises(DataError, match=f"(?s){says}") as caught:
        read_conversations(path)
    line = 2 if jsonl else json.dumps([llava()], indent=1).count("\n") + 1
    place = f"{path}, line {line}: " if jsonl else f"{path}, record 2 (line {line}): "
    assert str(caught.value).startswith(place)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no records"),
        (b"[ ]", "no records"),
        (b"[1", "record 1"),
        (b"[\n{]", r"record 1 \(line 2\): not JSON"),
        (b'\n[{"messages": 1},\n\n {"messages" 2}]', r"record 1 \(line 2\)"),
        (b'{"messages": 1} {}', "line 1: text after the object"),
        (b"{\n}", "line 1: not JSON"),
        (b"\xff\xfe{", "not UTF-8"),
        (b"[" * 100_000, "record 1.*(too deeply|not JSON)"),
    ],
)
def test_a_bad_file_is_named(root: Path, content: bytes, says: str) -> None:
    path = root / "data.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_conversations(path)


def test_a_file_cut_off_or_continued_is_refused(root: Path) -> None:
    path = save(root, [llava(), llava()])
    whole = path.read_text()
    for broken, says in ((whole[:-1], "cut off"), (whole[:-20], "record 2"), (whole + "{}", "after the closing")):
        path.write_text(broken)
        with pytest.raises(DataError, match=says):
            read_conversations(path)


def test_missing_file_and_folders(root: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        read_conversations(root / "none.json")
    with pytest.raises(DataError, match=r"cannot be read"):
        read_conversations(root)
    with pytest.raises(DataError, match="no image folder"):
        read_conversations(save(root, [llava()]), image_root=root / "none")


def test_links_out_of_the_root_are_refused_unless_allowed(root: Path) -> None:
    (root / "link.png").symlink_to(root.parent / "outside.png")
    (root / "loop.png").symlink_to("loop.png")
    with pytest.raises(DataError, match="lies outside"):
        read_one(root, llava(image="link.png"))
    with pytest.raises(DataError, match="record 1"):
        read_one(root, llava(image="loop.png"))
    for name in ("link.png", "../outside.png", str(root.parent / "outside.png")):
        assert read_one(root, llava(image=name), allow_outside=True).images[0].is_file()


def test_absolute_paths_inside_the_root_and_byte_order_mark(root: Path) -> None:
    path = root.parent / "elsewhere.jsonl"
    path.write_text("\ufeff" + json.dumps(llava(image=str(root / "sub/c.png"))), encoding="utf-8")
    (found,) = read_conversations(path, image_root=root)
    assert found.images == (root / "sub/c.png",)


def test_split_field_selects_and_a_group_in_two_splits_is_refused(root: Path) -> None:
    rows = [llava(slide="s1", split="train"), llava(slide="s2", split="val")]
    assert [c.group for c in read_conversations(save(root, rows), split="val")] == ["s2"]
    with pytest.raises(DataError, match="no records of split 'test'"):
        read_conversations(save(root, rows), split="test")
    with pytest.raises(DataError, match=r"record 3 .*'s1' is in split 'val' here and in 'train'"):
        read_conversations(save(root, [*rows, llava(slide="s1", split="val")]), split="train")
    with pytest.raises(DataError, match=r"record 1 .*no 'split' field"):
        read_conversations(save(root, [llava()]), split="train")


def test_group_field_can_be_named_and_the_coarsest_wins_by_itself(root: Path) -> None:
    row = llava(slide="s", patient_id=12, block="b")
    assert read_one(root, row).group == "12"
    assert read_one(root, row, group_field="block").group == "b"
    with pytest.raises(DataError, match="no 'donor' field"):
        read_one(root, row, group_field="donor")


def conversation(group: str | None, image: str = "a.png") -> Conversation:
    turns = [{"role": "user", "content": [IMAGE, text("Q")]}, {"role": "assistant", "content": [text("A")]}]
    return Conversation((Path(image),), turns, group)


def test_split_by_group_never_cuts_a_group_and_ignores_file_order() -> None:
    whole = [conversation(f"p{i % 20}", f"{i}.png") for i in range(100)]
    train, val = split_by_group(whole, 0.2, seed=1)
    assert len({c.group for c in val}) == 4
    assert not {c.group for c in train} & {c.group for c in val}
    assert len(train) + len(val) == 100
    _, again = split_by_group(whole[::-1], 0.2, seed=1)
    assert {c.group for c in again} == {c.group for c in val}
    assert {c.group for c in split_by_group(whole, 0.2, seed=2)[1]} != {c.group for c in val}


@pytest.mark.parametrize(
    ("conversations", "says"),
    [
        ([conversation("a"), conversation(None)], "conversation 2 has no group"),
        ([conversation("a"), conversation("a")], "at least two"),
        ([conversation("a"), conversation("b")], "belongs to group"),
    ],
)
def test_split_by_group_refuses_leaks(conversations: list[Conversation], says: str) -> None:
    with pytest.raises(DataError, match=says):
        split_by_group(conversations, 0.5)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(root: Path) -> None:
    path = root / "out.jsonl"
    assert write_messages(path, [conversation("a")]) == 1
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"conversation 2: .*1 image placeholder"):
        write_messages(path, [conversation("a"), Conversation((), conversation("a").messages)])
    with pytest.raises(DataError, match="not under the image root"):
        write_messages(path, [conversation("a", "/elsewhere/a.png")], image_root=root)
    assert path.read_bytes() == before
    assert {p.name for p in root.iterdir()} == {"a.png", "b.png", "sub", "out.jsonl"}


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(str.strip)
lines = st.one_of(words, st.sampled_from(["<image>", "<image>\nWhy?", "\u2028<image>", '"]},{"', "[\n]"]))


@st.composite
def conversations(draw: st.DrawFn, root: Path) -> Conversation:
    messages: list[dict[str, Any]] = []
    images: list[Path] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": [text(draw(lines))]})
    for _ in range(draw(st.integers(1, 3))):
        content = [text(draw(lines))]
        for _ in range(draw(st.integers(0, 2))):
            images.append(root / draw(st.sampled_from(["a.png", "b.png", "sub/c.png"])))
            content.insert(draw(st.integers(0, len(content))), IMAGE)
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": [text(draw(lines))]}]
    return Conversation(tuple(images), messages, draw(st.none() | words))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), relative=st.booleans())
def test_what_is_written_reads_back_the_same(root: Path, data: st.DataObject, relative: bool) -> None:
    written = data.draw(st.lists(conversations(root), min_size=1, max_size=4))
    path = root / "round.jsonl"
    assert write_messages(path, written, image_root=root if relative else None) == len(written)
    assert read_conversations(path, image_root=root) == written
    array = save(root, [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line])
    assert read_conversations(array) == written
