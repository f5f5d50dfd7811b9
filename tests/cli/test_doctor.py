"""The command: text and JSON, exit status, colours, what it imports."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace

from click.testing import CliRunner
from healthy import ON_JETSON, ON_PC, ON_PI, OPENVINO, RIBBON, TFLITE, USB, missing, with_engines

from edge_centernet.cli.doctor import command
from edge_centernet.doctor.facts import Facts, Library
from edge_centernet.doctor.report import as_json, as_text
from edge_centernet.doctor.rules import diagnose


def text(facts: Facts) -> str:
    """The report without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", as_text(facts, diagnose(facts)))


def test_the_text_has_facts_and_findings() -> None:
    """A line for each engine, with a mark on what auto takes; each finding has its fix and its page."""
    wrong = replace(OPENVINO, state="wrong", reason="heat differs by 9 output steps", int8="", ms=None)
    lines = text(with_engines(replace(ON_PC, cameras=(replace(USB, access="denied"),)), wrong)).splitlines()

    assert "  TFLite        ai_edge_litert 2.3.0: right, INT8 (all), 9 ms  <- --runtime auto" in lines
    assert (
        "  OpenVINO      openvino 2026.4.1: computes wrong results (heat differs by 9 output steps)" in lines
    )
    assert "  ONNX Runtime  not installed" in lines
    assert "  /dev/video0  HD Webcam (uvcvideo, USB), may not be read by this user" in lines
    assert "  processor  Some CPU, 4 cores, avx2 avx512_vnni" in lines
    assert "  state      45 °C, not held back" in lines
    at = lines.index("  error   The camera may not be read by this user")
    assert lines[at + 2 : at + 4] == [
        "          fix: sudo chmod 660 /dev/video0",
        "          see: docs/doctor.md#camera-permission",
    ]
    assert lines[-1] == "1 error, 1 warning."


def test_a_device_cannot_write_to_the_terminal() -> None:
    """A USB camera calls itself what it likes; the report's own colours are all that is not text."""
    evil = replace(USB, name="Cam\x1b]0;owned\x07\x9b2J", access="denied")
    assert r"Cam\u001b]0;owned\u0007\u009b2J (uvcvideo, USB)" in text(replace(ON_PC, cameras=(evil,)))
    assert text(replace(ON_PC, cameras=(evil,))).replace("\n", "").isprintable()


def test_a_healthy_board_is_told_in_one_line() -> None:
    """The last one."""
    assert text(ON_PI).splitlines()[-1] == "Nothing is wrong."
    assert "  picamera2  0.3.30" in text(ON_PI).splitlines()
    assert "JetPack 6 (L4T 36.4)" in text(ON_JETSON)


def test_what_is_missing_is_said_and_does_not_break_the_text() -> None:
    """No engine, no camera, no NumPy, a machine that tells nothing."""
    facts = with_engines(ON_PC, missing(OPENVINO), missing(TFLITE))
    empty = replace(
        facts.machine, cpu="", features=(), cores=None, memory_total_mb=None, glibc=None, throttled=None
    )
    broken = replace(facts.software, numpy=Library(error="crashed (SIGILL)"), opencv=Library())
    report = text(replace(facts, machine=empty, software=broken, cameras=()))

    assert "  NumPy    does not load: crashed (SIGILL)" in report
    assert "  OpenCV   not installed" in report
    assert "Cameras\n  none found" in report


def test_json_is_one_object_with_four_keys() -> None:
    """Standard output holds it alone; what takes time is said on standard error."""
    done = CliRunner().invoke(command, ["--quick", "--json"])
    report = json.loads(done.stdout)

    assert list(report) == ["machine", "engines", "cameras", "findings"]
    assert {tuple(finding) for finding in report["findings"]} == {
        ("id", "level", "title", "found", "fix", "docs")
    }
    assert [engine["name"] for engine in report["engines"]] == ["openvino", "tflite", "onnxruntime"]
    assert done.stderr == "Looking at the machine ...\n"
    assert done.exit_code == int(any(finding["level"] == "error" for finding in report["findings"]))


def test_json_says_what_auto_takes() -> None:
    """And which cameras there are."""
    report = as_json(replace(ON_PI, cameras=(RIBBON,)), [])

    assert [engine["auto"] for engine in report["engines"]] == [False, True, False]
    assert report["cameras"][0]["kind"] == "csi"


def test_an_unknown_model_is_a_wrong_call() -> None:
    """Exit status 2 and one line, as for every command."""
    code = "from edge_centernet.cli import main; main()"
    options = [sys.executable, "-c", code, "doctor", "--model", "no-such-model"]
    done = subprocess.run(options, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: model 'no-such-model': no such file")


def test_colours_are_for_a_terminal() -> None:
    """None in a file, none where NO_COLOR asks for none."""
    run = [sys.executable, "-m", "edge_centernet", "doctor", "--quick"]
    assert b"\x1b" not in subprocess.run(run, capture_output=True, check=False).stdout
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        ours, theirs = pty.openpty()
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | variables
        done = subprocess.run(run, stdout=theirs, stderr=subprocess.PIPE, env=environment, check=False)
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1 << 16):
                shown += part
        except OSError:  # the end of a terminal
            pass
        os.close(ours)
        assert (b"\x1b[" in shown) == coloured, done.stderr


def test_the_command_itself_loads_neither_numpy_nor_opencv() -> None:
    """They may be what is broken."""
    code = (
        "import sys, edge_centernet.cli.doctor; "
        "print(sorted({'numpy', 'cv2', 'openvino', 'onnxruntime', 'ai_edge_litert'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
