"""Weights and what they mean in one safetensors file.

The header carries the ModelSpec, the Architecture and the stage as JSON, so a checkpoint needs no side file
and, unlike a pickle, holds no code. Training state (optimizer, average, epoch) is in another file, state.pt.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from edge_centernet.errors import ArtifactError, EdgeCenterNetError
from edge_centernet.files import write_atomic
from edge_centernet.manifest import KEY, ModelSpec, spec_from_dict, spec_to_dict
from edge_centernet.network.centernet import Architecture, CenterNet
from edge_centernet.network.layers import ConvUnit

CONTENT_HASH = "sha256"  # entry of the header: the hash of the rest of the header and of all tensors
Stage = Literal["float", "qat", "qat_symmetric"]


def save_checkpoint(path: Path, model: CenterNet, stage: Stage, half: bool = False) -> None:
    """Write a checkpoint atomically; raises OSError where that fails.

    stage: "qat" and "qat_symmetric" mean that BatchNorm is folded and quantizers are present.
    half: store convolution weights as float16: half the file, and 11 bits where int8 keeps 7 or 8.
    """
    from safetensors.torch import save

    about = {"spec": spec_to_dict(model.spec), "arch": model.arch.to_dict(), "stage": stage}
    meaning = json.dumps(about, sort_keys=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        state = {name: t.half() if t.ndim == 4 else t for name, t in state.items()}
    # One entry: safetensors writes several in any order, and equal checkpoints must be equal bytes.
    header = {KEY: json.dumps({**json.loads(meaning), CONTENT_HASH: _digest(meaning, state)}, sort_keys=True)}
    # Not save_file, which would make a file that only its owner can read.
    write_atomic(path, save(state, metadata=header))


def read_header(path: Path) -> tuple[ModelSpec, Architecture, Stage]:
    """Spec, architecture and stage of a checkpoint; raises ArtifactError for another file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ArtifactError(f"{path}: expected a checkpoint (.safetensors), found no file")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
        data = json.loads(metadata[KEY])
        if data["stage"] not in get_args(Stage):
            raise ValueError(f"stage {data['stage']!r}")
        return spec_from_dict(data["spec"]), Architecture.from_dict(data["arch"]), data["stage"]
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, EdgeCenterNetError) as error:
        raise ArtifactError(
            f"{path}: expected a checkpoint written by edge-centernet train ({error})"
        ) from None


def load_checkpoint(path: Path) -> tuple[CenterNet, Stage]:
    """The network in evaluation mode, and the stage of training that it comes from.

    A quantized checkpoint gives a network with folded BatchNorm and its quantizers. Raises ArtifactError
    where the file is not a checkpoint or, to the bit, not what was saved.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    spec, arch, stage = read_header(path)
    state = load_file(str(path))
    with safe_open(str(path), framework="pt") as file:
        meaning = json.loads((file.metadata() or {})[KEY])
    wanted = meaning.pop(CONTENT_HASH, None)  # None in checkpoints older than the hash
    if wanted is not None and wanted != _digest(json.dumps(meaning, sort_keys=True), state):
        raise ArtifactError(
            f"{path}: the checkpoint is damaged (it does not hold what was saved); copy it again"
        )
    model = CenterNet(spec, arch)
    if stage != "float":
        from edge_centernet.network.fake_quant import prepare_qat

        prepare_qat(model, symmetric=stage == "qat_symmetric")
    load_state(model, state, path)
    return model.eval(), stage


def _digest(meaning: str, state: dict[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of a checkpoint's header and tensors."""
    total = hashlib.sha256(meaning.encode())
    for name, tensor in sorted(state.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def load_state(model: CenterNet, state: dict[str, Tensor], path: Path) -> None:
    """`load_state_dict`, with one line of ArtifactError instead of a page when something does not fit.

    path: where the weights come from, for the message.
    """
    for name, unit in model.named_modules():
        # Frozen layers were saved with their BatchNorm folded, so it has to be folded here too.
        if isinstance(unit, ConvUnit) and f"{name}.bn.weight" not in state:
            unit.fold_batchnorm()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = next(line.strip() for line in str(error).splitlines()[1:] if line.strip())
        raise ArtifactError(f"{path}: weights do not fit the architecture they came with: {first}") from None
