"""Commands of the documentation under the real command line's own parser, without running them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from edge_centernet.cli import cli

_PLACEHOLDER = re.compile(r"\.\.\.|<\w+>|\[?[A-Z][A-Z0-9_]*(\|[A-Z]+)*\]?(\.\.\.)?")


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
