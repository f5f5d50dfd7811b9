"""The manifest of the interchange file, and what keeps a network from having one."""

from __future__ import annotations

import pytest

from edge_centernet import __version__
from edge_centernet.errors import ConversionError
from edge_centernet.manifest import ModelSpec, Quant
from edge_centernet.qdq.onnx_graph import HEADS, interchange_manifest

SPEC = ModelSpec("tiny", "1", 96, 64, ("circle", "square", "star"))
QUANTS = {"heat": Quant(0.05, 12), "size": Quant(0.1, -128), "offset": Quant(0.01, 3)}


def test_the_interchange_manifest_describes_every_tensor() -> None:
    """uint8 image in, pixel - 128 over 128; int8 heads at a quarter of its size, with the scales given."""
    manifest = interchange_manifest(SPEC, QUANTS, {"torch": "2.7"}, checkpoint_sha256="ab" * 32)

    assert (manifest.precision, manifest.model, manifest.checkpoint_sha256) == ("int8", SPEC, "ab" * 32)
    assert (manifest.input.name, manifest.input.shape) == ("image", (1, 3, SPEC.height, SPEC.width))
    assert (manifest.input.dtype, manifest.input.quant) == ("uint8", Quant(1 / 128, 128))
    rows, columns = SPEC.height // 4, SPEC.width // 4
    for role, channels in zip(HEADS, (3, 2, 2), strict=True):
        tensor = getattr(manifest, role)
        assert (tensor.name, tensor.shape) == (role, (1, channels, rows, columns))
        assert (tensor.layout, tensor.dtype, tensor.quant) == ("NCHW", "int8", QUANTS[role])
    assert manifest.made_by == {"edge-centernet": __version__, "torch": "2.7"}
    assert (manifest.verified, manifest.golden, manifest.content_sha256) == (False, None, "")


@pytest.mark.parametrize("change", [{"mean": (128.0, 128.0, 127.0)}, {"std": (58.0, 57.0, 57.0)}])
def test_another_normalisation_has_no_interchange_manifest(change: dict[str, tuple[float, ...]]) -> None:
    """Only (pixel - 128) / 128 puts every pixel on an integer."""
    fields = {**vars(SPEC), **change}
    with pytest.raises(ConversionError, match="export: expected mean and std 128, got"):
        interchange_manifest(ModelSpec(**fields), QUANTS, {})
