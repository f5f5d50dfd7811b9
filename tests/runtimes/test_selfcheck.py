"""Engines are tested before they are used: wrong results, crashes and hangs are found and remembered."""

from __future__ import annotations

import json
import re
import shutil
import sys
import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("onnx", reason="needs the convert extra")
pytest.importorskip("openvino", reason="needs the openvino extra")
pytest.importorskip("ai_edge_litert", reason="needs the tflite extra")

from edge_centernet import qdq, selftest
from edge_centernet.artifact import read_manifest
from edge_centernet.cli.detect import command
from edge_centernet.converters import convert, to_tflite
from edge_centernet.errors import ArtifactError, ManifestError
from edge_centernet.heads import Heads
from edge_centernet.manifest import Manifest
from edge_centernet.model_zoo import find_model
from edge_centernet.qdq.reference import ASSETS
from edge_centernet.runtimes import open_runtime, selfcheck
from edge_centernet.system.child import command_of

NAME = "centernet-nano-256"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the nano model for OpenVINO and TFLite."""
    out = tmp_path_factory.mktemp("selfcheck")
    convert(find_model(NAME, ".onnx"), ["openvino", "tflite"], "int8", out)
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that may be spoiled; nothing is remembered from elsewhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(made, tmp_path / "models"))


def spoil(folder: Path) -> None:
    """Change some weights of the OpenVINO file, and remove the hash that would reveal it beforehand."""
    xml = folder / f"{NAME}.xml"
    text, count = re.subn(r"(content_sha256&quot;: &quot;)[0-9a-f]{64}", r"\1", xml.read_text())
    assert count == 1
    xml.write_text(text)
    path = folder / f"{NAME}.bin"
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[200_000:210_000] ^= 0x3C
    path.write_bytes(data.tobytes())


def test_a_right_answer_is_remembered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked once for a file, an engine's release and a processor; the second time no process is started."""
    path = folder / f"{NAME}.xml"
    assert selfcheck.selftest_failure(path, "openvino") is None
    known = json.loads((tmp_path / "cache/edge-centernet/selfcheck.json").read_text())
    (key,) = known

    assert (known[key], selfcheck.version("openvino") in key) == ("", True)
    monkeypatch.setattr(selfcheck, "ask", lambda *_: pytest.fail("asked again"))
    assert selfcheck.selftest_failure(path, "openvino") is None


def test_changed_weights_are_a_wrong_answer(folder: Path) -> None:
    """The reason names the head and how far it is off."""
    spoil(folder)

    reason = selfcheck.selftest_failure(folder / f"{NAME}.xml", "openvino")
    assert reason is not None
    assert reason.startswith("answers wrongly: heat differs by ")


def test_a_file_that_opens_and_does_not_run_is_found_out(folder: Path) -> None:
    """A TFLite network whose first bias has lost its data opens; running it is one of our errors."""
    graph = to_tflite.Int8Graph(network := qdq.load(find_model(NAME, ".onnx")))
    for op in network.ops:
        graph.add_op(op)
    bias = next(step for step in graph.steps if step.code == "CONV_2D").inputs[2]
    graph.rows[bias] = replace(graph.rows[bias], data=None)
    path = folder / f"{NAME}.tflite"
    path.write_bytes(to_tflite.append_files(graph.finish(), replace(read_manifest(path), content_sha256="")))

    reason = selfcheck.selftest_failure(path, "tflite")
    assert reason is not None
    assert reason.startswith(f"gives no answer: {path}: tflite opened it but stopped while it ran (")


def test_the_next_engine_is_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Auto finds that OpenVINO answers wrongly, says so, and detects with TFLite."""
    spoil(folder)
    monkeypatch.setattr("edge_centernet.model_zoo.FOLDER", folder)
    done = CliRunner().invoke(
        command, ["--source", str(ASSETS / "sample.jpg"), "--model", NAME, "--out", str(folder / "o")]
    )

    assert done.exit_code == 0, done.output
    assert "OpenVINO cannot be relied on here" in done.stderr
    assert "Using TFLite, int8" in done.stderr
    assert '"class": "cat"' in capfd.readouterr().out


def test_where_no_engine_is_left_there_is_one_clear_line(folder: Path) -> None:
    """A file of its own has one engine only."""
    spoil(folder)
    options = ["--source", str(ASSETS / "sample.jpg"), "--model", str(folder / f"{NAME}.xml")]
    done = CliRunner().invoke(command, options)

    assert isinstance(done.exception, ArtifactError)
    assert str(done.exception).startswith(
        f"{folder / NAME}.xml: expected an engine that computes it on this machine"
    )


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", (True, "crashed (SIGILL)")),
        ("import time; time.sleep(60)", (True, "did not answer within 1 s")),
        ("print('heat is off'); raise SystemExit(3)", (True, "heat is off")),
        ("raise SystemExit(4)", (False, "")),
        ("raise ImportError('libcudart')", (False, "could not be asked: ImportError: libcudart")),
        ("raise SystemExit(2)", (False, "could not be asked: exit status 2")),
        ("", (True, "")),
    ],
)
def test_what_a_process_says_by_how_it_ends(program: str, verdict: tuple[bool, str]) -> None:
    """A crash and a hang are verdicts; a file that cannot be opened is not the engine's fault."""
    assert selfcheck.ask([sys.executable, "-c", program], 1.0 if "sleep" in program else 60.0) == verdict


def test_a_process_that_failed_for_an_unknown_reason_is_asked_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It speaks against the engine, and nothing is remembered."""
    path = folder / f"{NAME}.tflite"
    monkeypatch.setattr(selfcheck, "command_of", lambda *words: [sys.executable, "-c", "1 / 0"])

    assert (
        selfcheck.selftest_failure(path, "tflite")
        == "could not be asked: ZeroDivisionError: division by zero"
    )
    assert not (tmp_path / "cache/edge-centernet/selfcheck.json").exists()


def test_a_folder_of_our_name_in_the_current_one_is_not_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m` would run what lies there; the processes are of this very package."""
    (tmp_path / "edge_centernet").mkdir()
    (tmp_path / "edge_centernet/__init__.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)

    assert selfcheck.ask(command_of(selfcheck.__name__, str(folder / f"{NAME}.tflite"), "tflite"), 60) == (
        True,
        "",
    )


def test_a_model_without_a_question_is_run_in_a_process_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that crashes the engine crashes that process; one that runs is remembered as right."""
    path = folder / f"{NAME}.tflite"
    flatbuffer = path.read_bytes()[: zipfile.ZipFile(path).infolist()[0].header_offset]
    without = replace(read_manifest(path), golden=None, content_sha256="")
    path.write_bytes(to_tflite.append_files(flatbuffer, without))
    asked = []
    ask = selfcheck.ask
    monkeypatch.setattr(selfcheck, "ask", lambda *words: asked.append(words) or ask(*words))
    assert selfcheck.selftest_failure(path, "tflite") is None
    assert selfcheck.selftest_failure(path, "tflite") is None
    assert len(asked) == 1
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(selfcheck, "command_of", lambda *_: [sys.executable, "-c", crash])
    path.write_bytes(to_tflite.append_files(flatbuffer, replace(without, verified=not without.verified)))
    assert selfcheck.selftest_failure(path, "tflite") == "crashed (SIGSEGV)"


def test_a_verdict_that_others_may_have_written_is_not_believed(folder: Path, tmp_path: Path) -> None:
    """It is asked anew, and kept where nobody else can write."""
    path, cache = folder / f"{NAME}.tflite", tmp_path / "cache/edge-centernet/selfcheck.json"
    assert selfcheck.selftest_failure(path, "tflite") is None
    (key,) = json.loads(cache.read_text())
    for mode in (0o666, 0o600):
        cache.write_text(json.dumps({key: "answers wrongly"}))
        cache.chmod(mode)
        assert selfcheck.selftest_failure(path, "tflite") == ("answers wrongly" if mode == 0o600 else None)
    assert cache.stat().st_mode & 0o077 == 0


def test_a_cache_that_is_nonsense_is_asked_anew(folder: Path, tmp_path: Path) -> None:
    """Half a JSON file is no reason to stop."""
    cache = tmp_path / "cache/edge-centernet/selfcheck.json"
    cache.parent.mkdir(parents=True)
    cache.write_text('{"a": ')

    assert selfcheck.selftest_failure(folder / f"{NAME}.tflite", "tflite") is None
    assert len(json.loads(cache.read_text())) == 1


def test_every_engine_answers_its_question_to_the_bit(folder: Path) -> None:
    """The values in the manifest are those of the reference; both engines are at 0 steps."""
    for suffix in (".xml", ".tflite"):
        runtime = open_runtime(folder / f"{NAME}{suffix}", threads=1)
        heads = runtime.run(selftest.test_input(runtime.manifest))
        for role in selftest.ROLES:
            answer: Any = (runtime.manifest.golden or {})[role]
            spec = getattr(runtime.manifest, role)
            stored = np.ascontiguousarray(getattr(heads, role)).reshape(-1)[answer["at"]].astype(int)
            assert (stored - spec.quant.zero_point).tolist() == answer["steps"], (suffix, role)
        runtime.close()


@pytest.mark.parametrize("role", selftest.ROLES)
def test_only_the_engine_that_rounds_otherwise_may_be_some_steps_off(folder: Path, role: str) -> None:
    """tflite-runtime by at most twice what was seen of it, and less than any fault of a whole engine."""
    seen, fault = {"heat": (3.1, 12.5), "size": (6.3, 12.6), "offset": (5.1, 10.7)}[role]
    runtime = open_runtime(folder / f"{NAME}.tflite", threads=1)
    manifest = runtime.manifest
    heads = runtime.run(selftest.test_input(manifest))
    runtime.close()
    rounds = {"tflite_runtime", "tflite_runtime.interpreter"}
    everyone = {"", "ai_edge_litert", "ai_edge_litert.interpreter", *rounds}
    for steps, allowed in ((1, everyone), (round(seen * 1.1), rounds), (round(fault * 0.9), set())):
        moved = heads._replace(
            **{role: np.clip(getattr(heads, role).astype(int) + steps, -128, 127).astype(np.int8)}
        )
        assert selftest.differences(manifest, moved)[role] == pytest.approx(steps, rel=0.1), steps
        assert {m for m in everyone if selftest.problem(manifest, moved, m) is None} == allowed, steps


def ask(manifest: Manifest, heads: Heads) -> None:
    """Both halves of a self-check."""
    selftest.test_input(manifest)
    selftest.problem(manifest, heads)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"picture": "!"}, "the image is damaged"),
        ({"picture": "eJwDAAAAAAE="}, "expected an image of 3072 bytes, got 0"),
        (
            {"heat": {"step": 0.1, "at": [10**9], "steps": [1]}},
            "the values of heat do not fit its 20480 places",
        ),
        ({"heat": {"step": 0.0, "at": [1], "steps": [1]}}, "the values of heat do not fit"),
        ({"heat": {"step": 0.1, "at": [1, 2], "steps": [1]}}, "the values of heat do not fit"),
        ({"heat": "x"}, "expected step, at and steps of heat"),
    ],
)
def test_tampered_questions_are_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    """What is in a file is input like any other: checked before it is used."""
    runtime = open_runtime(folder / f"{NAME}.tflite", threads=1)
    manifest = read_manifest(folder / f"{NAME}.tflite")
    heads = runtime.run(selftest.test_input(manifest))
    tampered = replace(manifest, golden={**(manifest.golden or {}), **change})

    with closing(runtime), pytest.raises(ManifestError, match=message):
        ask(tampered, heads)
