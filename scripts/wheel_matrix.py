#!/usr/bin/env python3
"""Ask PyPI which wheels of our dependencies there are for each system; write docs/benchmarks/wheels.json.

For each system and package the newest release that pip would install there: its version, and the oldest glibc
that the wheel is for. pip resolves and downloads nothing but metadata.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import click

from edge_centernet.deploy.boards import platforms
from edge_centernet.files import write_atomic

OUT = Path(__file__).resolve().parent.parent / "docs/benchmarks"
PACKAGES = (
    *("numpy", "opencv-python-headless", "ai-edge-litert", "tflite-runtime"),
    *("openvino", "onnxruntime", "onnxruntime-gpu"),
)


class System(NamedTuple):
    """machine: as `uname -m`. glibc: minor version of 2.x. Python: the system's own unless said."""

    title: str
    machine: str
    python: str
    glibc: int


SYSTEMS = (
    System("JetPack 6 (Ubuntu 22.04)", "aarch64", "3.10", 35),
    System("JetPack 7 (Ubuntu 24.04)", "aarch64", "3.12", 39),
    System("JetPack 5 (Ubuntu 20.04), its own Python", "aarch64", "3.8", 31),
    System("JetPack 5 (Ubuntu 20.04), another Python", "aarch64", "3.10", 31),
    System("JetPack 4 (Ubuntu 18.04), its own Python", "aarch64", "3.6", 27),
    System("JetPack 4 (Ubuntu 18.04), another Python", "aarch64", "3.10", 27),
    System("Raspberry Pi OS Bookworm, 64 bit", "aarch64", "3.11", 36),
    System("Raspberry Pi OS Trixie, 64 bit", "aarch64", "3.13", 41),
    System("Raspberry Pi OS Bookworm, 32 bit", "armv7l", "3.11", 36),
    System("Raspberry Pi OS Trixie, 32 bit", "armv7l", "3.13", 41),
    System("Debian 12", "x86_64", "3.11", 36),
    System("Ubuntu 22.04", "x86_64", "3.10", 35),
    System("Ubuntu 24.04", "x86_64", "3.12", 39),
    System("Debian 13", "x86_64", "3.13", 41),
)


def newest(package: str, system: System) -> dict[str, Any] | None:
    """{"version", "file", "glibc"} of the wheel that pip would take; None where there is none."""
    tags = [word for tag in platforms(system.machine, (2, system.glibc)) for word in ("--platform", tag)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--no-deps", "--only-binary=:all:", "--python-version", system.python, *tags]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--report", "-", "--target", folder, package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if "No matching distribution" not in done.stderr:
            raise click.ClickException(done.stderr.strip().splitlines()[-1])
        return None
    (item,) = json.loads(done.stdout)["install"]
    file = item["download_info"]["url"].rsplit("/", 1)[1]
    return {"version": item["metadata"]["version"], "file": file, "glibc": oldest_glibc(file)}


def oldest_glibc(file: str) -> str | None:
    """The oldest glibc that one of the wheel's tags names, such as "2.28"; None for pure Python."""
    old = {"manylinux1": "5", "manylinux2010": "12", "manylinux2014": "17"}
    minors = [int(minor) for minor in re.findall(r"manylinux_2_(\d+)", file)]
    minors += [int(minor) for name, minor in old.items() if name in file]
    return f"2.{min(minors)}" if minors else None


@click.command()
def main() -> None:
    """Ask for every system and package; some minutes."""
    rows = []
    with click.progressbar(SYSTEMS, label="Systems", file=sys.stderr) as systems:
        for system in systems:
            about = {"system": system.title, "machine": system.machine, "python": system.python}
            found = {package: newest(package, system) for package in PACKAGES}
            rows.append({**about, "glibc": f"2.{system.glibc}", "wheels": found})
    write_atomic(OUT / "wheels.json", json.dumps(rows, indent=1) + "\n")
    click.echo(f"{OUT / 'wheels.json'}; now: python scripts/tables.py --write")


if __name__ == "__main__":
    main()
