"""Which tool a question asks for, and with which arguments.

Our own tools are chosen by the classifier of :mod:`assistant.chat.intent`; arguments, and the tools of other programs,
by the packaged language model with an adapter of its own, which is loaded when it is first needed.

The planner sees the user's own turn, one line of facts that the program made (how many images, kind of stain), and of
earlier calls only their arguments and whether they worked. It never sees pixels, notes, cases or what a tool wrote, so
text in any of these cannot make a call. Markup of calls in the user's turn is taken out before it is read.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.chat import grammar
from assistant.chat.arguments import images_asked, narrowed, points_back, says_what, settled
from assistant.chat.copying import continuations, ends_a_word
from assistant.chat.grammar import FunctionTool, Parameter
from assistant.chat.prompt import parse_question
from assistant.errors import BadInput, NotAvailable

if TYPE_CHECKING:
    import torch

    from assistant.chat.intent import Intent
    from assistant.model.engine import HFEngine, Prefix

NAME = "embedded-tools"
#: What the model reads about each of our tools. Short, since every word of it is read before the first plan.
SUMMARIES: dict[str, str] = {
    "check_quality": "blur, pen, folds, stain type, magnification",
    "segment_nuclei": "count and measure nuclei in H&E",
    "segment_glands": "count and measure glands",
    "segment_tissue": "area of tumour, stroma, epithelium",
    "classify_tissue": "colorectal polyp class",
    "classify_cervical_cell": "class of one Pap-stained cell",
    "detect_blood_cells": "count blood cells, white cell type",
    "score_ihc": "Ki-67, HER2, H-score of an immunostain",
    "normalise_stain": "make colours like another image",
    "find_similar_cases": "search the archive for cases",
    "ground_phrase": "box around a named thing",
}
HEAD = "Tools, one a line. Call one only if the user asks for what it measures or does; else say none."
MAX_QUESTION_TOKENS = 256
MAX_STEPS = 4
_PREFIXES = 4
_ROOM = 1024  # tokens a plan may take after the question, earlier calls included
_MARKUP = re.compile(r"<\s*tool_(call|response)\s*>.*?(?:<\s*/\s*tool_\1\s*>|$)", re.IGNORECASE | re.DOTALL)
_TAGS = re.compile(r"<\|[^|>]{0,40}\|>|</?\s*(?:tools?|tool_\w+|image|function\w*)\s*/?>", re.IGNORECASE)
_JSON_CALL = re.compile(r'\{[^{}]*"(?:name|function|arguments|tool_calls)"\s*:(?:[^{}]|\{[^{}]*\})*\}')


@dataclass(frozen=True)
class PlannedCall:
    """A call the model chose: valid by construction. ``probability`` is that of the tool against the other choices."""

    name: str
    arguments: dict[str, Any]
    probability: float = 1.0


@dataclass(frozen=True)
class Step:
    """An earlier call of the same turn, as the planner is told of it."""

    tool: FunctionTool
    arguments: dict[str, Any]
    ok: bool


@dataclass(frozen=True)
class Facts:
    """What the program says about the images.

    Attributes:
        stain: A word or two, "" where unknown.
        made: Pictures that earlier calls of this turn made; they are numbered after those sent.
    """

    images: int = 0
    stain: str = ""
    made: int = 0

    def line(self) -> str:
        count = {0: "No image", 1: "1 image"}.get(self.images, f"{self.images} images")
        return f"{count}, {self.stain}." if self.stain and self.images else f"{count}."


def neutral(text: str) -> str:
    """A user's words without markup and JSON that look like tool calls, or like the model's control tokens."""
    text = _MARKUP.sub(" ", text)
    found = 1
    while found:  # from the innermost object outwards
        text, found = _JSON_CALL.subn(" ", text)
    return _TAGS.sub(" ", text).strip()


def stem(text: str) -> str:
    """A question without its lettered options: what is asked does not depend on them, and they are long."""
    try:
        return parse_question(text).stem
    except BadInput:
        return text


class Codec:
    """Prompts and calls as token ids; one for the planner and its training.

    Args:
        tokenizer: Of a ChatML model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.start, self.end = (int(tokenizer.convert_tokens_to_ids(t)) for t in ("<|im_start|>", "<|im_end|>"))

    def ids(self, text: str) -> list[int]:
        """Plain text; its markup was taken out before, and no special token is made of it."""
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def prefix(self, tools: Sequence[FunctionTool]) -> list[int]:
        """The system turn with the tools."""
        listed = "\n".join(tool.signature for tool in tools)
        return [self.start, *self.ids(f"system\n{HEAD}\n{neutral(listed)}"), self.end, *self.ids("\n")]

    def question(self, question: str, facts: Facts) -> list[int]:
        """The user's turn and the beginning of the reply; a long question is cut in its middle."""
        words = self.ids(stem(neutral(question)))
        if len(words) > MAX_QUESTION_TOKENS:
            half = MAX_QUESTION_TOKENS // 2
            words = words[:half] + words[-half:]
        head = self.ids(f"user\n{facts.line()}\n")
        return [self.start, *head, *words, self.end, *self.ids("\n"), *self.reply()]

    def reply(self) -> list[int]:
        return [self.start, *self.ids("assistant\n")]

    def outcome(self, ok: bool) -> list[int]:
        """After a call: how it went, and the beginning of the next reply."""
        said = self.ids("tool\nok" if ok else "tool\nfailed")
        newline = self.ids("\n")
        return [self.end, *newline, self.start, *said, self.end, *newline, *self.reply()]

    def call(self, tool: FunctionTool, arguments: Mapping[str, Any]) -> list[tuple[list[int], bool]]:
        """A call's pieces and whether each was a decision."""
        return [(self.ids(s.text), s.chosen) for s in grammar.call_segments(tool, arguments)]

    def none(self) -> list[int]:
        return [*self.ids(grammar.NONE), self.end]


class Planner:
    """Plans calls; safe to use from several threads.

    Args:
        load: Gives the engine over a causal language model, adapter merged, and its tokenizer.
        intent: Chooses among our own tools; without it the language model does.
    """

    def __init__(self, load: Callable[[], tuple[HFEngine, Any]], intent: Intent | None = None) -> None:
        self._load, self.intent = load, intent
        self._prefixes: dict[tuple[int, ...], Prefix] = {}
        self._lock = threading.Lock()

    @cached_property
    def engine(self) -> HFEngine:
        """The language model; loaded when an argument or another program's tool first needs it."""
        return self._parts[0]

    @cached_property
    def codec(self) -> Codec:
        """Its tokens."""
        return Codec(self._parts[1])

    @cached_property
    def _parts(self) -> tuple[HFEngine, Any]:
        return self._load()

    def plan(
        self,
        question: str,
        tools: Sequence[FunctionTool],
        facts: Facts,
        done: Sequence[Step] = (),
        *,
        choice: str = "auto",
        bias: float = 0.0,
        arguments: bool = True,
    ) -> PlannedCall | None:
        """The next call, or None when none is wanted.

        Args:
            tools: What may be called.
            done: Calls made for this question already.
            choice: ``"auto"``; ``"required"`` always calls; a tool's name calls that one.
            bias: Log-odds added to "no call", where the language model chooses.
            arguments: False leaves out what the language model would write where the classifier chose the tool.
        """
        offered = [t for t in tools if t.name == choice] if choice not in ("auto", "required") else list(tools)
        offered = [t for t in offered if facts.images or not any(p.kind == "image" for p in t.parameters)]
        if not offered:
            return None
        if self.intent is not None and choice == "auto" and all(tool.ours for tool in offered):
            found = self._intended(question, offered, facts, done)
            if found is None:
                return None
            tool, image, probability = found
            return replace(self._filled(tool, image, question, tools, facts, write=arguments), probability=probability)
        if len(offered) == 1 and choice == offered[0].name and (plain := self._settled(offered[0], question, facts)):
            return PlannedCall(choice, plain)
        with self._lock:
            start = read(self.engine, self.codec.question(question, facts), self.read_tools(tools))
            writer = _Writer(self, neutral(question), facts, self.engine.stepper(start, _ROOM), start.logits)
            for step in done:
                for ids, _ in self.codec.call(step.tool, step.arguments):
                    writer.read(ids)
                writer.read(self.codec.outcome(step.ok))
            return writer.write(offered, none=choice == "auto", bias=bias)

    def _filled(
        self, tool: FunctionTool, image: int, question: str, tools: Sequence[FunctionTool], facts: Facts, *, write: bool
    ) -> PlannedCall:
        """A call of one of our tools: its arguments from the words of its clause, the rest by the language model."""
        assert self.intent is not None  # noqa: S101
        asked = stem(neutral(question))
        clause = self.intent.clause_of(asked, tool.name)
        fixed, left = settled(tool, clause, asked, image, facts.images + facts.made)
        if not left or not write:
            return PlannedCall(tool.name, fixed)
        said = asked if any(p.kind == "image" for p in left) or points_back(clause) else clause
        with self._lock:
            start = read(self.engine, self.codec.question(said, facts), self.read_tools(tools))
            writer = _Writer(self, said, facts, self.engine.stepper(start, _ROOM), start.logits)
            planned = writer.write([narrowed(tool, fixed, left)], none=False, bias=0.0)
        assert planned is not None  # noqa: S101
        if tool.name == "find_similar_cases" and not says_what(planned.arguments.get("text", "")):
            planned.arguments.pop("text", None)
        return planned

    def _intended(
        self, question: str, offered: Sequence[FunctionTool], facts: Facts, done: Sequence[Step]
    ) -> tuple[FunctionTool, int, float] | None:
        """The first tool that the question asks for and the first image it was not called on yet."""
        assert self.intent is not None  # noqa: S101
        named = {tool.name: tool for tool in offered}
        asked = stem(neutral(question))
        remade, references = _remade(facts, done)
        # A picture with other colours is what the other tools are meant to work on.
        for name, probability in sorted(self.intent.wanted(asked), key=lambda pair: pair[0] != "normalise_stain"):
            if name not in named:
                continue
            called = [step.arguments.get("image") for step in done if step.tool.name == name]
            if called and sum(p.kind == "image" for p in named[name].parameters) != 1:
                continue
            images = images_asked(self.intent.clause_of(asked, name), asked, facts.images, remade, references)
            left = [number for number in images if number not in called]
            if left and (not called or len(images) > 1):
                return named[name], left[0], probability
        return None

    def _settled(self, tool: FunctionTool, question: str, facts: Facts) -> dict[str, Any] | None:
        """Arguments where there is nothing to choose: one image, and no value in the question for anything else."""
        out: dict[str, Any] = {}
        for parameter in tool.parameters:
            values = grammar.values_for(parameter, neutral(question), facts.images + facts.made)
            if parameter.kind == "image" and len(values) == 1:
                out[parameter.name] = values[0]
            elif parameter.required or parameter.kind in ("string", "enum", "boolean") or values:
                return None
        return out or None

    def prompt_tokens(self, tools: Sequence[FunctionTool]) -> int:
        """Tokens of the tool list, which are read once and remembered."""
        return len(self.codec.prefix(tools))

    def read_tools(self, tools: Sequence[FunctionTool]) -> Prefix:
        """The tool list as the model has read it; the last few are remembered."""
        ids = tuple(self.codec.prefix(tools))
        if ids not in self._prefixes:
            while len(self._prefixes) >= _PREFIXES:
                self._prefixes.pop(next(iter(self._prefixes)))
            self._prefixes[ids] = read(self.engine, list(ids))
        return self._prefixes[ids]


def _remade(facts: Facts, done: Sequence[Step]) -> tuple[dict[int, int], set[int]]:
    """Image → the picture made of it by an earlier call, numbered after the images sent; and whose colours it has."""
    makers = [step.arguments for step in done if step.ok and step.tool.name == "normalise_stain"][: facts.made]
    remade = {int(made.get("image", 1)): facts.images + n for n, made in enumerate(makers, 1)}
    return remade, {int(made.get("reference", 1)) for made in makers}


def read(engine: HFEngine, ids: Sequence[int], before: Prefix | None = None) -> Prefix:
    """What the model knows after reading ``ids``, after ``before`` where given (which is not changed)."""
    import copy

    import torch

    from assistant.model.engine import Prefix as Read

    cache = copy.deepcopy(before.cache) if before is not None else None
    device = engine.model.device
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype=engine.compute or torch.bfloat16, enabled=engine.compute is not None),
    ):
        out = engine.model(
            input_ids=torch.tensor([list(ids)], device=device), past_key_values=cache, use_cache=True, logits_to_keep=1
        )
    length = len(ids) + (before.length if before is not None else 0)
    return Read(out.past_key_values, out.logits[0, -1].float().cpu(), length)


@dataclass
class _Writer:
    """One plan being written. ``logits`` [V] are those of the next token; ``step`` reads one token."""

    planner: Planner
    question: str
    facts: Facts
    step: Callable[[int], torch.Tensor]
    logits: torch.Tensor

    def read(self, ids: Sequence[int]) -> None:
        for token in ids:
            self.logits = self.step(token)

    def choose(self, options: Sequence[Sequence[int]], bias: float = 0.0) -> tuple[int, float]:
        """The option that decoding ends in when nothing else is allowed, and the probability of its way there.

        Args:
            options: Token ids; none is the beginning of another.
            bias: Log-odds added to the last option at the first token.
        """
        left = list(range(len(options)))
        place, probability = 0, 1.0
        while True:
            nexts = {options[i][place]: i for i in left}
            if len(nexts) > 1:
                scores = {token: float(self.logits[token]) for token in nexts}
                if place == 0:
                    scores[options[-1][0]] += bias
                top = max(scores, key=scores.__getitem__)
                probability /= sum(math.exp(s - scores[top]) for s in scores.values())
            else:
                top = next(iter(nexts))
            left = [i for i in left if options[i][place] == top]
            self.read([top])
            place += 1
            if len(left) == 1:
                self.read(options[left[0]][place:])
                return left[0], probability

    def write(self, offered: Sequence[FunctionTool], *, none: bool, bias: float) -> PlannedCall | None:
        ids = self.planner.codec.ids
        rows = [[*ids(grammar.OPEN), *ids(f'{tool.name}"')] for tool in offered]
        if none:
            rows.append(self.planner.codec.none())
        best, probability = self.choose(rows, bias if none else 0.0)
        if best == len(offered):
            return None
        self.read(ids(grammar.AFTER_NAME))
        return PlannedCall(offered[best].name, self._arguments(offered[best]), probability)

    def _arguments(self, tool: FunctionTool) -> dict[str, Any]:
        ids = self.planner.codec.ids
        out: dict[str, Any] = {}
        left = [p for p in tool.parameters if p.required or p.kind == "string" or self._values(p)]
        while left:
            # The next key may skip optional arguments, never a required one.
            reach = next((i for i, p in enumerate(left) if p.required), None)
            keys = left if reach is None else left[: reach + 1]
            rows = [ids(grammar.key_text(p, not out)) for p in keys]
            if reach is None:
                rows.append(ids(grammar.CLOSE))
            best, _ = self.choose(rows)
            if best == len(keys):
                break
            parameter = keys[best]
            value = self._value(parameter)
            if parameter.required or value != "":
                out[parameter.name] = value
            left = left[left.index(parameter) + 1 :]
        return out

    def _values(self, parameter: Parameter) -> list[Any]:
        return grammar.values_for(parameter, self.question, self.facts.images + self.facts.made)

    def _value(self, parameter: Parameter) -> Any:
        if parameter.kind == "string":
            return self._text(parameter)
        ids = self.planner.codec.ids
        values = self._values(parameter) or [grammar.fallback(parameter)]
        rows = [ids(_json(value)) for value in values]
        kept = [i for i, row in enumerate(rows) if not any(_begins(other, row) for other in rows)]
        if len(kept) == len(rows):
            return values[self.choose(rows)[0]]
        return values[self._longest(rows)]

    def _longest(self, rows: Sequence[Sequence[int]]) -> int:
        """Choice among rows of which one may begin another (1 and 12): after each, ending competes with going on."""
        ends = {self.planner.codec.ids(text)[0] for text in (grammar.CLOSE, ", ")}
        left, place = list(range(len(rows))), 0
        while True:
            done = [i for i in left if len(rows[i]) == place]
            nexts = {rows[i][place] for i in left if len(rows[i]) > place}
            if done and (
                not nexts or max(float(self.logits[e]) for e in ends) >= max(float(self.logits[n]) for n in nexts)
            ):
                return done[0]
            top = max(nexts, key=lambda token: float(self.logits[token]))
            left = [i for i in left if len(rows[i]) > place and rows[i][place] == top]
            self.read([top])
            place += 1

    def _text(self, parameter: Parameter) -> str:
        """A passage of the question, token by token, until the closing quote is likelier than going on."""
        codec = self.planner.codec
        source = grammar.passages(self.question)
        self.read(codec.ids('"'))
        written = ""
        quote = codec.ids('"')[0]
        while True:
            allowed = continuations(codec.tokenizer, source, written, parameter.longest)
            if written.strip() and (not allowed or ends_a_word(source, written)):
                allowed[quote] = ""
            if not allowed:
                break
            token = max(allowed, key=lambda t: float(self.logits[t]))
            if token == quote:
                break
            written += allowed[token]
            self.read([token])
        self.read([quote])
        return written.strip()


def _begins(longer: Sequence[int], row: Sequence[int]) -> bool:
    return len(longer) > len(row) and list(longer[: len(row)]) == list(row)


def _json(value: Any) -> str:
    return json.dumps(value)


def load_planner(adapter: Path | None = None, *, bare: bool = False, progress: bool = False) -> Planner:
    """The packaged language model with the shipped planning adapter; loaded once.

    Args:
        adapter: Another adapter's folder.
        bare: Without any adapter, as a control.

    Raises:
        NotAvailable: The adapter or the language model is missing.
    """
    from assistant.chat.intent import load_intent
    from assistant.model.vlm import WEIGHTS

    folder = WEIGHTS / NAME if adapter is None else adapter
    if not bare and not (folder / "adapter_model.safetensors").is_file():
        raise NotAvailable(
            f"no trained planner in {folder.name}; train it with `python -m training.toolcalls --recipe "
            "training/recipes/toolcalls.yaml`, or ask without tools (--tools none)"
        )
    return _planner(None if bare else folder, None if bare else load_intent(folder), progress)


@lru_cache(maxsize=2)
def _planner(folder: Path | None, intent: Intent | None, progress: bool) -> Planner:
    def load() -> tuple[HFEngine, Any]:
        from assistant.model.load import engine_for

        model, tokenizer = language_model(progress=progress)
        if folder is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
        return engine_for(model.eval()), tokenizer

    return Planner(load, intent)


def language_model(*, progress: bool = False) -> tuple[Any, Any]:
    """The packaged language model in float32 and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from assistant.model.parts import part_named
    from assistant.model.store import language_folder

    folder = language_folder(part_named("smollm2-135m-instruct"), progress=progress)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
