"""Labels for photos that have none: several detectors fused, and how far their scores can be trusted.

    ensemble.py    the detectors, each on a photo and on its mirror image, and the fusion of their boxes
    calibrate.py   from the fused score to the probability of being right, on photos that are labelled
    labels.py      the photos, the COCO JSON that comes out, and a contact sheet to look it over

Only used where data is made, never on a device.
"""
