"""Small detectors of others: how each wants its image, and how its outputs are read. No weights are here.

`edge_centernet.labelling` uses them to help label photos; scripts/bench_peers.py measures them beside ours.

    engines.py     a file of theirs in OpenVINO, ONNX Runtime, TFLite or ncnn
    common.py      what all of them share: images to inputs, raw boxes to detections
    nanodet.py     NanoDet and NanoDet-Plus
    yolo.py        YOLOX, YOLO-FastestV2 and FastestDet
    ssd.py         SSD on MobileNet
    families.py    the table of these, and a detector made from a file

A new family is two functions of a few lines and an entry in `families`.
"""
