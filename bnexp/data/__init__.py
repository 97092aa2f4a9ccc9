"""Data sets that fit in the device's memory, and their training batches. ``DATA`` finds the sources by name.

A source (one family a file) reads the files of a data set; ``prepare`` chooses images and turns them into standardized
tensors; ``cache`` keeps these for forked processes; ``members`` says what each seed sees of them; ``batches`` serves
training batches.
"""

from bnexp.data import cifar, digits, gaussian, image_folder, mnist, npz
from bnexp.data.base import DATA, Data, Part, Raw, Split
from bnexp.data.batches import Batches
from bnexp.data.cache import keep, load
from bnexp.data.members import seen_by
from bnexp.data.prepare import new_images

__all__ = [
    "DATA",
    "Batches",
    "Data",
    "Part",
    "Raw",
    "Split",
    "cifar",
    "digits",
    "gaussian",
    "image_folder",
    "keep",
    "load",
    "mnist",
    "new_images",
    "npz",
    "seen_by",
]
