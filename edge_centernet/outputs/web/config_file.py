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

from edge_centernet.camera_config import ConfigFile
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


def rewrite(config: ConfigFile, wanted: Mapping[str, Sequence[Change]]) -> Path:
    """Give a file other [[line]], [[zone]] and [[room]] tables; all else stays as it is, comments too.

    config: the file; with its number of a [[camera]] table, [[camera.line]] and so on of that one.
    wanted: by name, all tables that there are to be: those of the file in their order, then new ones.
    Returns where the old file is kept. Raises ConfigError for a file in which that cannot be done, OSError
    where it cannot be written; nothing is changed then.
    """
    path = config.path.resolve()  # a link stays one
    try:
        old = path.read_bytes()
        text = old.decode()
        new = _rewritten(text, wanted, config.camera)
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


def _rewritten(text: str, wanted: Mapping[str, Sequence[Change]], camera: int | None) -> str | None:
    """The text with other tables; None if it would not say what it is to say."""
    # 1. What is to come out.
    before, expected = tomllib.loads(text), tomllib.loads(text)
    own, target = (
        (before, expected) if camera is None else (before["camera"][camera], expected["camera"][camera])
    )
    if {"count_line", "count-line"} & set(own):
        return None
    for key, changes in wanted.items():
        tables = [{**({} if index is None else own[key][index]), **values} for index, values in changes]
        target.pop(key, None)
        if tables:
            target[key] = [{n: value for n, value in one.items() if value is not None} for one in tables]
    # 2. The file in blocks: each begins with the comment right above its header, which belongs to it.
    headers = list(_HEADER.finditer(text))
    edges = [0, *(_above(text, header.start()) for header in headers), len(text)]
    blocks = [text[a:b] for a, b in itertools.pairwise(edges)]
    # 3. Each table of ours is changed in its block, or left out. New ones follow the last one.
    prefix, at, last = "" if camera is None else "camera.", -1, len(blocks) - 1
    found = dict.fromkeys(wanted, 0)
    for i, header in enumerate(headers, start=1):
        at += header[1] == "camera"
        if camera is not None and at != camera:
            continue
        last = i
        key = header[1].removeprefix(prefix)
        if header[1] != f"{prefix}{key}" or key not in wanted:
            continue
        values = next((values for index, values in wanted[key] if index == found[key]), None)
        found[key] += 1
        if values is None:
            # What stands below its last entry, after an empty line, may be about anything.
            blocks[i] = re.sub(r"\A(?s:.*)^[ \t]*[^#\s][^\n]*\n?", "", blocks[i], flags=re.MULTILINE)
        elif values:
            changed = _changed(blocks[i], header[1], values)
            if changed is None:
                return None
            blocks[i] = changed
    new = as_toml({f"{prefix}{key}": [v for i, v in changes if i is None] for key, changes in wanted.items()})
    if new:
        ours, others = "".join(blocks[: last + 1]).rstrip(), "".join(blocks[last + 1 :])
        blocks = [ours, "\n\n" if ours else "", new, "\n" if others else "", others]
    # 4. Headers in places where they are none would have been taken for some.
    rest = "".join(blocks)
    try:
        return rest if tomllib.loads(rest) == expected else None
    except tomllib.TOMLDecodeError:
        return None


def _changed(block: str, name: str, values: Mapping[str, Any]) -> str | None:
    """A block with other values in its table; None if it is no table of a list."""
    document = tomlkit.parse(block)
    tables: Any = document
    for part in name.split("."):
        tables = tables[part][0] if isinstance(tables[part], list) and part == "camera" else tables[part]
    if not isinstance(tables, list):
        return None
    for key, value in values.items():
        if value is not None:
            tables[0][key] = value
        else:
            tables[0].pop(key, None)
    return tomlkit.dumps(document)


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
