"""``serving.json`` as a page."""

from __future__ import annotations

import json
from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """The report; parts that did not run are left out."""
    network = result.get("network", {})
    lines = [
        "# The server under load and attack",
        "",
        "Reprint: `python -m eval.serving`; the parts were run by, code where it was kept:",
        "",
        *(f"- {part}: `{command}`" for part, command in result.get("commands", {}).items()),
        "",
    ]
    lines.append(
        "All of it ran in a network namespace with loopback only: nothing beyond this machine could be reached."
        if network.get("namespace") and not network.get("reachable")
        else "It did **not** run in a network namespace of its own; only the audit hook watched the sockets."
    )
    if part := result.get("silent"):
        lines += [
            "",
            f"`pathassist ask` without a network: exit code {part['exit_code']}, answered: {part['answered']}.",
        ]
    if part := result.get("load"):
        low, high = part["memory_mib"] or (0, 0)
        growth = part["memory_growth"] or 0.0
        lines += [
            "", "## Conversations at once", "", "| | |", "|---|---|",
            f"| conversations, seconds | {part['conversations']}, {part['seconds']} |",
            f"| answers | {part['answers']} ({part['answers_per_s']} a second) |",
            f"| answers to closed questions (three in four) without their own marker | **{part['mixed_up']}** |",
            f"| open answers asked again on the idle server: the same word for word | "
            f"{part['same_alone']} of {part['asked_again']} |",
            f"| control: the same as the answer to another request | {part['same_as_others']:.1%} of pairs |",
            f"| errors; refused with 429 | {part['errors']}; {part['refused_429']} |",
            f"| first token, p50 / p99 | {part['first_token_p50_s']} / {part['first_token_p99_s']} s |",
            f"| tokens a second within an open answer | {part['open_tokens_per_s']} |",
            f"| memory after the first third | {low} to {high} MiB, first to last {growth:+.1%} |",
            f"| medians of fifths of that time | {', '.join(map(str, part['memory_fifths_mib']))} MiB |",
            f"| forbidden files, sockets, programs | {len(part['violations'])} |",
        ]  # fmt: skip
    if part := result.get("prefill"):
        low, middle, high = part["speedup_min_median_max"]
        lines += [
            "", "## Reading prompts together", "",
            f"{part['prompts']} prompts of {part['tokens']} tokens, threads {part['threads']}: {part['one_by_one']} s "
            f"one by one, {part['together']} s in a batch, {middle} times as fast ({low} to {high} in "
            f"{part['rounds']} rounds). "
            "A batch makes the first of them wait for the last, and in the line they seldom arrive together: so the "
            "server answers one at a time.",
        ]  # fmt: skip
    if part := result.get("hostile"):
        lines += [
            "",
            "## Hostile requests and files",
            "",
            "| | sent | crashes | hangs | internal errors | not our format |",
        ]
        lines.append("|---|---|---|---|---|---|")
        names = {"generated_requests": "schemathesis", "attacks": "attacks by hand", "files": "files"}
        for key, name in names.items():
            row = part[key]
            cells = [row["sent"], row["crashes"], row["hangs"], row["internal_errors"], row["not_our_format"]]
            lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
        lines += [
            "",
            f"Forbidden files opened, addresses or programs: **{len(part['violations'])}** (audit hook in the server).",
        ]
        before, after = part["memory_mib"]
        lines.append(
            f"Memory {before} → {after} MiB (models are loaded on first use); afterwards `{part['ready_after']}`."
        )
        if len(trace := part.get("memory_trace_mib", [])) > 8:
            lines.append(_growth(trace))
        if revisions := part.get("pieces_of_revision"):
            codes = ", ".join(f"{count} of code {revision}" for revision, count in revisions.items())
            lines.append(f"Sent in {sum(revisions.values())} pieces to {part['servers']} servers: {codes}.")
        if part["files"]["sent"] < 10_000 or part["generated_requests"]["sent"] + part["attacks"]["sent"] < 10_000:
            lines.append("Fewer than the goal of 10,000 requests and 10,000 files: stopped by the time allowed.")
    if part := result.get("kill"):
        lines += [
            "", "## kill -9", "",
            f"{part['rounds']} times during a streamed answer and an upload: {part['torn_audit_lines']} torn lines in "
            f"the audit log, {part['half_written_files']} half-written files, {part['restarts']} clean starts. An "
            f"index build killed at as many moments then held {part['index_after_kill']} cases; building on finished: "
            f"{_finished(part['index_finished'])} of {part['index_images']}.",
        ]  # fmt: skip
        if "reports_killed" in part:
            lines += [
                "",
                f"{part['reports_killed']} times while reports (HTML, PDF, DOCX, JSON) and outlines (GeoJSON) were "
                f"written: of {part['reports_read']} files {part['reports_broken']} could not be read to the end; "
                f"{part['hidden_parts_left']} hidden part files were left over.",
            ]
    return "\n".join(lines) + "\n"


def _growth(trace: list[tuple[int, int]]) -> str:
    """Slope of memory over the second half of what was sent, with its 95 % interval by bootstrap over the samples."""
    import numpy as np

    late = np.array(trace[len(trace) // 2 :], dtype=float)
    generator = np.random.default_rng(0)
    draws = [late[generator.integers(0, len(late), len(late))] for _ in range(2000)]
    slopes = [np.polyfit(d[:, 0], d[:, 1], 1)[0] * 1000 for d in draws if len(set(d[:, 0])) > 1]
    low, high = np.percentile(slopes, [2.5, 97.5])
    slope = np.polyfit(late[:, 0], late[:, 1], 1)[0] * 1000
    return (
        f"Growth over the second half: {slope:+.1f} MiB per 1,000 sent [{low:+.1f}, {high:+.1f}] "
        f"({len(late)} samples, {late[0, 1]:.0f} to {late[-1, 1]:.0f} MiB)."
    )


def _finished(said: str) -> str:
    """Cases that the finished build holds, or what it said instead."""
    try:
        return str(json.loads(said)["total"])
    except (ValueError, KeyError):
        return f"`{said}`"
