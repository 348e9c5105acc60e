"""How open answers are compared."""

from __future__ import annotations

import pytest

from eval.free import names_label


@pytest.mark.parametrize(
    ("said", "label", "right"),
    [
        ("This looks like liver.", "liver", True),
        ("Liver", "liver", True),
        ("The stain is H&E.", "H&E", True),
        ("Deliverance", "liver", False),
        ("There is no metastasis in the centre.", "metastasis in the centre", False),
        ("There is no metastasis in the centre.", "no metastasis in the centre", True),
        ("There is metastasis in the centre.", "no metastasis in the centre", False),
        ("", "liver", False),
    ],
)
def test_label_is_named_as_whole_words(said: str, label: str, right: bool) -> None:
    assert names_label(said, label) is right
