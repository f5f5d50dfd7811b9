"""Device code loads neither torch, ONNX nor host code, `--help` no NumPy or OpenCV; nothing phones home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edge_centernet
from edge_centernet.runtimes import engines

PACKAGE = Path(edge_centernet.__file__).parent
HOST = ("calibration", "converters", "network", "qdq", "train", "labelling", "peers", "tuning")
HOST_COMMANDS = (
    *("cli.label", "cli.train", "cli.convert", "cli.import_", "cli.verify", "cli.export_frigate"),
    "cli.tune",
)
ADAPTERS = ("runtimes.ov", "runtimes.tflite", "runtimes.ort")  # each is imported where its engine is wanted
ENGINES = {"openvino", "ai_edge_litert", "tflite_runtime", "onnxruntime"}
REFUSED = {
    *("torch", "torchvision", "tensorflow", "onnx", "onnxsim", "safetensors", "tflite", "flatbuffers"),
    *(f"edge_centernet.{name}" for name in (*HOST, *HOST_COMMANDS)),
}
# SystemExit, because an ImportError could be caught and passed over in silence.
REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if any(name == refused or name.startswith(refused + ".") for refused in REFUSED):
            raise SystemExit(f"device code imported {name}")
sys.meta_path.insert(0, Refuse())
"""
MAIN = "from edge_centernet.cli import main; main()"


def device_modules() -> list[str]:
    """Every module of the package that is neither host code nor an adapter, named below edge_centernet."""
    found = []
    for folder, _, files in os.walk(PACKAGE, followlinks=True):
        for name in files:
            if name.endswith(".py"):
                parts = Path(folder, name).relative_to(PACKAGE).with_suffix("").parts
                found.append(".".join(part for part in parts if part != "__init__"))
    others = {*HOST_COMMANDS, *ADAPTERS}
    return sorted(
        name for name in found if name and name.partition(".")[0] not in HOST and name not in others
    )


def run_refusing(refused: set[str], code: str, *args: str | Path, cwd: Path = PACKAGE.parent) -> str:
    """Run `code` in a fresh interpreter that refuses to import `refused`; its standard output.

    `python -c` looks in `cwd` first: by default that is where the package under test is, installed or not.
    """
    code = f"REFUSED = {sorted(refused)!r}\n{REFUSE}\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, cwd=cwd
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_device_code_imports_and_detects_without_host_packages(tmp_path: Path) -> None:
    """All its modules import without any engine, then TFLite's adapter alone finds person and cat."""
    modules = [f"edge_centernet.{name}" for name in device_modules()]
    assert {"manifest", "imageio", "preprocess", "decoder", "detector", "runtimes", "cli"} <= set(
        device_modules()
    )
    run_refusing(
        REFUSED | ENGINES,
        "import importlib; [importlib.import_module(name) for name in sys.argv[1:]]",
        *modules,
    )

    others = ENGINES - {"ai_edge_litert", "tflite_runtime"}
    options = (
        "--source",
        PACKAGE / "assets/sample.jpg",
        "--runtime",
        "tflite",
        "--out",
        tmp_path,
        "--no-save",
    )
    out = run_refusing(REFUSED | others, MAIN, "detect", *options, cwd=tmp_path)
    frame = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    assert {found["class"] for found in frame["detections"]} >= {"person", "cat"}


# What cameras, services and the network need: none of it is for who detects in one image.
LIVE = (
    *("outputs.mqtt", "outputs.web", "outputs.prometheus", "outputs.home_assistant", "outputs.status"),
    *("sources.cameras", "sources.live", "sources.network", "service"),
)
DETECT = """
import json, sys
from edge_centernet.cli import cli
cli.main(["detect", *sys.argv[1:]], standalone_mode=False)
print(json.dumps(sorted(sys.modules)))
"""


def test_detecting_in_an_image_loads_nothing_for_cameras_or_the_network(tmp_path: Path) -> None:
    """Neither our modules for them nor MQTT's, Prometheus' and the web server's packages."""
    options = ("--source", PACKAGE / "assets/cat.jpg", "--format", "none", "--out", tmp_path)
    loaded = json.loads(run_refusing(set(), DETECT, *options, cwd=tmp_path))
    refused = {"paho", "tornado", "prometheus_client", *(f"edge_centernet.{name}" for name in LIVE)}
    assert [
        name for name in loaded if any(name == one or name.startswith(f"{one}.") for one in refused)
    ] == []
    assert {"edge_centernet.sources.files", "edge_centernet.outputs.annotate"} <= set(loaded)
    assert (tmp_path / "cat.jpg").is_file()


def test_help_loads_nothing_large() -> None:
    """`edge-centernet --help` needs neither the host packages nor an engine, nor even NumPy and OpenCV."""
    assert "detect" in run_refusing(REFUSED | ENGINES | {"numpy", "cv2"}, MAIN, "--help")


# What a process and its Python children look up or connect to, noted by an audit hook that Python sets up at
# every start. Addresses of this computer do not count.
GUARD = """
import sys
def note(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        who = args[1] if event in ("socket.connect", "socket.sendto") else args
        if isinstance(who, tuple) and who[0] not in ("127.0.0.1", "::1", "localhost", None):
            with open(NOTES, "a") as notes:
                notes.write(f"{event} {who}\\n")
sys.addaudithook(note)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        *(f"detect --runtime {engine} --source SAMPLE --no-save" for engine in engines.ENGINES),
        "convert centernet-nano-256 --int8 --target all --out OUT",
        "doctor",
        "bench --model centernet-nano-256 --duration 1",
    ],
)
def test_nothing_talks_to_anyone(command: str, tmp_path: Path) -> None:
    """No look-up, no connection, no file in the home folder; without CI set, which silences telemetry."""
    notes, home = tmp_path / "notes", tmp_path / "home"
    (tmp_path / "sitecustomize.py").write_text(f"NOTES = {str(notes)!r}\n{GUARD}")
    home.mkdir()
    path = os.pathsep.join(
        [str(tmp_path), str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    env = {key: value for key, value in os.environ.items() if key not in ("CI", "XDG_CACHE_HOME")}
    env |= {"PYTHONPATH": path, "HOME": str(home)}
    sample = str(PACKAGE / "assets/sample.jpg")
    args = [{"SAMPLE": sample, "OUT": str(tmp_path / "out")}.get(word, word) for word in command.split()]

    subprocess.run([sys.executable, "-c", "import socket; socket.gethostbyname('example.invalid')"],
                   env=env, check=False, capture_output=True)  # fmt: skip
    assert notes.read_text().count("example.invalid") == 1, "the guard does not work"
    notes.unlink()
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *args],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0 or command == "doctor", done.stderr
    assert not notes.exists(), notes.read_text()
    assert {path.name for path in home.iterdir()} <= {".cache"}
