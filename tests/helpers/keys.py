"""Keys to sign with, for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path


def new_key(path: Path) -> Path:
    """A private ssh key without a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)
    return path
