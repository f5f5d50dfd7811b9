#!/usr/bin/env python3
"""Do docs/tutorial.md to the letter in a fresh clone, up to the step that needs a board.

    python scripts/run_tutorial.py --clone /tmp/tutorial --json tutorial.json

Every `sh` block is run as it stands. --clone is made anew; where it is there, the steps that were done in it
are not repeated, so that a run that was cut off goes on. Exits with 1 when a command fails, when AP50 is
below 0.75, or when the steps together took more than 45 minutes (on two cores).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from measured import ROOT, commit, cpu_name

from edge_centernet.files import write_atomic

PAGE = ROOT / "docs/tutorial.md"
BOARD = "pi@"  # from the first command with it on, a board is needed
MINUTES, AP50 = 45.0, 0.75  # ten epochs reach 0.85 on the validation images


def steps(page: str) -> list[tuple[str, str]]:
    """(heading, commands) of every step that needs no board."""
    found = []
    for section in re.split(r"^## ", page, flags=re.M)[1:]:
        blocks = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)
        if any(BOARD in block for block in blocks):
            break
        found += [(section.split("\n", 1)[0], block) for block in blocks]
    return found


def clone(folder: Path) -> None:
    """A clone of what is committed."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    subprocess.run(["git", "clone", "-q", ROOT, folder / "main"], check=True)


def run(commands: str, folder: Path) -> float:
    """Run a step's commands as a shell would; seconds. click.ClickException where one fails."""
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    began = time.monotonic()
    done = subprocess.run(["sh", "-e", "-c", commands], cwd=folder, env=environment, check=False)
    if done.returncode:
        raise click.ClickException(f"`{commands.strip()}` ended with {done.returncode}")
    return time.monotonic() - began


def outcome(folder: Path) -> dict[str, Any]:
    """What the tutorial's commands have left."""
    result = json.loads((folder / "converted/eval.json").read_text())
    bundle = next((folder / "dist").glob("*.tar"))
    photos, size = len(list((folder / "found").rglob("*.jpg"))), round(bundle.stat().st_size / 1e6, 1)
    found = {"annotated_photos": photos, "bundle": bundle.name, "bundle_mb": size}
    return {"AP50": result["AP50"], "AP": result["AP"], **found}


@click.command()
@click.option("--clone", "folder", type=click.Path(path_type=Path), required=True, help="Folder to work in.")
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write what was seen here.")
def main(folder: Path, record: Path | None) -> None:
    """Run the page."""
    clone(folder)
    journal = folder / "steps.json"  # seconds of the steps that are done
    seconds: dict[str, float] = json.loads(journal.read_text()) if journal.exists() else {}
    for heading, commands in steps(PAGE.read_text(encoding="utf-8")):
        if heading not in seconds:
            click.echo(f"== {heading}", err=True)
            seconds[heading] = round(run(commands, folder / "main"), 1)
            write_atomic(journal, json.dumps(seconds, indent=1) + "\n")
    minutes = sum(seconds.values()) / 60
    seen = {"minutes": round(minutes, 1), "cores": len(os.sched_getaffinity(0)), "seconds": seconds}
    seen |= {**outcome(folder / "main"), "cpu": cpu_name(), "commit": commit()}
    click.echo(json.dumps(seen, indent=1))
    if record:
        write_atomic(record, json.dumps(seen, indent=1) + "\n")
    if minutes > MINUTES or seen["AP50"] < AP50:
        got = f"got {seen['AP50']:.3f} in {minutes:.1f}"
        click.echo(f"expected AP50 of {AP50} within {MINUTES:g} minutes, {got}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
