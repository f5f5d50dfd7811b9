"""`edge-centernet bench` for real: engines in processes, turns, crashes, Ctrl-C, a camera."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import combinations, cycle, pairwise
from pathlib import Path
from typing import Any

import cv2
import pytest
from support import Result, allow_interrupts

import edge_centernet
from edge_centernet.bench import feed, record, report, resources, session
from edge_centernet.bench.session import Configuration, Worker, WorkerFailed
from edge_centernet.detector import Detector
from edge_centernet.extras import command_for
from edge_centernet.imageio import read_image
from edge_centernet.model_zoo import find_model
from edge_centernet.runtimes import ENGINES

NANO = "centernet-nano-256"
CLI = [
    sys.executable,
    "-c",
    "from edge_centernet.cli import main; main()",
    "bench",
    "--model",
    NANO,
    "--threads",
    "1",
]
PACKAGE = Path(edge_centernet.__file__).parent


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A short measurement of the nano model on all three engines, with its table and charts in "out"."""
    folder = tmp_path_factory.mktemp("bench")
    json_, png = folder / "bench.json", folder / "bench.png"
    command = [*CLI, "--duration", "1.5", "--json", str(json_), "--chart", str(png)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {**record.read_record(json_), "out": done.stdout, "err": done.stderr, "png": png, "json": json_}


@contextmanager
def running(*options: str | Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process whose standard error goes to folder/err; it is killed at the end."""
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        command = [*CLI, *map(str, options)]
        process = subprocess.Popen(command, stdout=out, stderr=err, preexec_fn=allow_interrupts)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(text: str, folder: Path, seconds: float = 120.0) -> None:
    """Until standard error has this text."""
    until = time.monotonic() + seconds
    while text not in (folder / "err").read_text():
        assert time.monotonic() < until, (folder / "err").read_text()
        time.sleep(0.02)


def workers_of(pid: int) -> dict[str, int]:
    """Engine -> process id of the living workers of a process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "cmdline").read_bytes().decode().split("\0")
            if parent == pid and "edge_centernet.bench.worker" in words:
                found[json.loads(words[-2])["engine"]] = int(path.name)
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- in this process -------------------------------------------------------------------------------


def test_end_to_end_is_the_steps_and_next_to_nothing_else() -> None:
    """A clock around each frame of the nano model agrees with the three inside it, and with our own."""
    photo = read_image(feed.SAMPLE)
    own, turns = [], []
    with Detector(NANO, runtime="tflite", threads=1) as detector:
        pictures = cycle([photo])
        for _ in range(20):  # in turns, for the machine may be busy
            turns.append(feed.detect_pictures(detector, pictures, 0.05))
            for _ in range(10):
                start = time.perf_counter()
                detector.detect(photo)
                own.append(1000.0 * (time.perf_counter() - start))
    ms = {step: [value for turn in turns for value in turn.ms[step]] for step in record.STEPS}
    sums = [sum(steps) for steps in zip(*(ms[step] for step in feed.STEPS), strict=True)]
    beyond = [whole - steps for whole, steps in zip(ms["end_to_end"], sums, strict=True)]
    whole = statistics.median(ms["end_to_end"])

    assert min(beyond) >= 0.0
    assert statistics.median(beyond) <= 0.05 + 0.02 * whole
    assert whole == pytest.approx(statistics.median(sums), rel=0.03, abs=0.05)
    assert whole == pytest.approx(statistics.median(own), rel=0.25)
    # The time of a turn is that of its frames, back to back; a busy machine may interrupt some turns between
    # two.
    shares = [sum(turn.ms["end_to_end"]) / (1000.0 * turn.seconds) for turn in turns]
    assert statistics.median(shares) > 0.95
    assert max(shares) <= 1.0


def test_pictures_of_a_folder_come_in_turn(tmp_path: Path) -> None:
    """Their number and sizes are kept, their names are not; what cannot be read is left out and told."""
    for name in ("sample", "cat"):
        shutil.copy(PACKAGE / f"assets/{name}.jpg", tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    said: list[str] = []
    about = feed.Feed(str(tmp_path)).describe(said.append)

    assert (about["kind"], about["pictures"], about["left_out"], len(about["sizes"])) == ("pictures", 2, 0, 2)
    assert len(said) == 1
    assert "broken.jpg" in said[0]
    assert not any(str(tmp_path) in str(value) for value in about.values())


@pytest.mark.parametrize(
    ("text", "live"),
    [("0", True), ("/dev/video7", True), ("csi", True), ("rtsp://a/b", True), ("film.mp4", False)],
)
def test_a_source_may_be_a_camera(text: str, live: bool) -> None:
    """As `detect --camera` names them."""
    assert feed.Feed(text).live is live


def test_a_film_is_seen_again_and_again(tmp_path: Path) -> None:
    """Five frames at a stretch are enough for a second: each has its steps, and no age."""
    photo = read_image(feed.SAMPLE)
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, photo.shape[1::-1])
    for _ in range(5):
        writer.write(photo)
    writer.release()
    film = feed.Feed(str(path))
    assert film.describe(print)["kind"] == "video"
    with Detector(NANO, runtime="tflite", threads=1) as detector:
        turn = feed.detect_frames(detector, film, 1.0)

    assert len(turn.ms["end_to_end"]) > 5
    assert turn.age_ms == []
    assert turn.seconds == pytest.approx(1.0, abs=0.5)


# ---- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--threads", "1,two"), "--threads: expected numbers from 1 on, such as 1,2,4, got '1,two'"),
        (("--threads", "0"), "--threads: expected numbers from 1 on"),
        (("--threads", "4096"), "--threads: expected"),
        (
            ("--runtime", "tensorflow"),
            "--runtime: expected all, or some of openvino, tflite, onnxruntime, got",
        ),
        (("--model", "nothing"), "model 'nothing': no such file"),
        (("--source", "nothing.jpg"), "nothing.jpg"),
        (("--source", "a.jpg", "--camera", "0"), "--source and --camera: expected one of them, got both"),
        (("--chart", "a.gif"), "expected a file name ending in .png or .svg, got '.gif'"),
        (("--json", "no/such/folder/a.json"), "expected an existing folder, got no/such/folder"),
    ],
)
def test_bad_options_are_one_line_before_anything_runs(
    run: Callable[..., Result], options: tuple[str, ...], message: str
) -> None:
    """Exit code 2, and nothing on standard output."""
    done = run("bench", *options)

    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "Starting" not in done.err


def test_chart_without_matplotlib_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., Result]
) -> None:
    """A device has none: said before the measurement, not after it."""
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    done = run("bench", "--chart", "a.png")

    assert done.code == 2
    assert command_for("convert") in done.err


def test_too_many_threads_are_left_out_with_a_line(
    onnx_model: Path, run: Callable[..., Result], tmp_path: Path
) -> None:
    """--threads 1,4096 measures one; the file of one's own model is run by the engine of its suffix."""
    out = tmp_path / "a.json"
    done = run("bench", "--model", onnx_model, "--threads", "1,4096", "--duration", "0.5", "--json", out)

    assert done.code == 0, done.err
    assert "4096 threads: left out, this process may use" in done.err
    (row,) = record.read_record(out)["results"]
    assert (row["runtime"], row["threads"]) == ("onnxruntime", 1)
    assert "ONNX Runtime  1" in done.out


def two_threads() -> None:
    """Skip on a machine with one core."""
    if len(resources.ordered()) < 2:
        pytest.skip("needs two cores")


@pytest.mark.slow
def test_what_memory_does_not_hold_at_once_is_measured_in_groups(
    onnx_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without memory for a second process each is a group: all its rounds before the next one begins."""
    two_threads()
    monkeypatch.setattr(session, "available_mb", lambda root: 0.0)
    found = session.measure(session.Settings(str(onnx_model), (), (1, 2), duration=0.5), print)
    first, second = found["results"]

    assert (first["group"], second["group"]) == (0, 1)
    assert max(turn["at_s"] for turn in first["rounds"]) < min(turn["at_s"] for turn in second["rounds"])
    assert "memory did not hold all at once" in report.as_text(found)


@pytest.mark.slow
def test_an_engine_that_is_not_installed_is_a_row_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name, it is a failure beside the others; with "all" it is left out with a line."""
    monkeypatch.setattr(session, "installed", lambda name: name == "tflite")
    said: list[str] = []
    found = session.measure(session.Settings(NANO, ("openvino", "tflite"), (1,), duration=0.5), said.append)

    assert [row["runtime"] for row in found["results"]] == ["tflite"]
    (failure,) = found["failures"]
    assert '(extra "openvino")' in failure["reason"]  # the record has no paths, what is said has the command
    assert any(command_for("openvino") in line for line in said)
    assert list(session.configurations(session.Settings(NANO, (), (1,)), said.append)) == [
        Configuration("tflite", 1, find_model(NANO, ".tflite"), (resources.ordered()[0],))
    ]
    assert "OpenVINO: left out, it is not installed" in said


# ---- whole measurements ----------------------------------------------------------------------------


@pytest.mark.slow
def test_record_has_what_others_read(measured: dict[str, Any]) -> None:
    """Every engine has a row: percentiles in order, fps, memory, a start that is its steps, int8."""
    assert [row["runtime"] for row in measured["results"]] == list(ENGINES)
    assert measured["failures"] == []
    for row in measured["results"]:
        for step in record.STEPS:
            assert 0.0 < row["p50_ms"][step] <= row["p90_ms"][step] <= row["p99_ms"][step]
        assert (row["precision"], row["threads"], row["frame_age_ms"], row["detections"]) == (
            "int8",
            1,
            None,
            2,
        )
        assert row["fps"] == pytest.approx(row["frames"] / row["seconds"], rel=0.02)
        assert 30.0 < row["steady_rss_mb"] <= row["peak_rss_mb"] < 1000.0
        cold = row["cold_start_ms"]
        steps = ("interpreter", "imports", "open", "read", "detect")
        assert sum(cold[step] for step in steps) == pytest.approx(cold["total"], abs=0.5)
        assert len(cold["totals"]) == 3
        assert row["executed"]["int8"] == "yes"
    assert set(measured["model"]["sha256"]) == set(ENGINES)


@pytest.mark.slow
def test_rounds_are_interleaved_in_changing_order(measured: dict[str, Any]) -> None:
    """No engine begins its next turn before all have had this one, and their order changes."""
    began = [
        [row["rounds"][i]["at_s"] for row in measured["results"]]
        for i in range(measured["settings"]["rounds"])
    ]

    assert all(max(a) < min(b) for a, b in pairwise(began))
    orders = [sorted(range(3), key=times.__getitem__) for times in began]
    assert orders == [[0, 1, 2], [2, 1, 0], [1, 2, 0]]


def test_over_the_rounds_no_place_is_anybodys() -> None:
    """Of four, each has every place twice in eight rounds, and comes before each other four times."""
    rounds = [session.turns("abcd", number) for number in range(8)]

    assert [order[0] for order in rounds] == list("adbacbdc")
    for place in range(4):
        assert sorted(order[place] for order in rounds) == list("aabbccdd")
    for a, b in combinations("abcd", 2):
        assert sum(order.index(a) < order.index(b) for order in rounds) == 4


@pytest.mark.slow
def test_record_does_not_say_whose_machine_it_is(measured: dict[str, Any]) -> None:
    """No path, no host name, no user in it."""
    text = measured["json"].read_text()
    words = [os.uname().nodename, str(PACKAGE), str(Path.home()), sys.executable]

    assert [word for word in words if word.strip("/") and f"{word}" in text] == []
    assert not re.search(r'"[^"]*(?<![\w.])/(home|root|usr|tmp|work|etc|dev)/', text)


@pytest.mark.slow
def test_table_and_chart_show_every_engine(measured: dict[str, Any]) -> None:
    """One row each, and a picture that is not empty; the same as SVG has the steps in words."""
    for engine in ENGINES.values():
        assert re.search(rf"^{engine.title} +1 +int8 \(\d+ of 68 int8\)", measured["out"], re.MULTILINE)
    picture = cv2.imread(str(measured["png"]))
    assert picture is not None
    assert len({tuple(pixel) for pixel in picture.reshape(-1, 3)[::7].tolist()}) > 20
    svg = measured["png"].with_suffix(".svg")
    report.draw_chart(measured, svg)
    assert svg.read_text().startswith("<?xml")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_computes_nothing_while_others_have_their_turn(engine: str) -> None:
    """After a turn its threads sleep: for half a second it takes next to no processor time, pinned."""
    cpu = resources.ordered()[0]
    about = Configuration(engine, 1, find_model(NANO, ENGINES[engine].suffix), (cpu,))
    worker = Worker(about, feed.Feed(), streamed=False)
    try:
        worker.ask("warm_up", 5.0, at_most=1.0)
        before = cpu_seconds(worker.pid)
        worker.ask("turn", 1.0, seconds=1.0)
        busy = cpu_seconds(worker.pid) - before
        time.sleep(0.2)  # some engines spin for a moment
        before = cpu_seconds(worker.pid)
        time.sleep(0.5)
        idle = cpu_seconds(worker.pid) - before
        tasks = [int(task.name) for task in Path(f"/proc/{worker.pid}/task").iterdir()]
        pinned = {cpu for task in tasks for cpu in os.sched_getaffinity(task)}
    finally:
        worker.close()

    assert busy > 0.1
    assert idle <= 0.02
    assert pinned == {cpu}


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A file that is no model: the engine's or our own word, not a traceback."""
    path = tmp_path / "a.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(WorkerFailed, match=r"a\.onnx"):
        Worker(Configuration("onnxruntime", 1, path, (resources.ordered()[0],)), feed.Feed(), streamed=False)


@pytest.mark.slow
def test_a_killed_worker_does_not_take_the_others_down(tmp_path: Path) -> None:
    """TFLite is killed in the middle: its rounds are kept with the reason, ONNX Runtime goes on."""
    out = tmp_path / "a.json"
    options = ("--runtime", "tflite,onnxruntime", "--duration", "8", "--json", out)
    with running(*options, folder=tmp_path) as process:
        wait_for("Rounds", tmp_path)
        time.sleep(1.0)
        os.kill(workers_of(process.pid)["tflite"], signal.SIGKILL)
        assert process.wait(120) == 0
    found = record.read_record(out)
    rounds = {row["runtime"]: len(row["rounds"]) for row in found["results"]}

    assert rounds["onnxruntime"] == found["settings"]["rounds"] == 8
    assert 1 <= rounds["tflite"] < 8
    (failure,) = found["failures"]
    assert failure["runtime"] == "tflite"
    assert re.fullmatch(r"was killed \(SIGKILL; .*\), in round \d of 8", failure["reason"])
    assert f"TFLite, 1 thread: {failure['reason']}" in (tmp_path / "out").read_text()


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    """Exit code 130; the table and the record of the rounds so far, marked; no process is left."""
    out = tmp_path / "a.json"
    with running(
        "--runtime", "tflite,onnxruntime", "--duration", "60", "--json", out, folder=tmp_path
    ) as process:
        wait_for("Rounds", tmp_path)
        children = workers_of(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    found = record.read_record(out)

    assert found["interrupted"] is True
    assert {row["runtime"] for row in found["results"]} == {"tflite", "onnxruntime"}
    assert "interrupted" in (tmp_path / "out").read_text()
    assert "Traceback" not in (tmp_path / "err").read_text()
    assert len(children) == 2
    assert [pid for pid in children.values() if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.slow
def test_ctrl_c_before_the_first_round_leaves_nothing(tmp_path: Path) -> None:
    """Exit code 130, no record, no table."""
    with running("--runtime", "tflite", "--json", tmp_path / "a.json", folder=tmp_path) as process:
        wait_for("Checking", tmp_path)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130

    assert not (tmp_path / "a.json").exists()
    assert (tmp_path / "out").read_text() == ""


@pytest.mark.slow
def test_an_engine_that_answers_wrongly_is_a_row_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Result]
) -> None:
    """The self-check finds changed weights of the OpenVINO file; TFLite is measured, and the exit code is 0.

    Where the spoilt engine is the only one, the exit code is 2 and the reason is the line.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("edge_centernet.model_zoo.FOLDER", tmp_path)
    for path in (PACKAGE / "model_zoo").glob(f"{NANO}.*"):
        shutil.copy(path, tmp_path)
    xml, weights = tmp_path / f"{NANO}.xml", tmp_path / f"{NANO}.bin"
    xml.write_text(re.sub(r"(content_sha256&quot;: &quot;)[0-9a-f]{64}", r"\1", xml.read_text()))
    data = bytearray(weights.read_bytes())
    data[200_000:210_000] = bytes(byte ^ 0x3C for byte in data[200_000:210_000])
    weights.write_bytes(bytes(data))
    options = ("--model", NANO, "--threads", "1", "--duration", "0.5", "--json", tmp_path / "a.json")
    done = run("bench", "--runtime", "openvino,tflite", *options)

    assert done.code == 0, done.err
    assert re.search(
        r"^OpenVINO, 1 thread: fails its self-check: answers wrongly: \w+ differs by", done.out, re.M
    )
    assert [row["runtime"] for row in record.read_record(tmp_path / "a.json")["results"]] == ["tflite"]
    alone = run("bench", "--runtime", "openvino", *options[:-2])
    assert (alone.code, alone.out) == (2, "")
    assert "expected an engine that can be measured here, found none: fails its self-check" in alone.err


@pytest.mark.slow
def test_a_camera_tells_the_age_of_its_frames(tmp_path: Path) -> None:
    """A 30 fps camera over HTTP: as many results as frames, older than their steps, below half a second."""
    from servers import mjpeg_server

    out = tmp_path / "a.json"
    with mjpeg_server() as server:
        command = [*CLI, "--runtime", "tflite", "--duration", "6", "--camera", server.url, "--json", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = record.read_record(out)
    (row,) = found["results"]

    assert found["source"] == {**found["source"], "kind": "live", "sizes": ["320x160"], "sha256": None}
    assert 10.0 < row["fps"] < 35.0
    assert row["p50_ms"]["end_to_end"] < row["frame_age_ms"]["p50"] < 500.0
    assert "age p50" in done.stdout
    assert server.url not in out.read_text()
