"""Where ONNX Runtime computes: its "execution providers" TensorRT, CUDA and CPU, and TensorRT's engines.

    available x what the file is x what the user allows -> providers, the best first (`plan`)

TensorRT builds its engine when a model is opened for the first time on a machine, which takes minutes; the
engine stays in

    $EDGE_CENTERNET_ENGINE_CACHE/MODEL-<digest of file, ONNX Runtime, TensorRT, board>/*.engine

or $XDG_CACHE_HOME/edge-centernet/engines where that is not set (~/.cache/...). This module imports no engine.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from edge_centernet.artifact import damaged, protobuf_fields, protobuf_messages
from edge_centernet.errors import ConfigError
from edge_centernet.files import home_path, sha256
from edge_centernet.runtimes import compile_cache
from edge_centernet.system.machine import device_tree_model

# Which of TITLES may be used, such as "cuda,cpu"; all of them where it is not set.
CHOICE = "EDGE_CENTERNET_PROVIDERS"
CACHE = "EDGE_CENTERNET_ENGINE_CACHE"
TITLES = {
    "TensorrtExecutionProvider": "TensorRT",
    "CUDAExecutionProvider": "CUDA",
    "CPUExecutionProvider": "CPU",
}
TENSORRT, CUDA, CPU = TITLES  # in the order in which they are tried

# Field numbers of onnx.proto.
_GRAPH, _NODE, _INITIALIZER = 7, 1, 5
_NODE_INPUT, _NODE_OP = 1, 4
_TENSOR_TYPE, _TENSOR_INT32, _TENSOR_NAME, _TENSOR_RAW = 2, 5, 8, 9
_INT8 = 3


class Facts(NamedTuple):
    """What decides whether TensorRT can compute a file.

    quantizers: number of QuantizeLinear and DequantizeLinear nodes.
    symmetric: all of them are int8 with zero point 0, and no operation computes in integers by itself.
    """

    quantizers: int
    symmetric: bool


class Provider(NamedTuple):
    """An execution provider by ONNX Runtime's name, and its options."""

    name: str
    options: dict[str, str]

    @property
    def title(self) -> str:
        """Its name for people."""
        return TITLES[self.name]


def facts(path: Path) -> Facts:
    """Read them from an .onnx file, without the onnx package. Raises ArtifactError for a damaged file."""
    # Operator and names of inputs of each node; name of each initializer -> whether it is int8 and all zero.
    nodes: list[tuple[str, list[str]]] = []
    zero: dict[str, bool] = {}
    try:
        (graph,) = protobuf_messages(memoryview(path.read_bytes()), _GRAPH)
        for node in protobuf_messages(graph, _NODE):
            (op,) = protobuf_messages(node, _NODE_OP)
            inputs = [bytes(name).decode() for name in protobuf_messages(node, _NODE_INPUT)]
            nodes.append((bytes(op).decode(), inputs))
        for tensor in protobuf_messages(graph, _INITIALIZER):
            held = {number: value for number, value, _ in protobuf_fields(tensor)}
            name, data = held.get(_TENSOR_NAME, b""), held.get(_TENSOR_RAW, held.get(_TENSOR_INT32, b""))
            is_zero = not data if isinstance(data, int) else not any(bytes(data))
            key = "" if isinstance(name, int) else bytes(name).decode()
            zero[key] = held.get(_TENSOR_TYPE) == _INT8 and is_zero
    except (ValueError, IndexError) as error:
        raise damaged(path, f"ONNX: {error}") from None
    pairs = [inputs for op, inputs in nodes if op in ("QuantizeLinear", "DequantizeLinear")]
    integer = any(op.startswith("QLinear") or op.endswith("Integer") for op, _ in nodes)
    # The third input is the zero point; where it is left out, the tensor is uint8 with zero point 0.
    symmetric = all(len(inputs) > 2 and zero.get(inputs[2], False) for inputs in pairs)
    return Facts(len(pairs), symmetric and not integer)


def allowed(text: str | None = None) -> tuple[str, ...]:
    """The providers that the user allows, in the order in which they are tried.

    text: names such as "tensorrt,cuda", in any order; by default what the environment says. The CPU is always
    among them, for it computes what the others cannot. Raises ConfigError for an unknown name.
    """
    text = os.environ.get(CHOICE, "") if text is None else text
    words = {word.strip().lower() for word in text.split(",") if word.strip()}
    known = {title.lower(): name for name, title in TITLES.items()}
    if unknown := words - set(known):
        raise ConfigError(f"{CHOICE}: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    return tuple(name for title, name in known.items() if title in words or not words or name == CPU)


def plan(
    available: Sequence[str], file: Facts, folder: Path, permitted: Sequence[str] = tuple(TITLES)
) -> list[Provider]:
    """The providers to open a file with, the best first; the CPU comes last.

    available: those the installed ONNX Runtime was built with. folder: where TensorRT's engine of this file
    is or will be. permitted: those that the user allows, see `allowed`.
    """
    tensorrt = {
        # The scales are those of the file's own quantizers: no calibration table. Without this option
        # TensorRT refuses a network with quantizers (onnxruntime #13381).
        "trt_int8_enable": "1" if file.quantizers else "0",
        "trt_fp16_enable": "1",  # for layers without quantizers
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }
    chosen = []
    for name in TITLES:
        if name in available and name in permitted and (name != TENSORRT or file.symmetric):
            chosen.append(Provider(name, tensorrt if name == TENSORRT else {}))
    return chosen


def first_start(path: Path) -> str | None:
    """A line that asks for patience, where opening this file will build an engine here; else None."""
    if path.suffix.lower() != ".onnx" or _library(TENSORRT) is None or not tensorrt_version():
        return None
    if TENSORRT not in allowed() or not facts(path).symmetric or engine_folder(path).is_dir():
        return None
    kept = engine_folder(path)
    return f"Building the TensorRT engine of {path.name}: some minutes, once; it is kept in {kept}"


def engine_folder(path: Path) -> Path:
    """The folder for the engine of this file on this machine."""
    # ONNX Runtime names an engine after the graph and the GPU's generation, not after the weights, so each
    # file needs a folder of its own. An engine works with one release of TensorRT on one model of GPU.
    about = (sha256(path), onnxruntime_version(), tensorrt_version(), device_tree_model())
    key = hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]
    root = os.environ.get(CACHE) or compile_cache.folder() / "engines"
    return home_path(root) / f"{path.stem}-{key}"


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A folder to open a session with: `folder` if it exists, else a new one that is renamed at the end.

    An engine is therefore there whole, or not at all. A session that built no engine leaves nothing. Raises
    OSError where it cannot be written.
    """
    ours = (
        compile_cache.folder() in folder.parents
    )  # else somebody chose the place, and knows who writes there
    if folder.is_dir() and (not ours or compile_cache.is_private(folder)):
        yield folder
        return
    if ours:
        compile_cache.make_private(folder.parent)
        shutil.rmtree(folder, ignore_errors=True)  # one that others could write to
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield scratch
        if holds_engine(scratch):
            # Readable to all: a service that may not write here uses what its installation built.
            for file in scratch.iterdir():
                file.chmod(0o644)
            scratch.chmod(0o755)
            with suppress(OSError):  # another process was faster: its engine is as good
                scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def holds_engine(folder: Path) -> bool:
    """Whether an engine was built into this folder."""
    return any(folder.glob("*.engine"))


def fingerprint() -> str:
    """What decides, beside the CPU, which provider computes on this machine; empty where only the CPU can."""
    found = [
        TITLES[name].lower() for name in (TENSORRT, CUDA) if _library(name) is not None and name in allowed()
    ]
    return ",".join([*found, tensorrt_version(), device_tree_model()]) if found else ""


def why_not(name: str) -> str | None:
    """What keeps a provider's library from being loaded, in the loader's words; None if nothing does."""
    library = _library(name)
    if library is None:
        return "this build of ONNX Runtime has no library for it"
    # Loaded first, because the provider's library takes symbols from it that it does not link to.
    with suppress(OSError):
        ctypes.CDLL(str(library.with_name("libonnxruntime_providers_shared.so")), mode=ctypes.RTLD_GLOBAL)
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None


def onnxruntime_version() -> str:
    """The installed package and its release, such as "onnxruntime-gpu 1.23.0", or "unknown"."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with suppress(metadata.PackageNotFoundError):
            return f"{name} {metadata.version(name)}"
    return "unknown"


def tensorrt_version() -> str:
    """The release of the machine's TensorRT as its library reports it, such as "100300"; empty if none."""
    for major in (11, 10, 9, 8):
        with suppress(OSError, AttributeError):
            return str(ctypes.CDLL(f"libnvinfer.so.{major}").getInferLibVersion())
    return ""


def _library(name: str) -> Path | None:
    """The provider's library in the installed ONNX Runtime, which is found without importing it."""
    spec = find_spec("onnxruntime")
    file = f"libonnxruntime_providers_{TITLES[name].lower()}.so"
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next((path for folder in folders if (path := Path(folder, "capi", file)).is_file()), None)
