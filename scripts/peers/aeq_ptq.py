"""Post-training quantization of a TFLite model by ai-edge-quantizer: model.tflite pictures.npy out.tflite.

pictures: (N, H, W, 3) uint8 RGB, letterboxed; the model reads (1, H, W, 3) float32, (pixel - 128) / 128.
"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.qtyping import TFLOperationName

source, pictures, out = sys.argv[1:]
name = Interpreter(source).get_input_details()[0]["name"]
signature = next(iter(Interpreter(source).get_signature_list()), None)
samples = [{name: (image[None].astype(np.float32) - 128) / 128} for image in np.load(pictures)]
tool = quantizer.Quantizer(source)
manager = recipe_manager.RecipeManager()
manager.load_quantization_recipe(recipe.static_wi8_ai8())
for end in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):  # floats in and out
    manager.add_quantization_config(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
tool.load_quantization_recipe(manager.get_quantization_recipe())
tool.quantize(tool.calibrate({signature: samples})).export_model(out, overwrite=True)
