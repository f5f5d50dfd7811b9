"""Every command and example of README and the documentation is run, and what cannot be is listed with its reason.

Shell blocks run as they are written, each page in a folder of its own (doc_sandbox.py), with the stand-ins of
doc_stand_ins.py. A new block is run like the others: give it a stand-in or a file there if it needs one.
"""

from __future__ import annotations

import configparser
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import doc_report
import pytest
from doc_board import Board, board
from doc_pages import ROOT, SHELLS, Block, blocks, inline_code, own_commands, pages, simple_commands
from doc_parse import complaint
from doc_sandbox import SSHD, Sandbox, Services, clone, services
from doc_stand_ins import CASES, STAND_INS, Case, StandIn

import edge_centernet
from edge_centernet.cli import cli
from edge_centernet.cli.detect import command as detect
from edge_centernet.live.counting import parse_line, parse_zone

BLOCKS = blocks()
LANGUAGES = {*SHELLS, "python", "c", "cmake", "toml", "yaml", "json", "ini", "text"}
# What is only read, by its first 80 letters: compared with the stand-ins, so that nothing joins it in silence.
EXEMPT = {
    "CONTRIBUTING.md: scripts/check",
    "CONTRIBUTING.md: scripts/test -m 'not slow and not cross'",
    "README.md: scripts/test",
    "docs/cameras.md: apt install python3-picamera2",
    "docs/cameras.md: rpicam-hello --list-cameras",
    "docs/decoder-targets.md: scripts/test_decoder_targets.sh",
    "docs/decoder-targets.md: scripts/test_decoder_targets.sh --install",
    "docs/emulation.md: scripts/devices/boot.py cut virt",
    "docs/emulation.md: scripts/devices/boot.py down virt",
    "docs/emulation.md: scripts/devices/boot.py ssh virt",
    "docs/emulation.md: scripts/devices/boot.py up virt",
    "docs/emulation.md: scripts/devices/boot.py up virt card.img",
    "docs/emulation.md: scripts/devices/boot.py wait virt",
    "docs/emulation.md: scripts/test_devices.sh --install --all",
    "docs/image.md: python3 /boot/firmware/edge-centernet/agent.py setup /boot/firmwa",
    "docs/jetson.md: /opt/edge-centernet/current/venv/bin/edge-centernet detect --sou",
    "docs/jetson.md: apt install nvidia-jetpack python3-venv",
    "docs/jetson.md: nvpmodel -m 0",
    "docs/jetson.md: pip download --no-deps --only-binary=:all: --platform linux_aarc",
}
# Blocks of other pages and languages that other tests run: page, language -> the module that does.
RUN_ELSEWHERE = {
    ("README.md", "python"): "tests/test_docs.py",
    ("docs/python.md", "python"): "tests/api/test_api_docs.py",
}


def of(*languages: str) -> list[Block]:
    """The blocks of these languages."""
    return [block for block in BLOCKS if block.language in languages]


def case_of(block: Block) -> Case:
    """Its entry in CASES; the default for blocks without one: fast, here, no needs."""
    found = [case for case in CASES if case.page == block.page and case.has in block.text]
    return found[0] if found else Case(block.page, "", slow=False)


def shell_cases() -> list[Any]:
    """Shell blocks, once where one text stands on several pages; slow ones marked."""
    in_docs_first = sorted(of(*SHELLS), key=lambda block: (not block.page.startswith("docs/"), BLOCKS.index(block)))
    first = {block.text: block for block in reversed(in_docs_first)}
    return [
        pytest.param(block, id=block.name, marks=[pytest.mark.slow] if case_of(block).slow else [])
        for block in sorted(first.values(), key=BLOCKS.index)
    ]


# -- what a machine must have


@functools.cache
def lacking(need: str) -> str:
    """Why `need` is not met here; "" if it is. Other needs than these are programs."""
    if need == "root":
        return "" if os.geteuid() == 0 else "a board is deployed to as root: run the tests as root"
    if need == "sshd":
        return "" if Path(SSHD).exists() else "no sshd: apt-get install openssh-server"
    if need == "wheels":
        return _no_wheels()
    if need == "container":
        return _no_container()
    found = shutil.which(need, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin")
    return "" if found else f"no {need}: .ci/run lists the system packages"


def _no_wheels() -> str:
    """A bundle fetches wheels from PyPI, or finds them where an earlier one put them."""
    if list(Path("~/.cache/edge-centernet/wheels").expanduser().glob("ai_edge_litert-*x86_64.whl")):
        return ""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", os.devnull, "--dry-run", "click"]
    done = subprocess.run(command, capture_output=True, timeout=60)
    return "" if done.returncode == 0 else "no package index: bundles fetch their wheels there"


def _no_container() -> str:
    cache = Path(os.environ.get("EDGE_CENTERNET_DEVICES") or "~/.cache/edge-centernet/devices").expanduser()
    if os.geteuid() != 0 or not shutil.which("systemd-nspawn"):
        return "a machine with systemd of its own needs root and systemd-nspawn: apt-get install systemd-container"
    return "" if (cache / "rootfs-amd64").is_dir() else "no root file system: scripts/devices/rootfs.sh amd64"


# -- shell blocks


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone, to be copied for each page."""
    return clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Camera, broker and sshd, started when first asked for."""
    with services(tmp_path_factory.mktemp("services")) as started:
        yield started


class Pages:
    """The sandbox of each page, and what ran in it."""

    def __init__(self, folder: Path, template: Path, running: Services, stack: ExitStack) -> None:
        """stack: ends the board."""
        self._board: Board | None
        self._folder, self._template, self._running = folder, template, running
        self._sandboxes: dict[str, Sandbox] = {}
        self._done: set[Block] = set()
        self._stack, self._board = stack, None

    def sandbox(self, page: str) -> Sandbox:
        """Made when first asked for."""
        if page not in self._sandboxes:
            folder = self._folder / page.replace("/", "-")
            folder.mkdir()
            self._sandboxes[page] = Sandbox(folder, self._template, self._running)
        return self._sandboxes[page]

    def run(self, block: Block) -> None:
        """The block, after the one that it builds on; AssertionError with what it said if it fails."""
        if block in self._done:
            return
        case = case_of(block)
        if case.after:
            page, _, text = case.after.rpartition("::")
            self.run(next(one for one in of(*SHELLS) if one.page == (page or block.page) and text in one.text))
        if case.where == "board":
            self.check(block, self._on_board(block))
            doc_report.keep(block, [])
        else:
            sandbox = self.sandbox(block.page)
            before = len(sandbox.calls())
            self.check(block, sandbox.run(block))
            calls = sandbox.calls()[before:]
            doc_report.keep(block, calls)
            _check_ours(block, calls)
            _check_written(sandbox, calls)
        self._done.add(block)

    @staticmethod
    def check(block: Block, done: subprocess.CompletedProcess[str]) -> None:
        """It ended well, and pip had no complaint about our package ("does not provide the extra")."""
        assert done.returncode == 0, f"{block.name} ended with {done.returncode}:\n{block.text}\n{done.stdout}"
        assert "Traceback" not in done.stdout, done.stdout
        assert "WARNING: edge-centernet" not in done.stdout, done.stdout

    def _on_board(self, block: Block) -> subprocess.CompletedProcess[str]:
        if self._board is None:
            self._board = self._stack.enter_context(board(self._running.wheels("3.11")))
        settings = [one.text for one in of("toml") if one.page == block.page]
        return self._board.run(block.script, settings[0] if settings else "")


def _check_ours(block: Block, calls: list[dict[str, Any]]) -> None:
    """Every documented `edge-centernet` was called, with the documented arguments first."""
    documented = own_commands(block.script)
    ours = [call for call in calls if Path(call["program"]).name in ("edge-centernet", "torchrun")]
    assert len(ours) == len(documented), (documented, ours)
    for call in ours:
        if call["program"] == "edge-centernet" and not call["exempt"]:
            ran = call["ran"][3:]  # after python -c CODE
            patterns = [pattern for rule in STAND_INS for pattern in rule.replace]
            for documented_word, word in zip(call["words"], ran, strict=False):
                swapped = any(re.fullmatch(pattern, documented_word) for pattern in patterns)
                assert word == documented_word or swapped, (call["words"], ran)


def _check_written(sandbox: Sandbox, calls: list[dict[str, Any]]) -> None:
    """What a command was told to write is there."""
    for call in calls:
        if call["exempt"] or call["program"] != "edge-centernet" or call["ends"]:
            continue
        words = call["words"]
        for option, name in pairwise(words):
            if option in ("--out", "--picture", "--presence", "--chart") or (
                option == "--json" and not name.startswith("-")
            ):
                assert (sandbox.folder / name).exists(), f"{shlex.join(words)} wrote no {name}"


@pytest.fixture(scope="session")
def in_order(tmp_path_factory: pytest.TempPathFactory, template: Path, running: Services) -> Iterator[Pages]:
    """A folder a page, and a board for all."""
    with ExitStack() as stack:
        yield Pages(tmp_path_factory.mktemp("pages"), template, running, stack)


@pytest.mark.parametrize("block", shell_cases())
def test_shell_block_runs(block: Block, request: pytest.FixtureRequest) -> None:
    """As it stands, with the stand-ins of the table, to exit status 0."""
    for need in case_of(block).needs:
        if reason := lacking(need):
            pytest.skip(reason)
    ready: Pages = request.getfixturevalue("in_order")  # after the skips: it copies the repository
    ready.run(block)


# -- the other languages


@pytest.mark.parametrize("block", of(*SHELLS), ids=lambda block: block.name)
def test_our_commands_are_understood(block: Block) -> None:
    """The real command line takes command, options and values of every `edge-centernet` in a block, run or not."""
    assert [(words, said) for words in own_commands(block.script) if (said := complaint(words))] == []


def test_commands_in_running_text_are_understood() -> None:
    """`edge-centernet ...` in a sentence: the command and its options exist, its values are acceptable."""
    wrong = []
    for where, code in inline_code():
        if match := re.match(r"(?:sudo )?edge-centernet (.+)", code):
            said = complaint(shlex.split(match[1]), whole=False)
            wrong += [(where, code, said)] if said else []
    assert wrong == []


def test_extras_in_the_documentation_exist() -> None:
    """Every `pip install 'edge-centernet[...]'` asks for extras that setup.cfg has."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages())
    asked = {
        name.strip()
        for group in re.findall(r"(?:edge-centernet|')\.?\[([\w, -]+)\]'", text)
        for name in group.split(",")
    }
    assert {"tflite", "train"} <= asked <= set(config["options.extras_require"])


def test_scripts_in_the_documentation_exist_and_have_the_options() -> None:
    """Every scripts/NAME of blocks and sentences is there, and each option given to it stands in its source."""
    wrong = []
    for where, code in [*inline_code(), *((block.name, block.script) for block in of(*SHELLS))]:
        for name, options in re.findall(r"(?<![\w/])(scripts/[\w/.-]*\w)((?: [^\n`;&|]*)?)", code):
            path = ROOT / name
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            if name.endswith("test_devices.sh"):
                text += (ROOT / "scripts/devices/stages.py").read_text(encoding="utf-8")
            missing = [option for option in re.findall(r"(?<!\S)--[\w-]+", options) if not _has(text, option)]
            wrong += [(where, name, missing)] if missing or not path.exists() else []
    assert wrong == []


def _has(source: str, option: str) -> bool:
    """Written out there."""
    return option in source


def test_every_block_says_its_language() -> None:
    """One that a test here does something with, or `text`."""
    assert [(block.name, block.language) for block in BLOCKS if block.language not in LANGUAGES] == []


def test_text_blocks_hold_no_command() -> None:
    """What is to be typed is a shell block, so that it is run."""
    typed = re.compile(r"^\$?\s*(sudo |pip |python3? |edge-centernet (?!\d))", re.M)
    assert [block.name for block in of("text") if typed.search(block.text)] == []


def _elsewhere(block: Block) -> str:
    return RUN_ELSEWHERE.get((block.page, block.language), "")


@pytest.mark.parametrize("module", sorted(set(RUN_ELSEWHERE.values())))
def test_modules_that_run_other_blocks_read_their_pages(module: str) -> None:
    """The page that is left to them is named in their source, and they start an interpreter."""
    source = (ROOT / module).read_text(encoding="utf-8")
    page = next(page for (page, _), name in RUN_ELSEWHERE.items() if name == module)
    assert Path(page).name in source
    assert "subprocess" in source


def test_python_blocks_run(template: Path, running: Services, tmp_path: Path) -> None:
    """By this interpreter, in a folder of their page; those of README and docs/python.md elsewhere."""
    for block in of("python"):
        if not _elsewhere(block):
            sandbox = Sandbox(tmp_path, template, running)
            sandbox.furnish(block.text)
            code = f"import sys; del sys.path[0]\n{block.text}"
            done = subprocess.run([sys.executable, "-c", code], cwd=sandbox.folder, capture_output=True, text=True)
            assert done.returncode == 0, f"{block.name}: {done.stderr}"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Headers and sources of the C decoder, as docs/decoder.md has them written."""
    folder = tmp_path_factory.mktemp("exported")
    cli.main(["export-c", "centernet-nano-256", "--out", str(folder)], standalone_mode=False)
    return folder


@pytest.mark.parametrize("block", [pytest.param(one, id=one.name) for one in of("c")])
def test_c_block_compiles_without_a_warning(block: Block, exported: Path, compiler: str, tmp_path: Path) -> None:
    """As C99, with the constants of the model that the page exports."""
    (tmp_path / "block.c").write_text(block.text)
    options = ["-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{exported}"]
    command = [compiler, *options, "-c", str(tmp_path / "block.c"), "-o", str(tmp_path / "block.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [pytest.param(one, id=one.name, marks=pytest.mark.slow) for one in of("cmake")])
def test_cmake_block_builds_a_program(block: Block, in_order: Pages, tmp_path: Path) -> None:
    """In a project of three more lines, with the library where the page's shell block installed it."""
    if reason := lacking("cmake"):
        pytest.skip(reason)
    in_order.run(next(one for one in of(*SHELLS) if one.page == block.page and "cmake --install" in one.text))
    shutil.copy(in_order.sandbox(block.page).folder / "app.c", tmp_path / "app.c")
    lines = ["cmake_minimum_required(VERSION 3.16)", "project(app C)", "add_executable(app app.c)", block.text]
    (tmp_path / "CMakeLists.txt").write_text("\n".join(lines))
    prefix = f"-DCMAKE_PREFIX_PATH={in_order.sandbox(block.page).home / '.local'}"
    for words in (["-S", ".", "-B", "build", prefix], ["--build", "build"]):
        done = subprocess.run(["cmake", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert subprocess.run([tmp_path / "build/app"], capture_output=True, text=True).stdout.strip().isdigit()


@pytest.mark.parametrize("block", [pytest.param(one, id=one.name) for one in of("toml")])
def test_toml_block_is_a_configuration_of_detect(block: Block, tmp_path: Path) -> None:
    """`detect --config` reads it, every name and value, and the lines and zones in it."""
    (tmp_path / "x.toml").write_text(block.text)
    with detect.make_context("detect", ["--config", str(tmp_path / "x.toml")]) as context:
        assert context.params["camera"] is not None or context.params["source"] is not None
        for line in context.params["count_line"]:
            parse_line(line)
        for zone in context.params["zone"]:
            parse_zone(zone)


@pytest.mark.parametrize("block", [pytest.param(one, id=one.name) for one in of("yaml")])
def test_yaml_block_names_what_there_is(block: Block) -> None:
    """It parses; every metric in it is one that we export, every topic and event one that we publish."""
    yaml = pytest.importorskip("yaml", reason="the extra `eval` is not installed")
    assert yaml.safe_load(block.text)
    exported = _sources("edge_centernet/live")
    for metric in re.findall(r"\bedge_centernet_\w+", block.text):
        assert re.sub(r"^edge_centernet_|_(bucket|total|sum|count)$", "", metric) in exported, metric
    for field in re.findall(r"value_json\.(\w+)", block.text):
        assert f'"{field}"' in exported, field


def _sources(folder: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("block", [pytest.param(one, id=one.name) for one in of("json")])
def test_json_block_has_the_fields_that_we_write(block: Block) -> None:
    """It parses, and every name in it but those of classes, lines and zones stands in the code that writes it."""
    written = _sources("edge_centernet/live") + _sources("edge_centernet") + _sources("edge_centernet/bench")
    example = json.loads(block.text)
    for name in example:
        assert f'"{name}"' in written or re.search(rf"\b{name}\b", written), name


@pytest.mark.parametrize("block", [pytest.param(one, id=one.name) for one in of("ini")])
def test_ini_block_is_a_drop_in_that_systemd_takes(block: Block, tmp_path: Path) -> None:
    """With our unit, systemd-analyze finds no unknown key and no bad value in it."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze: install systemd")
    units = tmp_path / "etc/systemd/system"
    (units / "edge-centernet@.service.d").mkdir(parents=True)
    unit = (Path(edge_centernet.__file__).parent / "assets/edge-centernet@.service").read_text()
    (units / "edge-centernet@.service").write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit, flags=re.M))
    (units / "edge-centernet@.service.d/override.conf").write_text(block.text)
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"}
    done = subprocess.run(
        [analyze, "verify", "--man=no", "edge-centernet@x.service"], capture_output=True, text=True, env=environment
    )
    said = [line for line in done.stderr.splitlines() if str(units) in line or "edge-centernet@" in line]
    assert [line for line in said if re.search(r"Unknown|Failed|Invalid|ignoring", line)] == []


# -- the tables


def test_every_case_is_about_a_block() -> None:
    """An entry of CASES whose block is gone goes too; a block has one entry."""
    stale = [case for case in CASES if not any(b.page == case.page and case.has in b.text for b in of(*SHELLS))]
    assert stale == []
    counts = {b.name: sum(case.page == b.page and case.has in b.text for case in CASES) for b in of(*SHELLS)}
    assert {name: count for name, count in counts.items() if count > 1} == {}


def test_every_stand_in_is_needed() -> None:
    """Each fits a documented call; what is exempt is what this list says, with a reason each."""
    calls = [(block, words) for block in of(*SHELLS) for words in simple_commands(block.script)]
    used: set[StandIn] = set()
    exempt: set[str] = set()
    for block, words in calls:
        name = words[0] if "/" in words[0] and not words[0].startswith(".venv/bin/") else Path(words[0]).name
        text = shlex.join(words[1:]).replace("'", "")
        for rule in STAND_INS:
            if rule.program == name and re.search(rule.when, text):
                used.add(rule)
                exempt |= {f"{block.page}: {shlex.join(words)}"[:80]} if rule.exempt else set()
    assert [rule for rule in STAND_INS if rule not in used] == []
    assert all(len(rule.why) > 4 for rule in STAND_INS)
    assert exempt == EXEMPT
