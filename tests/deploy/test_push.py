"""Deploys to a real sshd on the loopback interface, into a folder as the board's root, and by Ansible.

Machines with systemd, failures and power cuts: scripts/devices/deploy_failures.py and
scripts/test_devices.sh.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sshd import missing, sshd
from support import Result

from edge_centernet.deploy.push import Host, connect, deployed_target, target_of
from edge_centernet.errors import ConfigError

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Options for ssh."""
    if os.geteuid() != 0:
        pytest.skip("a board is deployed to as root, or with sudo without a password: run the tests as root")
    if reason := missing():
        pytest.skip(reason)
    with sshd(tmp_path_factory.mktemp("sshd")) as options:
        yield options


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that serves as the board's root."""
    return tmp_path_factory.mktemp("board")


@pytest.fixture
def deploy(run: Run, ssh: str, board: Path, key: Path) -> Callable[..., Result]:
    """`edge-centernet deploy` to that board."""
    return lambda *words: run("deploy", "127.0.0.1", "--ssh", ssh, "--root", board, "--key", key, *words)


@pytest.mark.slow
def test_a_bare_board_is_deployed_to_updated_and_rolled_back(
    deploy: Callable[..., Result], board: Path, bundle: Path
) -> None:
    """The first deploy pins the key, a model alone follows, the previous release returns; all is reported."""
    first = deploy("--bundle", bundle)
    assert first.code == 0, first.err
    for step in ("pin: ", "packages: ", "engine: Using TFLite", "checked: 2 objects", "done: "):
        assert step in first.err
    release = json.loads(deploy("--status").out)["current"]

    second = deploy("--model", "centernet-nano-256")
    assert second.code == 0, second.err
    assert "packages: " not in second.err
    status = json.loads(deploy("--status").out)
    assert status["previous"] == release
    assert status["releases"][status["current"]]["model"]["name"] == "centernet-nano-256"

    third = deploy("--rollback")
    assert third.code == 0, third.err
    assert json.loads(deploy("--status").out)["current"] == release
    assert (board / "opt/edge-centernet/current").resolve().name == release


def test_a_dry_run_tells_what_would_be_done_and_does_nothing(
    run: Run, ssh: str, key: Path, bundle: Path, tmp_path: Path
) -> None:
    """The board is asked, the bundle is named with its size, and the board has no release afterwards."""
    words = ("deploy", "127.0.0.1", "--ssh", ssh, "--root", tmp_path, "--key", key)
    done = run(*words, "--dry-run", "--bundle", bundle, "--camera", "door")
    assert done.code == 0, done.err
    assert "127.0.0.1 runs no release" in done.out
    assert f"Would upload {bundle.name} (" in done.out
    assert "restart: edge-centernet@door.service, new" in done.out
    assert "nothing was installed" in done.out
    assert json.loads(run(*words, "--status").out)["releases"] == {}
    assert not list((tmp_path / "opt/edge-centernet").glob("incoming/*"))


def test_a_bundle_of_a_stranger_is_refused_in_one_line(
    deploy: Callable[..., Result], board: Path, nano: Path, tmp_path: Path
) -> None:
    """What came, and what to do next."""
    data = bytearray(nano.read_bytes())
    data[600] ^= 1
    (tmp_path / "x.tar").write_bytes(data)
    result = deploy("--bundle", tmp_path / "x.tar")
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("Error: 127.0.0.1: signature: not by a signer in")


def test_a_board_that_cannot_be_reached_is_one_line(run: Run) -> None:
    """Ssh's own words, without its banner."""
    result = run("deploy", "127.0.0.1", "--ssh", "-F none -p 1 -o BatchMode=yes", "--status")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "Connection refused" in result.err


@pytest.mark.parametrize(
    "name",
    [
        "-oProxyCommand=touch {file}",
        "pi@-oProxyCommand=touch {file}",
        "-l@host",
        "ssh://-oProxyCommand=touch {file}",
        "ssh://-x@host",
        "a@b@-oProxyCommand=x",
        "host;touch {file}",
        "$(touch {file})@host",
        "`id`",
        "host name",
        "host\n-x",
        "",
        "@host",
        "-",
    ],
)
def test_a_host_that_ssh_would_take_for_an_option_is_refused(name: str, run: Run, tmp_path: Path) -> None:
    """Before ssh is started, also behind "user@"; so are characters that a shell obeys."""
    file = tmp_path / "made"
    result = run("deploy", "--status", "--ssh", "-F none -o BatchMode=yes", "--", name.format(file=file))
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "host: expected USER@HOST, such as pi@raspberrypi.local, got" in result.err
    assert not file.exists()


@pytest.mark.parametrize(
    "name",
    [
        "board", "pi@raspberrypi.local", "pi@192.168.1.7", "::1", "pi@fe80::1%eth0", "[::1]", "my_board-2",
        "ssh://pi@board:2222", "ssh://[::1]:22/", "first.last@board", "CORP\\anna@board", "a@corp.org@board",
    ],
)  # fmt: skip
def test_usual_names_of_hosts_are_taken(name: str) -> None:
    """As ssh takes them."""
    assert Host(name).name == name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--camera", "../x"], "--camera: expected letters"),
        (["--camera", "-x"], "--camera: expected letters"),
        (["--root", "-x"], "--root: expected an absolute path"),
    ],
)
def test_names_that_reach_the_board_are_checked_here(words: list[str], message: str, run: Run) -> None:
    """Before any connection is made."""
    result = run("deploy", "board", *words)
    assert (result.code, message in result.err) == (2, True)


def test_deploys_at_a_time_do_not_share_what_they_send(ssh: str, tmp_path: Path) -> None:
    """Each has its own file, whole, at the same moment too; modules that lie there are not loaded."""
    root = tmp_path / "board"
    home = root / "opt/edge-centernet"
    home.mkdir(parents=True)
    (home / "json.py").write_text("raise SystemExit('not the json of Python')")
    contents = [bytes([65 + i]) * 200_000 for i in range(4)]
    for i, content in enumerate(contents):
        (tmp_path / str(i)).write_bytes(content)
    with connect(Host("127.0.0.1", tuple(shlex.split(ssh)), str(root))) as connection:
        with ThreadPoolExecutor() as pool:
            sent = list(pool.map(connection.send_signers, [tmp_path / str(i) for i in (0, 1, 2, 3, 0)]))
        assert [Path(path).read_bytes() for path in sent] == [*contents, contents[0]]
        assert connection.ask("status")["current"] is None
    assert not list(home.glob("*.??????"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected USER@HOST or --inventory FILE"),
        (["pi@board", "--inventory", __file__], "expected USER@HOST or --inventory FILE"),
        (["--inventory", __file__], "expected --bundle FILE with it"),
        (["pi@board", "--dry-run", "--status"], "--dry-run: expected USER@HOST and a release to install"),
        (
            ["pi@board", "--no-c", "--bundle", __file__],
            "--no-c: expected only for a bundle that is made here",
        ),
    ],
)
def test_missing_options_are_named(run: Run, words: list[str], message: str) -> None:
    """Before any connection is made."""
    result = run("deploy", *words)
    assert result.code == 2
    assert message in result.err


@pytest.mark.slow
def test_ansible_rolls_out_to_an_inventory_and_stops_at_a_board_that_refuses(
    run: Run, ssh: str, bundle: Path, key: Path, tmp_path: Path
) -> None:
    """The second of three boards trusts another key: the first is updated, the third is not touched."""
    if shutil.which("ansible-playbook") is None:
        pytest.skip("no Ansible: apt-get install ansible-core")
    roots = [tmp_path / name for name in ("one", "two", "three")]
    for root in roots:
        (root / "etc/edge-centernet").mkdir(parents=True)
    (roots[1] / "etc/edge-centernet/trusted_signers").write_text("edge-centernet ssh-ed25519 AAAA\n")
    hosts = "".join(f"{root.name} ansible_host=127.0.0.1 edge_centernet_root={root}\n" for root in roots)
    common = f"\n[all:vars]\nansible_user=root\nansible_ssh_args={ssh}\n"
    common += "ansible_python_interpreter=/usr/bin/python3\n"
    (tmp_path / "hosts").write_text(hosts + common)
    words = ["--inventory", tmp_path / "hosts", "--bundle", bundle, "--key", key, "--batches", "1,1,100%"]
    result = run("deploy", *words)
    assert result.code == 2
    assert "a board refused the release" in result.err, result.err
    assert [(root / "opt/edge-centernet/current").exists() for root in roots] == [True, False, False], (
        result.err
    )
    assert not (roots[2] / "opt").exists()


def status(**changes: Any) -> dict[str, Any]:
    """What an agent reports about a board."""
    board = {"machine": "aarch64", "model": "", "jetson": "", "python": "3.11", "pythons": ["3.11"]}
    return {**board, "releases": {}, "current": None, **changes}


@pytest.mark.parametrize(
    ("board", "target", "python"),
    [
        (status(model="Raspberry Pi 4 Model B Rev 1.4"), "pi4", "3.11"),
        (status(model="Raspberry Pi 5 Model B Rev 1.0", python="3.13", pythons=["3.13"]), "pi5", "3.13"),
        (status(model="Raspberry Pi Zero 2 W Rev 1.0"), "pizero2", "3.11"),
        (status(model="Raspberry Pi 3 Model B Rev 1.2", machine="armv7l"), "generic-armhf", "3.11"),
        (
            status(jetson="# R36 (release), REVISION: 4.0", python="3.10", pythons=["3.10"]),
            "jetson-orin",
            "3.10",
        ),
        (status(jetson="# R32 (release)", python="3.6", pythons=["3.10"]), "jetson-nano", "3.10"),
        (status(), "generic-arm64", "3.11"),
        (status(machine="x86_64", python="3.12", pythons=["3.12"]), "x86", "3.12"),
    ],
)
def test_a_board_gets_the_bundle_of_its_kind(board: dict[str, Any], target: str, python: str) -> None:
    """By its model, its system and its Python."""
    found = target_of(board)
    assert (found.name, found.python) == (target, python)


def test_boards_that_no_bundle_fits_are_refused() -> None:
    """A processor or a Python without wheels; a model alone for a board without a release."""
    with pytest.raises(ConfigError, match="got riscv64; no wheels fit it"):
        target_of(status(machine="riscv64"))
    with pytest.raises(ConfigError, match=r"no wheels of ai-edge-litert for Python 3\.9"):
        target_of(status(python="3.9", pythons=[]))
    with pytest.raises(ConfigError, match="deploy a whole bundle first"):
        deployed_target(status())
