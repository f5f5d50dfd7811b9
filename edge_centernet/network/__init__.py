"""The network in PyTorch: layers, backbones, CenterNet, losses, fake quantizers, checkpoints."""
