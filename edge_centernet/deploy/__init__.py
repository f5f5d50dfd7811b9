"""From this computer onto a board: a signed bundle, pushed over SSH, installed by an agent that can fall back."""
