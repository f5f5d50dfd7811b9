"""A real sshd on a port of the loopback interface, for one test."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SSHD = "/usr/sbin/sshd"
PRIVILEGE_SEPARATION = Path("/run/sshd")


def missing() -> str:
    """Why none can be run here; "" if one can."""
    return "" if shutil.which(SSHD) else "no sshd: apt-get install openssh-server"


@contextmanager
def sshd(folder: Path) -> Iterator[str]:
    """Started; yields ssh's options that reach it, as the user who runs the tests."""
    host, user = new_key(folder / "host"), new_key(folder / "user")
    (folder / "authorized").write_text(user.with_suffix(".pub").read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {host.with_suffix('.pub').read_text()}")
    options = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": host,
        "AuthorizedKeysFile": folder / "authorized",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
        "PidFile": "none",
    }
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in options.items()))
    PRIVILEGE_SEPARATION.mkdir(exist_ok=True)
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        _wait(port)
        options = f"-o UserKnownHostsFile={known} -o IdentitiesOnly=yes -o BatchMode=yes"
        yield f"-F none -p {port} -i {user} {options}"
    finally:
        process.terminate()
        process.wait()


def _wait(port: int) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def new_key(path: Path) -> Path:
    """A private ssh key without a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)
    return path
