#!/usr/bin/env python3
"""Boards in QEMU: start an image, talk to it, pull its plug.

    scripts/devices/boot.py seed IMAGE                     user-data for a base image: user pi, our ssh key
    scripts/devices/boot.py up NAME IMAGE [--machine raspi3b]
                                                           start it, or start it again on the disk it had
    scripts/devices/boot.py wait NAME [--text TEXT]        until sshd answers, or the console showed TEXT
    scripts/devices/boot.py ssh NAME [COMMAND...]          as user pi
    scripts/devices/boot.py cut NAME                       power cut
    scripts/devices/boot.py down NAME                      power cut, and throw the disk away

The image file stays as it is: what the board writes goes to a copy-on-write file of its own. Kernel, initrd
and command line are taken out of the image's first partition, where config.txt says they are. The board has
no network but its sshd, at a port of the host's loopback. Everything is in CACHE/boards/NAME: serial.log,
card.qcow2, ssh_config.

A power cut is a SIGKILL of QEMU: what the guest had not given to its disk is lost.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_CACHE_HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = Path(os.environ.get("EDGE_CENTERNET_DEVICES") or _CACHE_HOME / "edge-centernet/devices")
BOARDS = CACHE / "boards"
KEY = BOARDS / "ssh" / "id_ed25519"
USER = "pi"


def _device(options: str) -> list[str]:
    """A PCI device without a boot ROM."""
    return ["-device", f"{options},romfile="]


# What stands for which board. cortex-a72 is a Pi 4's core: code for newer ones dies of SIGILL here as there.
MACHINES = {
    "virt": {
        "qemu": ["-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "2048"],
        "card": ["-drive", "if=none,id=card,format=qcow2,file={card}", *_device("virtio-blk-pci,drive=card")],
        "network": [*_device("virtio-net-pci,netdev=net"), "-device", "virtio-rng-pci"],
        "serial": ["-serial", "file:{log}"],
        "console": "ttyAMA0",
        "dtb": "",
    },
    "raspi3b": {  # QEMU's only 64-bit Pi with Debian 12; four cores and 1 GB, which cannot be changed
        "qemu": ["-M", "raspi3b"],
        "card": ["-drive", "if=sd,format=qcow2,file={card}"],
        "network": ["-device", "usb-net,netdev=net"],
        "serial": ["-serial", "null", "-serial", "file:{log}"],  # the second is what Linux calls ttyS1
        "console": "ttyS1,115200",
        "dtb": "bcm2837-rpi-3-b.dtb",
    },
}


class BoardError(Exception):
    """What was expected, what came, what to do next: one line."""


# The image's first partition.


def first_partition(image: Path) -> int:
    """Where the first partition of an image with an MBR begins, in bytes."""
    with image.open("rb") as file:
        sector = file.read(512)
    if len(sector) < 512 or sector[510:] != b"\x55\xaa":
        raise BoardError(f"{image}: expected a disk image with an MBR")
    return int(struct.unpack_from("<I", sector, 446 + 8)[0]) * 512


def _mtools(tool: str, image: Path, *arguments: str) -> bytes:
    command = [tool, "-i", f"{image}@@{first_partition(image)}", *arguments]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "MTOOLS_SKIP_CHECK": "1"})
    if done.returncode:
        raise BoardError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def read_boot_file(image: Path, name: str) -> bytes:
    """The content of a file of the first partition."""
    return _mtools("mtype", image, f"::/{name}")


def boot_files(image: Path, machine: str, folder: Path) -> tuple[list[str], str]:
    """QEMU's options for kernel, initrd and device tree, copied to `folder`; and the command line."""
    config = read_boot_file(image, "config.txt").decode()
    kernel = re.search(r"^kernel=(\S+)", config, re.MULTILINE)
    initrd = re.search(r"^initramfs[ =](\S+)", config, re.MULTILINE)
    if not kernel or not initrd:
        raise BoardError(f"{image}: expected kernel= and initramfs in config.txt, as build_base.sh has them")
    options = []
    files = {"-kernel": kernel[1], "-initrd": initrd[1], "-dtb": str(MACHINES[machine]["dtb"])}
    for option, name in files.items():
        if name:
            (folder / name).write_bytes(read_boot_file(image, name))
            options += [option, str(folder / name)]
    words = read_boot_file(image, "cmdline.txt").decode().split()
    words = [word for word in words if not word.startswith("console=")]
    return options, " ".join([f"console={MACHINES[machine]['console']}", *words])


def public_key() -> str:
    """Of the key that opens the boards; made at the first call."""
    if not KEY.exists():
        KEY.parent.mkdir(parents=True, exist_ok=True)
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "boards", "-f", str(KEY)]
        subprocess.run(words, check=True)
    return KEY.with_suffix(".pub").read_text().strip()


def user_data(hostname: str) -> str:
    """cloud-init's file for a base image: who may log in. One host key: making RSA keys takes a minute."""
    return f"""#cloud-config
hostname: {hostname}
ssh_genkeytypes: [ed25519]
users:
  - name: {USER}
    groups: [adm, sudo, video]
    shell: /bin/bash
    sudo: "ALL=(ALL) NOPASSWD:ALL"
    ssh_authorized_keys: ["{public_key()}"]
"""


def seed(image: Path, hostname: str) -> None:
    """Write user-data and meta-data onto the first partition of an image file."""
    folder = BOARDS / "seed"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "user-data").write_text(user_data(hostname))
    (folder / "meta-data").write_text(f"instance-id: {hostname}-{int(time.time())}\n")
    _mtools("mcopy", image, "-o", str(folder / "user-data"), str(folder / "meta-data"), "::/")


_NO_CONNECTION, _TRIES = 255, 6  # exit status of ssh itself


class Board:
    """A machine of QEMU with a name. It outlives this process; its state is in files."""

    def __init__(self, name: str) -> None:
        """Nothing runs before `up`."""
        if not re.fullmatch(r"[a-z0-9-]+", name) or name in ("ssh", "seed"):
            raise BoardError(f"expected a name of small letters, digits and -, got {name!r}")
        self.name = name
        self.folder = BOARDS / name
        self.log = self.folder / "serial.log"

    @property
    def pid(self) -> int | None:
        """Of its QEMU; None where it is off."""
        try:
            pid = int((self.folder / "pid").read_text())
            return pid if str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes() else None
        except (OSError, ValueError):
            return None

    @property
    def port(self) -> int:
        """Of its sshd, at the host's loopback."""
        return int(json.loads((self.folder / "board.json").read_text())["port"])

    def up(self, image: Path | None, machine: str = "virt") -> None:
        """Start it. image: needed the first time only; the disk is then kept until `down`."""
        if self.pid:
            raise BoardError(f"expected {self.name} to be off, found it running")
        card = self.folder / "card.qcow2"
        if not card.exists():
            if image is None:
                raise BoardError(f"expected an image for {self.name}, which has no disk yet")
            self._make(image.resolve(), machine)
        state = json.loads((self.folder / "board.json").read_text())
        machine, parts = state["machine"], MACHINES[state["machine"]]
        kernel, words = boot_files(Path(state["image"]), machine, self.folder)
        # The console of each start follows those before.
        with self.log.open("a") as log:
            log.write(f"---- power on, {machine}\n")
        run = self.folder / "console"
        run.unlink(missing_ok=True)
        options = [*parts["qemu"], *parts["card"], *parts["serial"], *parts["network"]]
        command = ["qemu-system-aarch64", *(option.format(card=card, log=run) for option in options)]
        command += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{state['port']}-:22"]
        command += [*kernel, "-append", words, "-display", "none", "-monitor", "none", "-no-reboot"]
        with (self.folder / "qemu.log").open("w") as errors:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": errors, "stderr": errors}
            process = subprocess.Popen(command, start_new_session=True, **pipes)
        (self.folder / "pid").write_text(str(process.pid))
        time.sleep(1.0)
        if process.poll() is not None:
            raise BoardError(f"QEMU ended at once: {(self.folder / 'qemu.log').read_text().strip()}")

    def _make(self, image: Path, machine: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        card = self.folder / "card.qcow2"
        # A card is larger than what is written onto it; QEMU takes SD cards of powers of two only.
        size = 1 << max(32, (image.stat().st_size - 1).bit_length())
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image), "-F", "raw"]
        subprocess.run([*command, f"{card}.part", str(size)], check=True)
        os.replace(f"{card}.part", card)
        port = _free_port()
        about = {"image": str(image), "machine": machine, "port": port}
        (self.folder / "board.json").write_text(json.dumps(about))
        (self.folder / "known_hosts").unlink(missing_ok=True)
        public_key()
        (self.folder / "ssh_config").write_text(
            f"Host {self.name}\n  HostName 127.0.0.1\n  Port {port}\n  User {USER}\n  IdentityFile {KEY}\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {self.folder / 'known_hosts'}\n"
            "  StrictHostKeyChecking accept-new\n  ServerAliveInterval 10\n  ConnectTimeout 20\n"
        )

    def console(self) -> str:
        """What the serial console has shown since power-on."""
        try:
            return (self.folder / "console").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_text(self, text: str, timeout_s: float = 600.0) -> float:
        """Wait until the serial console has shown a regular expression; seconds waited."""
        what = f"{text!r} on the console"
        return self._wait(lambda: re.search(text, self.console()) is not None, what, timeout_s)

    def wait_ssh(self, timeout_s: float = 600.0) -> float:
        """Wait until user pi can log in; seconds waited."""

        def there() -> bool:
            return self.ssh("true", check=False, quiet=True).returncode == 0

        return self._wait(there, "an ssh login", timeout_s)

    def _wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> float:
        began = time.monotonic()
        while not condition():
            if self.pid is None:
                raise BoardError(f"expected {what} of {self.name}, but its QEMU ended; see {self.log}")
            if time.monotonic() - began > timeout_s:
                tail = "\n".join(["the console's end:", *self.console().splitlines()[-5:]])
                raise BoardError(f"expected {what} of {self.name} within {timeout_s:.0f} s; {tail}")
            time.sleep(1.0)
        return time.monotonic() - began

    def ssh(self, command: str, check: bool = True, quiet: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a shell command on it as user pi.

        check: raise BoardError where it fails; a board that is busy with its first start and refuses the
          connection is asked again.
        """
        words = ["ssh", "-F", str(self.folder / "ssh_config"), "-o", "BatchMode=yes", self.name, command]
        for tries_left in reversed(range(_TRIES if check else 1)):
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode != _NO_CONNECTION or not tries_left:
                break
            time.sleep(5.0)
        if done.returncode and check:
            error = done.stderr.strip()[-500:]
            raise BoardError(f"{self.name}: `{command}` ended with {done.returncode}: {error}")
        if not quiet and not check and done.stderr:
            sys.stderr.write(done.stderr)
        return done

    def copy(self, *sources: Path, to: str) -> None:
        """Copy files onto it, into a place that user pi may write to."""
        words = ["scp", "-q", "-F", str(self.folder / "ssh_config"), *map(str, sources), f"{self.name}:{to}"]
        subprocess.run(words, check=True)

    def cut(self) -> None:
        """Pull the plug."""
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, signal.SIGKILL)
        while self.pid is not None:  # a zombie of ours has no command line any more
            time.sleep(0.05)
        with self.log.open("a") as log:
            log.write(self.console() + "\n---- power off\n")
        (self.folder / "console").unlink(missing_ok=True)

    def down(self) -> None:
        """Pull the plug, and forget it."""
        self.cut()
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Exit code 0, or 2 with one line on standard error."""
    as_is = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_is)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("seed")
    verb.add_argument("image", type=Path)
    verb.add_argument("--hostname", default="edge")
    named = {name: verbs.add_parser(name) for name in ("up", "wait", "ssh", "cut", "down")}
    for verb in named.values():
        verb.add_argument("name")
    named["up"].add_argument("image", type=Path, nargs="?")
    named["up"].add_argument("--machine", choices=sorted(MACHINES), default="virt")
    named["wait"].add_argument("--text", help="regular expression on the console, instead of an ssh login")
    named["wait"].add_argument("--timeout", type=float, default=600.0, metavar="SECONDS")
    named["ssh"].add_argument("command", nargs=argparse.REMAINDER)
    try:
        return _run(parser.parse_args())
    except BoardError as error:
        print(f"boot.py: {error}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    if arguments.verb == "seed":
        seed(arguments.image, arguments.hostname)
    else:
        board = Board(arguments.name)
        if arguments.verb == "up":
            board.up(arguments.image, arguments.machine)
            print(f"ssh -F {board.folder / 'ssh_config'} {board.name}")
        elif arguments.verb == "wait":
            text, limit = arguments.text, arguments.timeout
            print(f"{board.wait_text(text, limit) if text else board.wait_ssh(limit):.0f} s")
        elif arguments.verb == "ssh":
            config = str(board.folder / "ssh_config")
            os.execvp("ssh", ["ssh", "-F", config, board.name, *arguments.command])
        else:
            getattr(board, arguments.verb)()
    return 0


if __name__ == "__main__":
    sys.exit(main())
