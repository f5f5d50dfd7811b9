"""Options that several commands share, and what they open."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edge_centernet.errors import ConfigError
from edge_centernet.manifest import InputSize
from edge_centernet.model_zoo import DEFAULT
from edge_centernet.runtimes import ENGINES, NAMES, open_runtime, select_engine
from edge_centernet.runtimes.base import Runtime
from edge_centernet.system.quiet import quiet_libraries

Function = Callable[..., Any]


def options(*decorators: Function) -> Function:
    """One decorator of several; the last one stands first in the help."""
    return lambda function: functools.reduce(lambda inner, decorator: decorator(inner), decorators, function)


def input_size(_: click.Context, option: click.Parameter, text: str | None) -> InputSize | None:
    """Callback of an option --size: 512x384, or one number for a square."""
    if text is None:
        return None
    try:
        return InputSize.of(text)
    except ConfigError as error:
        raise click.BadParameter(str(error).removeprefix("size: "), param=option) from None


model_option = click.option(
    "--model",
    # Not click's envvar, which would win over a configuration file.
    default=lambda: os.environ.get("EDGE_CENTERNET_MODEL") or DEFAULT,
    show_default=f"$EDGE_CENTERNET_MODEL, else {DEFAULT}",
    metavar="PATH|NAME",
    help="Model file (.xml, .tflite, .onnx) or name of a shipped model.",
)

# --runtime, --threads
engine_options = options(
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the engine decides]"),
    click.option(
        "--runtime",
        type=click.Choice(NAMES),
        default="auto",
        show_default=True,
        help="Inference engine. auto: by the file's suffix; for a shipped model TFLite on ARM, OpenVINO elsewhere.",
    ),
)

# --model, --runtime, --threads; passed on as model, runtime, threads to `open_model`.
model_options = options(engine_options, model_option)


def open_model(model: str | Path, runtime: str = "auto", threads: int | None = None) -> Runtime:
    """Open what the options say, and say on stderr which engine runs which file, and on what if it has a choice.

    An engine that fails its self-check on this machine is named and, where auto leaves the choice, the next one taken.
    Raises what `select_engine` and `open_runtime` raise.
    """
    path, name = select_engine(model, runtime, tell=functools.partial(click.echo, err=True))
    with quiet_libraries():
        opened = open_runtime(path, name, threads)
    on = f" on {opened.device}" if opened.device else ""
    click.echo(f"Using {ENGINES[name].title}{on}, {opened.manifest.precision}: {path}", err=True)
    return opened
