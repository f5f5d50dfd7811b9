"""What happens to a program that opens damaged model files? Mutates real ones and opens each as the command line does.

    python scripts/fuzz_models.py centernet-nano-256 --count 2000

Every mutant (bits flipped, bytes overwritten, a piece cut out, doubled or cut off) is opened by a worker process:
manifest, engine, one inference, decoding; a .safetensors as a checkpoint. Half of the mutants are resealed, as whoever
wants to attack would: their content hash fits, so that the parts behind it are reached too, through the self-check's
own process as `edge-centernet detect` goes.

Outcomes: refused (one of our errors), unfit (the self-check found a crash or a wrong answer), same (opened, and the
answer is that of the whole file), changed (a resealed one with another answer: its author's business), and what must
not be: other (another exception, a traceback for the user), wrong (opened, another answer), crash, hang (over
--seconds). Mutants that end so are kept in --corpus, and those that lie there are tried again first. Exit code 1 where
there are any.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np

from edge_centernet.artifact import content_sha256, files_of, read_manifest
from edge_centernet.converters import ALL, convert
from edge_centernet.converters.verify import ASSETS
from edge_centernet.decoder import decode
from edge_centernet.errors import EdgeCenterNetError
from edge_centernet.image import prepare, read_image
from edge_centernet.models import find_model
from edge_centernet.runtimes import candidates, open_runtime
from edge_centernet.runtimes.selfcheck import unfit

BAD = ("other", "wrong", "crash", "hang")
RECORD = Path(__file__).resolve().parents[1] / "docs/benchmarks/fuzz.json"


def mutate(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """One damaged copy, and what was done to it."""
    kind = rng.choice(("bits", "bytes", "cut", "double", "truncate", "zero"))
    changed = bytearray(data)
    at, length = rng.randrange(len(data)), min(len(data), 1 << rng.randrange(14))
    if kind == "bits":
        for _ in range(1 << rng.randrange(6)):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "bytes":
        changed[at : at + length] = rng.randbytes(len(changed[at : at + length]))
    elif kind == "zero":
        changed[at : at + length] = bytes(len(changed[at : at + length]))
    elif kind == "cut":
        del changed[at : at + length]
    elif kind == "double":
        changed[at:at] = changed[at : at + length]
    else:
        del changed[at:]
    return bytes(changed), kind


def reseal(path: Path) -> bool:
    """Make the content hash fit, as an attacker would; False where the manifest cannot be read any more."""
    try:
        manifest = read_manifest(path)
        fitting = content_sha256(path, manifest)
    except (EdgeCenterNetError, OSError):
        return False
    target = path
    data = target.read_bytes()
    changed = data.replace(manifest.content_sha256.encode(), fitting.encode())
    if path.suffix == ".tflite":  # its ZIP carries a checksum of the manifest
        return _rezip(path, data, replace(manifest, content_sha256=fitting).to_json())
    target.write_bytes(changed)
    return changed != data


def _rezip(path: Path, data: bytes, manifest: str) -> bool:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
            start = min(entry.header_offset for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False
    path.write_bytes(data[:start])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        for name, content in {**entries, "edge_centernet.json": manifest.encode()}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return True


def answer(path: Path, asked: bool) -> list[Any]:
    """What a program sees of a file: its boxes on the sample photo, or a checkpoint's sum; asked: self-check first."""
    if path.suffix == ".safetensors":
        from edge_centernet.model.checkpoint import load_checkpoint

        model, stage = load_checkpoint(path)
        return [stage, sum(float(p.double().sum()) for p in model.parameters())]
    found, engine = candidates(path)[0]
    if asked and (reason := unfit(found, engine)) is not None:
        return ["unfit", reason]
    with closing(open_runtime(found, engine, threads=1)) as runtime:
        x, _ = prepare(read_image(ASSETS / "sample.jpg"), runtime.manifest)
        boxes = decode(runtime.run(x), runtime.manifest, threshold=0.3)
        return [np.round(boxes.xyxy, 2).tolist(), boxes.class_id.tolist(), list(runtime.manifest.model.classes)]


def work(requests: Connection) -> None:
    """A worker: paths in, outcomes out, until it is stopped or a file takes it down."""
    sink = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # engines print what they think of such files
        os.dup2(sink, descriptor)
    while True:
        path, asked = requests.recv()
        try:
            requests.send(("answered", answer(path, asked)))
        except EdgeCenterNetError as error:
            requests.send(("refused", str(error)))
        except Exception as error:  # what the user would see as a traceback
            requests.send(("other", f"{type(error).__name__}: {error}"[:300]))


class Workers:
    """One worker at a time, replaced when it dies or hangs."""

    def __init__(self) -> None:
        """Started when it is first asked."""
        self._process: Any = None

    def ask(self, path: Path, asked: bool, seconds: float) -> tuple[str, Any, float]:
        """(outcome, detail, seconds it took)."""
        if self._process is None or not self._process.is_alive():
            self._start()
        start = time.perf_counter()
        self._pipe.send((path, asked))
        try:
            if self._pipe.poll(seconds):
                outcome, detail = self._pipe.recv()
            else:
                self._process.kill()
                outcome, detail = "hang", f"over {seconds:g} s"
        except (EOFError, ConnectionError):
            self._process.join()
            outcome, detail = "crash", f"exit status {self._process.exitcode}"
        if outcome in ("hang", "crash"):
            self._process = None
        return outcome, detail, time.perf_counter() - start

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        for name in ("astronaut.jpg",):  # wait until it is up, so that starting does not count
            self._pipe.send((ASSETS / name, False))
            self._pipe.recv()


def judge(outcome: str, detail: Any, right: Any, sealed: bool) -> str:
    """Name of the outcome, where a file was answered for."""
    if outcome != "answered":
        return outcome
    if detail[0] == "unfit":
        return "unfit"
    return "same" if detail == right else "changed" if sealed else "wrong"


@click.command()
@click.argument("name", default="centernet-nano-256")
@click.option("--count", default=2000, show_default=True, help="Mutants.")
@click.option("--seconds", default=5.0, show_default=True, help="Longer is a hang.")
@click.option("--seed", default=0, show_default=True)
@click.option("--corpus", type=click.Path(path_type=Path), default=Path("out/fuzz"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RECORD, show_default=True, help="Where counts go.")
def main(name: str, count: int, seconds: float, seed: int, corpus: Path, out: Path) -> None:
    """Mutate and open COUNT files made from the shipped model NAME."""
    corpus.mkdir(parents=True, exist_ok=True)
    rng, workers, counts = random.Random(seed), Workers(), Counter[str]()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch  # thousands of verdicts that nobody needs again
        whole = Path(scratch) / "whole"
        convert(find_model(name, ".onnx"), ALL, "int8", whole)
        shutil.copy(find_model(name, ".safetensors"), whole / f"{name}.safetensors")
        models = sorted(p for p in whole.iterdir() if p.suffix != ".bin")
        right = {path.name: workers.ask(path, False, 120)[1] for path in models}
        for model in sorted(p for kept in corpus.iterdir() for p in kept.iterdir() if p.name in right):
            outcome = judge(*workers.ask(model, True, seconds)[:2], right[model.name], True)
            counts[outcome] += 1
            counts[f"from the corpus: {outcome}"] += 1
        with click.progressbar(range(count), label="mutants", file=sys.stderr) as numbers:
            for number in numbers:
                model = models[number % len(models)]
                folder = Path(scratch) / "mutant"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                parts = [Path(shutil.copy(part, folder)) for part in files_of(model)]
                part = rng.choice(parts)
                data, kind = mutate(part.read_bytes(), rng)
                part.write_bytes(data)
                sealed = model.suffix != ".safetensors" and number // len(models) % 2 == 1 and reseal(parts[0])
                outcome, detail, took = workers.ask(parts[0], sealed, seconds)
                slowest = max(slowest, took)
                outcome = judge(outcome, detail, right[model.name], sealed)
                counts[f"{model.name.removeprefix(name)}{' resealed' if sealed else ''}: {outcome}"] += 1
                counts[outcome] += 1
                if outcome in BAD:
                    kept = corpus / f"{number}-{kind}-{outcome}"
                    shutil.rmtree(kept, ignore_errors=True)
                    shutil.copytree(folder, kept)
                    (kept / "why.txt").write_text(f"{detail}\n")
    table = dict(sorted(counts.items()))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps({"model": name, "seed": seed, "slowest_s": round(slowest, 2), "outcomes": table}, indent=1)
    )
    click.echo("\n".join(f"{outcome:32} {number}" for outcome, number in table.items()))
    click.echo(f"slowest {slowest:.2f} s; kept in {corpus}: {sum(counts[o] for o in BAD)}")
    sys.exit(int(any(counts[outcome] for outcome in BAD)))


if __name__ == "__main__":
    main()
