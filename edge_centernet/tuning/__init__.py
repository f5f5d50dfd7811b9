"""Which model, input size, threshold and counting line fit what a camera sees; `run.tune` is all of it.

view        frames of the source, spread over it in stretches that can be tracked
candidates  each shipped model at several input sizes: its file for the engine here, what it finds, its time
truth       what is taken for true: labels, or what all candidates together see and what moves on a path
choice      the candidate to propose, tried on frames that it was not chosen on; its threshold
line        where to count
report      the reasons in words, a configuration for `detect`, a picture
"""
