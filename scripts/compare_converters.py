"""Post-training quantization by us and by others, from the same float weights and the same 200 images.

    python scripts/compare_converters.py ../shared/data/voc2007 --peers ~/peers

Peers: NNCF (OpenVINO), ONNX Runtime's quantizer, ai-edge-quantizer and onnx2tf (both TFLite; the latter with
TensorFlow's quantizer), each with the defaults that its documentation starts from and per-channel weights. The heavy
ones run in environments of their own below --peers, made where they are missing. What each makes of the fp32 file that
we write for its engine is evaluated by that engine on
instances_val.json: AP50, AP, detections (score above 0.3) that agree with the fp32 file's on the first 200 images,
size, latency at one thread as a ratio to fp32 (interleaved, medians), seconds to convert, size of the environment.
Writes docs/benchmarks/converters.json. A peer that fails is recorded with its last line.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from check_int8_speed import ROOT, commit, cpu_name, inferences
from environments import environment

from edge_centernet.artifact import files_of, read_manifest
from edge_centernet.calibration.images import pick_images
from edge_centernet.converters import budget, convert, to_tflite
from edge_centernet.converters.graphs import HEADS, read_model, set_manifest
from edge_centernet.converters.source import Calibration, open_network
from edge_centernet.converters.verify import agreement, sample_pictures
from edge_centernet.data import Dataset, read_dataset
from edge_centernet.files import write_atomic
from edge_centernet.heads import Heads
from edge_centernet.image import letterbox, prepare, read_image
from edge_centernet.manifest import KEY, Manifest
from edge_centernet.models import DEFAULT, find_model
from edge_centernet.progress import Progress, bars
from edge_centernet.runtimes import open_runtime
from edge_centernet.runtimes.tflite import interpreter_class

RECORD = ROOT / "docs/benchmarks/converters.json"
PEERS = {  # name -> (engine's suffix, script, packages of an environment of its own)
    "NNCF": (".xml", "nncf_ptq.py", ("nncf==3.4.0", "openvino==2026.4.1")),
    "ONNX Runtime quantizer": (".onnx", "ort_ptq.py", ()),
    "ai-edge-quantizer": (".tflite", "aeq_ptq.py", ("ai-edge-quantizer==0.10.0",)),
    "onnx2tf": (".tflite", "onnx2tf_ptq.py", ("onnx2tf==1.29.24",)),
}
TARGETS = {".xml": "openvino", ".onnx": "onnx", ".tflite": "tflite"}
IMAGES, COMPARED, ROUNDS = 200, 200, 100


class PlainGraph(to_tflite.FloatGraph):
    """A float TFLite network as others make them: float32 in, no uint8 in front."""

    def add_input(self) -> None:
        """The image as (pixel - 128) / 128."""
        self.inputs = [self.activation(self.network.input)]


def plain_tflite(network: Any, path: Path) -> Manifest:
    """Write it; returns what it is."""
    graph = PlainGraph(network)
    for op in network.ops:
        graph.add_op(op)
    path.write_bytes(graph.finish())
    floats = to_tflite.tensor_specs(network, "fp32", "uint8")
    floats["input"] = replace(floats["input"], name=network.input.name, dtype="float32", quant=None)
    return replace(network.manifest, **floats)


def label(path: Path, manifest: Manifest) -> None:
    """Write into a peer's file what we need to run it."""
    manifest = replace(manifest, content_sha256="", golden=None, verified=False)
    if path.suffix == ".onnx":
        model = read_model(path)
        set_manifest(model, manifest)
        path.write_bytes(model.SerializeToString())
    elif path.suffix == ".tflite":
        path.write_bytes(to_tflite.append_files(path.read_bytes(), named_as_in(path, manifest)))
    else:
        import openvino

        model = openvino.Core().read_model(path)
        model.set_rt_info(manifest.to_json(), [KEY])
        labelled = path.with_name("labelled.xml")
        openvino.save_model(model, labelled, compress_to_fp16=False)
        del model
        for old, new in zip(files_of(labelled), files_of(path), strict=True):
            old.replace(new)


def named_as_in(path: Path, manifest: Manifest) -> Manifest:
    """With the names that a TFLite file has for input and heads, found by its signature."""
    runner = interpreter_class()(str(path)).get_signature_runner()
    found, fields = runner.get_output_details(), {}
    for place, role in enumerate(HEADS):
        spec = getattr(manifest, role)
        tensor = found.get(spec.name) or found[f"output_{place}"]  # TensorFlow numbers what it has no names for
        fields[role] = replace(spec, name=tensor["name"])
    image = runner.get_input_details()[manifest.input.name]
    return replace(manifest, input=replace(manifest.input, name=image["name"]), **fields)


def peer_python(name: str, packages: tuple[str, ...], peers: Path) -> Path:
    """The Python that runs a peer."""
    return environment(peers / name.replace(" ", "-").lower(), packages) if packages else Path(sys.executable)


def megabytes(folder: Path) -> float:
    """Of everything below."""
    return round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6)


def shared_detections(path: Path, floats: Path, data: Dataset) -> tuple[int, int]:
    """(detections of both, those that have a partner) on the first images."""
    found = matched = 0
    with closing(open_runtime(path, threads=1)) as one, closing(open_runtime(floats, threads=1)) as other:
        for sample in data.samples[:COMPARED]:
            image = read_image(sample.path)
            sides = []
            for runtime in (one, other):
                heads = Heads(*(np.array(head) for head in runtime.run(prepare(image, runtime.manifest)[0])))
                sides.append((heads, runtime.manifest))
            counts = agreement(sides[0], sides[1])
            found, matched = found + counts[0], matched + counts[1]
    return found, matched


def latency(paths: dict[str, Path]) -> dict[str, float]:
    """Name -> median milliseconds of one inference at one thread, files taking turns."""
    runtimes = {name: open_runtime(path, threads=1) for name, path in paths.items()}
    times = inferences(runtimes, sample_pictures()[:1], ROUNDS, length=3, uncounted=1, warm_up=10)
    for runtime in runtimes.values():
        runtime.close()
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def ours(source: Path, train: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Our files, quantized once for all three engines."""
    start = time.perf_counter()
    opened = open_network(source, Calibration(train, IMAGES), progress=progress)
    quantized = time.perf_counter() - start
    rows = {}
    for artifact in convert(source, list(TARGETS.values()), "int8", out, network=opened.network):
        rows[artifact.path.suffix] = {"path": artifact.path, "seconds": round(quantized + artifact.seconds, 1)}
    return rows


def theirs(name: str, source: Path, pictures: Path, manifest: Manifest, out: Path, peers: Path) -> dict[str, Any]:
    """A peer's file, or its last line."""
    _, script, packages = PEERS[name]
    python = peer_python(name, packages, peers)
    start = time.perf_counter()
    command = [python, ROOT / "scripts/peers" / script, source, pictures, out]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    seconds = round(time.perf_counter() - start, 1)
    if done.returncode or not out.is_file():
        return {"failed": (done.stderr.strip() or "no file").splitlines()[-1], "seconds": seconds}
    label(out, manifest)
    size = megabytes(python.parents[1]) if packages else None
    return {"path": out, "seconds": seconds, "environment_mb": size}


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--peers", type=click.Path(path_type=Path), default=ROOT / ".venv-peers", help="Their environments.")
@click.option("--model", default=DEFAULT, show_default=True, help="Float checkpoint, or a shipped model's.")
@click.option("--out", type=click.Path(path_type=Path), default=RECORD)
def main(data: Path, peers: Path, model: str, out: Path) -> None:
    """Quantize with every tool on images of DATA (instances_train.json, instances_val.json) and compare."""
    source, train = find_model(model, ".safetensors"), data / "instances_train.json"
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch, bars() as progress:
        folder = Path(scratch)
        floats, network = _floats(source, folder / "float")
        spec = network.manifest.model
        val = read_dataset(data / "instances_val.json", classes=spec.classes)
        pictures = folder / "pictures.npy"
        np.save(pictures, np.stack([letterbox(read_image(p), spec)[0] for p in pick_images(train, IMAGES)]))
        for suffix, path in floats.items():
            rows[f"fp32 {suffix}"] = {"path": path, "seconds": None}
        for suffix, row in ours(source, train, folder / "ours", progress).items():
            rows[f"edge-centernet {suffix}"] = row
        plain = folder / "plain.tflite"
        plain_manifest = plain_tflite(network, plain)
        for name, (suffix, _, _) in PEERS.items():
            given = {"onnx2tf": floats[".onnx"], "ai-edge-quantizer": plain}.get(name, floats[suffix])
            manifest = plain_manifest if suffix == ".tflite" else read_manifest(floats[suffix])
            made = folder / name.replace(" ", "-") / f"model{suffix}"
            made.parent.mkdir()
            rows[f"{name} {suffix}"] = theirs(name, given, pictures, manifest, made, peers)
        _measure(rows, floats, val, progress)
    for row in rows.values():
        row.pop("path", None)
    record = {"images": IMAGES, "cpu": cpu_name(), "commit": commit(), "rows": rows}
    write_atomic(out, json.dumps(record, indent=1) + "\n")
    for name, row in rows.items():
        click.echo(f"{name:32} " + "  ".join(f"{key} {value}" for key, value in row.items() if value is not None))


def _floats(source: Path, out: Path) -> tuple[dict[str, Path], Any]:
    """Suffix -> our fp32 file, and the network with its float weights."""
    network = open_network(source, fp32=True).original
    made = convert(source, list(TARGETS.values()), "fp32", out, network=network)
    return {artifact.path.suffix: artifact.path for artifact in made}, network


def _measure(rows: dict[str, dict[str, Any]], floats: dict[str, Path], val: Dataset, progress: Progress) -> None:
    """Add accuracy, agreement, size and speed to every row that has a file; a file that does not open has failed."""
    for name, row in rows.items():
        if "path" not in row:
            continue
        try:
            with closing(open_runtime(row["path"], threads=1)) as runtime:
                row.update({k: round(v, 4) for k, v in budget.measure(runtime, val, progress, name).items()})
            found, matched = shared_detections(row["path"], floats[row["path"].suffix], val)
            row["agreement"] = round(matched / found, 4) if found else None
        except Exception as error:  # whatever a peer's file does to an engine
            row["failed"] = f"{type(error).__name__}: {error}"[:200]
            continue
        row["mb"] = round(sum(part.stat().st_size for part in files_of(row["path"])) / 1e6, 2)
    for suffix in TARGETS:
        same = {n: r["path"] for n, r in rows.items() if "AP" in r and r["path"].suffix == suffix}
        for name, ms in latency(same).items():
            rows[name]["ms"] = ms
        for name in same:
            rows[name]["speedup"] = round(rows[f"fp32 {suffix}"]["ms"] / rows[name]["ms"], 2)


if __name__ == "__main__":
    main()
