"""Options that several commands share, and what they open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edge_centernet.models import DEFAULT
from edge_centernet.runtimes import ENGINES, NAMES, choose, open_runtime
from edge_centernet.runtimes.base import Runtime
from edge_centernet.sources import quiet_libraries

Function = Callable[..., Any]


def model_options(function: Function) -> Function:
    """--model, --runtime, --threads; passed on as model, runtime, threads to `open_model`."""
    for option in (
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the engine decides]"),
        click.option(
            "--runtime",
            type=click.Choice(NAMES),
            default="auto",
            show_default=True,
            help="Inference engine. auto: by the file's suffix; for a shipped model TFLite on ARM, OpenVINO elsewhere.",
        ),
        click.option(
            "--model",
            default=DEFAULT,
            show_default=True,
            metavar="PATH|NAME",
            help="Model file (.xml, .tflite, .onnx) or name of a shipped model.",
        ),
    ):
        function = option(function)
    return function


def open_model(model: str | Path, runtime: str = "auto", threads: int | None = None) -> Runtime:
    """Open what the options say, and say on stderr which engine runs which file."""
    path, name = choose(model, runtime)
    with quiet_libraries():
        opened = open_runtime(path, name, threads)
    click.echo(f"Using {ENGINES[name].title}, {opened.manifest.precision}: {path}", err=True)
    return opened
