"""The command group: help, exit codes, missing extras; and `inspect`."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import squares
from support import ENGINES
from test_detect import environment

from edge_centernet.cli import COMMANDS, SECTIONS, Command, cli, option_group
from edge_centernet.decoder import BACKEND

Run = Callable[..., Any]


def test_help_lists_every_command(run: Run) -> None:
    """With one line each."""
    done = run("--help")
    assert done.code == 0
    for name, (_, text, _) in COMMANDS.items():
        assert f"{name} " in done.out
        assert text in done.out


def test_each_command_stands_below_one_heading() -> None:
    """In the order of the table."""
    assert [name for names in SECTIONS.values() for name in names] == list(COMMANDS)


def test_options_stand_below_their_headings() -> None:
    """In the order given; those without a heading follow at the end, and arguments are left to the text."""

    @click.command(cls=Command)
    @click.argument("what")
    @option_group(click.option("--near", help="One."), click.option("--far", help="Two."), heading="Place")
    @click.option("--late", help="Three.")
    @option_group(click.option("--wide", help="Four."), heading="Place")
    def command(**_: str) -> None:
        """Do something."""

    shown = command.get_help(click.Context(command)).split("Do something.")[1].split()
    words = [word for word in shown if word.endswith(":") or word.startswith("--")]
    assert words == ["Place:", "--near", "--far", "--wide", "options:", "--late", "--help"]
    assert "WHAT" not in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(run: Run, name: str) -> None:
    """`COMMAND --help` works and ends with a runnable example."""
    done = run(name, "--help")
    assert done.code == 0
    assert f"edge-centernet {name}" in done.out.split("ptions:")[0].split("\n", 1)[1]


def test_an_unknown_command_is_code_2(run: Run) -> None:
    """As click says it."""
    done = run("detct")
    assert done.code == 2
    assert "No such command 'detct'" in done.err


def test_help_imports_nothing_heavy() -> None:
    """click, and our own names: no NumPy, no OpenCV."""
    code = """
import sys
from edge_centernet.cli import cli
try:
    cli.main(["--help"], prog_name="edge-centernet")
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules} & {"numpy", "cv2", "openvino", "torch",
    "onnx"}))
"""
    done = subprocess.run(
        squares.python("-c", code), capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(
    ("command", "absent", "extra"),
    [("train", "torch", "train"), ("convert", "onnx", "convert"), ("detect", "onnxruntime", "onnxruntime")],
)
def test_a_missing_extra_is_named(
    tmp_path: Path, onnx_model: Path, command: str, absent: str, extra: str
) -> None:
    """One line with the pip command, exit code 2."""
    args = {
        "train": ["--data", str(tmp_path), "--out", str(tmp_path / "run")],
        "convert": [str(onnx_model), "--int8", "--target", "onnx", "--out", str(tmp_path / "o")],
        "detect": ["--source", "x.jpg", "--model", str(onnx_model)],
    }[command]
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from edge_centernet.cli import main
sys.argv = ["edge-centernet", {command!r}, *{args!r}]
main()
"""
    done = subprocess.run(squares.python("-c", code), capture_output=True, text=True, env=environment())
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().startswith("Error: ")
    assert f"pip install 'edge-centernet[{extra}]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_group_can_be_called_as_a_function() -> None:
    """standalone_mode=False raises, as click's own groups do."""
    with pytest.raises(click.UsageError):
        cli.main(["detect"], standalone_mode=False)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_inspect_json(run: Run, artifacts: dict[tuple[str, str], Path], engine: str, precision: str) -> None:
    """Manifest, tensors, size and hash of each format."""
    path = artifacts[engine, precision]
    done = run("inspect", path, "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report["manifest"]["precision"] == precision
    assert report["manifest"]["model"]["classes"] == list(squares.CLASSES)
    weights = path.with_suffix(".bin").stat().st_size if engine == "openvino" else 0
    assert report["bytes"] == path.stat().st_size + weights
    heat = report["tensors"][1]
    assert (heat["role"], heat["dtype"]) == ("heat", "int8" if precision == "int8" else "float32")
    assert heat["scale"] == (0.125 if precision == "int8" else None)


def test_inspect_text(run: Run, onnx_model: Path) -> None:
    """The same for people."""
    out = run("inspect", onnx_model).out
    for text in (
        "ONNX, int8",
        "128x96 rgb",
        "red, green, blue sky",
        "scale 0.125, zero point 0",
        "sha256",
        "as trained",
    ):
        assert text in out
    assert ("decoder     C, on this machine" in out) == (BACKEND == "c")
    assert ("decoder     NumPy (no C compiler" in out) == (BACKEND == "numpy")


def test_inspect_needs_no_engine(artifacts: dict[tuple[str, str], Path]) -> None:
    """Nor NumPy: it works where nothing but click is installed."""
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("openvino", "ai_edge_litert", "onnxruntime", "onnx", "numpy", "cv2"):
            raise SystemExit(f"imported {{name}}")
sys.meta_path.insert(0, Absent())
from edge_centernet.cli import cli
for path in {[str(p) for p in artifacts.values()]!r}:
    cli.main(["inspect", path], standalone_mode=False)
"""
    subprocess.run(squares.python("-c", code), check=True, env=environment(), stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", ["none.onnx", "nonesuch", "photo.jpg"])
def test_inspect_refuses_what_is_no_model(
    run: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, exit code 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"x")
    done = run("inspect", name)
    assert done.code == 2
    assert done.err.startswith("Error: ")
    assert len(done.err.splitlines()) == 1
