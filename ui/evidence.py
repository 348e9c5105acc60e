"""The evidence panel: what an answer rests on, as HTML. Everything that is not ours is escaped."""

from __future__ import annotations

from html import escape

from assistant.answer import DISCLAIMER, Answer

EMPTY = (
    '<section class="evidence empty" aria-label="Evidence"><h2>Evidence</h2>'
    "<p>Drop in a microscope field and ask. Confidence, the options that were weighed, and warnings about the image "
    "appear here.</p></section>"
)
WORKING = (
    '<section class="evidence working" aria-label="Evidence" aria-busy="true"><h2>Evidence</h2>'
    '<p role="status">Looking at the image …</p></section>'
)


def in_words(confidence: float) -> str:
    """A confidence as a word, so that colour and length of a bar are not the only signs."""
    if confidence >= 0.9:
        return "high"
    return "moderate" if confidence >= 0.6 else "low"


def evidence_html(answer: Answer) -> str:
    """The panel for one answer."""
    parts = [_verdict(answer), _bar("Confidence", answer.confidence, in_words(answer.confidence))]
    if answer.options:
        rows = sorted(answer.options.items(), key=lambda item: -item[1])
        bars = "".join(_bar(label, share, "", small=True) for label, share in rows)
        parts.append(f"<h3>Options weighed</h3>{bars}")
    if answer.warnings:
        items = "".join(f"<li>{escape(w[:1].upper() + w[1:])}</li>" for w in answer.warnings)
        parts.append(f'<h3>About the image</h3><ul class="warnings">{items}</ul>')
    if answer.tools:
        items = "".join(f"<li>{escape(t.name)} ({t.seconds:.1f} s): {escape(str(t.result))}</li>" for t in answer.tools)
        parts.append(f"<h3>Tools</h3><ul>{items}</ul>")
    if answer.cases:
        items = "".join(f"<li>{escape(c.title)} <small>{c.score:.2f}</small></li>" for c in answer.cases)
        parts.append(f"<h3>Similar cases</h3><ol>{items}</ol>")
    if answer.boxes:
        items = "".join(f"<li>{escape(b.label)} <small>{b.score:.2f}</small></li>" for b in answer.boxes)
        parts.append(f"<h3>Regions</h3><ul>{items}</ul>")
    parts.append(
        f'<p class="meta">{escape(answer.model)} · {answer.seconds:.1f} s · {answer.usage.prompt_tokens} + '
        f"{answer.usage.completion_tokens} tokens</p><p class='meta'>{escape(DISCLAIMER)}</p>"
    )
    return f'<section class="evidence" aria-label="Evidence"><h2>Evidence</h2>{"".join(parts)}</section>'


def error_html(message: str) -> str:
    """The panel for input that could not be used."""
    return (
        '<section class="evidence error" aria-label="Evidence"><h2>Evidence</h2>'
        f'<p role="alert">{escape(message)}</p></section>'
    )


def _verdict(answer: Answer) -> str:
    if answer.finish_reason == "cancelled":
        return '<p class="verdict stopped">Stopped</p>'
    if answer.abstained:
        guess = escape(answer.best_guess) or "none"
        return f'<p class="verdict abstained">Not enough evidence</p><p>Best guess: {guess}</p>'
    return '<p class="verdict answered">Answered</p>'


def _bar(label: str, share: float, word: str, *, small: bool = False) -> str:
    percent = round(100 * min(1.0, max(0.0, share)))
    text = f"{percent} %" + (f", {word}" if word else "")
    kind = "bar small" if small else f"bar {word}"
    return (
        f'<div class="{kind}"><div class="label"><span>{escape(label)}</span><span>{text}</span></div>'
        f'<div class="track" role="meter" aria-label="{escape(label, quote=True)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}"><div class="fill" style="width:{percent}%"></div></div></div>'
    )
