"""`edge-centernet demo`: people are followed and counted in a clip that plays as a camera would film it."""

from __future__ import annotations

import re
import shlex
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from edge_centernet.cli import Command, detect, echo, open_browser, option_group
from edge_centernet.cli.options import model_options

CLIP = Path(__file__).parents[1] / "assets" / "demo.mp4"  # scripts/render_demo.py makes it
# Where the clip's door and shelf are on the floor, in fractions of the picture.
SCENE = (
    *("--count-line", "door=0.275,1,0.375,0.643"),
    *("--zone", "shelf=0.57,0.79,0.99,0.79,0.91,0.66,0.56,0.66"),
    *("--room", "shop=door"),
)

_page_options = option_group(
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=0,
        metavar="PORT",
        help="Port of the live page on this computer.  [default: one that is free]",
    ),
    click.option(
        "--browser/--no-browser", default=True, help="Open the page in the browser.  [default: open it]"
    ),
    heading="Live page",
)


@click.command(cls=Command)
@_page_options
@model_options
def command(port: int, browser: bool, **model: Any) -> None:
    """Try tracking, counting and the live page without a camera.

    A short clip of rendered people who walk through a shop plays over and over, and the network detects them
    as it would those before a camera. The page is for this computer only; what is counted is kept in a
    temporary file. Ctrl-C ends it.

    \b
    Example: edge-centernet demo
    """  # noqa: D301 (click keeps the line below a real backspace as it is)
    arguments = ["--source", str(CLIP), "--pace", "real", "--loop", "--classes", "person", *SCENE]
    same = f"The same as: edge-centernet detect {shlex.join(arguments)} --serve"
    with tempfile.TemporaryDirectory(prefix="edge-centernet-demo-") as folder:
        arguments += ["--serve", f"127.0.0.1:{port}", "--name", "Demo", "--format", "none"]
        arguments += ["--store", str(Path(folder) / "demo.db")]
        with detect.command.make_context("detect", arguments) as context:
            cameras = detect.each_of(context, {**context.params, **model})
        detect.run_and_report(cameras, lambda line: _tell(line, same, browser))


def _tell(line: str, same: str, browser: bool) -> None:
    """Print what a run reports, and where it says where the page is, `same` with its port; open the page."""
    echo(line, err=True)
    if page := re.match(r"Live page: (\S+)", line):
        echo(f"{same} {urlsplit(page[1]).port}", err=True)  # the port is not known before
        if browser:
            open_browser(page[1])
