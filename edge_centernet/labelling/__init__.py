"""Labels for photos that have none: detectors that look at each photo together, and how far they can be trusted.

    fusion.py      boxes of several detectors -> one box for each object
    ensemble.py    the detectors, each with its weight, on a photo and on its mirror image
    calibrate.py   from the fused score to the probability of being right, on photos that are labelled
    labels.py      the photos, and the COCO JSON that comes out
    sheet.py       a contact sheet to look the labels over

Only used where data is made, never on a device.
"""
