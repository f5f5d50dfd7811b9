"""The agent with real bundles and real virtual environments, in a folder that serves as the board's root.

What needs systemd, power cuts or a full disk is in scripts/devices/deploy_failures.py.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sshd import new_key

from edge_centernet.deploy import agent
from edge_centernet.deploy.agent import Board, Refused
from edge_centernet.deploy.boards import Target
from edge_centernet.deploy.bundle import Contents, make_bundle, write_tar
from edge_centernet.deploy.signing import signers_line

AGENT = agent.__file__


def run(
    root: Path, *words: str, stdin: bytes = b"", umask: int = 0o022
) -> subprocess.CompletedProcess[bytes]:
    """The agent as a process, as on a board."""
    command = [sys.executable, "-I", AGENT, *words, "--root", str(root)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, umask=umask)


def status(root: Path) -> dict[str, Any]:
    """What the agent reports as installed."""
    found: dict[str, Any] = json.loads(run(root, "status").stdout)
    return found


def small_bundle(path: Path, key: Path, files: dict[str, bytes] | None = None, **manifest: Any) -> Path:
    """A signed bundle of a model, a few bytes of everything, with other files or other facts if given."""
    record = {
        "schema": 1, "kind": "model", "version": "0.2.0", "target": "x86", "machine": "x86_64",
        "python": "3.11", "glibc": [2, 28], "apt": [], "system_packages": False, "installed_bytes": 1000,
        "model": {"file": "new.tflite", "name": "new"}, **manifest,
    }  # fmt: skip
    expected = {"model": "new.tflite", "runtime": "tflite", "threshold": 0.3, "detections": []}
    content = {
        "manifest.json": json.dumps(record).encode(),
        "model/new.tflite": b"model",
        "check/photo.jpg": b"photo",
        "check/expected.json": json.dumps(expected).encode(),
    }
    write_tar(path, {**content, **(files or {})}, key)
    return path


def release(root: Path, name: str, version: str = "0.2.0") -> None:
    """A release on the board; its Python detects nothing in any photo."""
    folder = root / "opt/edge-centernet/releases" / name
    (folder / "venv/bin").mkdir(parents=True)
    (folder / agent.COMPLETE).touch()
    (folder / "camera.toml").touch()
    (folder / "venv/bin/python").write_text("#!/bin/sh\necho '{\"detections\": []}'\n")
    (folder / "venv/bin/python").chmod(0o755)
    (folder / agent.UNIT).write_text(name)
    (folder / agent.MANIFEST).write_text(json.dumps({"version": version}))


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, for what is written very often."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        yield Path(folder)


@pytest.fixture
def board(tmp_path: Path, signers: Path) -> Path:
    """A root with the releases "old", which runs, "older", the one before it, and "new"."""
    root = tmp_path / "board"
    for name in ("older", "old", "new"):
        release(root, name)
    for link, name in (("current", "old"), ("previous", "older")):
        (root / "opt/edge-centernet" / link).symlink_to(f"releases/{name}")
    (root / "opt/edge-centernet/agent.py").write_bytes(Path(AGENT).read_bytes())
    (root / "etc/edge-centernet").mkdir(parents=True)
    (root / "etc/edge-centernet/trusted_signers").write_bytes(signers.read_bytes())
    return root


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, bundle: Path, signers: Path) -> Path:
    """A root with the bundle set up in it."""
    root = tmp_path_factory.mktemp("board")
    done = run(root, "setup", str(bundle), "--pin", str(signers))
    assert done.returncode == 0, done.stderr.decode()
    return root


@pytest.mark.slow
def test_setup_makes_a_bare_board_detect(installed: Path) -> None:
    """Packages come from the bundle alone, the model is checked, the camera is enabled and configured."""
    found = status(installed)
    assert found["current"] in found["releases"]
    assert found["pinned"]
    assert not found["pending"]
    assert list(found["cameras"]) == ["edge-centernet@camera.service"]
    current = installed / "opt/edge-centernet/current"
    assert (current / "environment").read_text().endswith("/current/model/centernet-mbv2-320.tflite\n")
    assert 'camera = "/dev/video0"' in (installed / "etc/edge-centernet/camera.toml").read_text()
    program = [
        str(current / "venv/bin/python"),
        "-I",
        "-c",
        "import edge_centernet.decoder as d; print(d.BACKEND)",
    ]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout == "c\n"
    assert not (current / "wheels").exists()


@pytest.mark.slow
def test_a_model_alone_takes_the_packages_of_the_release_that_runs_and_can_be_taken_back(
    installed: Path, nano: Path
) -> None:
    """One virtual environment for both; rollback is the release before, and back again."""
    before = status(installed)["current"]
    name = json.loads(run(installed, "install", str(nano), "--json").stdout.splitlines()[-1])["id"]
    assert run(installed, "activate", name).returncode == 0
    assert status(installed)["current"] == name
    assert len(list((installed / "opt/edge-centernet/venvs").iterdir())) == 1
    assert run(installed, "rollback").returncode == 0
    found = status(installed)
    assert (found["current"], found["previous"]) == (before, name)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["verify", "unpack", "check"])
def test_an_installer_killed_at_any_step_leaves_the_current_release(
    installed: Path, here: Target, key: Path, tmp_path: Path, step: str
) -> None:
    """And the next one removes what was half made."""
    config = tmp_path / "camera.toml"
    config.write_text(f'camera = "/dev/video0"\nwait = true\n# {step}\n')
    other = make_bundle(here, Contents("centernet-nano-256", camera=config), key, tmp_path)
    before = status(installed)["current"]
    command = [sys.executable, AGENT, "install", str(other), "--json", "--root", str(installed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        for line in process.stdout:
            if json.loads(line)["step"] == step:
                process.send_signal(signal.SIGKILL)
                break
    found = status(installed)
    assert found["current"] == before
    assert len(found["releases"]) <= 2
    assert run(installed, "install", str(other)).returncode == 0
    assert not list((installed / "opt/edge-centernet/releases").glob(".*.part"))


@pytest.mark.slow
def test_an_update_cut_off_in_its_trial_is_ended_by_the_next_command_and_at_boot(
    installed: Path, nano: Path
) -> None:
    """pending.json names the release to go back to."""
    board = Board(installed)
    before = board.release("current")
    name = json.loads(run(installed, "install", str(nano), "--json").stdout.splitlines()[-1])["id"]
    for words in (["recover", "--boot"], ["recover"]):
        agent.write_atomic(board.pending, json.dumps({"new": name, "old": before}).encode())
        agent._switch(board, name)
        done = run(installed, *words)
        assert done.returncode == 0
        assert b"an update was cut off; back to" in done.stdout
        assert (board.release("current"), board.pending.exists()) == (before, False)


def test_an_unpinned_board_takes_no_bundle(tmp_path: Path, nano: Path) -> None:
    """Trust is given once, by hand or by the first deploy."""
    done = run(tmp_path, "install", str(nano))
    assert done.returncode == 2
    assert b"no signer is trusted on this board yet; pin one with --pin FILE" in done.stderr


def test_a_stranger_is_not_pinned_by_offering_his_key_with_another_ones_bundle(
    tmp_path: Path, nano: Path, key: Path
) -> None:
    """A key is pinned only after its bundle was found right."""
    stranger = new_key(tmp_path / "id")
    (tmp_path / "signers").write_text(signers_line(stranger))
    done = run(tmp_path / "board", "install", str(nano), "--pin", str(tmp_path / "signers"))
    assert done.returncode == 2
    assert b"signature: not by a signer" in done.stderr
    assert not Board(tmp_path / "board").signers.exists()


def test_a_key_for_other_things_does_not_sign_bundles(key: Path, signers: Path) -> None:
    """The pinned line is for this purpose only: a signature of the same key for another one is refused."""
    command = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(key), "-n", "file"]
    signature = subprocess.run(command, input=b"content", capture_output=True, check=True).stdout
    with pytest.raises(Refused, match="not by a signer"):
        agent.check_signature(b"content", signature, signers)


def altered(path: Path, out: Path, change: Any) -> Path:
    """A bundle with its entries changed by a function of (name, content)."""
    with tarfile.open(path) as old, tarfile.open(out, "w") as new:
        for member in old.getmembers():
            content = old.extractfile(member).read()  # type: ignore[union-attr]
            for entry, data in change(member, content):
                entry.size = len(data)
                new.addfile(entry, io.BytesIO(data))
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m, c: [(m, c[:-1] + b"x")] if m.name.startswith("model/") else [(m, c)],
            "its SHA-256 is not the signed one",
        ),
        (lambda m, c: [] if m.name == "check/photo.jpg" else [(m, c)], "check/photo.jpg is missing"),
        (
            lambda m, c: [(m, c), (tarfile.TarInfo("../x"), b"")] if m.name == "manifest.json" else [(m, c)],
            r"\.\./x: not in the signed list",
        ),
        (lambda m, c: [(m, c)] * 2 if m.name == "manifest.json" else [(m, c)], "not in the signed list"),
        (lambda m, c: [(m, c + b"\n")] if m.name == agent.SUMS else [(m, c)], "signature: not by a signer"),
        (
            lambda m, c: [] if m.name == agent.SIGNATURE else [(m, c)],
            "expected SHA256SUMS.sig at its beginning",
        ),
        (lambda m, c: [] if m.name == agent.SUMS else [(m, c)], "expected SHA256SUMS at its beginning"),
    ],
)
def test_a_bundle_that_is_not_what_was_signed_is_refused(
    tmp_path: Path, nano: Path, signers: Path, change: Any, message: str
) -> None:
    """Each with its reason, and nothing of it is written elsewhere."""
    out = altered(nano, tmp_path / "bundle.tar", change)
    (tmp_path / "into").mkdir()
    with pytest.raises(Refused, match=message):
        agent.verify(out, signers, tmp_path / "into")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("length", [0, 100, 20_000])
def test_a_bundle_cut_short_is_refused(tmp_path: Path, nano: Path, signers: Path, length: int) -> None:
    """Wherever it ends."""
    short = tmp_path / "short.tar"
    short.write_bytes(nano.read_bytes()[:length])
    with pytest.raises(Refused, match=r"damaged or cut off|at its beginning|is missing"):
        agent.verify(short, signers)


def header(name: bytes, kind: bytes = b"0", size: bytes = b"00000000000\0", **fields: bytes) -> bytes:
    """One header of a tar, its checksum right. fields: at their places, as at_345=b"prefix"."""
    block = bytearray(512)
    block[:100] = name.ljust(100, b"\0")
    block[124:136], block[156:157], block[257:265] = size, kind, b"ustar\00000"
    for place, content in fields.items():
        at = int(place.partition("_")[2])
        block[at : at + len(content)] = content
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * 32)
    return bytes(block)


GIB = b"%011o\0" % (1 << 30)
SPARSE_PAX = b"31 GNU.sparse.realsize=9999999\n"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (header(b"././@LongLink", b"L", GIB), "type 'L'"),
        (header(b"././@LongLink", b"K", GIB), "type 'K'"),
        (header(b"PaxHeader/x", b"x", GIB), "type 'x'"),
        (header(b"PaxHeader/x", b"x", b"%011o\0" % 31) + SPARSE_PAX.ljust(512, b"\0"), "type 'x'"),
        (header(b"PaxHeader/g", b"g", GIB), "type 'g'"),
        (header(b"manifest.json", b"S", at_386=b"\x80" + b"\xff" * 11), "type 'S'"),
        (header(b"manifest.json", b"1", at_157=b"SHA256SUMS"), "type '1'"),
        (header(b"model", b"2", at_157=b"/etc"), "type '2'"),
        (header(b"sda", b"3"), "type '3'"),
        (header(b"sda", b"4"), "type '4'"),
        (header(b"model", b"5"), "type '5'"),
        (header(b"pipe", b"6"), "type '6'"),
        (header(b"photo", b"7"), "type '7'"),
        (header(b"volume", b"V"), "type 'V'"),
        (header(b"old", b"\0"), "type '.x00'"),
        (header(b"x", size=b"\x80" + bytes(7) + (1 << 20).to_bytes(4, "big")), "not octal"),
        (header(b"x", size=b"\xff" * 12), "not octal"),
        (header(b"x", size=b"-0000000512\0"), "not octal"),
        (header(b"x", size=b"\0" * 12), "not octal"),
        (header(b"x", size=b"77777777777\0"), "x is not all there"),
        (header(b"x", at_257=b"ustar  \0"), "no tar as"),
        (b"\x1f\x8b".ljust(512, b"\0"), "no tar as"),
        (header(b"x")[:120] + b"y" + header(b"x")[121:], "wrong checksum"),
        (header(b"../x"), r"\.\./x"),
        (header(b"/etc/x"), "/etc/x"),
        (header(b"x", at_345=b"/etc"), "/etc/x"),
        (header(b"\x1b[2Jx"), r"\?\[2Jx"),
        (header(b"SHA256SUMS"), "SHA256SUMS"),
        (header(b"manifest.json"), "manifest.json"),
    ],
)
@pytest.mark.parametrize("place", ["first", "third", "last"])
def test_a_bundle_holds_plain_files_alone(
    entry: bytes, message: str, place: str, tmp_path: Path, key: Path, signers: Path
) -> None:
    """No other entry is obeyed, before the signature or behind it: its own size alone is enough to say no."""
    good = small_bundle(tmp_path / "good.tar", key).read_bytes()
    # The list of hashes is one section long and its signature too, each behind its header.
    at = {"first": 0, "third": 2048, "last": len(good.rstrip(b"\0")) + 511 & ~511}[place]
    path = tmp_path / "bundle.tar"
    path.write_bytes(good[:at] + entry + good[at:])
    into = tmp_path / "into"
    into.mkdir()
    if place == "first" and "type" not in message and "tar" not in message:
        message += "|expected SHA256SUMS at its beginning|not all there|not octal|checksum"
    with pytest.raises(Refused, match=message):
        agent.verify(path, signers, into)
    assert all(found.is_file() and not found.is_symlink() for found in into.iterdir() if not found.is_dir())
    assert {found.name for found in tmp_path.iterdir()} == {"good.tar", "bundle.tar", "into"}


@pytest.mark.parametrize(
    "tail", [b"garbage", bytes(512) + b"x", bytes(100_000), header(b"x") + bytes(1024), b"\x1f\x8b" * 300]
)
def test_bytes_behind_the_end_of_a_bundle_are_refused(
    tail: bytes, tmp_path: Path, key: Path, signers: Path
) -> None:
    """Only the zeros that fill tar's last record may be there; a bundle without an end is refused too."""
    path = small_bundle(tmp_path / "bundle.tar", key)
    whole = path.read_bytes()
    agent.verify(path, signers)
    path.write_bytes(whole + tail)
    with pytest.raises(Refused, match="there are bytes after its end"):
        agent.verify(path, signers)
    path.write_bytes(whole[: len(whole.rstrip(b"\0")) + 511 & ~511])
    with pytest.raises(Refused, match="it has no end"):
        agent.verify(path, signers)


@pytest.mark.parametrize(
    "manifest",
    [
        {"version": "../../x"},
        {"version": 1},
        {"schema": 2},
        {"kind": "other"},
        {"python": "3.11/../../x"},
        {"apt": ["os; print()"]},
        {"apt": None},
        {"model": {"file": "m\nLD_PRELOAD=/tmp/x.so"}},
        {"model": {"file": "../m"}},
        {"model": []},
        {"installed_bytes": "all"},
        {"target": "a b"},
    ],
)
def test_names_in_a_manifest_are_plain(manifest: Any, tmp_path: Path, key: Path, signers: Path) -> None:
    """They become paths, commands and lines of unit files: not even a signer chooses others."""
    with pytest.raises(Refused, match=r"manifest\.json: expected schema 1, a version such as"):
        agent.verify(small_bundle(tmp_path / "x.tar", key, **manifest), signers)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"[1]", b'"x"', b"\xff", b'{"schema": 1}'])
def test_a_manifest_that_is_none_is_refused(content: bytes, tmp_path: Path, key: Path, signers: Path) -> None:
    """In one line, also where its author signed it."""
    with pytest.raises(Refused, match=r"manifest\.json: expected schema 1"):
        agent.verify(small_bundle(tmp_path / "x.tar", key, {"manifest.json": content}), signers)


@pytest.mark.parametrize("name", ["../../../outside", "..", "", ".", "/etc", "old/../new", "new\n"])
def test_only_the_name_of_a_release_is_activated(name: str, board: Path) -> None:
    """Not a path to something that looks like one."""
    (board / "outside").mkdir()
    (board / "outside" / agent.COMPLETE).touch()
    done = run(board, "activate", name)
    assert (done.returncode, b"not installed on this board" in done.stderr) == (2, True)
    assert Board(board).release("current") == "old"


@pytest.mark.parametrize("name", ["../x", "a b", "a/b", "-x", ".x", "a\nb", "a%b", "", "x" * 65])
def test_the_name_of_a_camera_is_plain(name: str, board: Path) -> None:
    """It is part of the names of a file and of a unit."""
    done = run(board, "activate", "new", f"--camera={name}")
    assert (done.returncode, b"camera: expected a name of letters" in done.stderr) == (2, True)
    assert Board(board).release("current") == "old"


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_files_are_readable_for_all_and_writable_for_root_alone(umask: int, tmp_path: Path) -> None:
    """Whatever mask root has: the services run as users that systemd makes up."""
    assert run(tmp_path, "receive", "b.tar", "1", stdin=b"x", umask=umask).returncode == 0
    home = tmp_path / "opt/edge-centernet"
    assert {path.stat().st_mode & 0o777 for path in home.rglob("*") if path.is_file()} == {0o644}
    folders = [home.parent, home, tmp_path / "etc", *(path for path in home.iterdir() if path.is_dir())]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o755}


def test_modules_beside_the_agent_are_not_loaded() -> None:
    """What systemd starts later is isolated, too; `deploy` is tested with a real board in test_push.py."""
    assert "/usr/bin/python3 -I /opt/edge-centernet/agent.py recover --boot" in agent._RECOVER_TEXT


# -- versions


def test_versions_are_ordered_as_pip_does() -> None:
    """From the oldest to the newest."""
    order = [
        "0.9",
        "0.10.dev3",
        "0.10a1.dev1",
        "0.10a1",
        "0.10b2",
        "0.10rc1",
        "0.10.0",
        "0.10.post1",
        "0.10.1",
    ]
    assert all(agent._version_order(a) < agent._version_order(b) for a, b in pairwise(order))
    assert agent._version_order("1.0+local.1") == agent._version_order("1")


def test_a_bundle_of_a_lower_version_needs_to_be_allowed(tmp_path: Path, board: Path, key: Path) -> None:
    """Its signature never ends: who kept an old one must not bring back what was mended since."""
    older, same = (small_bundle(tmp_path / f"{v}.tar", key, version=v) for v in ("0.1.9", "0.2"))
    done = run(board, "install", str(older))
    assert done.returncode == 2
    assert b"version 0.1.9 is older than 0.2.0, which runs" in done.stderr
    assert set(status(board)["releases"]) == {"old", "older", "new"}
    for words in ([str(older), "--allow-older"], [str(same)]):
        done = run(board, "install", *words)
        assert done.returncode == 0, done.stderr


# -- power cuts

# Runs the agent with every command line in turn, once for each change of a file, and is gone just before that
# change, as by a power cut; then recovers, also with cuts, and reports what stands there.
CUTS = """
import importlib.util, itertools, json, os, shutil, sys
path, template, root, twice, *words = sys.argv[1:]
spec = importlib.util.spec_from_file_location("agent", path)
agent = sys.modules["agent"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(agent)
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.symlink", "os.mkdir", "os.chmod"}
os.fsync = os.sync = lambda *_: None  # no power is cut here, and waiting for a disk takes minutes

def cut(words, after):
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        left = after
        def hook(event, arguments):
            nonlocal left
            writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
            if not writes and event not in CHANGES:
                return
            place = str(arguments[0])
            if place.startswith("/") and (not place.startswith(root) or place.endswith("/.lock")):
                return
            if event != "os.mkdir" or not os.path.exists(place):
                left -= 1
                if left < 0:
                    os._exit(9)
        sys.addaudithook(hook)
        os._exit(agent.main([*words, "--root", root]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def whole(folder):
    return all((folder / name).exists() for name in (agent.COMPLETE, agent.UNIT, "venv/bin/python"))

def state():
    board, found = agent.Board(agent.Path(root)), []
    for link in ("current", "previous"):
        name = board.release(link)
        found.append(name if name is None or whole(board.home / link) else name + " is not whole")
    unit = board.units / agent.UNIT
    marked = [path.parent for path in board.home.glob("releases/*/" + agent.COMPLETE)]
    fits = found[0] is None or not unit.exists() or found[0] == unit.read_text() or found[0][:5] == "0.2.0"
    return [*found, fits and all(map(whole, marked)) and not board.pending.exists()]

def fresh(first, second):
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root, symlinks=True)
    ended = cut(words, first)
    before, on_trial = state(), (agent.Path(root) / "opt/edge-centernet/pending.json").exists()
    again = 0 if second is None or not on_trial else cut(["recover"], second)
    cut(["recover"], 1 << 30)
    return ended, before, again, state()

seen = []
for first in itertools.count():
    for second in itertools.count() if twice == "twice" else [None]:
        ended, before, again, after = fresh(first, second)
        seen.append([first, before[:2], after])
        if again != 9:
            break
    if ended != 9:
        break
print(json.dumps([ended, seen]))
"""


@pytest.mark.parametrize(
    ("words", "cuts", "allowed"),
    [
        (["activate", "new"], "once", [("old", "older"), ("new", "old")]),
        (["activate", "old"], "once", [("old", "older")]),
        (["rollback"], "once", [("old", "older"), ("older", "old")]),
        pytest.param(
            ["activate", "new"], "twice", [("old", "older"), ("new", "old")], marks=pytest.mark.slow
        ),
        pytest.param(["rollback"], "twice", [("old", "older"), ("older", "old")], marks=pytest.mark.slow),
        (["install", "BUNDLE"], "once", [("old", "older")]),
        (["setup", "BUNDLE"], "once", [("old", "older"), ("0.2.0", "old")]),
    ],
)
def test_a_power_cut_before_any_change_leaves_a_release_and_the_way_back(
    words: list[str], cuts: str, allowed: list[tuple[str, str]], board: Path, key: Path, memory: Path
) -> None:
    """`current` always names a whole release; once recovered, so does `previous`, and it is another one."""
    bundle = small_bundle(memory / "b.tar", key)
    words = [str(bundle) if word == "BUNDLE" else word for word in words]
    command = [sys.executable, "-c", CUTS, AGENT, str(board), str(memory / "root"), cuts, *words]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    ended, seen = json.loads(done.stdout)
    assert ended == 0
    assert len({first for first, _, _ in seen}) > 10
    for first, before, (current, previous, settled) in seen:
        plain = (current.partition("-")[0], previous)
        assert before[0].partition("-")[0] in ("old", *(pair[0] for pair in allowed)), (first, before)
        assert settled, first
        assert plain in allowed, (first, plain)


def test_a_power_cut_in_the_first_setup_leaves_a_release_or_none(board: Path, memory: Path) -> None:
    """A board that had nothing is tried again at its next start."""
    for link in ("current", "previous"):
        (board / "opt/edge-centernet" / link).unlink()
    words = [str(board), str(memory / "root"), "twice", "activate", "new"]
    done = subprocess.run([sys.executable, "-c", CUTS, AGENT, *words], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    ended, seen = json.loads(done.stdout)
    assert ended == 0
    assert {tuple(after) for _, _, after in seen} == {(None, None, True), ("new", None, True)}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"new": "new", "old": "removed"}', "null"])
def test_a_record_of_a_trial_that_cannot_be_used_is_ended(text: str, board: Path) -> None:
    """And what runs stays, instead of every later command failing."""
    (board / "opt/edge-centernet/pending.json").write_text(text)
    done = run(board, "recover")
    assert done.returncode == 0, done.stderr
    found = status(board)
    assert (found["current"], found["previous"], found["pending"]) == ("old", "older", False)


def test_names_in_the_signed_list_stay_below_one_folder() -> None:
    """Not even a signer can make the installer write elsewhere."""
    with pytest.raises(Refused, match=r"manifest\.json stands in it twice"):
        agent._parse_sums(f"{'0' * 64}  manifest.json\n".encode() * 2)
    for name in ("../x", "/etc/passwd", "a/../b", "a/b/c", ".hidden", "a//b", "a/.b", "-x"):
        with pytest.raises(Refused, match="expected 'HASH  NAME'"):
            agent._parse_sums(f"{'0' * 64}  {name}\n".encode())


def test_an_upload_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    """`offset` reports what is here, the rest is added; too much is refused and thrown away."""
    assert run(tmp_path, "receive", "b.tar", "10", stdin=b"12345").returncode == 2
    assert run(tmp_path, "offset", "b.tar").stdout == b"5\n"
    assert run(tmp_path, "receive", "b.tar", "10", stdin=b"67890").returncode == 0
    assert (tmp_path / "opt/edge-centernet/incoming/b.tar").read_bytes() == b"1234567890"
    assert run(tmp_path, "receive", "b.tar", "10").returncode == 0
    assert b"expected 3 bytes, got 4" in run(tmp_path, "receive", "c.tar", "3", stdin=b"1234").stderr
    assert run(tmp_path, "offset", "c.tar").stdout == b"0\n"
    assert b"expected a plain file name" in run(tmp_path, "receive", "../c", "3", stdin=b"123").stderr


def test_only_one_update_at_a_time(tmp_path: Path) -> None:
    """The second one is told to wait."""
    with agent.locked(Board(tmp_path)):
        done = run(tmp_path, "rollback")
    assert done.returncode == 2
    assert b"another update is running; wait for it" in done.stderr


def test_rollback_without_a_release_before_is_refused(tmp_path: Path) -> None:
    """One line, exit code 2."""
    done = run(tmp_path, "rollback")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"no release before this one" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine": "riscv64"}, "for riscv64 .* this board is"),
        ({"python": "3.2"}, r"for Python 3\.2, this board has"),
        ({"glibc": [9, 0]}, r"its wheels need glibc 9\.0, this system has"),
        ({"apt": ["no-such-module"]}, "apt-get install no-such-module"),
        ({"installed_bytes": 10**15}, "disk: expected"),
    ],
)
def test_a_bundle_that_does_not_fit_the_board_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """Before anything is written."""
    machine, version = os.uname().machine, f"{sys.version_info[0]}.{sys.version_info[1]}"
    manifest = {
        "kind": "full",
        "machine": machine,
        "target": "x",
        "python": version,
        "glibc": [2, 1],
        "apt": [],
    }
    board = Board(tmp_path)
    with agent.locked(board), pytest.raises(Refused, match=message):
        agent._check_fits(board, {**manifest, "installed_bytes": 1, **change})


CAT = {"class": "cat", "score": 0.7, "box": [10.0, 10.0, 50.0, 50.0]}


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ([CAT], None),
        ([{**CAT, "box": [11.5, 10.0, 50.0, 50.0]}], None),
        ([{**CAT, "score": 0.66}], None),
        ([], "expected cat"),
        ([{**CAT, "box": [13.0, 10.0, 50.0, 50.0]}], "expected cat"),
        ([{**CAT, "class": "dog"}], "expected cat"),
        ([{**CAT, "score": 0.6}], "expected cat"),
        ([CAT, {**CAT, "class": "dog"}], "found dog"),
        ([CAT, {**CAT, "class": "dog", "score": 0.32}], None),
    ],
)
def test_detections_must_be_those_expected(found: list[dict[str, Any]], problem: str | None) -> None:
    """Two pixels and a score of 0.05 apart at most; one that is as near to the threshold may come or go."""
    told = agent.differs(found, {"threshold": 0.3, "detections": [CAT]})
    assert (told or "").startswith(problem or "\0") or told is problem


def service(**changes: str) -> dict[str, str]:
    """A service's state as systemd shows it."""
    keys = ("InvocationID", "ActiveState", "MainPID", "NRestarts", "Result", "ExecMainStatus", "StatusText")
    return {
        **dict.fromkeys(keys, ""),
        "ActiveState": "active",
        "MainPID": "7",
        "Result": "success",
        **changes,
    }


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (service(), None),
        (service(ActiveState="failed"), "ended"),
        (service(NRestarts="1"), "ended"),
        (service(Result="watchdog"), "ended \\(watchdog"),
        (service(MainPID="8"), "did not stay up"),
        (service(ActiveState="deactivating"), "did not stay up \\(deactivating"),
    ],
)
def test_a_service_is_ill_when_it_ended_or_is_another_process(
    state: dict[str, str], reason: str | None
) -> None:
    """As seen after it was ready once."""
    told = agent.ill("x.service", state, service())
    assert told is None if reason is None else told and re.search(reason, told)


def test_a_camera_that_delivered_before_must_deliver_now() -> None:
    """One that was lost before says nothing about a release."""
    good, lost = service(StatusText="29.8 fps; person 2"), service(StatusText="camera lost: unplugged")
    assert agent.delivers(good)
    assert not agent.delivers(lost)
    assert not agent.delivers(service(StatusText="0.0 fps"))
    with pytest.raises(Refused, match="gives no results"):
        agent._judge_end("x", lost, good)
    agent._judge_end("x", lost, lost)
    agent._judge_end("x", lost, None)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (
            "Collecting numpy\nERROR: No matching distribution found for numpy\n",
            "ERROR: No matching distribution",
        ),
        (
            "ERROR: Exception:\nTraceback (most recent call last):\nOSError: [Errno 28] No space left",
            "No space left",
        ),
        ("", "exit status 1"),
    ],
)
def test_the_reason_of_a_program_that_failed_is_in_the_message(told: str, reason: str) -> None:
    """Pip's own last error, or the last line of its traceback."""
    with pytest.raises(Refused, match=f"pip: .*{reason}"):
        agent._run([sys.executable, "-c", f"print({told!r}); raise SystemExit(1)"], "pip")
