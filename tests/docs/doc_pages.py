"""What README and the documentation show: fenced blocks, commands, and whether these are valid."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from edge_centernet.cli import cli

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "edge-centernet"
SHELLS = ("sh", "bash", "console")
_FENCE = re.compile(r"^( *)(```+|~~~+)([^\n`]*)\n(.*?)^\1\2[ \t]*$", re.S | re.M)
_SEPARATORS = {";", "&", "|", "&&", "||", "(", ")", ";;", "<", ">", ">>", "2>", ">&", "<<"}
_KEYWORDS = {"for", "do", "done", "if", "then", "else", "fi", "while", "until", "case", "esac", "!", "{", "}"}
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_PLACEHOLDER = re.compile(r"\.\.\.|<\w+>|\[?[A-Z][A-Z0-9_]*(\|[A-Z]+)*\]?(\.\.\.)?")


@dataclass(frozen=True)
class Block:
    """One fenced block: page relative to the repository, its first line, its language, its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """For test ids and messages."""
        return f"{self.page}:{self.line}"

    @property
    def script(self) -> str:
        """What a shell is given; of a `console` block the lines after the prompt."""
        if self.language != "console":
            return self.text
        lines, goes_on = [], False
        for line in self.text.splitlines():
            if goes_on or line.startswith(("$ ", "# ")):
                lines.append(line if goes_on else line[2:])
                goes_on = line.endswith("\\")
        return "".join(f"{line}\n" for line in lines)


def pages() -> list[Path]:
    """README and its neighbours where they are there, docs, and the pages that are in the package."""
    top = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]
    return [path for path in [*top, *_below("docs"), *_below("edge_centernet")] if path.is_file()]


def _below(folder: str) -> list[Path]:
    """Pages in a folder, without what a build of the site left there."""
    return sorted(path for path in (ROOT / folder).rglob("*.md") if not {"_build", "site"} & set(path.parts))


def text_of(page: Path) -> str:
    """A page's text."""
    return page.read_text(encoding="utf-8")


def blocks() -> list[Block]:
    """Every fenced block of every page, in reading order."""
    return [
        block for page in pages() for block in blocks_of(page.relative_to(ROOT).as_posix(), text_of(page))
    ]


def blocks_of(page: str, text: str) -> Iterator[Block]:
    """The fenced blocks of one page. A language in braces is a directive of the site, and no block."""
    for match in _FENCE.finditer(text):
        indent, _, language, body = match.groups()
        if not language.strip().startswith("{"):
            lines = [line.removeprefix(indent) for line in body.splitlines(keepends=True)]
            yield Block(page, text.count("\n", 0, match.start()) + 2, language.strip(), "".join(lines))


def simple_commands(script: str) -> list[list[str]]:
    """The words of each command of a shell script, without assignments, `sudo` and what joins commands.

    Raises ValueError for quotes that are not closed.
    """
    found: list[list[str]] = []
    words: list[str] = []
    for word in _words(re.sub(r"\\\n\s*", " ", script)):
        if word not in _SEPARATORS:
            words.append(word)
            continue
        while words and (words[0] in _KEYWORDS or words[0] == "sudo" or _ASSIGNMENT.match(words[0])):
            words.pop(0)
        if words:
            found.append(words)
        words = []
    return found


def _words(script: str) -> Iterator[str]:
    """Words and separators; the end of a line is a `;`, unless a quote goes on in the next one."""
    pending = ""
    lines = script.splitlines()
    for number, line in enumerate(lines, 1):
        pending += line
        lexer = shlex.shlex(pending, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            if number == len(lines):
                raise
            pending += "\n"
            continue
        pending = ""
        yield from [*words, ";"]


def own_commands(script: str) -> list[list[str]]:
    """The arguments of every `edge-centernet` in a script, whatever folder it is called from."""
    found = []
    for words in simple_commands(script):
        if Path(words[0]).name == COMMAND:
            found.append(words[1:])
        elif words[0] == "torchrun" and "edge_centernet" in words:
            found.append(words[words.index("edge_centernet") + 1 :])
    return found


def inline_code() -> Iterator[tuple[str, str]]:
    """(page:line, text) of every piece of `code` in running text."""
    for page in pages():
        name, text = page.relative_to(ROOT).as_posix(), text_of(page)
        prose = _FENCE.sub(lambda match: "\n" * match.group(0).count("\n"), text)
        for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", prose):
            yield f"{name}:{prose.count(chr(10), 0, match.start()) + 1}", " ".join(match.group(1).split())


def is_placeholder(word: str) -> bool:
    """FILE, N, `...`: for the reader to fill in."""
    return bool(_PLACEHOLDER.fullmatch(word))


def complaint(words: Sequence[str], whole: bool = True) -> str:
    """What the command line would refuse in `edge-centernet WORDS`; "" for nothing.

    Looked at are command, options, and values but for files: those of the documentation are not here. whole:
    everything that is required must be there, as in a block; running text may name a part of a command
    ("`train --weights`").
    """
    try:
        _parse(cli, list(words), whole)
    except click.ClickException as error:
        return error.format_message()
    except click.exceptions.Exit:  # --help, --version
        return ""
    return ""


def _parse(command: click.Command, words: list[str], whole: bool) -> None:
    context = click.Context(command)
    if isinstance(command, click.Group):
        if not words or words[0] in ("--help", "-h", "--version") or is_placeholder(words[0]):
            return
        inner = command.get_command(context, words[0])
        if inner is None:
            raise click.UsageError(f"no such command {words[0]!r}")
        _parse(inner, words[1:], whole)
        return
    if not whole and words and _wants_value(command, words[-1]):
        words = [*words, "..."]
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    unexpected = [word for word in rest if word != "..."]
    if unexpected:
        raise click.UsageError(f"unexpected {unexpected}")
    for parameter in command.params:
        name = parameter.name or ""
        _check(context, parameter, values.get(name), whole)


def _wants_value(command: click.Command, word: str) -> bool:
    """The last word is an option whose value was left out."""
    return any(
        isinstance(p, click.Option) and word in (*p.opts, *p.secondary_opts) and not p.is_flag and not p.count
        for p in command.params
    )


def _check(context: click.Context, parameter: click.Parameter, value: object, whole: bool) -> None:
    if value is None or isinstance(value, bool) or str(value) == "Sentinel.UNSET":
        if whole and parameter.required and not isinstance(value, bool):
            raise click.MissingParameter(ctx=context, param=parameter)
        return
    each = value if isinstance(value, (list, tuple)) else [value]
    for one in each:
        if isinstance(one, str) and not is_placeholder(one) and not isinstance(parameter.type, click.Path):
            parameter.type.convert(one, parameter, context)
