"""Training: the data as the network sees it, the loop, quantization-aware training, the report, export."""
