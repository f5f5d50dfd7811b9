"""Send a bundle to boards over ssh and follow its installation, which runs on the board itself (agent.py).

This computer needs OpenSSH's client and the board python3. If the connection is cut before this computer has
said that the new release may stay, the board goes back to its old one by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
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
_BLOCK = 1 << 18  # bytes between two reports of the upload
# A connection that is gone is noticed after 15 s. The board waits 30 s for "keep" (agent.KEEP_S).
_SSH = ("-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
# [USER@]HOST, a name from ssh's configuration, or ssh://[USER@]HOST[:PORT]. Neither part may begin with "-",
# which ssh would read as an option (-oProxyCommand=... runs a program), or hold what a shell obeys: ssh puts
# both into the commands of its configuration.
_HOST = re.compile(r"(ssh://)?(\w[\w.@+\\-]*@)?(\w[\w.:%+-]*|\[?[0-9A-Fa-f:.]+(%\w+)?\]?(:\d+)?)/?")
# How the device tree's model begins. "Raspberry Pi 4" is no prefix of a Compute Module's.
_BOARDS = (
    ("Raspberry Pi 5", "pi5"),
    ("Raspberry Pi 4", "pi4"),
    ("Raspberry Pi Compute Module 4", "pi4"),
    ("Raspberry Pi 3", "pi3"),
    ("Raspberry Pi Zero 2", "pizero2"),
)


class DeployError(EdgeCenterNetError):
    """A board could not be reached, or refused a release; its old release runs."""


@dataclass(frozen=True)
class Host:
    """Where to deploy.

    name: USER@HOST as ssh takes it.
    options: further arguments of ssh.
    root: folder on the board that contains /opt and /etc.
    """

    name: str
    options: tuple[str, ...] = ()
    root: str = "/"

    def __post_init__(self) -> None:
        """Raise ConfigError for a name or folder that a program could take for an option."""
        if not _HOST.fullmatch(self.name):
            raise ConfigError(f"host: expected USER@HOST, such as pi@raspberrypi.local, got {self.name!r}")
        if not self.root.startswith("/"):
            raise ConfigError(f"--root: expected an absolute path on the board, got {self.root!r}")


class Connection:
    """One login to one board, shared by all commands (OpenSSH's ControlMaster)."""

    def __init__(self, host: Host, folder: Path) -> None:
        """Log in, with the connection's socket in `folder`. Raises DeployError if that fails."""
        self._host = host
        share = ("-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/%C", "-o", "ControlPersist=30")
        self._ssh = ["ssh", *_SSH, *share, *host.options]
        self._home = PurePosixPath(host.root) / "opt/edge-centernet"
        self._agent = ""  # its path on the board, once it is there
        # -n: sudo that wants a password fails at once, instead of waiting for one that nobody can type.
        self._sudo = [] if self._plain("id -u").strip() == b"0" else ["sudo", "-n"]

    def close(self) -> None:
        """Log out."""
        command = [*self._ssh, "-O", "exit", "--", self._host.name]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)

    def _plain(self, command: str, stdin: bytes = b"") -> bytes:
        """Run a shell command on the board; returns its stdout."""
        result = subprocess.run(
            [*self._ssh, "--", self._host.name, command], input=stdin, capture_output=True, check=False
        )
        self._expect_success(result.returncode, result.stderr)
        return result.stdout

    def _expect_success(self, status: int, errors: bytes) -> None:
        """Raise DeployError, with the line of `errors` that says why, unless the exit status is 0."""
        if not status:
            return
        lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
        # The agent's own error comes first; what else is there may be ssh's banner or a warning.
        own = [line[len("Error: ") :] for line in lines if line.startswith("Error: ")]
        if own:
            reason = own[-1]
        elif lines and "sudo" in lines[-1]:
            reason = f"{lines[-1]}; the user needs sudo without a password, or deploy as root"
        elif status == 3:  # the agent's exit status for a lost connection
            reason = "the connection was cut; the board went back to its old release"
        elif lines:
            reason = lines[-1]
        else:
            reason = f"the connection ended ({status}); the board goes back to its old release"
        raise DeployError(f"{self._host.name}: {reason}")

    def send_agent(self) -> None:
        """Send the agent first of all: it must be that of this version, not of the board's release."""
        self._agent = self._send(Path(agent.__file__).read_bytes(), "deploy-agent")

    def send_signers(self, path: Path) -> str:
        """Send the signers that a board without any is to trust; returns the file's path there."""
        return self._send(path.read_bytes(), "deploy-signers")

    def _send(self, content: bytes, name: str) -> str:
        """Send a small file, complete or not at all; returns its path on the board.

        Its content is part of its name: of two deploys at a time, each runs and trusts what it sent itself.
        """
        path = f"{self._home}/{name}-{hashlib.sha256(content).hexdigest()[:16]}"
        # The services must be able to pass this folder, whatever the mask of the user who logs in.
        script = (
            'umask 022; mkdir -p "$1" && part=$(mktemp "$2.XXXXXX") || exit; '
            'cat > "$part" && chmod 644 "$part" && mv "$part" "$2" || { rm -f "$part"; exit 1; }'
        )
        self._plain(shlex.join([*self._sudo, "sh", "-c", script, "sh", str(self._home), path]), content)
        return path

    def command(self, *arguments: str) -> list[str]:
        """The ssh command that runs a command of the agent."""
        words = [*self._sudo, "python3", "-I", self._agent, *arguments]
        words += ["--root", self._host.root]
        return [*self._ssh, "--", self._host.name, shlex.join(words)]

    def ask(self, *arguments: str) -> Any:
        """Run a command of the agent; returns the JSON that it prints. Raises DeployError."""
        result = subprocess.run(
            self.command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        self._expect_success(result.returncode, result.stderr)
        return json.loads(result.stdout)

    def follow(self, say: Say, *arguments: str) -> dict[str, Any]:
        """Run a command of the agent and pass on its reports; returns the last one. Raises DeployError.

        An attended command is answered "keep" once it reports that the new release is healthy.
        """
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
        # Named by its content, so that what is there already is the beginning of the same file.
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
            steps, done = (size + _BLOCK - 1) // _BLOCK, have // _BLOCK
            # When the agent refuses, it stops reading. Its own error says why, not the broken pipe.
            with contextlib.suppress(BrokenPipeError):
                while block := file.read(_BLOCK):
                    process.stdin.write(block)
                    done += 1
                    progress("Upload", min(done, steps), steps)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            errors = process.stderr.read()
        self._expect_success(process.returncode, errors)
        return str(self._home / "incoming" / name)


@contextlib.contextmanager
def connect(host: Host) -> Iterator[Connection]:
    """Log in and send the agent. Raises DeployError, or MissingDependency without ssh."""
    if shutil.which("ssh") is None:
        raise MissingDependency("deploy needs ssh: apt-get install openssh-client")
    # A short name, because the path of a socket has about 100 characters at most.
    with tempfile.TemporaryDirectory(prefix="ecn-") as folder:
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
    allow_older: bool = False,
    say: Say = print,
    progress: Progress = unseen,
) -> str:
    """Upload a bundle and run all steps of the agent; returns the release's id.

    Args:
        connection: the board.
        bundle: the tar file.
        signers: whom a board trusts from now on that has trusted nobody yet.
        camera: name of the first camera, on a board that has none.
        watch_s: seconds for which the services are watched.
        allow_older: accept a bundle of a lower version than that of the release that runs.
        say: called with each report of the agent.
        progress: of the upload.

    Raises DeployError; the board's old release then runs.
    """
    options = [] if signers is None else ["--pin", connection.send_signers(signers)]
    options += ["--allow-older"] if allow_older else []
    path = connection.upload(bundle, progress)
    name = str(connection.follow(say, "install", path, *options)["id"])
    connection.follow(say, "activate", name, "--camera", camera, "--watch", str(watch_s), "--attended")
    return name


def roll_back(connection: Connection, watch_s: float, say: Say = print) -> str:
    """Switch to the previous release; returns its id. Raises DeployError."""
    return str(connection.follow(say, "rollback", "--watch", str(watch_s), "--attended")["id"])


def target_of(status: dict[str, Any]) -> Target:
    """The target that fits a board, by the status that its agent reports.

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
    # A board may run a 32-bit system on a 64-bit processor: the system decides.
    if not name or (TARGETS[name].machine == "aarch64" and machine != "aarch64"):
        name = fallback.get(machine, name)
    if not name:
        raise ConfigError(f"board: expected one of {', '.join(fallback)}, got {machine}; no wheels fit it")
    target = TARGETS[name]
    # A Jetson's usual system has an old Python, with one that is new enough beside it.
    python = target.python if target.python in status["pythons"] else status["python"]
    return find_target(name, python)


def deployed_target(status: dict[str, Any]) -> Target:
    """The target of the release that runs on a board. Raises ConfigError if there is none."""
    current = status["releases"].get(status["current"])
    if current is None:
        raise ConfigError("model: expected a board with a release, found none; deploy a whole bundle first")
    return find_target(current["target"], current["python"], current["engine"])


def put_many(inventory: Path, variables: dict[str, object], arguments: Sequence[str] = ()) -> None:
    """Roll a bundle out over an inventory, by Ansible: a few boards first, until one refuses it.

    variables: of the playbook (bundle, signers, camera, watch, allow_older, batches). arguments: further ones
    of ansible-playbook. Raises DeployError if a board refused, and MissingDependency without Ansible.
    """
    if shutil.which("ansible-playbook") is None:
        raise MissingDependency(
            "--inventory needs Ansible: pip install ansible-core, or apt-get install ansible-core"
        )
    values = {**variables, "agent": agent.__file__}
    command = [
        "ansible-playbook",
        "-i",
        str(inventory.absolute()),
        str(PLAYBOOK),
        "-e",
        json.dumps(values),
        *arguments,
    ]
    if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode:
        raise DeployError(
            f"{inventory}: a board refused the release, or could not be reached; those that are not listed "
            "as changed have their old one"
        )
