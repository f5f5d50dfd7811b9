"""What the documentation site generates while it is built; docs/conf.py hands it to Sphinx.

Pages are plain Markdown. A comment on a line of its own stands for what is generated, so that nothing is
copied (tables of figures are in the pages themselves: scripts/tables.py):

    <!-- include: ../README.md -->                      another file, its links made to fit
    <!-- commands -->                                   --help of every command, as click prints it
    <!-- training-options -->                           tables of what `train --set` takes

Docstrings are made ready for Sphinx's autodoc here too.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import click
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util.typing import ExtensionMetadata

from edge_centernet.cli import cli
from edge_centernet.train.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
MARKER = re.compile(r"^<!-- (include|commands|training-options)(?:: (.+?))? -->$", re.M)
# Files at the top level that have a page of their own on the site.
PAGES = {
    "README.md": "docs/index.md",
    "ARCHITECTURE.md": "docs/architecture.md",
    "CHANGELOG.md": "docs/changelog.md",
    "CONTRIBUTING.md": "docs/contributing.md",
    "SECURITY.md": "docs/contributing.md",
}
HELP_WIDTH = 84  # columns that fit beside the navigation


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by Sphinx."""
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", read_signature)
    app.connect("autodoc-skip-member", skip_member)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def read_source(app: Sphinx, name: str, source: list[str]) -> None:
    """Sphinx is about to parse the page docs/NAME.md: fill in what is generated, link what is named."""
    page = PurePosixPath("docs", f"{name}.md")
    source[0] = link_files(fill(source[0], page), page)


def fill(text: str, page: PurePosixPath) -> str:
    """The Markdown of a page with its markers replaced; page: its path from the top level."""

    def one(match: re.Match[str]) -> str:
        kind, rest = match.groups()
        if kind == "training-options":
            return training_options()
        return include(rest, page) if kind == "include" else commands()

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


def training_options() -> str:
    """A table for each group of training options, from their dataclass."""
    lines: list[str] = []
    group = ""
    for option in TrainConfig.describe():
        if option.group != group:
            group = option.group
            lines += ["", f"**{group}**", "", "| option | default | meaning |", "|---|---|---|"]
        default = f"`{option.default}`" if option.default else ""
        lines.append(f"| `{option.name}` | {default} | {option.help.replace('|', '/')} |")
    return "\n".join(lines)


# --- docstrings


def read_docstring(app: Sphinx, what: str, name: str, it: object, options: object, lines: list[str]) -> None:
    """Sphinx is about to read a docstring: `field: meaning` lines become a list."""
    # Without `what`: of a property napoleon would take "As the decoder takes it: ..." for a type.
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
    """Fields that are documented one below the other as a list; an indented paragraph as code."""
    if all(line.startswith("    ") for line in paragraph):
        yield from ["::", "", *paragraph]
        return
    fields = bool(_FIELD.match(paragraph[0]))
    prose = not re.match(r"[*-] |.*:$", paragraph[0])  # neither a list nor a section such as "Args:"
    for line in paragraph:
        match = _FIELD.match(line)
        if fields and match:
            names = ", ".join(f"``{name}``" for name in match.group(1).split(", "))
            yield f"* {names}: {_escape(match.group(2))}"
        elif fields:
            yield f"  {_escape(line.lstrip())}"
        else:
            yield _escape(line.lstrip() if prose else line)


def _escape(line: str) -> str:
    """Characters that mean something in reStructuredText, outside of `code`."""
    parts = re.split(r"(``?[^`]+``?)", line)
    return "".join(
        part if index % 2 else re.sub(r"([*|])|(?<=\w)_(?=\W|$)", _escaped, part)
        for index, part in enumerate(parts)
    )


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match.group()}"


def read_signature(
    app: Sphinx,
    what: str,
    name: str,
    it: object,
    options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """Arrays as the code has them: NDArray[uint8] for numpy.ndarray[tuple[Any, ...], numpy.dtype[...]]."""
    pattern = re.compile(r"~?numpy\.ndarray\[tuple\[.*?\], ~?numpy\.dtype\[~?(?:\w+\.)*(\w+)\]\]")
    short = [None if text is None else pattern.sub(r"NDArray[\1]", text) for text in (signature, returned)]
    return short[0], short[1]


def skip_member(app: Sphinx, what: str, name: str, it: object, skip: bool, options: object) -> bool | None:
    """Fields of named tuples have docstrings that say nothing; the class's own lists them."""
    return True if (getattr(it, "__doc__", "") or "").startswith("Alias for field number") else None
