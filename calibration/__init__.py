"""Calibration: choosing activation ranges for a network that was not trained for int8.

The shipped networks learn their scales during quantization-aware training and need none of this.
"""
