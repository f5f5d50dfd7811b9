"""Post-training quantization of an OpenVINO model by NNCF, in an environment of its own: model.xml images.npy out.xml.

pictures: (N, H, W, 3) uint8 RGB, letterboxed; the model reads (1, 3, H, W) uint8.
"""

import sys

import nncf
import numpy as np
import openvino

source, pictures, out = sys.argv[1:]
images = np.load(pictures)
dataset = nncf.Dataset(images, lambda image: np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
preset = nncf.QuantizationPreset.MIXED  # what NNCF advises for networks with other activations than ReLU
quantized = nncf.quantize(openvino.Core().read_model(source), dataset, preset=preset, subset_size=len(images))
openvino.save_model(quantized, out, compress_to_fp16=False)
