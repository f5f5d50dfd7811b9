"""Post-training quantization of a peer by NNCF, in an environment of its own: model.onnx inputs.npy out.xml.

inputs: (N, 3, H, W) float32, what the network reads. Mixed preset, as NNCF advises for other activations than
  ReLU.
"""

import sys

import nncf
import numpy as np
import openvino

source, inputs, out = sys.argv[1:]
samples = np.load(inputs)
model = openvino.Core().read_model(source)
dataset = nncf.Dataset(samples, lambda x: x[None])
quantized = nncf.quantize(model, dataset, preset=nncf.QuantizationPreset.MIXED, subset_size=len(samples))
openvino.save_model(quantized, out, compress_to_fp16=False)
