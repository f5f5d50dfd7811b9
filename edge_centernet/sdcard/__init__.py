"""SD cards: build an image that detects as soon as the board has power, and flash it."""
