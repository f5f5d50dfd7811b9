"""What the documentation site generates while it is built; docs/conf.py hands it to Sphinx.

Pages are plain Markdown. A comment on a line of its own stands for what is generated, so that nothing is copied:

    <!-- include: ../README.md -->                      another file, its links made to fit
    <!-- commands -->                                   --help of every command, as click prints it
    <!-- record: speed-x86_64.json without sha256 -->   the tables of a record in docs/benchmarks/, some keys left out
    <!-- compare: a.json b.json without sha256 -->      a table with a row for each of some records
    <!-- records: others -->                            those of all records that no page shows
    <!-- unmeasured -->                                 what docs/numbers/records.toml says that nobody has measured

Docstrings are made ready for Sphinx's autodoc here too.
"""

from __future__ import annotations

import csv
import fnmatch
import functools
import io
import json
import os.path
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import click
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util.typing import ExtensionMetadata

from edge_centernet.cli import cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BENCHMARKS = DOCS / "benchmarks"
MARKER = re.compile(r"^<!-- (include|commands|record|compare|records|unmeasured)(?:: (.+?))? -->$", re.M)
RECORD = re.compile(r"<!-- (?:record|compare): ([^>]+?)(?: without ([^>]+?))? -->")
# Files at the top level that have a page of their own on the site.
PAGES = {"README.md": "docs/index.md", "CHANGELOG.md": "docs/changelog.md", "CONTRIBUTING.md": "docs/contributing.md"}
HELP_WIDTH = 84  # columns that fit beside the navigation
# What tells how a record was made: one line below its tables.
ORIGIN = ("cpu", "machine", "commit", "date", "versions", "board")
CELL_MAX = 160  # characters; longer texts are cut: the raw record has them

Row = dict[str, Any]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by Sphinx."""
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", read_signature)
    app.connect("autodoc-skip-member", skip_member)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def read_source(app: Sphinx, name: str, source: list[str]) -> None:
    """Sphinx is about to parse the page docs/NAME.md: fill in what is generated, and link what is only named."""
    page = PurePosixPath("docs", f"{name}.md")
    source[0] = link_files(fill(source[0], page), page)


def fill(text: str, page: PurePosixPath) -> str:
    """The Markdown of a page with its markers replaced; page: its path from the top level."""

    def one(match: re.Match[str]) -> str:
        kind, rest = match.groups()
        if kind == "include":
            return include(rest, page)
        if kind == "commands":
            return commands()
        if kind == "unmeasured":
            return table([{key: never[key] for key in ("what", "needs", "command")} for never in register()["never"]])
        if kind == "records":
            return others()
        names, without = _named(match.group())
        text = record(names[0], without) if kind == "record" else compare(names, without)
        return rebase(text, PurePosixPath("docs/benchmarks/index.md"), page)  # the records lie beside that page

    return MARKER.sub(one, text)


# --- pages made of other files


def include(target: str, page: PurePosixPath) -> str:
    """The text of a Markdown file, its relative links as they have to be on `page`."""
    file = PurePosixPath(os.path.normpath(page.parent / target))
    return rebase((ROOT / file).read_text(encoding="utf-8"), file, page)


def rebase(text: str, file: PurePosixPath, page: PurePosixPath) -> str:
    """Relative links of `file`, both from the top level, as they have to be on `page`."""

    def one(match: re.Match[str]) -> str:
        path, anchor = match.groups()
        there = os.path.normpath(file.parent / path)
        return f"]({os.path.relpath(PAGES.get(there, there), page.parent)}{anchor or ''})"

    return re.sub(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]+)?\)", one, text)


def link_files(text: str, page: PurePosixPath) -> str:
    """Make links of `docs/NAME.md` and of records that a page only names, outside of code blocks."""

    def one(match: re.Match[str]) -> str:
        name, anchor = match.group(1), match.group(2) or ""
        for there in (PurePosixPath(name), page.parent / name):
            there = PurePosixPath(os.path.normpath(PAGES.get(str(there), there)))
            if there.parts[0] == "docs" and (ROOT / there).is_file() and there != page:
                return f"[`{name}{anchor}`]({os.path.relpath(there, page.parent)}{anchor})"
        return match.group()

    parts = re.split(r"(^```.*?^```$|^<!--.*?-->$)", text, flags=re.M | re.S)
    pattern = re.compile(r"(?<![\[`])`([\w./-]+\.(?:md|json|csv))(#[\w-]+)?`(?![\]`])")
    return "".join(part if index % 2 else pattern.sub(one, part) for index, part in enumerate(parts))


# --- the command line


def commands() -> str:
    """A section for each command and subcommand with what its --help prints."""
    return "\n".join(_help(cli, click.Context(cli, info_name="edge-centernet", terminal_width=HELP_WIDTH), 2))


def _help(command: click.Command, ctx: click.Context, level: int) -> Iterator[str]:
    yield f"{'#' * level} {ctx.command_path}\n\n```text\n{command.get_help(ctx)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            assert below is not None
            inner = click.Context(below, parent=ctx, info_name=name, terminal_width=HELP_WIDTH)
            yield from _help(below, inner, min(level + 1, 3))


# --- records


def record(name: str, without: Sequence[str] = ()) -> str:
    """The tables of docs/benchmarks/NAME, how the record is made, where it was, and a link to the file."""
    if name.endswith(".csv"):
        lines = (BENCHMARKS / name).read_text(encoding="utf-8").splitlines()
        rows = csv.DictReader(io.StringIO("\n".join(line for line in lines if not line.startswith("#"))))
        kept = [{key: value for key, value in row.items() if key not in without} for row in rows]
        return f"{made_by(name)}\n\n{table(kept)}\n\nSee the [raw record]({name}).\n"
    data = json.loads((BENCHMARKS / name).read_text(encoding="utf-8"))
    data = _without(data, set(without))
    origin = {key: data.pop(key) for key in ORIGIN if _is_origin(key, data)}
    return "\n\n".join([made_by(name), *tables(data), f"{_origin(origin)}[raw record]({name}).", ""])


@functools.cache
def register() -> dict[str, Any]:
    """docs/numbers/records.toml: how each record is made, and what has never been measured."""
    return tomllib.loads((DOCS / "numbers" / "records.toml").read_text(encoding="utf-8"))


def made_by(name: str) -> str:
    """The command that makes a record again, and what that needs: the first pattern of the register that fits."""
    path = f"docs/benchmarks/{name}"
    entry = next((one for pattern, one in register()["record"].items() if fnmatch.fnmatch(path, pattern)), None)
    if entry is None:
        return "How it was made is not registered in `docs/numbers/records.toml`."
    command = entry["command"].replace("FILE", path).replace("NAME", PurePosixPath(name).parent.name)
    return f"Made by `{command}`; needs {register()['machine'][entry['needs']]['what']}."


def compare(names: Sequence[str], without: Sequence[str]) -> str:
    """One table with a row for each record, how they are made, and links to them."""
    rows = [_without(json.loads((BENCHMARKS / name).read_text(encoding="utf-8")), set(without)) for name in names]
    links = [f"[{PurePosixPath(name).stem}]({name})" for name in names]
    named = [{"record": link, **_flat(row)} for link, row in zip(links, rows, strict=True)]
    made = "\n".join(f"- {line}" for line in dict.fromkeys(map(made_by, names)))
    return f"{table(named, raw='record')}\n\n{made}\n"


def _named(marker: str) -> tuple[list[str], list[str]]:
    match = RECORD.match(marker)
    assert match, f"expected <!-- record: FILE without a, b -->, got {marker}"
    return match.group(1).split(), re.split(r",\s*", match.group(2)) if match.group(2) else []


def shown() -> dict[str, str]:
    """Each record that a page shows, and that page; paths below docs/benchmarks/ and docs/."""
    pages = {page: page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")}
    return {
        name: page.relative_to(DOCS).as_posix()
        for page, text in pages.items()
        for match in RECORD.finditer(text)
        for name in match.group(1).split()
    }


def others() -> str:
    """A section for each record that no page names and that has no page of its own, made by its script."""
    known = shown()
    alone = (file for file in sorted(BENCHMARKS.rglob("*.json")) if not file.with_suffix(".md").exists())
    names = (file.relative_to(BENCHMARKS).as_posix() for file in alone if file.name != "config.json")
    sections = [f"### {name}\n\n{record(name)}" for name in names if name not in known]
    return "\n".join(sections) or "None: every record stands on one of the pages above."


def tables(data: Any) -> Iterator[str]:
    """A JSON value as Markdown tables: first its plain values, then one for each list or object in it."""
    if isinstance(data, list):
        yield table([_flat(row) if isinstance(row, dict) else {"": row} for row in data])
        return
    plain = {key: value for key, value in data.items() if not _nested(value)}
    if plain:
        yield table([{"": _title(key), "value": value} for key, value in plain.items()])
    for key, value in data.items():
        if isinstance(value, list) and _nested(value):
            yield f"**{_title(key)}**\n\n{table([_flat(row) for row in value])}"
        elif isinstance(value, dict):
            yield f"**{_title(key)}**\n\n{table([{'': name, **row} for name, row in _rows(value)])}"


def _rows(data: dict[str, Any], name: str = "") -> Iterator[tuple[str, Row]]:
    """Each object inside that holds plain values, by the keys that lead to it."""
    if any(not isinstance(value, dict) for value in data.values()):
        if name:
            yield name, _flat(data)
        else:  # one object: a row for each value
            yield from ((key, {"value": value}) for key, value in _flat(data).items())
        return
    for key, value in data.items():
        yield from _rows(value, f"{name}, {key}" if name else str(key))


def _flat(data: Row, before: str = "") -> Row:
    """Objects in objects as columns: {"ms": {"p50": 1}} -> {"ms p50": 1}."""
    row: Row = {}
    for key, value in data.items():
        column = f"{before}{_title(key)}"
        row.update(_flat(value, f"{column} ") if isinstance(value, dict) else {column: value})
    return row


def _is_origin(key: str, data: Any) -> bool:
    return isinstance(data, dict) and key in data and (key != "board" or isinstance(data[key], str))


def _nested(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def _without(data: Any, keys: set[str]) -> Any:
    if isinstance(data, dict):
        return {key: _without(value, keys) for key, value in data.items() if key not in keys}
    return [_without(value, keys) for value in data] if isinstance(data, list) else data


def table(rows: Sequence[Row], raw: str = "") -> str:
    """A Markdown table with every column that a row has; numbers stand to the right. raw: a column that is Markdown."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numbers = {column for column in columns if all(_is_number(row.get(column)) for row in rows)}
    lines = [
        columns,
        ["---:" if column in numbers else "---" for column in columns],
        *([str(row[raw]) if column == raw else _cell(row.get(column)) for column in columns] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value)
    text = str(value)
    if re.fullmatch(r"[0-9a-f]{40,64}", text):
        text = text[:12]
    text = text if len(text) <= CELL_MAX else f"{text[:CELL_MAX]}…"
    return re.sub(r"([|*<\[\]`$\\])", r"\\\1", text.replace("\n", " "))


def _title(key: str) -> str:
    """p10_p90_ms -> p10 p90 ms."""
    return re.sub(r"([|*<\[\]`$\\])", r"\\\1", key.replace("_", " "))


def _origin(origin: Row) -> str:
    """One sentence: on what, of which commit, when."""
    machine = origin.get("machine")
    cpu = origin.get("cpu") or (machine.get("cpu") if isinstance(machine, dict) else machine) or origin.get("board")
    versions = origin.get("versions") or {}
    words = [
        f"on {_cell(cpu)}" if cpu else "",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"commit `{str(origin['commit'])[:12]}`" if origin.get("commit") else "",
        str(origin["date"])[:10] if origin.get("date") else "",
    ]
    said = "; ".join(word for word in words if word)
    return f"Measured {said}; " if said.startswith("on ") else f"{said[:1].upper()}{said[1:]}; " if said else "See the "


# --- docstrings


def read_docstring(app: Sphinx, what: str, name: str, it: object, options: object, lines: list[str]) -> None:
    """Sphinx is about to read a docstring: `field: meaning` lines become a list, stars and bars stay themselves."""
    # Without `what`: of a property napoleon would take "As the decoder takes it: ..." for a type and its meaning.
    google = GoogleDocstring([line for one in _paragraphs(lines) for line in [*_as_list(one), ""]], Config())
    lines[:] = google.lines()


def _paragraphs(lines: Sequence[str]) -> Iterator[list[str]]:
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield paragraph
            paragraph = []


_FIELD = re.compile(r"^([a-z]\w*(?:, [a-z]\w*)*): (.+)$")


def _as_list(paragraph: list[str]) -> Iterator[str]:
    """Our way to document fields, one below the other, as the list that it is; an indented paragraph as code."""
    if all(line.startswith("    ") for line in paragraph):
        yield from ["::", "", *paragraph]
        return
    fields = bool(_FIELD.match(paragraph[0]))
    for line in paragraph:
        match = _FIELD.match(line)
        if fields and match:
            names = ", ".join(f"``{name}``" for name in match.group(1).split(", "))
            yield f"* {names}: {_escape(match.group(2))}"
        else:
            yield f"  {_escape(line.lstrip())}" if fields else _escape(line)


def _escape(line: str) -> str:
    """Characters that mean something in reStructuredText, outside of `code`."""
    parts = re.split(r"(``?[^`]+``?)", line)
    return "".join(
        part if index % 2 else re.sub(r"([*|])|(?<=\w)_(?=\W|$)", _escaped, part) for index, part in enumerate(parts)
    )


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match.group()}"


def read_signature(
    app: Sphinx, what: str, name: str, it: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Arrays as they are written in the code: NDArray[uint8] for numpy.ndarray[tuple[Any, ...], numpy.dtype[...]]."""
    pattern = re.compile(r"~?numpy\.ndarray\[tuple\[.*?\], ~?numpy\.dtype\[~?(?:\w+\.)*(\w+)\]\]")
    short = [None if text is None else pattern.sub(r"NDArray[\1]", text) for text in (signature, returned)]
    return short[0], short[1]


def skip_member(app: Sphinx, what: str, name: str, it: object, skip: bool, options: object) -> bool | None:
    """Fields of named tuples have docstrings that say nothing; the class's own lists them."""
    return True if (getattr(it, "__doc__", "") or "").startswith("Alias for field number") else None
