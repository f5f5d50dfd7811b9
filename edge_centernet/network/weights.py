"""Other people's weight files, read without running what is in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edge_centernet.errors import ArtifactError

# Where training codes put the tensors inside a checkpoint, beside epoch, optimizer and the like.
_NESTS = ("state_dict", "model", "model_state_dict")


def read_state(path: Path) -> dict[str, Tensor]:
    """Parameter name -> tensor on the CPU, from .safetensors or what torch.save wrote (.pth, .pt, .tar).

    Takes a bare state dict or a checkpoint that holds one; "module.", which DataParallel puts before every
    name, is dropped. Pickled code is never run (weights_only).
    Raises ArtifactError when the file is missing, damaged or holds something else.
    """
    if not path.is_file():
        raise ArtifactError(f"weights: expected a .safetensors or .pth file, found nothing at {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if isinstance(content, dict):
        content = next((content[nest] for nest in _NESTS if isinstance(content.get(nest), dict)), content)
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(v, Tensor) for v in content.values())
    ):
        raise ArtifactError(
            f"{path}: expected a checkpoint with a state_dict of tensors, got {_describe(content)}"
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise ArtifactError(f"{path}: expected a safetensors file, got a damaged one ({error})") from None


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises whatever the bytes lead it to
        found = re.search(r"GLOBAL (\w+(?:\.\w+)+)", str(error))
        if found:
            raise ArtifactError(
                f"{path}: expected tensors only, got a pickled {found.group(1)}, which is not run for safety: "
                "save the state_dict alone where you trust the file, torch.save(model.state_dict(), PATH)"
            ) from None
        raise ArtifactError(f"{path}: expected a PyTorch checkpoint, got another or a damaged file") from None


def _describe(content: Any) -> str:
    """What came instead, in a few words."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    return f"a dict with {', '.join(map(str, list(content)[:4]))}" if content else "an empty dict"
