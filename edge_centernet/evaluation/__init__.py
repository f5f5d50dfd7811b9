"""How good a detector is on labelled data: COCO metrics, and recall in crowds."""
