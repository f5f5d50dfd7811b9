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
from pathlib import Path
from typing import Any

import pytest
from sshd import new_key

from edge_centernet.deploy import agent
from edge_centernet.deploy.agent import Board, Refused
from edge_centernet.deploy.boards import Target
from edge_centernet.deploy.bundle import Contents, make_bundle
from edge_centernet.deploy.signing import signers_line

AGENT = agent.__file__


def run(root: Path, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The agent as a process, as on a board."""
    return subprocess.run(
        [sys.executable, AGENT, *words, "--root", str(root)], input=stdin, capture_output=True, check=False
    )


def status(root: Path) -> dict[str, Any]:
    """What the agent reports as installed."""
    found: dict[str, Any] = json.loads(run(root, "status").stdout)
    return found


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


def test_names_in_the_signed_list_stay_below_one_folder() -> None:
    """Not even a signer can make the installer write elsewhere."""
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
