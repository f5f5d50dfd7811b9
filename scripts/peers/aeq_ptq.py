"""Post-training quantization of a TFLite model by ai-edge-quantizer: model.tflite pictures.npy out.tflite.

pictures: (N, H, W, 3) uint8 RGB, letterboxed; the model reads (1, H, W, 3) float32, (pixel - 128) / 128.
"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe

source, pictures, out = sys.argv[1:]
name = Interpreter(source).get_input_details()[0]["name"]
signature = next(iter(Interpreter(source).get_signature_list()), None)
samples = [{name: (image[None].astype(np.float32) - 128) / 128} for image in np.load(pictures)]
tool = quantizer.Quantizer(source)
tool.load_quantization_recipe(recipe.static_wi8_ai8())
tool.quantize(tool.calibrate({signature: samples})).export_model(out, overwrite=True)
