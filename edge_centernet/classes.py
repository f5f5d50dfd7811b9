"""Class names and which of them mean the same thing.

VOC has aeroplane, COCO airplane; tools write "Potted Plant", "potted-plant" or "pottedplant". Wherever a user
names a class, `find_class` looks it up, so that every spelling works. COCO's word is the canonical one.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence

# COCO's 80 classes in the order of its categories, https://cocodataset.org/#explore
COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
# VOC's word -> COCO's, without blanks; pottedplant and diningtable differ from COCO's by their blank only.
_SAME = {"aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch", "tvmonitor": "tv"}


_LONGEST = 64  # characters
CLASS_NAME = f"a class name of 1 to {_LONGEST} printable characters"  # for messages


def is_class_name(name: object) -> bool:
    """Whether this is CLASS_NAME: names go to terminals, tables, topics and pages."""
    return isinstance(name, str) and 0 < len(name.strip()) <= len(name) <= _LONGEST and name.isprintable()


def class_key(name: str) -> str:
    """What all names of one class share: COCO's word in lower case without blanks, hyphens and _."""
    # macOS writes an accented letter as two characters (NFD), others as one: they look alike.
    folded = unicodedata.normalize("NFC", name).casefold()
    text = "".join(letter for letter in folded if not (letter.isspace() or letter in "-_"))
    return _SAME.get(text, text)


_COCO_WORDS = {class_key(name): name for name in COCO}


def coco_word(name: str) -> str:
    """COCO's word for a class; `name` itself where COCO has no such class."""
    return _COCO_WORDS.get(class_key(name), name)


def find_class(name: str, known: Sequence[str]) -> int | None:
    """Index in `known` of the class that `name` means; None if there is none, or several of that meaning."""
    # The exact spelling first: a data set may tell "tv" from "tvmonitor".
    if name in known:
        return known.index(name)
    key = class_key(name)
    found = [i for i, other in enumerate(known) if class_key(other) == key]
    return found[0] if len(found) == 1 else None


# Plurals that no rule gives; the last word of a name decides.
_PLURALS = {
    "aircraft": "aircraft", "broccoli": "broccoli", "child": "children", "deer": "deer", "fish": "fish",
    "foot": "feet", "goose": "geese", "knife": "knives", "leaf": "leaves", "lens": "lenses", "man": "men",
    "mouse": "mice", "police": "police", "sheep": "sheep", "shelf": "shelves", "tooth": "teeth",
    "wolf": "wolves", "woman": "women",
}  # fmt: skip


def counted(count: int, name: str) -> str:
    """A number of objects of a class, in English: 1 bus, 2 buses, 3 wine glasses, 2 sheep."""
    if count == 1 or not name[-1:].isascii() or not name[-1:].isalpha():
        return f"{count} {name}"
    word = re.split(r"[\s_-]", name)[-1]
    if (irregular := _PLURALS.get(word.lower())) is not None:
        plural = irregular if word.islower() else irregular.capitalize()
        return f"{count} {name.removesuffix(word)}{plural}"
    lower = word.lower()
    if re.search(r"(ss|us|x|z|ch|sh)$", lower):
        return f"{count} {name}es"
    if lower.endswith("s"):  # scissors, skis, gloves
        return f"{count} {name}"
    return f"{count} {name[:-1]}ies" if re.search(r"[^aeiou]y$", lower) else f"{count} {name}s"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: "; did you mean 'person'?", or "" if none is similar."""
    keys = {class_key(other): other for other in known}
    near = difflib.get_close_matches(class_key(name), keys, n=1)
    return f"; did you mean {keys[near[0]]!r}?" if near else ""
