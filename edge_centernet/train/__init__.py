"""Training: targets, augmentation, the loop, quantization-aware training, export."""
