"""`edge-centernet bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_centernet.cli.options import model_option
from edge_centernet.errors import ArtifactError, ConfigError
from edge_centernet.files import write_atomic
from edge_centernet.progress import bars

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(short_help="Measure how fast this machine detects, engine beside engine.")
@model_option
@click.option(
    "--runtime",
    "runtimes",
    default="all",
    show_default=True,
    metavar="all|NAME,...",
    help="Inference engines: openvino, tflite, onnxruntime; all takes those that are installed.",
)
@click.option("--threads", default="1,2,4", show_default=True, metavar="N,...", help="CPU threads; each is measured.")
@click.option("--source", metavar="PATH|DIR|VIDEO|CAMERA", help="What to detect on.  [default: the sample photo]")
@click.option("--camera", metavar="N|PATH|URL|csi", help="Camera, as of detect: tells the age of frames too.")
@click.option(
    "--duration",
    type=click.FloatRange(min=0.5),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Of measuring, for each engine and number of threads.",
)
@click.option("--json", "out", type=_FILE, help="Write the record here, for --compare and for keeping.")
@click.option("--chart", type=_FILE, help="Draw it, as .png or .svg. Needs the extra convert (matplotlib).")
@click.option("--compare", nargs=2, type=_FILE, metavar="A.json B.json", help="Measure nothing, compare two records.")
@click.pass_context
def command(
    ctx: click.Context, /, out: Path | None, chart: Path | None, compare: tuple[Path, Path] | None, **asked: Any
) -> None:
    """Measure how long a frame takes from picture to boxes, step by step, on each engine that is installed.

    Each engine runs in a process of its own, pinned to its cores; they take turns, so that a machine that grows hot
    favours none. docs/bench.md tells how to read the table. Exit status 0 if at least one engine could be measured.

    Example: edge-centernet bench --threads 1 --duration 5 --json here.json
    """
    if compare is not None:
        _compare(ctx, *compare)
        return
    from edge_centernet.bench import chart as picture
    from edge_centernet.bench import record, report
    from edge_centernet.bench.session import Settings, measure

    for path in (out, chart):
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"{path}: expected a folder that is there, got {path.parent}; make it first")
    if chart is not None:
        picture.check(chart)
    names = () if asked["runtimes"] == "all" else tuple(_words(asked["runtimes"]))
    settings = Settings(**{**asked, "runtimes": names, "threads": _numbers(asked["threads"])})
    with bars() as progress:
        found = measure(settings, lambda line: click.echo(line, err=True), progress)
    if found["results"]:
        click.echo(report.as_text(found))
        if out is not None:
            write_atomic(out, record.as_text(found))
        if chart is not None:
            picture.draw(found, chart)
    if found["interrupted"]:
        raise KeyboardInterrupt
    if not found["results"]:
        reason = found["failures"][0]["reason"] if found["failures"] else "no frame came"
        raise ArtifactError(f"{settings.model}: expected an engine that can be measured here, found none: {reason}")


def _compare(ctx: click.Context, a: Path, b: Path) -> None:
    from edge_centernet.bench import compare, record

    given = [name for name in ctx.params if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE]
    if others := sorted(set(given) - {"compare"}):
        raise click.UsageError(f"--compare measures nothing: leave out {', '.join(others)}")
    click.echo(compare.as_text(record.read_record(a), record.read_record(b)))


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",")))


def _numbers(text: str) -> tuple[int, ...]:
    if not all(word.isdecimal() for word in _words(text)):
        raise ConfigError(f"--threads: expected numbers from 1 on, such as 1,2,4, got {text!r}")
    return tuple(int(word) for word in _words(text))
