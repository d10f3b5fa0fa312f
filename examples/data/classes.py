"""The 1000 classes of ImageNet, and which of them a plain name stands for."""

import re

import torch
from torch import Tensor

from .archives import read

ANIMALS = 398  # the first classes, in the order of WordNet, are animals

#: What ImageNet calls things that have a plainer name, or none of its classes where its words mean something else.
CALLED = {
    "airplane": ("airliner",),
    "bull": ("ox",),
    "chicken": ("hen", "cock"),
    "classical guitar": ("acoustic guitar",),
    "clownfish": ("anemone fish",),
    "corn": ("corn", "ear"),
    "cow": ("ox",),
    "cup": (),
    "elephant": ("Indian elephant", "African elephant", "tusker"),
    "european bear": ("brown bear",),
    "frog": ("bullfrog", "tree frog", "tailed frog"),
    "granny smith apple": ("Granny Smith",),
    "green pepper": ("bell pepper",),
    "horse": ("sorrel",),
    "pitcher": ("pitcher", "water jug"),
    "rabbit": ("wood rabbit", "hare", "Angora"),
    "rooster": ("cock",),
    "saw": (),
    "wheel": ("car wheel",),
    "wild boars": ("wild boar",),
    "yellow pepper": ("bell pepper",),
}
DOGS = ("Chihuahua", "Mexican hairless")  # the first and the last breed of dogs


def imagenet() -> list[list[str]]:
    """The names of each class, most usual first: ``["tench", "Tinca tinca"]``, and 999 more."""
    folder = "timm/data/_info"
    lines = read("timm", f"{folder}/imagenet_synset_to_lemma.txt").decode().strip().splitlines()
    lemmas = dict(line.split("\t") for line in lines)
    order = read("timm", f"{folder}/imagenet_synsets.txt").decode().split()
    return [[name.strip() for name in lemmas[synset].split(",")] for synset in order]


def words(name: str) -> str:
    """The words of a name, in small letters, without its article, what is in brackets, and what follows a full stop."""
    plain = re.sub(r"\(.*?\)", "", re.split(r"[.!?,]", name)[0]).lower().replace("-", " ")
    return re.sub(r"^(an?|the|some|two) ", "", re.sub(r"[^a-z ]", "", plain).strip())


def classes(name: str, is_animal: bool, names: list[list[str]]) -> list[int]:
    """The classes that a name stands for, by their places in ``names``; none if ImageNet has no such class.

    A class counts if one of its names is the whole name or its end ("pink flamingo" is a flamingo), or if the first of
    its names ends with the whole name (a "bear" is right as a brown bear). `CALLED` comes before both.
    """
    places = range(len(names))[:ANIMALS] if is_animal else range(ANIMALS, len(names))
    known = {i: [words(each) for each in names[i]] for i in places}
    whole = words(name).split()
    for start in range(len(whole)):
        end = " ".join(whole[start:])
        if end == "dog":
            first, last = (next(i for i in known if breed in names[i]) for breed in DOGS)
            return list(range(first, last + 1))
        called = CALLED.get(end)
        wanted = {end} if called is None else {words(each) for each in called}
        found = [i for i in known if wanted & set(known[i])]
        if not found and start == 0 and called is None:
            found = [i for i in known if known[i][0].split()[-len(whole) :] == whole]
        if found or called is not None:
            return found
    return []


def allowed(places: list[list[int]], number: int = 1000) -> Tensor:
    """Which classes are right for each image, (N, number) bool."""
    right = torch.zeros(len(places), number, dtype=torch.bool)
    for row, some in zip(right, places, strict=True):
        row[some] = True
    return right
