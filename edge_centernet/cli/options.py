"""Options that several commands share, and what they open."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import click

from edge_centernet.cli import option_group
from edge_centernet.errors import ConfigError
from edge_centernet.manifest import InputSize
from edge_centernet.model_zoo import DEFAULT
from edge_centernet.runtimes import ENGINES, NAMES, open_runtime, select_engine
from edge_centernet.runtimes.base import Runtime
from edge_centernet.system.logs import quiet_libraries


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
    metavar="PATH|NAME",
    help="Model file (.xml, .tflite or .onnx) or the name of a shipped model."
    f"  [default: $EDGE_CENTERNET_MODEL, else {DEFAULT}]",
)

# --runtime, --threads
_runtime_option = click.option(
    "--runtime",
    type=click.Choice(NAMES),
    default="auto",
    show_default=True,
    help="Inference engine. auto chooses by the file's suffix; for a shipped model TFLite on ARM, OpenVINO elsewhere.",
)
_threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="Number of CPU threads.  [default: the engine decides]"
)
engine_options = option_group(_runtime_option, _threads_option, heading="Inference engine")

# --model, --runtime, --threads; passed on as model, runtime, threads to `open_model`.
model_options = option_group(model_option, _runtime_option, _threads_option, heading="Model")


def open_model(model: str | Path, runtime: str = "auto", threads: int | None = None) -> Runtime:
    """Open what the options say, and say on stderr which engine runs which file, and on what if it has a choice.

    An engine that fails its self-check on this machine is named and, where auto leaves the choice, the next
    one taken. Raises what `select_engine` and `open_runtime` raise.
    """
    path, name = select_engine(model, runtime, tell=functools.partial(click.echo, err=True))
    with quiet_libraries():
        opened = open_runtime(path, name, threads)
    on = f" on {opened.device}" if opened.device else ""
    click.echo(f"Using {ENGINES[name].title}{on}, {opened.manifest.precision}: {path}", err=True)
    return opened
