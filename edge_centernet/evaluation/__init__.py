"""How good a detector is on labelled data: COCO metrics, recall in crowds, calibration of scores."""
