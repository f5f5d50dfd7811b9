#!/usr/bin/env python3
"""Install releases on a board: receive, unpack, packages, check, switch, watch, and fall back if one fails.

    python3 -I agent.py setup BUNDLE.tar --pin SIGNERS     a bare board, or the first boot of an image
    python3 -I agent.py status

This is one file that needs only the standard library of Python 3.8 or newer, so that it can be sent ahead of
everything else. -I keeps out modules that lie beside it and the settings of whoever calls it. The command
`edge-centernet deploy` and the Ansible role run the same steps one by one:

    1. receive    the bundle, into incoming/; an upload that was cut off is resumed
    2. unpack     signature and hashes first, then the files, beside the release that runs
    3. packages   from the bundle's wheels alone, because the board may have no network
    4. check      the new release must detect in the bundle's photo before anything is switched
    5. switch     one rename, once pending.json says which release to go back to
    6. watch      the camera services must stay up, and an attending computer must say "keep"
    7. fall back  after any failure in 5 or 6, also a kill or a power cut, the old release runs again

On the board, below --root:

    /opt/edge-centernet/releases/ID/    a release: model, check, unit, and venv -> ../../venvs/HASH
    /opt/edge-centernet/venvs/HASH/     Python packages, shared by releases with the same wheels
    /opt/edge-centernet/current         -> releases/ID, replaced by one rename
    /opt/edge-centernet/previous        -> the release before it
    /opt/edge-centernet/pending.json    exists while a new release is on trial
    /etc/edge-centernet/trusted_signers whose bundles are accepted (OpenSSH's allowed_signers format)

Every step can be interrupted: whatever is incomplete has another name or lacks its marker, and the old
release keeps running. docs/decisions/0020-agent-on-the-board.md explains the design.
"""

from __future__ import annotations

import argparse
import fcntl
import glob
import hashlib
import json
import os
import platform
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

NAMESPACE = "edge-centernet-bundle"
SIGNER = "edge-centernet"
SUMS, SIGNATURE, MANIFEST = "SHA256SUMS", "SHA256SUMS.sig", "manifest.json"
UNIT = "edge-centernet@.service"
RECOVER_UNIT = "edge-centernet-recover.service"
REVERT_UNIT = "edge-centernet-revert"
COMPLETE = ".complete"  # the marker of a folder whose content has reached the disk as a whole
RESERVE = 64 << 20  # bytes that an update leaves free
START_S = 240.0  # for a service to become ready; the unit itself allows 180
LOCK_S = 20.0  # for a killed installer to release its lock
KEEP_S = 30.0  # for the attending computer to say that the new release may stay
SENT_S = 86_400.0  # after which files that a deploy sent ahead are of no use any more
CHECK_S = 1800.0  # for the check, in which a Jetson builds its TensorRT engine
# The board's engine may round differently from the one that produced the expected results.
BOX_TOLERANCE = 2.0  # pixels of the photo
SCORE_TOLERANCE = 0.05
# Names become paths and lines of unit files, so that none may hold a slash, a line break or a leading dot.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,120}")
CAMERA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"(\d+(?:\.\d+)*)(?:(a|b|rc)(\d+))?(?:\.post(\d+))?(?:\.dev(\d+))?(?:\+[a-z0-9.]+)?")
_SECTION = 512  # bytes; a tar consists of these
_TAIL = 20 * _SECTION  # the zeros that `tar` fills its last record with
_RECOVER_TEXT = """\
# Back to the release before, where power failed while a new one was on trial.
[Unit]
Description=edge-centernet: end an interrupted update
ConditionPathExists=/opt/edge-centernet/pending.json

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -I /opt/edge-centernet/agent.py recover --boot

[Install]
WantedBy=multi-user.target
"""


class Refused(Exception):
    """A step cannot go on. The message is one line: what was expected, what came, what to do next."""


class Cut(Exception):
    """The connection to the computer that attends the update is gone."""


class Board:
    """The paths below one root, the progress reports, and whether there is a systemd to talk to."""

    def __init__(self, root: Path, as_json: bool = False) -> None:
        """All paths are below `root`; with `as_json` each report is one JSON object."""
        self.root = root
        self.home = root / "opt/edge-centernet"
        self.etc = root / "etc/edge-centernet"
        self.units = root / "etc/systemd/system"
        self.signers = self.etc / "trusted_signers"
        self.pending = self.home / "pending.json"
        self.as_json = as_json
        # Below another root (an image, a test) the systemd of this machine is none of our business.
        self.systemd = root == Path("/") and Path("/run/systemd/system").is_dir()

    def report(self, step: str, text: str, **more: Any) -> None:
        """Print one line for whoever attends the update. Raises Cut where nobody reads it any more."""
        line = json.dumps({"step": step, "text": text, **more}) if self.as_json else f"{step}: {text}"
        try:
            print(line, flush=True)
        except OSError:
            # Falling back reports too; without a new stdout it would fail at its first line.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise Cut from None

    def release(self, name: str) -> str | None:
        """The id that `current` or `previous` points to; None if there is no such link."""
        link = self.home / name
        return Path(os.readlink(link)).name if link.is_symlink() else None

    def has(self, name: Any) -> bool:
        """Whether a release of that id is here as a whole."""
        return (
            isinstance(name, str)
            and _NAME.fullmatch(name) is not None
            and (self.home / "releases" / name / COMPLETE).exists()
        )


# The steps in their order: `receive` is step 1, `install` is 2 to 4, `activate` is 5 to 7


def setup(
    board: Board, bundle: Path, signers: Path | None, camera: str, watch_s: float, allow_older: bool = False
) -> None:
    """Install and activate a bundle on a bare board, with nobody attending."""
    _check_camera(camera)
    name = install(board, bundle, signers, allow_older)
    activate(board, name, watch_s, attended=False, camera=camera)


def install(board: Board, bundle: Path, signers: Path | None = None, allow_older: bool = False) -> str:
    """Steps 2 to 4: verify, unpack and check a bundle beside the release that runs; nothing is switched yet.

    Args:
        board: where to install.
        bundle: the tar file.
        signers: whom a board without a pinned signer trusts from now on, if they signed this bundle.
        allow_older: accept a bundle of a lower version than that of the release that runs.

    Returns the release's id. Raises Refused; the old release and its service are then untouched, and what is
    incomplete is removed now or by the next installation.
    """
    board.report("verify", str(bundle.name))
    first = signers is not None and not board.signers.exists()
    # The whole bundle is verified before a file of it is written or a key is pinned: otherwise a stranger
    # could make a new board trust him by offering his key with a bundle of somebody else.
    manifest = verify(bundle, signers if signers is not None and first else board.signers)
    if signers is not None and first:
        pin(board, signers)
    if not allow_older:
        _check_not_older(board, manifest)
    release = board.home / "releases" / manifest["id"]
    here = (release / COMPLETE).exists()
    if here:
        board.report("install", f"{manifest['id']} is here already")
    else:
        clean(board)  # first, because it may free the space that the new release needs
        _check_fits(board, manifest)
    try:
        if not here:
            _unpack(board, bundle, manifest, release)
        # Also if it is here already: the packages of the system may have changed since.
        check(board, release)
    except BaseException:
        clean(board)
        raise
    if not here:
        os.sync()  # the marker must not reach the disk before what it marks
        write_atomic(release / COMPLETE, b"")
    if bundle.parent == board.home / "incoming":
        bundle.unlink(missing_ok=True)
    board.report("installed", manifest["id"], id=manifest["id"])
    return str(manifest["id"])


def activate(board: Board, name: str, watch_s: float, attended: bool, camera: str | None = None) -> None:
    """Steps 5 to 7: make a release the current one, watch its services, and fall back if they are not well.

    Args:
        board: where it is installed.
        name: id of the release.
        watch_s: seconds for which every service must stay up.
        attended: a computer follows through stdin and stdout, and must say "keep" at the end; if its
            connection is gone before that, the old release comes back.
        camera: name of the first camera, on a board that has none.

    Raises Refused or Cut, in both cases with the old release running.
    """
    if not board.has(name):
        raise Refused(f"{name}: not installed on this board; `status` lists what is")
    if camera is not None:
        _check_camera(camera)
    release = board.home / "releases" / name
    old = board.release("current")
    before = {unit: service_state(unit) for unit in cameras(board)}
    # 7 is prepared before 5. The file is what the next boot finds after a power cut, the timer is what acts
    # when this process is killed; both must exist before anything can go wrong.
    write_atomic(board.pending, json.dumps({"new": name, "old": old}).encode())
    try:
        if board.systemd:
            seconds = int(START_S + watch_s + KEEP_S + 60)  # never before this process is through
            systemctl("stop", f"{REVERT_UNIT}.timer")
            systemctl("reset-failed", f"{REVERT_UNIT}.timer", f"{REVERT_UNIT}.service")
            timer = ["systemd-run", "--quiet", f"--unit={REVERT_UNIT}", f"--on-active={seconds}"]
            _run([*timer, sys.executable, "-I", str(board.home / "agent.py"), "recover"], "systemd-run")
        # 5. Switch
        board.report("switch", f"{old or 'nothing'} -> {name}")
        _switch(board, name)
        _add_camera(board, release, camera)
        _restart(board)
        # 6. Watch, and only then ask the attending computer: its answer means that the board can still be
        # reached with the new release running.
        board.report("watch", f"{', '.join(cameras(board)) or 'no camera is set up'}, for {watch_s:.0f} s")
        _watch(board, before, watch_s, attended)
        board.report("healthy", name, id=name)
        _await_keep(attended)
        # From here on an interruption completes the update: to go back once `previous` is the old release
        # would leave both links at it, and nothing to go back to.
        write_atomic(board.pending, json.dumps({"new": name, "old": old, "confirmed": True}).encode())
    except BaseException as error:
        # 7. Fall back
        _go_back(board, old)
        if isinstance(error, Refused):
            raise Refused(f"{error}; back to {old or 'nothing'}") from None
        raise
    _complete(board, name, old)
    clean(board)
    board.report("done", f"{name} is current", id=name)


# 1. Receive: first, so that no later step depends on the connection


def receive(board: Board, name: str, size: int) -> None:
    """Take a file of `size` bytes from stdin into incoming/NAME, on from where an earlier try stopped.

    `offset` returns how much is here already. Raises Refused for a wrong name or size, or a full disk.
    """
    if not _NAME.fullmatch(name):
        raise Refused(f"receive: expected a plain file name, got {name!r}")
    part, target = board.home / "incoming" / f"{name}.part", board.home / "incoming" / name
    have = offset(board, name)
    if target.exists() and have == size:  # the connection was cut after the last byte
        board.report("received", name)
        return
    free = shutil.disk_usage(str(board.home)).free
    if free < size - have + RESERVE:
        raise Refused(
            f"disk: expected {(size - have + RESERVE) // 1_000_000} MB free, found {free // 1_000_000} MB"
        )
    # A bundle is large and its name is made of its hash: what is left of another one is of no use any more.
    for other in (board.home / "incoming").iterdir():
        if other not in (part, target):
            other.unlink()
    with part.open("ab") as file:
        # One byte too many is enough to know: a sender without end must not fill the disk.
        got = file.tell()
        while got <= size and (block := sys.stdin.buffer.read(min(1 << 20, size + 1 - got))):
            got += file.write(block)
        file.flush()
        os.fsync(file.fileno())
    if got > size:
        part.unlink()
        raise Refused(f"receive: expected {size} bytes, got {got} or more; send again")
    if got < size:
        raise Refused(f"receive: expected {size} bytes, got {got}; send again")
    os.replace(str(part), str(target))
    board.report("received", name)


def offset(board: Board, name: str) -> int:
    """How many bytes of a file are here already; all of them if it is complete."""
    for path in (board.home / "incoming" / name, board.home / "incoming" / f"{name}.part"):
        if path.exists():
            return path.stat().st_size
    return 0


# 2. Unpack: nothing of a bundle is used, not even its manifest, before signature and hashes are verified


def verify(bundle: Path, signers: Path, into: Path | None = None) -> dict[str, Any]:
    """Verify a bundle's signature and the hash of every file; with `into`, write the files to that folder.

    Returns manifest.json with "id" added. Raises Refused at the first thing that is wrong; what has been
    written by then is left to the caller.
    """
    if not bundle.is_file():
        raise Refused(f"{bundle}: no such file; if another deploy has replaced it, start again")
    with bundle.open("rb") as file:
        entries = _entries(file)
        # The list of hashes and its signature come first in the tar, so that one pass is enough.
        sums_text = _first(file, entries, SUMS)
        signature = _first(file, entries, SIGNATURE)
        check_signature(sums_text, signature, signers)
        sums = _parse_sums(sums_text)
        found: set[str] = set()
        content = b""
        if into is not None:
            (into / SUMS).write_bytes(sums_text)
            (into / SIGNATURE).write_bytes(signature)
        for name, size in entries:
            if name not in sums or name in found:  # or in it a second time
                raise Refused(f"{name}: not in the signed list of files; make the bundle again")
            found.add(name)
            head = _copy(file, name, size, sums[name], into)
            content = head if name == MANIFEST else content
    if missing := sorted(set(sums) - found):
        raise Refused(f"bundle: {missing[0]} is missing; copy it again")
    record = _parse_manifest(content)
    # The hash makes the id: two bundles of one version with other content are two releases.
    record["id"] = f"{record['version']}-{hashlib.sha256(sums_text).hexdigest()[:12]}"
    return record


def _entries(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """(name, size) of each entry of the tar, whose content the caller reads before it asks for the next.

    The headers are read here because Python's `tarfile` obeys extended ones (long names, PAX, sparse files,
    sizes of any magnitude) while it looks for the next entry, before there is a signature to verify. A bundle
    has plain files alone, in headers of POSIX 1988. Raises Refused for everything else.
    """
    total = os.fstat(file.fileno()).st_size
    while True:
        header = file.read(_SECTION)
        if len(header) < _SECTION:
            raise _damaged(file, "it has no end")
        if not any(header):
            break
        name, size = _parse_header(file, header)
        end = file.tell() + size
        if end + -size % _SECTION > total:
            raise _damaged(file, f"{name} is not all there")
        yield name, size
        file.seek(end)
        if any(file.read(-size % _SECTION)):
            raise _damaged(file, f"there are bytes between {name} and the next entry")
    if total - file.tell() > _TAIL or any(file.read()):
        raise _damaged(file, "there are bytes after its end")


def _parse_header(file: BinaryIO, header: bytes) -> tuple[str, int]:
    """Name and size in a header of a tar. Raises Refused for anything but a plain file."""
    if header[257:265] != b"ustar\00000":
        raise _damaged(file, "no tar as `edge-centernet bundle` writes it")
    if _octal(file, header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise _damaged(file, "a wrong checksum in a header")
    parts = [part.split(b"\0")[0].decode("latin-1") for part in (header[345:500], header[:100])]
    # A stranger's text, which goes to a terminal.
    name = re.sub(r"[^ -~]", "?", "/".join(filter(None, parts)))
    kind = header[156:157].decode("latin-1")
    if kind != "0":
        raise Refused(
            f"{name}: expected plain files only, got an entry of type {kind!r}; make the bundle again"
        )
    return name, _octal(file, header[124:136])


def _octal(file: BinaryIO, field: bytes) -> int:
    """A number in a header. Other notations, for sizes of more than 8 GB and below 0, are refused."""
    digits = field.rstrip(b" \0")
    if re.fullmatch(rb"[0-7]+", digits) is None:
        raise _damaged(file, "a header with a number that is not octal")
    return int(digits, 8)


def _damaged(file: BinaryIO, reason: str) -> Refused:
    return Refused(
        f"{file.name}: expected a bundle, got a damaged or cut off file, or another kind of one ({reason}); "
        "copy it again"
    )


def _first(file: BinaryIO, entries: Iterator[tuple[str, int]], wanted: str) -> bytes:
    """The content of the next entry, which must be `wanted`, and small because it is not verified yet."""
    name, size = next(entries, ("", 0))
    if name != wanted or size > 1 << 20:
        raise Refused(f"bundle: expected {wanted} at its beginning; make it with `edge-centernet bundle`")
    return file.read(size)


def _parse_manifest(content: bytes) -> dict[str, Any]:
    """The manifest, whose names are used in paths, commands and unit files. Raises Refused."""
    try:
        record: dict[str, Any] = json.loads(content)
        plain = [record[key] for key in ("target", "machine")] + [record["model"]["file"], *record["apt"]]
        right = (
            record["schema"] == 1
            and record["kind"] in ("full", "model")
            and _VERSION.fullmatch(record["version"])
            and re.fullmatch(r"\d\.\d+", record["python"])
            and all(_NAME.fullmatch(name) for name in plain)
            and all(isinstance(number, int) for number in (*record["glibc"], record["installed_bytes"]))
            and isinstance(record["system_packages"], bool)
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        right = None
    if not right:
        raise Refused(
            f"{MANIFEST}: expected schema 1, a version such as 0.1.0 and plain names, got something else; "
            "make the bundle with the version that deploys it"
        )
    return record


def _check_not_older(board: Board, manifest: dict[str, Any]) -> None:
    """Raise Refused where the release that runs has a higher version.

    A signature is valid for ever: without this, whoever keeps an old bundle brings old faults back with it.
    """
    try:
        running = json.loads((board.home / "current" / MANIFEST).read_text())["version"]
        older = _version_order(manifest["version"]) < _version_order(running)
    except (OSError, ValueError, KeyError, TypeError):
        return  # nothing runs that could be newer
    if older:
        raise Refused(
            f"bundle: version {manifest['version']} is older than {running}, which runs; go back with "
            "--rollback, or give --allow-older too"
        )


def _version_order(version: str) -> tuple[Any, ...]:
    """What orders versions as PEP 440 does: 1.0.dev1, 1.0a1, 1.0rc1, 1.0, 1.0.post1. Raises ValueError."""
    match = _VERSION.fullmatch(version)
    if match is None:
        raise ValueError(version)
    numbers, phase, phase_number, post, dev = match.groups()
    release = [int(part) for part in numbers.split(".")]
    while release and release[-1] == 0:  # 1.0 is 1.0.0
        release.pop()
    # A development version without a, b or rc comes before them all.
    phase = phase or ("" if dev and not post else "z")
    number = int(phase_number or 0)
    return (release, phase, number, int(post) if post else -1, int(dev) if dev else float("inf"))


def _parse_sums(text: bytes) -> dict[str, str]:
    """Name -> hash. A name has at most one folder and no leading dot, so nothing can be written elsewhere."""
    sums = {}
    for line in text.decode("ascii", "replace").splitlines():
        match = re.fullmatch(
            r"([0-9a-f]{64})  ((?:[A-Za-z0-9][A-Za-z0-9._+@-]*/)?[A-Za-z0-9][A-Za-z0-9._+@-]*)", line
        )
        if match is None:
            raise Refused(f"{SUMS}: expected 'HASH  NAME', got {line[:80]!r}; make the bundle again")
        if match.group(2) in sums:
            raise Refused(f"{SUMS}: {match.group(2)} stands in it twice; make the bundle again")
        sums[match.group(2)] = match.group(1)
    if MANIFEST not in sums:
        raise Refused(f"{SUMS}: expected {MANIFEST} in it; make the bundle again")
    return sums


def _copy(file: BinaryIO, name: str, size: int, expected: str, into: Path | None) -> bytes:
    """Hash an entry and write it if asked; returns its first MiB, which is all of a small one."""
    digest, head = hashlib.sha256(), b""
    target = Path(os.devnull) if into is None else into / name
    target.parent.mkdir(exist_ok=True)
    with target.open("wb") as output:
        while size and (block := file.read(min(1 << 20, size))):
            digest.update(block)
            output.write(block)
            head = head or block
            size -= len(block)
    if digest.hexdigest() != expected:
        raise Refused(f"{name}: its SHA-256 is not the signed one: damaged or changed; copy the bundle again")
    return head


def check_signature(content: bytes, signature: bytes, signers: Path) -> None:
    """Raise Refused unless one of the signers signed the content (`ssh-keygen -Y verify`)."""
    if not signers.is_file():
        raise Refused(f"{signers}: no signer is trusted on this board yet; pin one with --pin FILE")
    if shutil.which("ssh-keygen") is None:
        raise Refused("expected ssh-keygen 8.1 or newer to verify signatures: apt-get install openssh-client")
    with tempfile.NamedTemporaryFile() as file:
        file.write(signature)
        file.flush()
        # The namespace keeps the same key's signatures for other purposes (git, files) from counting here.
        command = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", SIGNER]
        command += ["-n", NAMESPACE, "-s", file.name]
        result = subprocess.run(
            command, input=content, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    if result.returncode != 0:
        reason = result.stdout.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise Refused(
            f"signature: not by a signer in {signers} ({reason[-1]}); pin the right key or sign again"
        )


def pin(board: Board, signers: Path) -> None:
    """Trust the signers in that file, and only those, from now on."""
    board.etc.mkdir(parents=True, exist_ok=True)
    write_atomic(board.signers, signers.read_bytes())
    board.report("pin", f"from now on only bundles of the signer in {board.signers} are accepted")


def _check_fits(board: Board, manifest: dict[str, Any]) -> None:
    """Raise Refused unless processor, Python, glibc, system packages and free space fit. Writes nothing."""
    machine = platform.machine()
    if manifest["kind"] == "full":
        # armv8l is what a 64-bit kernel calls the processor under a 32-bit system: armv7l wheels run there.
        if machine != manifest["machine"] and (machine, manifest["machine"]) != ("armv8l", "armv7l"):
            raise Refused(
                f"bundle: for {manifest['machine']} ({manifest['target']}), this board is {machine}; "
                "make one with another --target"
            )
        python = find_python(manifest["python"])
        libc, version = platform.libc_ver()
        have = tuple(int(part) for part in version.split(".")[:2]) if libc == "glibc" and version else ()
        if have and have < tuple(manifest["glibc"]):
            need = ".".join(map(str, manifest["glibc"]))
            raise Refused(
                f"bundle: its wheels need glibc {need}, this system has {version}; use a newer system"
            )
        modules = {"python3-numpy": "numpy", "python3-opencv": "cv2"}
        for package in manifest["apt"]:
            probe = [python, "-I", "-c", f"import {modules.get(package, package)}"]
            if subprocess.run(
                probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
            ).returncode:
                raise Refused(
                    f"bundle: expected the system's {package} (no wheels for it here): "
                    f"apt-get install {package}"
                )
    free = shutil.disk_usage(str(board.home)).free
    if free < manifest["installed_bytes"] + RESERVE:
        need_mb, free_mb = (manifest["installed_bytes"] + RESERVE) // 1_000_000, free // 1_000_000
        raise Refused(f"disk: expected {need_mb} MB free below {board.home}, found {free_mb} MB; make room")


def find_python(version: str) -> str:
    """Path of the interpreter of that version ("3.11"). Raises Refused if there is none."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None:
        here = ".".join(map(str, sys.version_info[:2]))
        raise Refused(f"bundle: for Python {version}, this board has {here}; make one with --python {here}")
    return found


def _unpack(board: Board, bundle: Path, manifest: dict[str, Any], release: Path) -> None:
    """Make the folder of the release under a temporary name, complete with its packages, then rename it."""
    board.report("unpack", manifest["id"])
    part = release.with_name(f".{release.name}.part")
    shutil.rmtree(str(part), ignore_errors=True)
    part.mkdir(parents=True)
    # Verified again, now while it is written: the file may have changed since it was read for the manifest.
    if verify(bundle, board.signers, part) != manifest:
        raise Refused(f"{bundle}: has become another bundle meanwhile; start again")
    if manifest["kind"] == "model":
        # A bundle that brings only a model takes packages, unit and settings of the release that runs.
        current = board.home / "current"
        if not (current / COMPLETE).exists():
            raise Refused("model: no release is installed on this board yet; deploy a whole bundle first")
        venv = (current / "venv").resolve()
        for name in (UNIT, "camera.toml", "requirements.txt"):
            source = current / name
            if source.exists() and not (part / name).exists():
                shutil.copy2(str(source), str(part / name))
    else:
        venv = _make_venv(board, manifest, part)
    shutil.rmtree(str(part / "wheels"), ignore_errors=True)
    os.symlink(os.path.relpath(str(venv), str(release)), str(part / "venv"))
    model = manifest["model"]["file"]
    (part / "environment").write_text(f"EDGE_CENTERNET_MODEL=/opt/edge-centernet/current/model/{model}\n")
    shutil.rmtree(str(release), ignore_errors=True)
    os.replace(str(part), str(release))


# 3. Packages: in a folder named by the hash of what is in it, so that no release ever changes another's


def _make_venv(board: Board, manifest: dict[str, Any], part: Path) -> Path:
    """Make the virtual environment of the bundle's wheels, without a network; an equal one is used again."""
    requirements = (part / "requirements.txt").read_bytes()
    python = find_python(manifest["python"])
    key = hashlib.sha256(requirements + repr((python, manifest["system_packages"])).encode()).hexdigest()[:16]
    venv = board.home / "venvs" / key
    if (venv / COMPLETE).exists():
        board.report("packages", "as in an earlier release")
        return venv
    board.report("packages", "installing, from the bundle only")
    shutil.rmtree(str(venv), ignore_errors=True)
    options = ["--system-site-packages"] if manifest["system_packages"] else []
    # Without pip: Debian installs the module venv without ensurepip. The bundle's pip runs out of its wheel.
    _run([python, "-I", "-m", "venv", "--without-pip", *options, str(venv)], "venv")
    pip = next((part / "wheels").glob("pip-*.whl"))
    command = [str(venv / "bin/python"), "-I", str(pip / "pip"), "install", "--quiet"]
    # The lock is complete and every hash is signed: pip neither resolves nor fetches anything.
    command += ["--no-index", "--no-deps", "--require-hashes", "--find-links", str(part / "wheels")]
    # Packages of the system do not stand in for those of the bundle, which were tested together.
    command += ["--ignore-installed", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--root-user-action=ignore", "-r", str(part / "requirements.txt")]
    _run(command, "pip")
    os.sync()  # as in `install`: content first, then the marker
    write_atomic(venv / COMPLETE, b"")
    return venv


def _run(command: list[str], what: str) -> None:
    """Run a program. Raises Refused with the last error it printed unless it ends with 0."""
    # Settings of whoever called us (an index, a path) must not decide what is installed.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON"))}
    result = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=environment,
        check=False,
    )
    if result.returncode:
        lines = result.stdout.decode("utf-8", "replace").strip().splitlines()
        # pip's last error is its reason, unless that is "ERROR: Exception:": then a traceback follows, and
        # the last line of the output is the reason.
        errors = [line for line in lines if line.startswith("ERROR") and line != "ERROR: Exception:"] or lines
        reason = errors[-1] if errors else f"exit status {result.returncode}"
        raise Refused(f"{what}: {reason[:300]}")


# 4. Check: with the real packages, engine and model, while the old release still runs


def check(board: Board, release: Path) -> None:
    """Run the release's model on the bundle's photo. Raises Refused unless it detects what is expected.

    `edge-centernet detect` starts with the model's self-test, in a process of its own that may crash.
    """
    board.report("check", "the model runs on this board, on the photo of the bundle")
    expected = json.loads((release / "check/expected.json").read_text())
    if not _NAME.fullmatch(expected["model"]):
        raise Refused(f"check: expected a plain file name of the model, got {expected['model']!r}")
    started = time.monotonic()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    # TensorRT builds its engine in the check and the service finds it in this cache: a build takes minutes,
    # far longer than a service may take to start.
    environment["EDGE_CENTERNET_ENGINE_CACHE"] = str(board.home / "engines")
    command = [str(release / "venv/bin/python"), "-I", "-m", "edge_centernet", "detect", "--format", "jsonl"]
    command += ["--source", str(release / "check/photo.jpg"), "--threshold", str(expected["threshold"])]
    command += ["--model", str(release / "model" / expected["model"]), "--runtime", expected["runtime"]]
    with tempfile.TemporaryDirectory() as folder:
        environment.update(HOME=folder, XDG_CACHE_HOME=folder)
        try:
            result = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=CHECK_S,
                cwd=folder,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Refused(f"check: no answer within {CHECK_S:.0f} s; the old release stays") from None
    log = result.stderr.decode("utf-8", "replace").strip().splitlines()
    if result.returncode:
        reason = next((line for line in log if "cannot be relied on" in line), (log or [""])[-1])
        raise Refused(f"check: detect ended with {result.returncode}: {reason[:300]}; the old release stays")
    using = [line for line in log if line.startswith("Using ")]
    board.report("engine", using[-1].split(": ")[0] if using else "unknown")
    try:
        found = json.loads(result.stdout.decode().splitlines()[0])["detections"]
    except (ValueError, IndexError, KeyError):
        raise Refused("check: detect gave no result; the old release stays") from None
    if problem := differs(found, expected):
        raise Refused(f"check: {problem}; the old release stays")
    board.report(
        "checked", f"{len(found)} objects as expected, in {time.monotonic() - started:.1f} s with start-up"
    )


def differs(found: list[dict[str, Any]], expected: dict[str, Any]) -> str | None:
    """Compare detections by class, box and score; returns the first difference, or None.

    A detection whose score is within SCORE_TOLERANCE of the threshold may be missing or be added.
    """
    left, pixels = list(found), expected.get("box_tolerance", BOX_TOLERANCE)
    for wanted in expected["detections"]:
        match = next(
            (
                item
                for item in left
                if item["class"] == wanted["class"]
                and abs(item["score"] - wanted["score"]) <= SCORE_TOLERANCE
                and max(abs(x - y) for x, y in zip(item["box"], wanted["box"])) <= pixels  # noqa: B905  # Python 3.8
            ),
            None,
        )
        if match is not None:
            left.remove(match)
        elif wanted["score"] > expected["threshold"] + SCORE_TOLERANCE:
            return f"expected {wanted['class']} at {wanted['box']}, not found"
    for item in left:
        if item["score"] > expected["threshold"] + SCORE_TOLERANCE:
            return f"found {item['class']} at {item['box']}, not expected"
    return None


# 5. Switch: as short as it can be, because it is the one moment at which the old release is not current


def _switch(board: Board, name: str | None) -> None:
    """Point `current` to releases/NAME and install that release's unit file; None removes `current`."""
    if name is None:
        (board.home / "current").unlink(missing_ok=True)
        return
    _point(board, "current", name)
    board.units.mkdir(parents=True, exist_ok=True)
    write_atomic(board.units / UNIT, (board.home / "releases" / name / UNIT).read_bytes())


def _point(board: Board, link: str, name: str) -> None:
    """LINK -> releases/NAME by one rename that survives a power cut."""
    new = board.home / f".{link}.new"
    new.unlink(missing_ok=True)
    os.symlink(f"releases/{name}", str(new))
    os.replace(str(new), str(board.home / link))
    _sync_folder(board.home)


def _add_camera(board: Board, release: Path, camera: str | None) -> None:
    """Set up a first camera where there is none: its configuration from the bundle, enabled at boot."""
    write_atomic(board.units / RECOVER_UNIT, _RECOVER_TEXT.encode())
    _enable(board, RECOVER_UNIT, RECOVER_UNIT)
    if camera is None or cameras(board):
        return
    config = board.etc / f"{camera}.toml"
    if not config.exists():
        write_atomic(config, (release / "camera.toml").read_bytes())
        config.chmod(0o644)  # the service runs as a user that systemd makes up
    _enable(board, UNIT, f"edge-centernet@{camera}.service")


def _check_camera(name: str) -> None:
    """Raise Refused unless the name can stand in those of a file and of a unit."""
    if not CAMERA.fullmatch(name):
        raise Refused(f"camera: expected a name of letters, digits, '.', '_' and '-', got {name!r}")


def _enable(board: Board, unit: str, name: str) -> None:
    """What `systemctl enable` does, also where no systemd runs (an image, a chroot)."""
    wants = board.units / "multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    if not (wants / name).is_symlink():
        os.symlink(f"/etc/systemd/system/{unit}", str(wants / name))


def _restart(board: Board) -> None:
    """Start the cameras again with what is current now."""
    if board.systemd:
        systemctl("daemon-reload")
        for unit in cameras(board):
            # This also sets systemd's counter of restarts to zero, which `ill` reads.
            systemctl("reset-failed", unit)
            systemctl("restart", "--no-block", unit)


# 6. Watch: what the check cannot see, a camera and a service that runs for a while


def _watch(board: Board, before: dict[str, dict[str, str]], watch_s: float, attended: bool) -> None:
    """Wait until every service has been up for watch_s seconds.

    Raises Refused at the first one that is not well, and Cut when the attending computer is gone.
    """
    if not board.systemd:
        return
    units = cameras(board)
    started = time.monotonic()
    ready: dict[str, dict[str, str]] = {}
    while True:
        for unit in units:
            state = service_state(unit)
            # Right after the restart systemd may still show the old run; a new one has another id.
            started_anew = state["InvocationID"] != before.get(unit, {}).get("InvocationID", "")
            if started_anew and state["ActiveState"] == "active" and unit not in ready:
                ready[unit] = state
            problem = ill(unit, state, ready.get(unit)) if started_anew else None
            if problem is None and unit not in ready and time.monotonic() - started > START_S:
                problem = f"{unit}: not ready after {START_S:.0f} s"
            if problem:
                raise Refused(f"watch: {problem}")
        if len(ready) < len(units):
            end = time.monotonic() + watch_s
        elif time.monotonic() >= end:
            break
        if not attended:
            time.sleep(0.5)
        elif select.select([0], [], [], 0.5)[0] and not os.read(0, 1):  # the end of stdin
            raise Cut
    for unit in units:
        _judge_end(unit, service_state(unit), before.get(unit))


def ill(unit: str, state: dict[str, str], ready: dict[str, str] | None) -> str | None:
    """Why a service is not well, None if it is. ready: its state when it became ready, None before that."""
    if (
        state["ActiveState"] == "failed"
        or state["Result"] not in ("", "success")
        or int(state["NRestarts"] or 0) > 0
    ):
        reason = f"{state['Result'] or 'failed'}, exit status {state['ExecMainStatus']}"
        return f"{unit} ended ({reason}){last_words(unit)}"
    # systemd restarts a service faster than we look: another process is as bad as none.
    if ready is not None and (state["ActiveState"] != "active" or state["MainPID"] != ready["MainPID"]):
        return f"{unit} did not stay up ({state['ActiveState']})"
    return None


def _judge_end(unit: str, state: dict[str, str], before: dict[str, str] | None) -> None:
    """Raise Refused where a camera gave results under the old release and gives none now.

    A camera that was lost before says nothing about the new release.
    """
    if before and delivers(before) and not delivers(state):
        raise Refused(
            f"watch: {unit} gives no results ({state['StatusText'] or 'no status'}), the old release did"
        )


def delivers(state: dict[str, str]) -> bool:
    """Whether a service's status line reports results: "29.8 fps; person 2"."""
    found = re.match(r"(\d+\.\d) fps", state["StatusText"])
    return state["ActiveState"] == "active" and found is not None and float(found.group(1)) > 0


def _await_keep(attended: bool) -> None:
    """Wait for "keep" on stdin. Raises Cut when it does not come within KEEP_S seconds."""
    if not attended:
        return
    text, end = b"", time.monotonic() + KEEP_S
    while b"keep\n" not in text:
        if not select.select([0], [], [], max(0.0, end - time.monotonic()))[0]:
            raise Cut
        block = os.read(0, 64)
        if not block:
            raise Cut
        text += block


# 7. Fall back: by this process, by systemd's timer, by the next command or at boot, all by the same functions


def _go_back(board: Board, old: str | None) -> None:
    """Make the old release run again; where there was none, nothing runs."""
    if old is None:
        for unit in cameras(board):
            if board.systemd:
                systemctl("stop", "--no-block", unit)
            (board.units / "multi-user.target.wants" / unit).unlink(missing_ok=True)
    _switch(board, old)
    _restart(board)
    # Last: a power cut before this line makes the next boot go back once more, which does no harm.
    _forget_pending(board)


def _complete(board: Board, name: str, old: str | None) -> None:
    """End a trial that was confirmed: the release before is what `rollback` goes to."""
    if old is not None and old != name:
        _point(board, "previous", old)
    _forget_pending(board)


def _forget_pending(board: Board) -> None:
    """End the trial: first the file, then the timer, which does nothing without the file."""
    board.pending.unlink(missing_ok=True)
    _sync_folder(board.home)
    if board.systemd:
        systemctl("stop", f"{REVERT_UNIT}.timer")


def recover(board: Board, boot: bool = False) -> None:
    """Go back to the old release if an update was cut off in its trial; complete one that was confirmed.

    boot: no camera has been started yet, so none is restarted.
    """
    if not board.pending.exists():
        return
    try:
        trial = json.loads(board.pending.read_text())
        new, old, confirmed = trial["new"], trial["old"], trial.get("confirmed", False)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # not whole on the disk: nothing was switched yet
        new = old = board.release("current")
        confirmed = False
    if confirmed and new == board.release("current"):
        _complete(board, new, old)
        board.report("recovered", f"{new} was confirmed and stays")
        return
    if old is not None and not board.has(
        old
    ):  # somebody removed it: whatever is whole is better than nothing
        old = next(filter(board.has, (board.release("current"), board.release("previous"))), None)
    if boot and board.systemd:
        _switch(board, old)
        systemctl("daemon-reload")
        _forget_pending(board)
    else:
        _go_back(board, old)
    board.report("recovered", f"an update was cut off; back to {old or 'nothing'}")


def clean(board: Board) -> None:
    """Remove all releases but the current and the previous one, and packages that neither of them uses."""
    names = {board.release("current"), board.release("previous")}
    used = set()
    for release in (board.home / "releases").glob("*"):
        if release.name in names:
            used.add((release / "venv").resolve().name)
        else:
            _remove(release)
    for venv in (board.home / "venvs").glob("*"):
        if venv.name not in used:
            _remove(venv)
    for sent in board.home.glob("deploy-*-*"):  # what deploys that ended long ago have sent ahead
        if sent.name != Path(__file__).name and time.time() - sent.stat().st_mtime > SENT_S:
            sent.unlink()


def _remove(folder: Path) -> None:
    """Remove a folder, its marker first: after a power cut the rest of it must not pass for the whole."""
    with suppress(OSError):
        (folder / COMPLETE).unlink()
        _sync_folder(folder)
    shutil.rmtree(str(folder), ignore_errors=True)


# systemd


def cameras(board: Board) -> list[str]:
    """The camera services that start at boot."""
    wants = glob.glob(str(board.units / "*.wants/edge-centernet@?*.service"))
    return sorted({Path(path).name for path in wants})


def service_state(unit: str) -> dict[str, str]:
    """What systemd knows about a service; empty texts where there is none."""
    keys = ("InvocationID", "ActiveState", "MainPID", "NRestarts", "Result", "ExecMainStatus", "StatusText")
    command = ["systemctl", "show", unit, "-p", ",".join(keys)]
    state = dict.fromkeys(keys, "")
    if shutil.which("systemctl"):
        output = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
        ).stdout
        for line in output.decode("utf-8", "replace").splitlines():
            key, _, value = line.partition("=")
            state[key] = value
    return state


def last_words(unit: str) -> str:
    """The last error that a service logged, as the end of a message; "" if there is none."""
    command = ["journalctl", "-u", unit, "-n", "20", "-o", "cat", "--no-pager"]
    if shutil.which("journalctl") is None:
        return ""
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
    errors = [line for line in output.decode("utf-8", "replace").splitlines() if line.startswith("Error: ")]
    return f": {errors[-1][7:300]}" if errors else ""


def systemctl(*arguments: str) -> None:
    """Run systemctl. Its exit status is ignored: `service_state` shows what came of it."""
    subprocess.run(
        ["systemctl", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )


# Files


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file that is complete or absent, also after a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(str(temporary), str(path))
    _sync_folder(path.parent)  # the rename itself is in the folder, which has a cache of its own


def _sync_folder(path: Path) -> None:
    descriptor = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(board: Board, wait_s: float = 0.0) -> Iterator[None]:
    """Make the folders and hold the lock of an update. Raises Refused if it is taken for wait_s seconds."""
    for folder in ("releases", "venvs", "incoming", "engines"):
        (board.home / folder).mkdir(parents=True, exist_ok=True)
    board.etc.mkdir(parents=True, exist_ok=True)
    with (board.home / ".lock").open("w") as file:
        end = time.monotonic() + wait_s
        while True:
            try:
                # The kernel releases this lock when its process ends, however it ends.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= end:
                    raise Refused(f"{board.home}: another update is running; wait for it") from None
                time.sleep(0.2)
        yield


# Commands


def status(board: Board) -> dict[str, Any]:
    """The releases, the cameras, and what this board is."""
    releases = [path for path in (board.home / "releases").glob("*") if (path / COMPLETE).exists()]
    # `system.machine` reads the same. This is a copy, because this file runs without the package.
    return {
        "machine": platform.machine(),
        "python": ".".join(map(str, sys.version_info[:2])),
        "pythons": [v for v in ("3.10", "3.11", "3.12", "3.13") if shutil.which(f"python{v}")],
        "model": _text(board.root / "proc/device-tree/model"),
        "glibc": platform.libc_ver()[1],
        "jetson": _text(board.root / "etc/nv_tegra_release").split("\n")[0],
        "current": board.release("current"),
        "previous": board.release("previous"),
        "pending": board.pending.exists(),
        "pinned": board.signers.exists(),
        "releases": {path.name: json.loads((path / MANIFEST).read_text()) for path in releases},
        "cameras": {unit: service_state(unit) for unit in cameras(board)},
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="agent.py", description="Install edge-centernet releases on this board."
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--root", type=Path, default=Path("/"), help="folder that contains /opt and /etc")
    shared.add_argument("--json", action="store_true", help="print one JSON object per line")
    commands = top.add_subparsers(dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, parents=[shared])

    older = "accept a bundle of a lower version than that of the release that runs"
    one = add("setup", "pin, verify, install, check, switch and start")
    one.add_argument("bundle", type=Path)
    one.add_argument("--pin", type=Path, help="file of trusted signers, for a board without one")
    one.add_argument("--camera", default="camera", help="name of the first camera")
    one.add_argument("--watch", type=float, default=15.0, help="seconds for which the cameras are watched")
    one.add_argument("--allow-older", action="store_true", help=older)
    one = add("install", "verify, install and check beside the release that runs")
    one.add_argument("bundle", type=Path)
    one.add_argument("--pin", type=Path, help="file of trusted signers, for a board without one")
    one.add_argument("--allow-older", action="store_true", help=older)
    for name, text in (
        ("activate", "switch to an installed release"),
        ("rollback", "switch to the previous release"),
    ):
        one = add(name, text)
        if name == "activate":
            one.add_argument("id")
            one.add_argument(
                "--camera", default=None, help="name of the first camera, on a board without one"
            )
        one.add_argument(
            "--watch", type=float, default=15.0, help="seconds for which the cameras are watched"
        )
        one.add_argument(
            "--attended", action="store_true", help="go back unless stdin says 'keep' at the end"
        )
    one = add("recover", "end an update that was cut off")
    one.add_argument("--boot", action="store_true", help="run before the cameras are started")
    one = add("receive", "take a file from stdin")
    one.add_argument("name")
    one.add_argument("size", type=int)
    add("offset", "print how many bytes of a file are here").add_argument("name")
    add("status", "print what is installed and how it is running")
    return top


def run(board: Board, options: argparse.Namespace) -> None:
    """Run one command. Raises Refused or Cut."""
    if options.command == "status":
        print(json.dumps(status(board)))
        return
    if options.command == "offset":
        print(offset(board, options.name))
        return
    # What ends a broken update must not give up because its killed installer is not quite gone yet.
    with locked(board, LOCK_S if options.command == "recover" else 0.0):
        # This very file stays on the board: the timer and the unit of the next boot run it.
        content, kept = Path(__file__).read_bytes(), board.home / "agent.py"
        if not kept.exists() or kept.read_bytes() != content:
            write_atomic(kept, content)
        recover(board, getattr(options, "boot", False))
        if options.command == "rollback":
            options.id, options.camera = board.release("previous"), None
            if options.id is None:
                raise Refused("rollback: no release before this one is on the board")
        commands: dict[str, Callable[[], Any]] = {
            "setup": lambda: setup(
                board, options.bundle, options.pin, options.camera, options.watch, options.allow_older
            ),
            "install": lambda: install(board, options.bundle, options.pin, options.allow_older),
            "activate": lambda: activate(board, options.id, options.watch, options.attended, options.camera),
            "rollback": lambda: activate(board, options.id, options.watch, options.attended),
            "receive": lambda: receive(board, options.name, options.size),
            "recover": lambda: None,
        }
        commands[options.command]()


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, 2 after one line on stderr, 3 if the attending computer is gone, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    # The services run as users that systemd makes up: they must be able to read what root writes here,
    # whatever root's own mask is, and nobody else must be able to change it.
    os.umask(0o022)
    board = Board(options.root.absolute(), options.json)
    try:
        run(board, options)
    except Refused as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except Cut:
        return 3
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # disk full, no permission
        print(f"Error: {error.filename or 'disk'}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
