"""Virtual environments for peers that must not share ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click


def environment(folder: Path, packages: tuple[str, ...]) -> Path:
    """The Python of the environment in `folder`, made with these packages where it is missing."""
    python = folder / "bin/python"
    if not python.exists():
        click.echo(f"Making {folder}", err=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    return python
