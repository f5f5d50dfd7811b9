"""Does an engine really execute INT8, and with fast kernels? Found out after it has run.

A file of int8 weights may still be computed in float, which is correct but slow. Every engine shows it in
another way: OpenVINO names its kernels, TFLite its tensor types, ONNX Runtime the operators in a profile.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:  # doctor reads this module where NumPy may be what is broken
    from edge_centernet.runtimes.base import Runtime

Int8 = Literal["", "yes", "partly", "no", "cannot be told"]

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
_QUANTIZED = ("QLinearConv", "ConvInteger")  # operators of ONNX Runtime that multiply integers
_IN_FLOAT = ("Conv", "FusedConv")


class Executed(NamedTuple):
    """Whether the convolutions are computed in INT8.

    how: how that is known. fast: whether by fast kernels; None where unknown.
    """

    int8: Int8
    how: str
    fast: bool | None = None


def executed(runtime: Runtime, path: Path, x: Any) -> Executed:
    """What the engine of an opened file executes. x: an input that it has run. Raises nothing."""
    try:
        if runtime.name == "openvino":
            return openvino(runtime)
        if runtime.name == "tflite":
            return tflite(getattr(runtime, "_interpreter"))  # noqa: B009  mypy knows only the protocol
        return onnxruntime(path, x, runtime.device)
    except Exception as error:  # engines' inner views change between releases; not knowing is an answer
        return Executed("cannot be told", (str(error).strip().splitlines() or [type(error).__name__])[0])


def openvino(runtime: Any) -> Executed:
    """By the kernels that its plugin chose, whose names end in the precision.

    "brgconv_avx512_I8" on a CPU, "convolution_gpu_mmad_b_fs_yx_fsv32__i8" on a GPU; an NPU shows none.
    """
    kernels: list[str] = list(runtime.executed_precisions().values())
    in_int8 = [kernel for kernel in kernels if kernel.upper().endswith(("_I8", "_U8"))]
    return _verdict(len(in_int8), len(kernels), f"kernels: {_counted(kernels)}")


def tflite(interpreter: Any) -> Executed:
    """By the types of the tensors: TFLite computes what the file says, in no other precision.

    How fast that is, is another question: XNNPACK, the library of fast kernels, takes an operation or leaves
    it to slow ones. "Fast" is said where it takes at least half of the convolutions.
    """
    types = {tensor["index"]: tensor["dtype"].__name__ for tensor in interpreter.get_tensor_details()}
    ops = interpreter._get_ops_details()
    convolutions = [op for op in ops if op["op_name"] in _CONVOLUTIONS]
    in_int8 = [op for op in convolutions if types.get(int(op["outputs"][0])) in ("int8", "uint8")]
    taken = delegated(ops)
    fast = sum(op["index"] in taken for op in convolutions)
    verdict = _verdict(len(in_int8), len(convolutions), f"XNNPACK takes {fast} of {len(convolutions)}")
    return verdict._replace(fast=2 * fast >= len(convolutions))


def delegated(ops: Sequence[Any]) -> set[int]:
    """The indices of the operations that delegates such as XNNPACK compute."""
    # TFLite lists a delegate as one more operation beside those that it replaces. Those are found by walking
    # back through the graph, from the delegate's outputs to its inputs.
    producer = {int(tensor): op for op in ops if op["op_name"] != "DELEGATE" for tensor in op["outputs"]}
    taken: set[int] = set()
    for delegate in (op for op in ops if op["op_name"] == "DELEGATE"):
        inputs = {int(tensor) for tensor in delegate["inputs"]}
        waiting = [int(tensor) for tensor in delegate["outputs"]]
        while waiting:
            tensor = waiting.pop()
            op = producer.get(tensor)
            if tensor in inputs or op is None or op["index"] in taken:
                continue
            taken.add(op["index"])
            waiting += [int(t) for t in op["inputs"]]
    return taken


def onnxruntime(path: Path, x: Any, device: str) -> Executed:
    """By a profile of one inference on the CPU: which operators ran."""
    if device not in ("", "CPU"):
        return Executed("cannot be told", f"{device} chooses for each layer and does not say")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level, options.enable_profiling = 4, True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session.run(None, {session.get_inputs()[0].name: x})
        events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event["args"]["op_name"] for event in events if event.get("name", "").endswith("_kernel_time")]
    in_int8, in_float = sum(op in _QUANTIZED for op in ran), sum(op in _IN_FLOAT for op in ran)
    how = f"operators that ran: {_counted(op for op in ran if 'Conv' in op)}"
    return _verdict(in_int8, in_int8 + in_float, how)


def _verdict(in_int8: int, total: int, how: str) -> Executed:
    if not total:
        return Executed("cannot be told", "it shows no convolution")
    word: Int8 = "yes" if in_int8 == total else "partly" if in_int8 else "no"
    # The last layers of a network may be float on purpose: one in ten does not make it a float network.
    if word == "partly" and in_int8 >= 0.9 * total:
        word = "yes"
    return Executed(word, f"{in_int8} of {total} convolutions; {how}")


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in Counter(words).most_common()) or "none"
