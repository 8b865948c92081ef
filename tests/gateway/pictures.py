"""Generated pictures of shapes, and a simple vector of each: what a shop's own model makes of photographs."""

import numpy as np
from freshrank.v1.ranking_pb2 import Item, ItemVector
from numpy.typing import NDArray

SIZE = 24
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 210), "yellow": (230, 210, 40)}
SHAPES = ("disc", "square", "stripes")
Picture = NDArray[np.uint8]


def picture(colour: str, shape: str, seed: int) -> Picture:
    """[SIZE, SIZE, 3]: a shape of a colour on white, both with noise, in a place of chance."""
    chance = np.random.Generator(np.random.PCG64(seed))
    image = np.full((SIZE, SIZE, 3), 245.0)
    down, right = np.indices((SIZE, SIZE)) - chance.integers(9, 15, (2, 1, 1))
    size = chance.integers(6, 9)
    inside = {
        "disc": down**2 + right**2 < size**2,
        "square": np.maximum(abs(down), abs(right)) < size,
        "stripes": (right % 4 < 2) & (abs(down) < size),
    }[shape]
    image[inside] = COLOURS[colour]
    return np.clip(image + chance.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def embedded(image: Picture) -> list[float]:
    """A histogram of colours without white, by a fixed random projection to 16 numbers."""
    bins = (image.reshape(-1, 3) // 64).astype(int) @ (16, 4, 1)
    histogram = np.bincount(bins[bins < 63], minlength=64).astype(float)
    projection = np.random.Generator(np.random.PCG64(7)).normal(size=(64, 16))
    found: list[float] = (histogram @ projection).tolist()
    return found


LOOKS = {f"{colour}-{shape}": (colour, shape) for colour in COLOURS for shape in SHAPES}


def pictured(name: str, seed: int) -> Item:
    """An item of which the text says nothing."""
    vector = ItemVector(name="image", values=embedded(picture(*LOOKS[name], seed)))
    return Item(item_id=name, title="print", categories=["art"], price=5.0, vectors=[vector])
