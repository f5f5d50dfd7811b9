"""The network in PyTorch: layers, backbones, CenterNet, losses, checkpoints."""
