"""`edge-centernet report`: tables and charts of what `detect --store` kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from edge_centernet.cli import Command, echo
from edge_centernet.cli.store import store_paths
from edge_centernet.errors import ConfigError
from edge_centernet.files import write_atomic
from edge_centernet.history.report import STEPS, Report, as_csv, as_json, as_text
from edge_centernet.history.summary import summarize
from edge_centernet.progress import bars


@click.command(cls=Command)
@click.argument("stores", metavar="STORE...", nargs=-1, required=True)
@click.option("--from", "begin", metavar="TIME", help="Beginning.  [default: the first start of detection]")
@click.option(
    "--to", "end", metavar="TIME", help="End; a date is that whole day.  [default: the last sign of life]"
)
@click.option(
    "--by", "step", type=click.Choice(STEPS), default="hour", show_default=True, help="Length of each part."
)
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a table for spreadsheets.",
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all figures as JSON."
)
@click.option(
    "--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with charts."
)
def command(
    stores: tuple[str, ...],
    begin: str | None,
    end: str | None,
    step: str,
    csv_file: Path | None,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Summarize what `detect --store STORE` counted: how many, when, for how long.

    Several stores, or a pattern of them in quotes, make one report with the sum and a table of the cameras;
    so does a folder of Parquet files that `edge-centernet store` wrote.

    Times are those of the camera's time zone, such as 2026-11-30 or 2026-11-30T18:00. Times in which the
    camera or the process was away are listed, and are never counted as zeros. The store may be in use.

    \b
    Examples:
      edge-centernet report entrance.db --by day --html report.html
      edge-centernet report entrance.db --from 2026-11-01 --to 2026-11-30 --csv november.csv
      edge-centernet report 'stores/*.db' --by day
    """  # noqa: D301 (click keeps the lines below a real backspace as they are)
    report = _read(stores, begin, end, step)
    echo(as_text(report), nl=False)
    if csv_file is not None:
        write_atomic(csv_file, as_csv(report))
        echo(csv_file, err=True)
    if json_file is not None:
        write_atomic(json_file, as_json(report))
        echo(json_file, err=True)
    if html_file is not None:
        from edge_centernet.history.page import as_html

        write_atomic(html_file, as_html(report))
        echo(html_file, err=True)


def _read(stores: Sequence[str], begin: str | None, end: str | None, step: str) -> Report:
    """The report over one store, several, or a folder of Parquet files."""
    paths = [path for text in stores for path in store_paths(text)]
    if any(path.is_dir() for path in paths):
        if len(paths) > 1:
            raise ConfigError(
                f"report: expected stores, or one folder of Parquet files, got {len(paths)} paths"
            )
        from edge_centernet.history.fleet import summarize_tree

        with bars() as progress:
            return summarize_tree(paths[0], begin, end, step, progress)
    if len(paths) == 1 and paths[0] == Path(stores[0]):
        return summarize(paths[0], begin, end, step)
    with bars() as progress:
        return summarize(paths, begin, end, step, progress)
