"""`edge-centernet store`: what `detect --store` kept, as Parquet files for many cameras together."""

from __future__ import annotations

import glob
from collections import Counter
from contextlib import closing
from pathlib import Path

import click

from edge_centernet.cli import Command, echo
from edge_centernet.errors import ConfigError
from edge_centernet.history.store import open_store
from edge_centernet.history.summary import covered
from edge_centernet.progress import bars

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def command() -> None:
    """Export what `detect --store` kept as Parquet, which DuckDB, Spark, BigQuery and Athena read.

    Example: edge-centernet store export entrance.db --parquet counts
    """


@command.command(cls=Command)
@click.argument("stores", metavar="STORE...", nargs=-1, required=True)
@click.option(
    "--parquet", "tree", required=True, type=_FOLDER, help="Folder to write to, created if missing."
)
@click.option("--name", default="", help="Camera name to write, with a single store.  [default: the store's]")
@click.option(
    "--paths", is_flag=True, help="Write the paths of foot points too, which take most of the room."
)
def export(stores: tuple[str, ...], tree: Path, name: str, paths: bool) -> None:
    """Write each camera's days as Parquet: events, occupancy by the minute, gaps.

    Only days that are over are written, and only those that are new or have changed: run it every night. Days
    that the store has deleted since stay in the folder. Stores may be in use; a pattern stands in quotes.

    \b
    Examples:
      edge-centernet store export entrance.db --parquet counts
      edge-centernet store export 'stores/*.db' --parquet counts
    """  # noqa: D301 (click keeps the lines below a real backspace as they are)
    from edge_centernet.history import parquet

    found = [path for text in stores for path in store_paths(text)]
    if name and len(found) > 1:
        raise ConfigError(f"--name: expected a single store with it, got {len(found)}")
    _refuse_twins(found)
    with bars() as progress:
        done = [parquet.export(path, tree, name, paths, progress=progress) for path in found]
    for one in done:
        echo(f"{one.camera}: {one.written} of {one.days} days written")


@command.command(cls=Command)
@click.argument("tree", type=_FOLDER)
@click.option("--into", required=True, type=_FOLDER, help="Folder to write to, created if missing.")
def compact(tree: Path, into: Path) -> None:
    """Pack what `export` wrote into one file a month, of all cameras, with sums by the hour.

    Reports over many cameras and months are fast then. A month is written again where a day of it is new or
    has changed. Paths are left out.

    Example: edge-centernet store compact counts --into months
    """
    from edge_centernet.history import parquet

    with bars() as progress:
        written = parquet.compact(tree, into, progress)
    echo(f"Written: {', '.join(written) or 'nothing, all is up to date'}")


def store_paths(text: str) -> list[Path]:
    """The path that a text names, or those that fit it as a pattern. Raises ConfigError where none does."""
    if not glob.has_magic(text) or Path(text).exists():
        return [Path(text)]
    # SQLite's own files stand beside a store that is in use.
    if found := [path for path in sorted(glob.glob(text)) if not path.endswith(("-wal", "-shm", "-journal"))]:
        return [Path(path) for path in found]
    raise ConfigError(f"{text}: expected a pattern of stores, found none")


def _refuse_twins(paths: list[Path]) -> None:
    """Two cameras of one name would take turns to overwrite each other's days."""
    names = []
    for path in paths:
        with closing(open_store(path)) as base:
            names.append(covered(base).camera)
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        both = ", ".join(str(path) for path, other in zip(paths, names, strict=True) if other == name)
        raise ConfigError(
            f"{count} stores are of a camera {name!r}: {both}; export them one by one with --name, or run "
            "detect with --name"
        )
