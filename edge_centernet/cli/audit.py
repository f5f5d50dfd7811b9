"""`edge-centernet audit`: its options, and what it prints; `edge_centernet/audit/` does the work."""

from __future__ import annotations

import functools
from pathlib import Path

import click

from edge_centernet.audit.begin import Detection, Plan, audit_paths, audit_video, is_store
from edge_centernet.audit.recording import PathsRecording, Recording, VideoRecording
from edge_centernet.audit.server import AuditServer
from edge_centernet.cli import Command, echo, open_browser
from edge_centernet.cli.detect import config_option
from edge_centernet.cli.options import model_options, open_model
from edge_centernet.errors import ConfigError
from edge_centernet.history.audit import span_text
from edge_centernet.progress import bars
from edge_centernet.tracking.line_counter import parse_line


@click.command(cls=Command)
@click.argument("what", metavar="VIDEO|STORE", type=click.Path(path_type=Path))
@config_option("The camera's TOML file, for its lines, model, threshold, classes and store.")
@click.option(
    "--count-line", multiple=True, metavar="[NAME=]X1,Y1,X2,Y2", help="A line to watch, as for `detect`."
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="How much to watch; of what is longer, random stretches, quiet and busy ones.",
)
@click.option(
    "--stretches", type=click.IntRange(min=1), default=4, show_default=True, help="In how many parts."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between a crossing that is seen and one that is counted, for them to be the same.",
)
@click.option(
    "--new", "anew", is_flag=True, help="Begin another audit, although one of this kind is not finished."
)
@click.option("--threshold", type=click.FloatRange(0, 1), help="As for `detect`.  [default: the model's]")
@click.option("--max-detections", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--classes", metavar="A,B", help="Count only these classes.  [default: all]")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the result of a video is kept, for `edge-centernet report`.  [default: VIDEO.audit.db here]",
)
@click.option("--from", "begin", metavar="TIME", help="Of a store: beginning, as for `report`.")
@click.option("--to", "end", metavar="TIME", help="Of a store: end.")
@click.option(
    "--still",
    type=click.Path(path_type=Path),
    metavar="IMAGE",
    help="For a store: a picture of that camera, on which paths are shown.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Of the page, on this computer only.  [default: any]",
)
@click.option("--no-browser", is_flag=True, help="Do not open a browser.")
@model_options
def command(
    what: Path,
    count_line: tuple[str, ...],
    minutes: float,
    stretches: int,
    tolerance: float,
    anew: bool,
    threshold: float | None,
    max_detections: int,
    classes: str | None,
    store: Path | None,
    begin: str | None,
    end: str | None,
    still: Path | None,
    port: int,
    no_browser: bool,
    model: str,
    runtime: str,
    device: str,
    threads: int | None,
) -> None:
    """Find out how right the counts are: watch a recording, and press a key for each crossing.

    A page plays the recording without boxes and counts. What you saw is compared with what was counted, line
    by line, in and out, and is kept for `edge-centernet report`. Ctrl-C loses nothing: the same command goes
    on. A video is counted first; of a STORE that `detect --store` wrote, the kept paths are played, which
    show nobody whom the camera overlooked.

    \b
    Examples:
      edge-centernet audit saturday.mp4 --config entrance.toml
      edge-centernet audit saturday.mp4 --count-line door=0.5,1,0.5,0 --classes person
    """  # noqa: D301 (click keeps the lines below a real backspace as they are)
    # 1. What is to be watched.
    lines = [parse_line(text, i + 1) for i, text in enumerate(count_line)]
    if not lines:
        raise click.UsageError("expected the lines to watch: --count-line, or --config with [[line]]")
    plan = Plan(minutes, stretches, tolerance, anew)
    recording: Recording
    if is_store(what):
        kept_in = what
        audit = audit_paths(what, lines, begin, end, plan)
        recording = PathsRecording(what, audit.setup["began"], audit.stretches, still)
    else:
        if given := [name for name, value in (("--from", begin), ("--to", end), ("--still", still)) if value]:
            raise ConfigError(f"{', '.join(given)}: expected only with a store, got {what}")
        kept_in = store or Path(f"{what.stem}.audit.db")
        detection = Detection(
            functools.partial(open_model, model, runtime, threads, device),
            threshold,
            None if classes is None else tuple(word.strip() for word in classes.split(",")),
            max_detections,
        )
        with bars() as progress:
            audit = audit_video(what, kept_in, lines, detection, plan, progress)
        recording = VideoRecording(what)
    # 2. Watch.
    watched = f", {span_text(audit.watched_s)} of them watched" if audit.watched_s else ""
    echo(
        f"To watch: {span_text(audit.asked_s)} in {len(audit.stretches)} "
        f"{'stretch' if len(audit.stretches) == 1 else 'stretches'}{watched}. Kept in {kept_in}.",
        err=True,
    )
    server = AuditServer(audit, kept_in, recording, lines, port)

    def started(url: str) -> None:
        echo(f"Page: {url}", err=True)
        if not no_browser:
            open_browser(url)

    try:
        server.run(started)
    finally:
        recording.close()
    # 3. Report.
    if audit.watched_s:
        echo(audit.text(), nl=False)
    if not audit.finished:
        echo("Not finished; the same command goes on.", err=True)
        raise KeyboardInterrupt
