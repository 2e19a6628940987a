"""A report of the searches, as Markdown."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import date

from benchmarks.fuzz.search import Tally

_SHOWN = 300


def markdown(tallies: Sequence[Tally]) -> str:
    """A table of the targets, and one of the findings with a command that shows each again."""
    lines = [f"# Fuzzing, {date.today()}", "", f"Python {platform.python_version()}, {platform.system()}.", ""]
    lines += _table(
        ["target", "seconds", "executions", "seeds", "classes of failure", "failures"],
        [
            [
                tally.target,
                f"{tally.seconds:.0f}",
                f"{tally.executions:,}",
                f"{tally.seed} to {tally.seed + tally.rounds - 1}",
                str(len(tally.findings)),
                str(sum(finding.seen for finding in tally.findings.values())),
            ]
            for tally in tallies
        ],
    )
    found = [(tally, finding) for tally in tallies for finding in tally.findings.values()]
    if found:
        lines += ["", "## Findings", ""]
        lines += _table(
            ["target", "class", "seen", "what was seen", "again"],
            [
                [
                    tally.target,
                    finding.kind,
                    str(finding.seen),
                    finding.detail[:_SHOWN],
                    f"`{_short(tally.reproducer(finding))}`",
                ]
                for tally, finding in found
            ],
        )
    remarks = [(tally.target, remark, str(seen)) for tally in tallies for remark, seen in tally.remarks.items()]
    if remarks:
        lines += ["", "## Remarks", ""]
        lines += [f"- {target}: {remark}, {seen} times" for target, remark, seen in remarks]
    return "\n".join(lines) + "\n"


def _short(command: str) -> str:
    return command if len(command) <= 4 * _SHOWN else f"{command[: 4 * _SHOWN]} …"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in cells]
