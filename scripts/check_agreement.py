r"""How far do the converted files agree with the PyTorch QAT simulation, on a real validation set?

    python scripts/check_agreement.py --data ../shared/data/voc2007/instances_val.json \
        --out docs/benchmarks/agreement.json

For every image the simulation (fake quantizers in float32) and each artifact (in its own engine) decode their heads.
A detection above 0.3 agrees if the other side has one of its class that overlaps it enough and whose score is within
MATCH_SCORE (`edge_centernet.converters.verify`). Printed for several overlaps, since "the same box" is a matter of
degree: IoU 0.5 is the same object as AP50 counts it. Exit code 1 if any artifact stays below --minimum at MATCH_IOU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import torch
from tqdm import tqdm

from edge_centernet.artifact import sha256
from edge_centernet.converters.verify import MATCH_IOU, MATCH_SCORE, agreement
from edge_centernet.data import read_dataset
from edge_centernet.files import write_atomic
from edge_centernet.heads import Heads
from edge_centernet.image import letterbox, prepare, read_image
from edge_centernet.model.checkpoint import load_checkpoint
from edge_centernet.models import find_model
from edge_centernet.runtimes import open_runtime
from edge_centernet.train.validate import torch_manifest

BENCHMARKS = Path(__file__).resolve().parents[1] / "docs/benchmarks"
OVERLAPS = (0.5, 0.75, 0.9)


@click.command()
@click.option("--name", default="centernet-mbv2-320", show_default=True, help="A shipped model.")
@click.option("--artifacts", type=click.Path(path_type=Path), help="Folder with NAME.onnx, .xml, .tflite; the shipped.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Data set to take the images from.")
@click.option("--limit", type=int, default=0, help="Only the first N images; 0 for all.")
@click.option("--minimum", type=float, default=0.99, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON record.")
def main(name: str, artifacts: Path | None, data: Path, limit: int, minimum: float, out: Path | None) -> None:
    """Print the share of agreeing detections for OpenVINO, TFLite and ONNX."""
    checkpoint = BENCHMARKS / name / "qat.safetensors"
    model, stage = load_checkpoint(checkpoint)
    assert stage == "qat", "the simulation needs a QAT checkpoint"
    files = {s: (artifacts / f"{name}{s}" if artifacts else find_model(name, s)) for s in (".onnx", ".xml", ".tflite")}
    runtimes = {suffix: open_runtime(path, threads=1) for suffix, path in files.items()}
    manifest = torch_manifest(model.spec)
    counts = {suffix: dict.fromkeys(OVERLAPS, 0) | {"found": 0} for suffix in files}
    samples = read_dataset(data).samples[: limit or None]
    for sample in tqdm(samples, unit="image"):
        image = read_image(sample.path)
        rgb, _ = letterbox(image, model.spec)
        with torch.no_grad():
            simulated = model(torch.from_numpy(rgb).permute(2, 0, 1)[None].float())  # (1, 3, H, W)
        reference = Heads(*(t[0].numpy() for t in simulated))
        for suffix, runtime in runtimes.items():
            heads = runtime.run(prepare(image, runtime.manifest)[0])
            for overlap in OVERLAPS:
                found, matched = agreement((reference, manifest), (heads, runtime.manifest), overlap)
                counts[suffix][overlap] += matched
            counts[suffix]["found"] += found
    rows = [
        {
            "artifact": files[suffix].name,
            "sha256": sha256(files[suffix]),
            "detections": count["found"],
            "share_by_iou": {f"{overlap:g}": round(count[overlap] / count["found"], 5) for overlap in OVERLAPS},
        }
        for suffix, count in counts.items()
    ]
    record = {
        "images": len(samples),
        "match_score": MATCH_SCORE,
        "match_iou": MATCH_IOU,
        "checkpoint_sha256": sha256(checkpoint),
        "results": rows,
    }
    for row in rows:
        shares = ", ".join(f"IoU {overlap}: {share:.2%}" for overlap, share in row["share_by_iou"].items())
        click.echo(f"{row['artifact']:28} {row['detections']} detections on both sides; {shares}")
    if out:
        write_atomic(out, json.dumps(record, indent=1) + "\n")
    sys.exit(0 if all(row["share_by_iou"][f"{MATCH_IOU:g}"] >= minimum for row in rows) else 1)


if __name__ == "__main__":
    main()
