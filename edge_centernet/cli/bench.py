"""`edge-centernet bench`: how fast each engine is on this machine, and how two measurements differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_centernet.cli import Command, echo
from edge_centernet.cli.options import device_option, model_option
from edge_centernet.errors import ArtifactError, ConfigError
from edge_centernet.files import write_atomic
from edge_centernet.progress import bars

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(cls=Command)
@model_option
@click.option(
    "--runtime",
    "runtimes",
    default="all",
    show_default=True,
    metavar="all|NAME,...",
    help="Inference engines: openvino, tflite, onnxruntime, or all that are installed.",
)
@device_option
@click.option(
    "--threads",
    default="1,2,4",
    show_default=True,
    metavar="N,...",
    help="Numbers of CPU threads to measure.",
)
@click.option(
    "--source", metavar="PATH|DIR|VIDEO|CAMERA", help="Input to measure with.  [default: the sample photo]"
)
@click.option(
    "--camera", metavar="N|PATH|URL|csi", help="Camera, as for detect; reports the age of frames too."
)
@click.option(
    "--duration",
    type=click.FloatRange(min=0.5),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to measure each engine with each number of threads.",
)
@click.option("--json", "out", type=_FILE, help="Write the record to this file, for --compare.")
@click.option("--chart", type=_FILE, help="Draw a chart, .png or .svg. Needs the extra convert (matplotlib).")
@click.option(
    "--compare",
    nargs=2,
    type=_FILE,
    metavar="A.json B.json",
    help="Compare two records instead of measuring.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    out: Path | None,
    chart: Path | None,
    compare: tuple[Path, Path] | None,
    **asked: Any,
) -> None:
    """Measure how long a frame takes from image to boxes, step by step, with each installed engine.

    Each engine runs in its own process, pinned to its cores. Engines take turns, so that a machine that heats
    up does not favour one of them. docs/bench.md explains the table. The exit status is 0 if at least one
    engine was measured.

    Example: edge-centernet bench --threads 1 --duration 5 --json here.json
    """
    from edge_centernet.bench import record, report

    # 1. --compare measures nothing, so options of a measurement beside it are a mistake.
    if compare is not None:
        typed = click.core.ParameterSource.COMMANDLINE
        given = {name for name in ctx.params if ctx.get_parameter_source(name) == typed}
        if others := sorted(given - {"compare"}):
            raise click.UsageError(f"--compare only compares records: leave out {', '.join(others)}")
        a, b = map(record.read_record, compare)
        echo(report.comparison(a, b))
        return
    from edge_centernet.bench.session import Settings, measure

    # 2. What would fail after minutes of measuring fails now.
    for path in (out, chart):
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"{path}: expected an existing folder, got {path.parent}; create it first")
    if chart is not None:
        report.check_chart(chart)
    names = () if asked["runtimes"] == "all" else tuple(_words(asked["runtimes"]))
    numbers = _words(asked["threads"])
    if not all(word.isdecimal() for word in numbers):
        raise ConfigError(f"--threads: expected numbers from 1 on, such as 1,2,4, got {asked['threads']!r}")
    settings = Settings(**{**asked, "runtimes": names, "threads": tuple(map(int, numbers))})
    # 3. Measure; after Ctrl-C too, what was measured is shown and written.
    with bars() as progress:
        found = measure(settings, lambda line: echo(line, err=True), progress)
    if found["results"]:
        echo(report.as_text(found))
        if out is not None:
            write_atomic(out, record.as_text(found))
        if chart is not None:
            report.draw_chart(found, chart)
    if found["interrupted"]:
        raise KeyboardInterrupt
    if not found["results"]:
        reason = found["failures"][0]["reason"] if found["failures"] else "no frame came"
        raise ArtifactError(
            f"{settings.model}: expected an engine that can be measured here, found none: {reason}"
        )


def _words(text: str) -> list[str]:
    """The parts of a list with commas, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",")))
