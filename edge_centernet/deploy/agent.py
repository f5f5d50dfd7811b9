#!/usr/bin/env python3
"""What runs on the board: verify a bundle, install it beside the old release, check, switch, watch, fall back.

    python3 agent.py setup BUNDLE.tar --pin SIGNERS     a bare board, or the first boot of an image
    python3 agent.py status

One file, the standard library, Python 3.8 or newer, so that it can be sent ahead of everything else.
`edge-centernet deploy` and the Ansible role call the same steps one by one.

On the board (below --root):

    /opt/edge-centernet/releases/ID/    a release: model, check, unit, and venv -> ../../venvs/HASH
    /opt/edge-centernet/venvs/HASH/     Python packages, shared by releases with the same wheels
    /opt/edge-centernet/current         -> releases/ID, replaced by one rename; previous: the release before
    /opt/edge-centernet/pending.json    there while a new release is on trial; who finds it after a crash goes
    back /etc/edge-centernet/trusted_signers whose bundles are taken (OpenSSH's allowed_signers format)

Every step can be cut off: what is half made has another name or lacks its marker, and the old release goes
on.
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
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMESPACE = "edge-centernet-bundle"
SIGNER = "edge-centernet"
SUMS, SIGNATURE, MANIFEST = "SHA256SUMS", "SHA256SUMS.sig", "manifest.json"
UNIT, RECOVER_UNIT, REVERT_UNIT = (
    "edge-centernet@.service",
    "edge-centernet-recover.service",
    "edge-centernet-revert",
)
COMPLETE = ".complete"  # the marker of a folder that was written to its end, and reached the disk
RESERVE = 64 << 20  # bytes that an update leaves free
START_S = 240.0  # for a service to be ready; the unit allows 180
LOCK_S = 20.0  # for the installer that is to be ended
KEEP_S = 30.0  # for the word of an attending computer that the new release may stay
CHECK_S = 1800.0  # for the check; a Jetson builds its TensorRT engine in it
# The engines of board and computer may differ in a step.
BOX_TOLERANCE = 2.0  # pixels of the photo
SCORE_TOLERANCE = 0.05
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,120}")
_RECOVER_TEXT = """\
# Back to the release before, where power failed while a new one was on trial.
[Unit]
Description=edge-centernet: end an interrupted update
ConditionPathExists=/opt/edge-centernet/pending.json

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /opt/edge-centernet/agent.py recover --boot

[Install]
WantedBy=multi-user.target
"""


class Refused(Exception):
    """What was expected, what came, what to do next: one line."""


class Cut(Exception):
    """The computer that attends the update is gone."""


class Board:
    """The places below one root, what is told on the way, and the service manager where there is one."""

    def __init__(self, root: Path, as_json: bool = False) -> None:
        """root: what the paths are below; as_json: tell in JSON lines."""
        self.root = root
        self.home = root / "opt/edge-centernet"
        self.etc = root / "etc/edge-centernet"
        self.units = root / "etc/systemd/system"
        self.signers = self.etc / "trusted_signers"
        self.pending = self.home / "pending.json"
        self.as_json = as_json
        self.systemd = root == Path("/") and Path("/run/systemd/system").is_dir()

    def tell(self, step: str, text: str, **more: Any) -> None:
        """One line for whoever looks on; raises Cut where nobody does any more."""
        line = json.dumps({"step": step, "text": text, **more}) if self.as_json else f"{step}: {text}"
        try:
            print(line, flush=True)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise Cut from None

    def release(self, name: str) -> str | None:
        """The id that `current` or `previous` points to; None without one."""
        link = self.home / name
        return Path(os.readlink(link)).name if link.is_symlink() else None


# Verifying


def verify(bundle: Path, signers: Path, into: Path | None = None) -> dict[str, Any]:
    """The manifest of a bundle whose signature and hashes are right; its files are written to the folder `into`.

    Returns manifest.json with "id" added. Raises Refused at the first thing that is wrong; what was written
    by then is left to the caller.
    """
    try:
        with tarfile.open(str(bundle), "r:") as archive:
            return _verified(archive, signers, into)
    except (tarfile.TarError, EOFError) as error:
        raise Refused(
            f"{bundle}: expected a bundle, got a damaged or cut off file ({error}); copy it again"
        ) from None
    except FileNotFoundError:
        raise Refused(f"{bundle}: no such file") from None


def _verified(archive: tarfile.TarFile, signers: Path, into: Path | None) -> dict[str, Any]:
    sums_text = _first(archive, SUMS)
    signature = _first(archive, SIGNATURE)
    check_signature(sums_text, signature, signers)
    sums = _parse_sums(sums_text)
    found: set[str] = set()
    manifest = b""
    if into is not None:
        (into / SUMS).write_bytes(sums_text)
        (into / SIGNATURE).write_bytes(signature)
    for member in archive:
        if member.name in (SUMS, SIGNATURE) and member.name not in found:
            continue
        if not member.isreg() or member.name not in sums or member.name in found:
            raise Refused(f"{member.name}: not in the signed list of files; make the bundle again")
        found.add(member.name)
        content = _copy(archive, member, sums[member.name], into)
        manifest = content if member.name == MANIFEST else manifest
    if missing := sorted(set(sums) - found):
        raise Refused(f"bundle: {missing[0]} is missing; copy it again")
    record: dict[str, Any] = json.loads(manifest)
    record["id"] = f"{record['version']}-{hashlib.sha256(sums_text).hexdigest()[:12]}"
    return record


def _first(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.next()
    if member is None or member.name != name or not member.isreg() or member.size > 1 << 20:
        raise Refused(f"bundle: expected {name} at its beginning; make it with `edge-centernet bundle`")
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _parse_sums(text: bytes) -> dict[str, str]:
    """Name -> hash. A name is a relative path of plain words, so nothing can be written elsewhere."""
    sums = {}
    for line in text.decode("ascii", "replace").splitlines():
        match = re.fullmatch(
            r"([0-9a-f]{64})  ((?:[A-Za-z0-9][A-Za-z0-9._+@-]*/)?[A-Za-z0-9][A-Za-z0-9._+@-]*)", line
        )
        if match is None:
            raise Refused(f"{SUMS}: expected 'HASH  NAME', got {line[:80]!r}; make the bundle again")
        sums[match.group(2)] = match.group(1)
    if MANIFEST not in sums:
        raise Refused(f"{SUMS}: expected {MANIFEST} in it; make the bundle again")
    return sums


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, expected: str, into: Path | None) -> bytes:
    """Hash a member, write it if asked; returns the content of small ones."""
    file = archive.extractfile(member)
    assert file is not None
    digest, head = hashlib.sha256(), b""
    with _create(Path(os.devnull) if into is None else into / member.name) as target:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
            target.write(block)
            head = head or block
    if digest.hexdigest() != expected:
        raise Refused(
            f"{member.name}: its SHA-256 is not the signed one: damaged or changed; copy the bundle again"
        )
    return head


def _create(path: Path) -> Any:
    path.parent.mkdir(exist_ok=True)
    return path.open("wb")


def check_signature(content: bytes, signature: bytes, signers: Path) -> None:
    """Raises Refused unless one of the signers signed the content (`ssh-keygen -Y verify`)."""
    if not signers.is_file():
        raise Refused(f"{signers}: no signer is trusted on this board yet; pin one with --pin FILE")
    if shutil.which("ssh-keygen") is None:
        raise Refused("expected ssh-keygen 8.1 or newer to verify signatures: apt-get install openssh-client")
    with tempfile.NamedTemporaryFile() as file:
        file.write(signature)
        file.flush()
        command = [
            "ssh-keygen",
            "-Y",
            "verify",
            "-f",
            str(signers),
            "-I",
            SIGNER,
            "-n",
            NAMESPACE,
            "-s",
            file.name,
        ]
        result = subprocess.run(
            command, input=content, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    if result.returncode != 0:
        reason = result.stdout.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise Refused(
            f"signature: not by a signer in {signers} ({reason[-1]}); pin the right key or sign again"
        )


def pin(board: Board, signers: Path) -> None:
    """Trust the signers in that file from now on: the first ones, and only those."""
    board.etc.mkdir(parents=True, exist_ok=True)
    write_atomic(board.signers, signers.read_bytes())
    board.tell("pin", f"from now on bundles are taken from the signer in {board.signers} only")


# Installing


def install(board: Board, bundle: Path, signers: Path | None = None) -> str:
    """Verify, unpack, install and check a bundle beside what runs; returns its id. Nothing is switched.

    signers: whom a board without a pinned signer trusts from now on, if the bundle is theirs. Raises Refused;
      the old
    release and its service are not touched, what was half made is removed next time.
    """
    board.tell("verify", str(bundle.name))
    first = signers is not None and not board.signers.exists()
    manifest = verify(
        bundle, signers if signers is not None and first else board.signers
    )  # nothing is kept before
    if signers is not None and first:
        pin(board, signers)
    release = board.home / "releases" / manifest["id"]
    here = (release / COMPLETE).exists()
    if here:
        board.tell("install", f"{manifest['id']} is here already")
    else:
        clean(board)
        _check_fits(board, manifest)
    try:
        if not here:
            _unpack(board, bundle, manifest, release)
        check(board, release)
    except BaseException:
        clean(board)
        raise
    if not here:
        os.sync()  # a marker must not reach the disk before what it marks
        write_atomic(release / COMPLETE, b"")
    if bundle.parent == board.home / "incoming":
        _unlink(bundle)
    board.tell("installed", manifest["id"], id=manifest["id"])
    return str(manifest["id"])


def _check_fits(board: Board, manifest: dict[str, Any]) -> None:
    """Processor, Python, glibc and room, told before anything is written."""
    machine = platform.machine()
    if manifest["kind"] == "full":
        if machine != manifest["machine"] and (machine, manifest["machine"]) != ("armv8l", "armv7l"):
            raise Refused(
                f"bundle: for {manifest['machine']} ({manifest['target']}), this board is {machine}; "
                "make one with another --target"
            )
        find_python(manifest["python"])
        libc, version = platform.libc_ver()
        have = tuple(int(part) for part in version.split(".")[:2]) if libc == "glibc" and version else ()
        if have and have < tuple(manifest["glibc"]):
            need = ".".join(map(str, manifest["glibc"]))
            raise Refused(
                f"bundle: its wheels need glibc {need}, this system has {version}; use a newer system"
            )
        _check_system_packages(manifest)
    free = shutil.disk_usage(str(board.home)).free
    if free < manifest["installed_bytes"] + RESERVE:
        need_mb, free_mb = (manifest["installed_bytes"] + RESERVE) // 1_000_000, free // 1_000_000
        raise Refused(f"disk: expected {need_mb} MB free below {board.home}, found {free_mb} MB; make room")


def _check_system_packages(manifest: dict[str, Any]) -> None:
    modules = {"python3-numpy": "numpy", "python3-opencv": "cv2"}
    for package in manifest["apt"]:
        probe = [find_python(manifest["python"]), "-c", f"import {modules.get(package, package)}"]
        if subprocess.run(
            probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        ).returncode:
            raise Refused(
                f"bundle: expected the system's {package} (no wheels for it here): apt-get install {package}"
            )


def find_python(version: str) -> str:
    """The interpreter of that version ("3.11"); Refused without one."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None:
        here = ".".join(map(str, sys.version_info[:2]))
        raise Refused(f"bundle: for Python {version}, this board has {here}; make one with --python {here}")
    return found


def _unpack(board: Board, bundle: Path, manifest: dict[str, Any], release: Path) -> None:
    board.tell("unpack", manifest["id"])
    part = release.with_name(f".{release.name}.part")
    shutil.rmtree(str(part), ignore_errors=True)
    part.mkdir(parents=True)
    verify(bundle, board.signers, part)
    if manifest["kind"] == "model":
        venv = _base_venv(board)
        _take_over(board, part)
    else:
        venv = _make_venv(board, manifest, part)
    shutil.rmtree(str(part / "wheels"), ignore_errors=True)
    os.symlink(os.path.relpath(str(venv), str(release)), str(part / "venv"))
    model = manifest["model"]["file"]
    (part / "environment").write_text(f"EDGE_CENTERNET_MODEL=/opt/edge-centernet/current/model/{model}\n")
    shutil.rmtree(str(release), ignore_errors=True)
    os.replace(str(part), str(release))


def _base_venv(board: Board) -> Path:
    """The packages of the release that runs, for a bundle that brings only a model."""
    current = board.home / "current"
    if not (current / COMPLETE).exists():
        raise Refused("model: no release is installed on this board yet; deploy a whole bundle first")
    return (current / "venv").resolve()


def _take_over(board: Board, part: Path) -> None:
    """What a bundle with only a model does not bring, from the release that runs."""
    for name in (UNIT, "camera.toml", "requirements.txt"):
        source = board.home / "current" / name
        if source.exists() and not (part / name).exists():
            shutil.copy2(str(source), str(part / name))


def _make_venv(board: Board, manifest: dict[str, Any], part: Path) -> Path:
    """The virtual environment of the bundle's wheels, from the bundle alone; one that is here already is taken."""
    requirements = (part / "requirements.txt").read_bytes()
    python = find_python(manifest["python"])
    key = hashlib.sha256(requirements + repr((python, manifest["system_packages"])).encode()).hexdigest()[:16]
    venv = board.home / "venvs" / key
    if (venv / COMPLETE).exists():
        board.tell("packages", "as in an earlier release")
        return venv
    board.tell("packages", "installing, from the bundle only")
    shutil.rmtree(str(venv), ignore_errors=True)
    options = ["--system-site-packages"] if manifest["system_packages"] else []
    # Without pip: a Debian has the module venv, but not ensurepip. The bundle's pip runs out of its wheel.
    _run([python, "-I", "-m", "venv", "--without-pip", *options, str(venv)], "venv")
    pip = next((part / "wheels").glob("pip-*.whl"))
    command = [
        str(venv / "bin/python"),
        "-I",
        str(pip / "pip"),
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
    ]
    command += ["--ignore-installed", "--require-hashes", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--root-user-action=ignore", "--find-links", str(part / "wheels")]
    _run([*command, "-r", str(part / "requirements.txt")], "pip")
    os.sync()
    write_atomic(venv / COMPLETE, b"")
    return venv


def _run(command: list[str], what: str) -> None:
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
        lines = result.stdout.decode("utf-8", "replace").strip().splitlines() or [
            f"exit status {result.returncode}"
        ]
        # pip's last error is its reason; where that is "ERROR: Exception:", a traceback follows, and its last
        # line is.
        told = [line for line in lines if line.startswith("ERROR") and line != "ERROR: Exception:"] or lines
        raise Refused(f"{what}: {told[-1][:300]}")


# Checking


def check(board: Board, release: Path) -> None:
    """Run the release's model by its own engine on the bundle's photo; Refused unless it finds what it should.

    `detect` begins with the model's golden self-check, in a process that may crash.
    """
    board.tell("check", "the model runs on this board, on the photo of the bundle")
    expected = json.loads((release / "check/expected.json").read_text())
    started = time.monotonic()
    found = _detect(board, release, expected)
    problem = differs(found, expected)
    if problem:
        raise Refused(f"check: {problem}; the old release stays")
    board.tell(
        "checked", f"{len(found)} objects as expected, in {time.monotonic() - started:.1f} s with start-up"
    )


def _detect(board: Board, release: Path, expected: dict[str, Any]) -> list[dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as folder:
        environment.update(HOME=folder, XDG_CACHE_HOME=folder)
        environment["EDGE_CENTERNET_ENGINE_CACHE"] = str(
            board.home / "engines"
        )  # TensorRT builds here, at leisure
        command = [
            str(release / "venv/bin/python"),
            "-I",
            "-m",
            "edge_centernet",
            "detect",
            "--format",
            "jsonl",
        ]
        command += ["--source", str(release / "check/photo.jpg"), "--threshold", str(expected["threshold"])]
        command += ["--model", str(release / "model" / expected["model"]), "--runtime", expected["runtime"]]
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
    if result.returncode:
        lines = result.stderr.decode("utf-8", "replace").strip().splitlines() or [""]
        reason = next((line for line in lines if "cannot be relied on" in line), lines[-1])
        raise Refused(f"check: detect ended with {result.returncode}: {reason[:300]}; the old release stays")
    using = [
        line for line in result.stderr.decode("utf-8", "replace").splitlines() if line.startswith("Using ")
    ]
    board.tell("engine", using[-1].split(": ")[0] if using else "unknown")
    records = [json.loads(line) for line in result.stdout.decode().splitlines()]
    detections: list[dict[str, Any]] = records[0]["detections"]
    return detections


def differs(found: list[dict[str, Any]], expected: dict[str, Any]) -> str | None:
    """What is not as expected, None if all is: by class, box and score; those at the threshold may be missing."""
    left, pixels = list(found), expected.get("box_tolerance", BOX_TOLERANCE)
    for wanted in expected["detections"]:
        match = next((item for item in left if _same(item, wanted, pixels)), None)
        if match is not None:
            left.remove(match)
        elif wanted["score"] > expected["threshold"] + SCORE_TOLERANCE:
            return f"expected {wanted['class']} at {wanted['box']}, not found"
    for item in left:
        if item["score"] > expected["threshold"] + SCORE_TOLERANCE:
            return f"found {item['class']} at {item['box']}, not expected"
    return None


def _same(a: dict[str, Any], b: dict[str, Any], pixels: float) -> bool:
    boxes = max(abs(x - y) for x, y in zip(a["box"], b["box"]))  # noqa: B905  # Python 3.8
    scores = abs(a["score"] - b["score"])
    return bool(a["class"] == b["class"] and boxes <= pixels and scores <= SCORE_TOLERANCE)


# Switching


def activate(board: Board, name: str, watch_s: float, attended: bool, camera: str | None = None) -> None:
    """Make a release the current one, restart the cameras, watch them, and go back if they are not well.

    attended: a computer looks on through stdin and stdout, and must say "keep" after all went well; when it
      is gone
    before that, so is the new release. Raises Refused (with the old release running) or Cut.
    """
    release = board.home / "releases" / name
    if not (release / COMPLETE).exists():
        raise Refused(f"{name}: not installed on this board; `status` lists what is")
    old = board.release("current")
    before = {unit: service_state(unit) for unit in cameras(board)}
    _write_json(board.pending, {"new": name, "old": old})
    try:
        _arm_revert(board, watch_s)
        board.tell("switch", f"{old or 'nothing'} -> {name}")
        _switch(board, name)
        _add_camera(board, release, camera)
        _restart(board)
        board.tell("watch", f"{', '.join(cameras(board)) or 'no camera is set up'}, for {watch_s:.0f} s")
        _watch(board, before, watch_s, attended)
        board.tell("healthy", name, id=name)
        _await_keep(attended)
    except BaseException as error:
        _go_back(board, old)
        if isinstance(error, Refused):
            raise Refused(f"{error}; back to {old or 'nothing'}") from None
        raise
    _commit(board, name, old)


def _switch(board: Board, name: str | None) -> None:
    """Current -> releases/NAME in one rename, and that release's unit file in place."""
    if name is None:
        _unlink(board.home / "current")
        return
    _point(board, "current", name)
    board.units.mkdir(parents=True, exist_ok=True)
    write_atomic(board.units / UNIT, (board.home / "releases" / name / UNIT).read_bytes())


def _point(board: Board, link: str, name: str) -> None:
    """LINK -> releases/NAME in one rename, also after a power cut."""
    new = board.home / f".{link}.new"
    _unlink(new)
    os.symlink(f"releases/{name}", str(new))
    os.replace(str(new), str(board.home / link))
    _sync_folder(board.home)


def _add_camera(board: Board, release: Path, camera: str | None) -> None:
    """A first camera on a board that has none: its configuration from the bundle, enabled at boot."""
    write_atomic(board.units / RECOVER_UNIT, _RECOVER_TEXT.encode())
    _enable(board, RECOVER_UNIT, RECOVER_UNIT)
    if camera is None or cameras(board):
        return
    config = board.etc / f"{camera}.toml"
    if not config.exists():
        write_atomic(config, (release / "camera.toml").read_bytes())
        config.chmod(0o644)  # read by a user that systemd makes up
    _enable(board, UNIT, f"edge-centernet@{camera}.service")


def _enable(board: Board, unit: str, name: str) -> None:
    """As `systemctl enable` does, where there may be no systemd to ask (an image, a chroot)."""
    wants = board.units / "multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    if not (wants / name).is_symlink():
        os.symlink(f"/etc/systemd/system/{unit}", str(wants / name))


def _arm_revert(board: Board, watch_s: float) -> None:
    """Should this process be killed, systemd goes back."""
    if board.systemd:
        seconds = int(START_S + watch_s + KEEP_S + 60)
        command = [
            "systemd-run",
            "--quiet",
            f"--unit={REVERT_UNIT}",
            f"--on-active={seconds}",
            sys.executable,
        ]
        systemctl("stop", f"{REVERT_UNIT}.timer")
        systemctl("reset-failed", f"{REVERT_UNIT}.timer", f"{REVERT_UNIT}.service")
        _run([*command, str(board.home / "agent.py"), "recover"], "systemd-run")


def _restart(board: Board) -> None:
    if board.systemd:
        systemctl("daemon-reload")
        for unit in cameras(board):
            systemctl("reset-failed", unit)
            systemctl("restart", "--no-block", unit)


def _watch(board: Board, before: dict[str, dict[str, str]], watch_s: float, attended: bool) -> None:
    """Raises Refused at the first service that is not well; Cut when the attending computer is gone."""
    if not board.systemd:
        return
    units = cameras(board)
    started = time.monotonic()
    ready: dict[str, dict[str, str]] = {}
    while True:
        for unit in units:
            state = service_state(unit)
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
        _look_for_attendant(attended, 0.5)
    for unit in units:
        _judge_end(unit, service_state(unit), before.get(unit))


def ill(unit: str, state: dict[str, str], ready: dict[str, str] | None) -> str | None:
    """Why a service must be called ill now, None if it need not. ready: its state when it became ready."""
    if (
        state["ActiveState"] == "failed"
        or state["Result"] not in ("", "success")
        or int(state["NRestarts"] or 0) > 0
    ):
        return f"{unit} ended ({state['Result'] or 'failed'}, exit status {state['ExecMainStatus']}){last_words(unit)}"
    if ready is not None and (state["ActiveState"] != "active" or state["MainPID"] != ready["MainPID"]):
        return f"{unit} did not stay up ({state['ActiveState']})"
    return None


def _judge_end(unit: str, state: dict[str, str], before: dict[str, str] | None) -> None:
    """A camera that delivered before must deliver now; one that was lost before says nothing about the release."""
    if before and delivers(before) and not delivers(state):
        raise Refused(
            f"watch: {unit} gives no results ({state['StatusText'] or 'no status'}), the old release did"
        )


def delivers(state: dict[str, str]) -> bool:
    """Whether a camera's status line tells of results: "29.8 fps; person 2"."""
    found = re.match(r"(\d+\.\d) fps", state["StatusText"])
    return state["ActiveState"] == "active" and found is not None and float(found.group(1)) > 0


def _look_for_attendant(attended: bool, seconds: float) -> None:
    if not attended:
        time.sleep(seconds)
        return
    if select.select([0], [], [], seconds)[0] and not os.read(0, 1):
        raise Cut


def _await_keep(attended: bool) -> None:
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


def _go_back(board: Board, old: str | None) -> None:
    """The old release runs again; where there was none, nothing does."""
    if old is None:
        for unit in cameras(board):
            if board.systemd:
                systemctl("stop", "--no-block", unit)
            _unlink(board.units / "multi-user.target.wants" / unit)
    _switch(board, old)
    _restart(board)
    _forget_pending(board)


def _commit(board: Board, name: str, old: str | None) -> None:
    if old is not None and old != name:
        _point(board, "previous", old)
    _forget_pending(board)
    clean(board)
    board.tell("done", f"{name} is current", id=name)


def _forget_pending(board: Board) -> None:
    _unlink(board.pending)
    _sync_folder(board.home)
    if board.systemd:
        systemctl("stop", f"{REVERT_UNIT}.timer")


def recover(board: Board, boot: bool = False) -> None:
    """Go back to the release before, if an update was cut off in its trial. boot: nothing runs yet to be restarted."""
    if not board.pending.exists():
        return
    try:
        old = json.loads(board.pending.read_text())["old"]
    except (ValueError, KeyError):  # cut off before it reached the disk: nothing was switched yet
        old = board.release("current")
    if boot and board.systemd:
        _switch(board, old)
        systemctl("daemon-reload")
        _forget_pending(board)
    else:
        _go_back(board, old)
    board.tell("recovered", f"an update was cut off; back to {old or 'nothing'}")


def clean(board: Board) -> None:
    """Remove all but the current release and the one before: half made ones, old ones, packages of neither."""
    names = {board.release("current"), board.release("previous")}
    used = set()
    for release in (board.home / "releases").glob("*"):
        if release.name in names:
            used.add((release / "venv").resolve().name)
        else:
            shutil.rmtree(str(release), ignore_errors=True)
    for part in (board.home / "releases").glob(".*.part"):
        shutil.rmtree(str(part), ignore_errors=True)
    for venv in (board.home / "venvs").glob("*"):
        if venv.name not in used:
            shutil.rmtree(str(venv), ignore_errors=True)


# systemd


def cameras(board: Board) -> list[str]:
    """The camera services that start at boot."""
    wants = glob.glob(str(board.units / "*.wants/edge-centernet@?*.service"))
    return sorted({Path(path).name for path in wants})


def service_state(unit: str) -> dict[str, str]:
    """What systemd knows of a service; empty texts where there is none."""
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
    """The error that a service logged last, to end a message with."""
    command = ["journalctl", "-u", unit, "-n", "20", "-o", "cat", "--no-pager"]
    if shutil.which("journalctl") is None:
        return ""
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
    errors = [line for line in output.decode("utf-8", "replace").splitlines() if line.startswith("Error: ")]
    return f": {errors[-1][7:300]}" if errors else ""


def systemctl(*arguments: str) -> None:
    """Ask systemd; what it answers is seen by its effect."""
    subprocess.run(
        ["systemctl", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )


# Files


def write_atomic(path: Path, content: bytes) -> None:
    """Whole or not there, also after a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(str(temporary), str(path))
    _sync_folder(path.parent)


def _write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value).encode())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


@contextmanager
def locked(board: Board, wait_s: float = 0.0) -> Iterator[None]:
    """One update at a time. wait_s: how long to wait for another one's end; Refused then."""
    for folder in ("releases", "venvs", "incoming", "engines"):
        (board.home / folder).mkdir(parents=True, exist_ok=True)
    board.etc.mkdir(parents=True, exist_ok=True)
    with (board.home / ".lock").open("w") as file:
        end = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= end:
                    raise Refused(f"{board.home}: another update is running; wait for it") from None
                time.sleep(0.2)
        yield


def _keep_agent(board: Board) -> None:
    """This file, for the recovery at boot."""
    content = Path(__file__).read_bytes()
    target = board.home / "agent.py"
    if not target.exists() or target.read_bytes() != content:
        write_atomic(target, content)


# Commands


def receive(board: Board, name: str, size: int) -> None:
    """Take a file from stdin into incoming/NAME, on from where an earlier try stopped (`offset` tells where)."""
    if not _NAME.fullmatch(name):
        raise Refused(f"receive: expected a plain file name, got {name!r}")
    part, target = board.home / "incoming" / f"{name}.part", board.home / "incoming" / name
    have = offset(board, name)
    if target.exists() and have == size:  # the connection was cut after it
        board.tell("received", name)
        return
    free = shutil.disk_usage(str(board.home)).free
    if free < size - have + RESERVE:
        raise Refused(
            f"disk: expected {(size - have + RESERVE) // 1_000_000} MB free, found {free // 1_000_000} MB"
        )
    for other in (board.home / "incoming").iterdir():
        if other not in (part, target):
            other.unlink()
    with part.open("ab") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
        got = file.tell()
    if got > size:
        part.unlink()
    if got != size:
        raise Refused(f"receive: expected {size} bytes, got {got}; send again")
    os.replace(str(part), str(target))
    board.tell("received", name)


def offset(board: Board, name: str) -> int:
    """How many bytes of a file are here already; all of it if it is complete."""
    for path in (board.home / "incoming" / name, board.home / "incoming" / f"{name}.part"):
        if path.exists():
            return path.stat().st_size
    return 0


def status(board: Board) -> dict[str, Any]:
    """The releases, the cameras, and what this board is."""
    releases = [path for path in (board.home / "releases").glob("*") if (path / COMPLETE).exists()]
    # What `system.machine` reads too. This file runs alone, before the package is on the board, so it has a
    # copy.
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


def setup(board: Board, bundle: Path, signers: Path | None, camera: str, watch_s: float) -> None:
    """Everything for a bare board, without anybody looking on."""
    name = install(board, bundle, signers)
    activate(board, name, watch_s, attended=False, camera=camera)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="agent.py", description="Install edge-centernet releases on this board."
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--root", type=Path, default=Path("/"), help="where /opt and /etc are")
    shared.add_argument("--json", action="store_true", help="one JSON object a line")
    commands = top.add_subparsers(dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, parents=[shared])

    one = add("setup", "pin, verify, install, check, switch, start")
    one.add_argument("bundle", type=Path)
    one.add_argument("--pin", type=Path, help="file of trusted signers, for a board without one")
    one.add_argument("--camera", default="camera", help="name of the first camera")
    one.add_argument("--watch", type=float, default=15.0, help="seconds that the cameras are watched")
    one = add("install", "verify, install and check beside what runs")
    one.add_argument("bundle", type=Path)
    one.add_argument("--pin", type=Path, help="file of trusted signers, for a board without one")
    for name, text in (
        ("activate", "switch to an installed release"),
        ("rollback", "switch to the release before"),
    ):
        one = add(name, text)
        if name == "activate":
            one.add_argument("id")
            one.add_argument(
                "--camera", default=None, help="name of the first camera, on a board without one"
            )
        one.add_argument("--watch", type=float, default=15.0, help="seconds that the cameras are watched")
        one.add_argument(
            "--attended", action="store_true", help="go back unless stdin says 'keep' at the end"
        )
    one = add("recover", "end an update that was cut off")
    one.add_argument("--boot", action="store_true", help="before the cameras are started")
    one = add("receive", "take a file from stdin")
    one.add_argument("name")
    one.add_argument("size", type=int)
    add("offset", "bytes of a file that are here").add_argument("name")
    add("status", "what is installed and how it does")
    return top


def run(board: Board, options: argparse.Namespace) -> None:
    """One command."""
    if options.command == "status":
        print(json.dumps(status(board)))
        return
    if options.command == "offset":
        print(offset(board, options.name))
        return
    # What ends a broken update must not give up because its killed installer is not quite gone yet.
    with locked(board, LOCK_S if options.command == "recover" else 0.0):
        _keep_agent(board)
        recover(board, getattr(options, "boot", False))
        if options.command == "rollback":
            options.id, options.camera = board.release("previous"), None
            if options.id is None:
                raise Refused("rollback: no release before this one is on the board")
        commands: dict[str, Callable[[], Any]] = {
            "setup": lambda: setup(board, options.bundle, options.pin, options.camera, options.watch),
            "install": lambda: install(board, options.bundle, options.pin),
            "activate": lambda: activate(board, options.id, options.watch, options.attended, options.camera),
            "rollback": lambda: activate(board, options.id, options.watch, options.attended),
            "receive": lambda: receive(board, options.name, options.size),
            "recover": lambda: None,
        }
        commands[options.command]()


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, 2 after one line on stderr, 3 where the attending computer went away, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)
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
