"""Put a bundle onto boards over ssh. The steps that matter run on the board (agent.py); here is the way there.

Nothing but OpenSSH's client is needed here, and python3 there. The board goes back to its old release by
itself when the connection is cut before this computer said that the new one may stay.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edge_centernet.deploy import agent
from edge_centernet.deploy.boards import TARGETS, Target, find_target
from edge_centernet.errors import ConfigError, EdgeCenterNetError, MissingDependency
from edge_centernet.files import sha256
from edge_centernet.progress import Progress, Say, unseen

PLAYBOOK = Path(__file__).parents[1] / "assets" / "ansible" / "deploy.yml"
_BLOCK = 1 << 18
_SSH = ("-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
_BOARDS = (
    ("Raspberry Pi 5", "pi5"),
    ("Raspberry Pi 4", "pi4"),
    ("Raspberry Pi Compute Module 4", "pi4"),
    ("Raspberry Pi 3", "pi3"),
    ("Raspberry Pi Zero 2", "pizero2"),
)


class DeployError(EdgeCenterNetError):
    """A board cannot be reached, or refused a release; its old one runs."""


@dataclass(frozen=True)
class Host:
    """Where to: USER@HOST as ssh takes it; options, more words for ssh; root, where /opt and /etc are on the board."""

    name: str
    options: tuple[str, ...] = ()
    root: str = "/"


class Connection:
    """One login to one board; all commands share it."""

    def __init__(self, host: Host, folder: Path) -> None:
        """folder: for the connection's socket. Raises DeployError when the board cannot be reached."""
        self._host = host
        share = ("-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/%C", "-o", "ControlPersist=30")
        self._ssh = ["ssh", *_SSH, *share, *host.options]
        self._home = PurePosixPath(host.root) / "opt/edge-centernet"
        self._sudo = [] if self._plain("id -u").strip() == b"0" else ["sudo", "-n"]

    def close(self) -> None:
        """Log out."""
        command = [*self._ssh, "-O", "exit", self._host.name]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)

    def _plain(self, command: str, stdin: bytes = b"") -> bytes:
        result = subprocess.run(
            [*self._ssh, self._host.name, command], input=stdin, capture_output=True, check=False
        )
        self._expect_success(result.returncode, result.stderr)
        return result.stdout

    def _expect_success(self, status: int, errors: bytes) -> None:
        if status:
            raise DeployError(f"{self._host.name}: {_last(errors, status)}")

    def send_agent(self) -> None:
        """The installer's own program, ahead of everything else."""
        self._send(Path(agent.__file__).read_bytes(), "deploy-agent.py")

    def send_signers(self, path: Path) -> str:
        """Whom a board that trusts nobody yet may trust; returns the file's path there."""
        return self._send(path.read_bytes(), "deploy-signers")

    def _send(self, content: bytes, name: str) -> str:
        """A small file, whole or not at all; returns its path on the board."""
        path = str(self._home / name)
        quoted = shlex.quote(path)
        script = (
            f"mkdir -p {shlex.quote(str(self._home))} && cat > {quoted}.part && mv {quoted}.part {quoted}"
        )
        self._plain(shlex.join([*self._sudo, "sh", "-c", script]), content)
        return path

    def command(self, *arguments: str) -> list[str]:
        """The ssh command for an agent's command."""
        words = [
            *self._sudo,
            "python3",
            str(self._home / "deploy-agent.py"),
            *arguments,
            "--root",
            self._host.root,
        ]
        return [*self._ssh, self._host.name, shlex.join(words)]

    def ask(self, *arguments: str) -> Any:
        """Run an agent's command, its answer from JSON."""
        result = subprocess.run(
            self.command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        self._expect_success(result.returncode, result.stderr)
        return json.loads(result.stdout)

    def follow(self, say: Say, *arguments: str) -> dict[str, Any]:
        """Run an agent's command, tell what it tells; returns its last word. An attended one gets its "keep"."""
        command = self.command(*arguments, "--json")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdin and process.stdout and process.stderr
            last: dict[str, Any] = {}
            for line in process.stdout:
                last = json.loads(line)
                say(f"{last['step']}: {last['text']}")
                if last["step"] == "healthy" and "--attended" in arguments:
                    process.stdin.write(b"keep\n")
                    process.stdin.flush()
            errors = process.stderr.read()
        self._expect_success(process.returncode, errors)
        return last

    def upload(self, path: Path, progress: Progress) -> str:
        """Send a file, on from where an earlier try was cut off; returns its path on the board."""
        size = path.stat().st_size
        name = f"{sha256(path)[:16]}{path.suffix}"
        have = min(int(self.ask("offset", name)), size)
        command = self.command("receive", name, str(size), "--json")
        with (
            path.open("rb") as file,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            ) as process,
        ):
            assert process.stdin and process.stderr
            file.seek(have)
            with contextlib.suppress(BrokenPipeError):
                _pump(file, process.stdin, have, size, progress)
            errors = process.stderr.read()
        self._expect_success(process.returncode, errors)
        return str(self._home / "incoming" / name)


def _pump(file: Any, pipe: Any, have: int, size: int, progress: Progress) -> None:
    steps, done = (size + _BLOCK - 1) // _BLOCK, have // _BLOCK
    try:
        while block := file.read(_BLOCK):
            pipe.write(block)
            done += 1
            progress("Upload", min(done, steps), steps)
    finally:
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


def _last(errors: bytes, status: int) -> str:
    """The one line that says why, without ssh's own chatter."""
    lines = [line for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("Error: ")]
    if told:
        return told[-1][len("Error: ") :]
    if lines and "sudo" in lines[-1]:
        return f"{lines[-1].strip()}; the user needs sudo without a password, or deploy as root"
    if status == 3:
        return "the connection was cut; the board went back to its old release"
    return (
        lines[-1].strip()
        if lines
        else f"the connection ended ({status}); the board goes back to its old release"
    )


@contextlib.contextmanager
def connect(host: Host) -> Iterator[Connection]:
    """Log in, send the agent. Raises DeployError, MissingDependency without ssh."""
    if shutil.which("ssh") is None:
        raise MissingDependency("deploy needs ssh: apt-get install openssh-client")
    with tempfile.TemporaryDirectory(
        prefix="ecn-"
    ) as folder:  # short: a socket's path has 100 characters at most
        connection = Connection(host, Path(folder))
        try:
            connection.send_agent()
            yield connection
        finally:
            connection.close()


def put(
    connection: Connection,
    bundle: Path,
    signers: Path | None,
    *,
    camera: str = "camera",
    watch_s: float = 30.0,
    say: Say = print,
    progress: Progress = unseen,
) -> str:
    """Upload, verify, install, check, switch, watch; returns the release's id.

    signers: trusted by a board that trusts nobody yet. camera: name of the first camera, on a board that has
      none.
    Raises DeployError; then the old release runs.
    """
    trust = () if signers is None else ("--pin", connection.send_signers(signers))
    path = connection.upload(bundle, progress)
    name = str(connection.follow(say, "install", path, *trust)["id"])
    connection.follow(say, "activate", name, "--camera", camera, "--watch", str(watch_s), "--attended")
    return name


def roll_back(connection: Connection, watch_s: float, say: Say = print) -> str:
    """Switch to the release before; returns its id. Raises DeployError."""
    return str(connection.follow(say, "rollback", "--watch", str(watch_s), "--attended")["id"])


def target_of(status: dict[str, Any]) -> Target:
    """The target that fits a board, by what its agent says of it.

    Raises ConfigError for a board that no wheels fit.
    """
    machine, model = status["machine"], status["model"]
    fallback = {
        "aarch64": "generic-arm64",
        "armv7l": "generic-armhf",
        "armv8l": "generic-armhf",
        "x86_64": "x86",
    }
    name = next((target for text, target in _BOARDS if model.startswith(text)), fallback.get(machine, ""))
    if status["jetson"] or "jetson" in model.lower():
        name = "jetson-orin" if "R36" in status["jetson"] else "jetson-nano"
    if not name or (TARGETS[name].machine == "aarch64" and machine != "aarch64"):
        name = fallback.get(machine, name)
    if not name:
        raise ConfigError(f"board: expected one of {', '.join(fallback)}, got {machine}; no wheels fit it")
    target = TARGETS[name]
    python = target.python if target.python in status["pythons"] else status["python"]
    return find_target(name, python)


def deployed_target(status: dict[str, Any]) -> Target:
    """The target of the release that runs on a board. Raises ConfigError without one."""
    current = status["releases"].get(status["current"])
    if current is None:
        raise ConfigError("model: expected a board with a release, found none; deploy a whole bundle first")
    return find_target(current["target"], current["python"], current["engine"])


def put_many(inventory: Path, variables: dict[str, object], arguments: Sequence[str] = ()) -> None:
    """Roll a bundle out over an inventory, by Ansible: a few boards first, and an end at the first that refuses.

    variables: of the playbook: bundle, signers, camera, watch, serial. arguments: more words for
      ansible-playbook.
    Raises DeployError where a board refused, MissingDependency without Ansible.
    """
    if shutil.which("ansible-playbook") is None:
        raise MissingDependency(
            "--inventory needs Ansible: pip install ansible-core, or apt-get install ansible-core"
        )
    values = {**variables, "agent": agent.__file__}
    command = ["ansible-playbook", "-i", str(inventory), str(PLAYBOOK), "-e", json.dumps(values), *arguments]
    if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode:
        raise DeployError(
            f"{inventory}: a board refused the release, or could not be reached; those that are not listed as changed "
            "have their old one"
        )
