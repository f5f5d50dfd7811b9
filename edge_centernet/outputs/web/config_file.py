"""Changes a camera's TOML file as a person would: comments and everything else in it stay."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from edge_centernet.errors import ConfigError
from edge_centernet.files import write_atomic

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# [[NAME]] on a line of its own. It may also stand in a text of several lines: `_rewritten` checks its result.
_HEADER = re.compile(r"^[ \t]*\[{1,2}[ \t]*([\w.\"' \t-]+?)[ \t]*\]{1,2}[ \t]*(?:#.*)?$", re.MULTILINE)
# The table of the file it was, None if it is new; what is to be set in it, None for what is to be taken out.
Change = tuple["int | None", Mapping[str, Any]]


def rewrite(path: Path, wanted: Mapping[str, Sequence[Change]]) -> Path:
    """Give a file other [[line]], [[zone]] and [[room]] tables; all else stays as it is, comments too.

    wanted: by name, all tables that there are to be: those of the file in their order, then new ones.
    Returns where the old file is kept. Raises ConfigError for a file in which that cannot be done, OSError
    where it cannot be written; nothing is changed then.
    """
    path = path.resolve()  # a link stays one
    try:
        old = path.read_bytes()
        text = old.decode()
        new = _rewritten(text, wanted)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML: {error}") from None
    if new is None:
        raise ConfigError(
            f"{path}: expected lines, zones and rooms as tables that begin with [[line]], [[zone]] and "
            "[[room]], and nothing else of them; change the file by hand"
        )
    backup = path.with_name(f"{path.name}.bak")
    if not backup.exists():  # as private as the file is
        backup.touch(mode=path.stat().st_mode & 0o777)
    write_atomic(backup, old)
    write_atomic(path, new)
    return backup


def _rewritten(text: str, wanted: Mapping[str, Sequence[Change]]) -> str | None:
    """The text with other tables; None if it would not say what it is to say."""
    # 1. What is to come out.
    before = tomllib.loads(text)
    if {"count_line", "count-line"} & set(before):
        return None
    expected = {key: value for key, value in before.items() if key not in wanted}
    for key, changes in wanted.items():
        tables = [{**({} if index is None else before[key][index]), **values} for index, values in changes]
        if tables:
            expected[key] = [{n: value for n, value in one.items() if value is not None} for one in tables]
    # 2. The file in blocks: each begins with the comment right above its header, which belongs to it.
    starts = [match.start() for match in _HEADER.finditer(text)]
    names = [match[1] for match in _HEADER.finditer(text)]
    edges = [0, *(_above(text, start) for start in starts), len(text)]
    blocks = [text[a:b] for a, b in itertools.pairwise(edges)]
    # 3. Each table of ours is changed in its block, or left out.
    found = dict.fromkeys(wanted, 0)
    for i, name in enumerate(names, start=1):
        if name not in wanted:
            continue
        values = next((values for index, values in wanted[name] if index == found[name]), None)
        found[name] += 1
        if values is None:
            # What stands below its last entry, after an empty line, may be about anything.
            blocks[i] = re.sub(r"\A(?s:.*)^[ \t]*[^#\s][^\n]*\n?", "", blocks[i], flags=re.MULTILINE)
        elif values:
            document = tomlkit.parse(blocks[i])
            tables = document[name]
            if not isinstance(tables, list):
                return None
            for key, value in values.items():
                if value is not None:
                    tables[0][key] = value
                else:
                    tables[0].pop(key, None)
            blocks[i] = tomlkit.dumps(document)
    rest = "".join(blocks)
    new = as_toml({key: [v for i, v in changes if i is None] for key, changes in wanted.items()})
    if new:
        rest = f"{rest.rstrip()}\n\n{new}" if rest.strip() else new
    # 4. Headers in places where they are none would have been taken for some.
    try:
        return rest if tomllib.loads(rest) == expected else None
    except tomllib.TOMLDecodeError:
        return None


def _above(text: str, start: int) -> int:
    """Where the lines of comment begin that stand right above the line that begins at `start`."""
    while start:
        line = text.rfind("\n", 0, start - 1) + 1
        if not text[line:start].lstrip().startswith("#"):
            break
        start = line
    return start


def as_toml(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """[[line]], [[zone]] and [[room]] tables as text, for a file."""
    # What JSON writes of texts, numbers, booleans and lists is TOML, too.
    return "\n".join(
        "".join(
            [
                f"[[{key}]]\n",
                *(f"{n} = {json.dumps(value, ensure_ascii=False)}\n" for n, value in one.items()),
            ]
        )
        for key, ones in tables.items()
        for one in ones
    )
