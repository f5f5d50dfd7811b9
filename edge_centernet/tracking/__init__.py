"""The same object in frame after frame, and what follows from it: lines, zones, presence."""
