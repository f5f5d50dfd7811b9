"""The command group: help, exit codes, missing extras."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
import squares
from test_detect import environment

import edge_centernet.cli
from edge_centernet.cli import COMMANDS, SECTIONS, Command, cli, option_group
from edge_centernet.errors import printable
from edge_centernet.extras import command_for

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
    ("command", "absent", "extra", "says"),
    [
        ("train", "torch", "train", "Training needs packages"),
        ("convert", "onnx", "convert", "reading ONNX files needs packages"),
        ("tune", "onnx", "convert", "edge-centernet tune needs packages"),
        ("detect", "onnxruntime", "onnxruntime", "edge-centernet detect needs packages"),
        ("detect", "tornado", "live", "the live page (--serve) needs packages"),
    ],
)
def test_a_missing_extra_is_named(
    tmp_path: Path, onnx_model: Path, command: str, absent: str, extra: str, says: str
) -> None:
    """One line with what needs it and the pip command, before anything is read; exit code 2."""
    args = {
        "train": ["--data", str(tmp_path), "--out", str(tmp_path / "run")],
        "convert": [str(onnx_model), "--int8", "--target", "onnx", "--out", str(tmp_path / "o")],
        "detect": ["--source", "x.jpg", "--model", str(onnx_model)],
        "tune": ["x.mp4", "--out", str(tmp_path / "t")],
    }[command]
    if extra == "live":
        cv2.imwrite(str(tmp_path / "x.png"), np.zeros((8, 8, 3), np.uint8))
        args = ["--source", str(tmp_path / "x.png"), "--model", str(onnx_model), "--serve", "127.0.0.1:0"]
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
    *before, line = done.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert f"{says} that are not installed (extra" in line
    # Run in a checkout, a process does not know that pip was told to leave it there.
    assert command_for(extra).replace("-e ", "") in line.replace("-e ", "")
    assert ("--index-url https://download.pytorch.org/whl/cpu" in line) == (extra == "train")
    assert [one for one in before if not one.startswith("Using ONNX Runtime")] == []


def test_group_can_be_called_as_a_function() -> None:
    """standalone_mode=False raises, as click's own groups do."""
    with pytest.raises(click.UsageError):
        cli.main(["detect"], standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b]0;title\x07b\x7f", r"a\u001b]0;title\u0007b\u007f"),
        ("\x9b2J", r"\u009b2J"),
        ("abc\u202ecod.exe", r"abc\u202ecod.exe"),
        ("over\rwritten", r"over\u000dwritten"),
        ("\udcff.jpg", r"\udcff.jpg"),
        ("\U000e0041", r"\udb40\udc41"),
        ("two\nlines\tof größe, 大小\u3000and\xa0ñ", "two\nlines\tof größe, 大小\u3000and\xa0ñ"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, expected: str) -> None:
    """Sequences for terminals, of seven and eight bits, reversed text, bytes that are no UTF-8."""
    assert printable(text) == expected


def test_a_file_name_reaches_the_terminal_as_letters(run: Run, tmp_path: Path) -> None:
    """In errors of ours, of click and of the system, and in what a command prints."""
    evil = tmp_path / "a\x1b]0;owned\x07\x9b31m"
    evil.write_text("no model")
    evil.with_suffix(".onnx").write_text("no model")
    for arguments in (
        ["inspect", str(evil.with_suffix(".onnx"))],
        ["detect", "--source", str(evil)],
        ["detect", "--source", str(evil / "x.jpg"), "--model", "centernet-nano-256"],
        ["detect", "--threads", str(evil)],
        ["inspect", str(evil), str(evil)],
        [str(evil)],
        [f"--{evil}"],
    ):
        done = run(*arguments)
        assert done.code == 2
        assert "owned" in done.err
        assert done.err.replace("\n", "").isprintable()


def test_every_command_prints_by_echo() -> None:
    """But `doctor`, whose text has colours: its report removes control characters from each part."""
    for path in Path(edge_centernet.cli.__file__).parent.glob("*.py"):
        direct = path.read_text().count("click.echo(")
        assert direct == {"__init__": 1, "doctor": 1}.get(path.stem, 0), path.name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["detct", "a.jpg"], "No such command 'detct'; did you mean 'detect'?"),
        (["xyzzy"], "No such command 'xyzzy'."),
        (["detect", "--line", "0,0,1,1"], "No such option '--line'; did you mean --count-line?"),
        (["detect", "--epochs", "3"], "No such option '--epochs'; `train` has it."),
        (["detect", "--xyzzy"], "No such option '--xyzzy'."),
        (["detect", "a.jpg", "--clases", "cat"], "'--classes'"),
        (["inspect", "centernet-nano256"], "did you mean 'centernet-nano-256'?"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_right_one(run: Run, words: list[str], says: str) -> None:
    """Commands, options and models."""
    done = run(*words)
    assert done.code == 2
    assert says in done.err
