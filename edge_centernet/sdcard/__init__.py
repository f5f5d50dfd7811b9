"""SD cards: build an image that detects when it gets power, and flash it."""
