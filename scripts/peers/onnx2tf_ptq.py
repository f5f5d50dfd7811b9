"""Post-training quantization by onnx2tf, in an environment of its own: model.onnx pictures.npy out.tflite.

pictures: (N, H, W, 3) uint8 RGB, letterboxed. The ONNX model reads (1, 3, H, W) uint8, which onnx2tf's calibration does
not take: its Cast, Sub and Mul are cut off, and the file reads (1, H, W, 3) float32, (pixel - 128) / 128.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx2tf

# onnx2tf checks its layers on pictures that it downloads, unless a file of that name is there.
OWN_PICTURES = "calibration_image_sample_data_20x128x128x3_float32.npy"

source, pictures, out = (str(Path(argument).resolve()) for argument in sys.argv[1:])
model = onnx.load(source)
name = model.graph.input[0].name
head = [node for node in model.graph.node if node.op_type in ("Cast", "Sub", "Mul")][:3]
for node in model.graph.node:
    node.input[:] = [name if value == head[-1].output[0] else value for value in node.input]
for node in head:
    model.graph.node.remove(node)
model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
with tempfile.TemporaryDirectory() as folder:
    samples = Path(folder) / "samples.npy"
    floats = np.load(pictures).astype(np.float32)  # (N, H, W, 3)
    np.save(samples, (floats - 128) / 128)
    np.save(Path(folder) / OWN_PICTURES, floats[:20, :128, :128] / 255)
    os.chdir(folder)
    plain = Path(folder) / "plain.onnx"
    onnx.save(model, plain)
    onnx2tf.convert(
        input_onnx_file_path=str(plain), output_folder_path=f"{folder}/out", not_use_onnxsim=True,
        output_integer_quantized_tflite=True, quant_type="per-channel", copy_onnx_input_output_names_to_tflite=True,
        custom_input_op_name_np_data_path=[[name, str(samples), [[[[0, 0, 0]]]], [[[[1, 1, 1]]]]]], non_verbose=True,
    )  # fmt: skip
    shutil.copy(Path(folder) / "out/plain_integer_quant.tflite", out)
