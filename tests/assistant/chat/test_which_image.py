"""Which image is meant: named in many ways, put aside, the only one, all of them; and which one gives the colours."""

from __future__ import annotations

import time

import pytest

from assistant.chat.which_image import meant, recoloured


@pytest.mark.parametrize(
    ("text", "images", "wanted"),
    [
        ("Count the nuclei in image 2", 3, [2]),
        ("glands of img 3, please", 3, [3]),
        ("#2: any blur?", 3, [2]),
        ("what about no. 2", 2, [2]),
        ("the third blurry field", 4, [3]),
        ("the 2nd smear", 2, [2]),
        ("picture two", 2, [2]),
        ("In the second, count them", 2, [2]),
        ("the last one", 4, [4]),
        ("the penultimate slide", 4, [3]),
        ("the middle one", 3, [2]),
        ("the middle one", 4, []),
        ("the left image", 2, [1]),
        ("the one on the right", 2, [2]),
        ("The first is a control. Count in the other", 2, [2]),
        ("Ignore image 1", 2, [2]),
        ("Image 1 is only an overview, skip it. Nuclei?", 2, [2]),
        ("not the first but the second image", 2, [2]),
        ("image 3 instead of image 1", 3, [3]),
        ("leave 1 and 2 alone", 3, [3]),
        ("only in the second field, how many of each", 3, [2]),
        ("Ki-67 in both images", 2, [1, 2]),
        ("count the cells in each", 3, [1, 2, 3]),
        ("all three slides, but ignore the first image", 3, [2, 3]),
        ("image 1 and image 3", 3, [1, 3]),
        ("Count the nuclei in image 9", 3, []),
        ("both nuclei and glands", 2, []),
        ("at 0.5 µm a pixel, 40 x, HER2 3+", 3, []),
        ("first count the nuclei, then the glands", 2, []),
        ("the largest gland on the left", 2, []),
        ("Show me 3 images like it", 4, []),
    ],
)
def test_the_images_meant(text: str, images: int, wanted: list[int]) -> None:
    assert meant(text, images) == wanted


def test_a_picture_made_since_is_meant_by_its_number_only() -> None:
    assert meant("count in image 3", 2, 1) == [3]
    assert meant("count in image 3", 2) == []
    assert meant("the last image", 2, 1) == [2]


@pytest.mark.parametrize(
    ("text", "images", "pair"),
    [
        ("normalise image 1 to image 2", 2, (1, 2)),
        ("make image 2 look like image 1", 2, (2, 1)),
        ("use image 3 as reference and recolour the first image", 3, (1, 3)),
        ("template = image 1, source = image 2", 2, (2, 1)),
        ("Macenko, 1 -> 2", 2, (1, 2)),
        ("transfer the colours of image 2 to image 1", 2, (1, 2)),
        ("give it the colours of image 2", 2, (1, 2)),
        ("image 2 is too pale, normalise it", 2, (2, 1)),
        ("The second is our standard. Match the other to it", 2, (1, 2)),
        ("normalise these", 2, None),
        ("normalise image 2", 3, None),
    ],
)
def test_image_and_reference(text: str, images: int, pair: tuple[int, int] | None) -> None:
    assert recoloured(text, images) == pair


def test_long_texts_take_no_long_time() -> None:
    began = time.perf_counter()
    for text in ("the " * 4000, "1 and " * 3000, "image " * 3000, "leave " * 3000, "not the " * 2000 + "image 1"):
        meant(text, 4)
        recoloured(text, 4)
    assert time.perf_counter() - began < 5
