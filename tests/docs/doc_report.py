"""What became of the documented commands in this run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from doc_pages import SHELLS, Block, blocks

_RUN: dict[Block, list[dict[str, Any]]] = {}


def keep(block: Block, calls: Iterable[dict[str, Any]]) -> None:
    """The calls of a block that was run."""
    _RUN[block] = list(calls)


def summary() -> list[str]:
    """Lines for people; none if no block was run."""
    if not _RUN:
        return []
    texts = {block.text for block in _RUN}
    shell = [block for block in blocks() if block.language in SHELLS]
    left = sorted({block.name for block in shell if block.text not in texts})
    calls = [(block, call) for block, its in _RUN.items() for call in its]
    read = [(block, call) for block, call in calls if call["exempt"]]
    changed = [(block, call) for block, call in calls if not call["exempt"] and call["why"]]
    lines = [
        f"{len(shell)} shell blocks: {len(shell) - len(left)} run in this run"
        + (f"; not (skipped, failed or left out): {', '.join(left)}" if left else ""),
        f"{len(calls)} calls in them but for plain tools: {len(calls) - len(read)} run, "
        f"{len(changed)} of them with a stand-in, {len(read)} only read:",
    ]
    for block, call in read:
        words = shlex.join([call["program"], *call["words"]])
        lines.append(f"  {block.name}: {words[:70]}: {call['why'][0]}")
    return lines
