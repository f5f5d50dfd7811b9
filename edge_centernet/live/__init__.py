"""A camera that never stops: newest frames, tracks, counts, and those who want to know of them."""
