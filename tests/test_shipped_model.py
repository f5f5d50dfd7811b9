"""The model in the package, measured on real validation images."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_centernet.detector import Detector
from edge_centernet.model_zoo import find_model, names
from edge_centernet.runtimes import first_candidate, open_runtime

VAL = Path(__file__).resolve().parents[2] / "shared/data/voc2007/instances_val.json"
IMAGES = 150  # of 1,002: seconds instead of minutes; scripts/measure_model.py takes the whole set


@pytest.mark.parametrize("engine", ["openvino", "tflite", "onnxruntime"])
@pytest.mark.parametrize("name", names())
def test_int8_finds_objects_in_photos_it_never_saw(name: str, engine: str) -> None:
    """AP50 of at least 0.45 on VOC 2007 validation photos, in every engine."""
    if not VAL.is_file():
        pytest.skip("needs ../shared/data/voc2007 (see its SOURCES.md)")
    pytest.importorskip("faster_coco_eval", reason="needs the eval extra")
    from edge_centernet.data import Dataset, read_dataset
    from edge_centernet.evaluation.coco import evaluate_dataset

    data = read_dataset(VAL)
    few = Dataset(data.classes, data.samples[:IMAGES])
    runtime = open_runtime(*first_candidate(name, engine), threads=1)
    try:
        detector = Detector(runtime, threshold=0.01)
        result = evaluate_dataset(detector.detect_timed, few, runtime.manifest.model.classes)
    finally:
        runtime.close()

    assert result["images"] == IMAGES
    assert result["AP50"] >= 0.45


@pytest.mark.parametrize("name", names())
def test_all_files_are_of_one_checkpoint(name: str) -> None:
    """Every artifact carries the sha256 of the quantized checkpoint that it was made from: the same one."""
    from edge_centernet.artifact import read_manifest

    assert (
        len({read_manifest(find_model(name, s)).checkpoint_sha256 for s in (".onnx", ".xml", ".tflite")}) == 1
    )
