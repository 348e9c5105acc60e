"""Stain normalisation of H&E fields, and separation of haematoxylin, eosin and DAB.

Normalisation moves the colours of a field to those of one reference field. It is defined for H&E only: on anything else
(blank glass, pen ink, greyscale, immunohistochemistry, smears) the methods invent colours, so such fields come back
unchanged with the reason.

Macenko (ISBI 2009) and Reinhard (CG&A 2001) are torchstain's; Vahadane (TMI 2016) is scikit-learn's non-negative
dictionary learning; separation (Ruifrok and Johnston 2001) is scikit-image's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.errors import BadInput, NotAvailable
from assistant.images.quality import blankness

Method = Literal["macenko", "vahadane", "reinhard"]

#: Light that passes through empty glass, and the natural-log optical density from which a channel counts as stained;
#: the values of Macenko's paper, which torchstain uses too.
_GLASS, _STAINED = 240, 0.15
_MIN_STAINED = 500  # pixels: fewer say nothing about a stain's direction
#: Limits set on nine H&E sets against IHC, special stains, smears and pen ink. Most H&E fields absorb green most in
#: over 95 % of their tissue; an IHC field that is nearly all haematoxylin does too, and passes.
_BLANK, _GREY_SPREAD, _INK_SHARE, _GREEN_SHARE, _MIN_ANGLE = 0.97, 6, 0.025, 0.9, 5.0
_MIN_SPREAD = 0.01  # second over first singular value of the densities; H&E fields have 0.025 and more
#: Ruifrok's haematoxylin and eosin, [2, 3]: where Vahadane's search starts.
_STANDARD = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
_ONE_STAIN = "shows one stain only, so haematoxylin and eosin cannot be told apart"
_SAMPLE = 8_000  # pixels that Vahadane's dictionary is learned from


@dataclass(frozen=True)
class StainResult:
    """One field after normalisation.

    Attributes:
        image: The normalised field, or a copy of the given one when ``ok`` is False.
        ok: True when the colours were changed.
        reason: Why not, as a phrase about the field; empty when ``ok``.
    """

    image: Image.Image
    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class _Stains:
    """Unit optical densities of haematoxylin and eosin, [3, 2], and the 99th percentile of their amounts, [2]."""

    vectors: NDArray[np.float64]
    amounts: NDArray[np.float64]


class StainNormaliser:
    """Makes H&E fields look as if stained like one reference field.

    Args:
        method: ``"macenko"`` (fast, the usual choice), ``"vahadane"`` (sparse, keeps structure, about ten times
            slower) or ``"reinhard"`` (colour statistics only).

    Raises:
        BadInput: Another method.
        NotAvailable: The library behind the method is not installed.
    """

    def __init__(self, method: Method = "macenko") -> None:
        if method not in get_args(Method):
            raise BadInput(f"stain normalisation {method!r} is unknown; allowed: {', '.join(get_args(Method))}")
        self.method = method
        self._torchstain: Any = None
        self._reference: _Stains | None = None
        self._fitted = False
        try:
            if method == "vahadane":
                import sklearn.decomposition  # noqa: F401
            else:
                self._torchstain = _torchstain(method)
        except ImportError as error:
            package = "scikit-learn" if method == "vahadane" else "torchstain"
            raise NotAvailable(f"{method} stain normalisation needs {package}; run: pip install {package}") from error

    def fit(self, reference: Image.Image) -> StainNormaliser:
        """Take over the colours of ``reference``, an RGB H&E field; returns the normaliser itself.

        Raises:
            BadInput: The reference is not an H&E field with enough tissue.
        """
        pixels = np.asarray(reference.convert("RGB"))
        reason = _unsuitable(pixels)
        stains: _Stains | None = None
        if not reason and self.method != "reinhard":
            stains, reason = self._stains(pixels)
        if reason:
            raise BadInput(f"the stain reference {reason}; choose an H&E field rich in both stains")
        if self.method == "reinhard":
            self._torchstain.fit(pixels[_tissue(pixels)][np.newaxis])
        elif self.method == "macenko":
            self._torchstain.fit(pixels)
        self._reference, self._fitted = stains, True
        return self

    def transform(self, image: Image.Image) -> StainResult:
        """Normalise one RGB field. Never fails on a field that is not H&E: it comes back unchanged, with the reason."""
        if not self._fitted:
            raise BadInput("the stain normaliser has no reference yet; call fit(reference) first")
        pixels = np.asarray(image.convert("RGB"))
        reason = _unsuitable(pixels)
        stains: _Stains | None = None
        if not reason and self.method != "reinhard":
            stains, reason = self._stains(pixels)
        if reason:
            return StainResult(Image.fromarray(pixels.copy()), ok=False, reason=reason)
        if self.method == "reinhard":
            # Statistics of the tissue only: with the glass among them, a field's emptiness would change its colours.
            where = _tissue(pixels)
            changed = pixels.copy()
            changed[where] = self._torchstain.normalize(pixels[where][np.newaxis])[0]
        elif self.method == "macenko":
            changed = self._torchstain.normalize(pixels, stains=False)[0]
        elif stains is not None and self._reference is not None:
            changed = _rebuild(pixels, stains, self._reference)
        return StainResult(Image.fromarray(changed), ok=True)

    def _stains(self, pixels: NDArray[np.uint8]) -> tuple[_Stains | None, str]:
        """The stains of a field, or why they cannot be told."""
        density = np.maximum(_density(pixels[_tissue(pixels)]), 0)  # [N, 3]
        singular = np.sqrt(np.maximum(np.linalg.eigvalsh(density.T @ density), 0))
        # Macenko's method looks at pixels that are dark in every channel, which pure eosin is not.
        dark = (density >= _STAINED).all(axis=1).sum()
        if singular[1] < _MIN_SPREAD * singular[2] or (self.method == "macenko" and dark < _MIN_STAINED):
            return None, _ONE_STAIN
        stains = _macenko(pixels) if self.method == "macenko" else _vahadane(density)
        first, second = stains.vectors.T
        angle = np.degrees(np.arccos(np.clip(first @ second, -1, 1)))
        if not np.isfinite(stains.vectors).all() or angle < _MIN_ANGLE or stains.amounts.min() <= 0.01:
            return None, _ONE_STAIN
        return stains, ""


def separate_stains(image: Image.Image) -> dict[str, NDArray[np.float32]]:
    """Split a field into haematoxylin, eosin and DAB by their standard colours.

    Args:
        image: RGB. Works on any image; the maps only mean something where these stains were used.

    Returns:
        ``"hematoxylin"``, ``"eosin"`` and ``"dab"``: optical density (base 10, 0 is clear glass) as [H, W] float32.
    """
    from skimage.color import rgb2hed

    # scikit-image measures density in units of its darkest value, 10^-6.
    density = rgb2hed(np.asarray(image.convert("RGB"))) * 6.0
    names = ("hematoxylin", "eosin", "dab")
    return {name: density[..., index].astype(np.float32) for index, name in enumerate(names)}


def _torchstain(method: str) -> Any:
    """torchstain's NumPy normaliser for a method; its optical density is natural-log against 240."""
    from torchstain.numpy.normalizers.macenko import NumpyMacenkoNormalizer
    from torchstain.numpy.normalizers.reinhard import NumpyReinhardNormalizer

    return NumpyMacenkoNormalizer() if method == "macenko" else NumpyReinhardNormalizer()


def _density(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Natural-log optical density against empty glass, as torchstain computes it, same shape."""
    density: NDArray[np.float64] = -np.log((pixels.astype(np.float64) + 1) / _GLASS)
    return density


def _tissue(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where any channel of [H, W, 3] is darkened by a stain, [H, W]."""
    return np.asarray((_density(pixels) >= _STAINED).any(axis=-1))


def _unsuitable(pixels: NDArray[np.uint8]) -> str:
    """Why a field is not one of H&E that can be normalised, as a phrase; empty when it is."""
    tissue = pixels[_tissue(pixels)]  # [N, 3]
    if blankness(Image.fromarray(pixels)) >= _BLANK or len(tissue) < _MIN_STAINED:
        return "is nearly blank"
    high, low = tissue.max(axis=1).astype(int), tissue.min(axis=1).astype(int)
    if np.percentile(high - low, 95) <= _GREY_SPREAD:
        return "is greyscale"
    red, green, blue = tissue.astype(int).T
    saturation = (high - low) / np.maximum(high, 1)
    # Bright, saturated and hardly bluer than green: red pens. Eosin keeps its blue, dense nuclei are not bright.
    ink = (saturation > 0.6) & (high > 140) & (blue <= green + 25)
    absorbs_green = (green <= red * 1.02 + 1) & (green <= blue * 1.02 + 1)
    if absorbs_green.mean() < _GREEN_SHARE:
        return f"is not coloured like H&E ({absorbs_green.mean():.0%} of its stained pixels absorb green most)"
    if ink.mean() > _INK_SHARE:
        return f"holds pen ink ({ink.mean():.0%} of its stained pixels)"
    return ""


def _macenko(pixels: NDArray[np.uint8]) -> _Stains:
    finder = _torchstain("macenko")
    finder.fit(pixels)
    return _Stains(finder.HERef, finder.maxCRef)


def _vahadane(density: NDArray[np.float64]) -> _Stains:
    """Two non-negative colours whose sparse mixtures explain the tissue's densities [N, 3]; the same on every call."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    sample = density[:: max(1, len(density) // _SAMPLE)]
    learner = MiniBatchDictionaryLearning(
        n_components=2, alpha=0.1, fit_algorithm="cd", transform_algorithm="lasso_cd", transform_max_iter=20_000,
        positive_code=True, positive_dict=True, batch_size=512, max_iter=20, random_state=0, dict_init=_STANDARD,
    )  # fmt: skip
    vectors = learner.fit(sample).components_.T
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=0), 1e-9)
    vectors = vectors[:, np.argsort(-vectors[0])]  # haematoxylin absorbs red, eosin hardly
    return _Stains(vectors, np.percentile(_amounts(density, vectors), 99, axis=0))


def _amounts(density: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Non-negative least squares of [N, 3] on two unit vectors, [N, 2]: with two, what remains is a projection."""
    amounts: NDArray[np.float64] = density @ np.linalg.pinv(vectors).T
    alone = np.maximum(density @ vectors, 0)
    negative = amounts < 0
    amounts = np.where(negative[:, ::-1], alone, amounts)
    return np.where(negative, 0, amounts)


def _rebuild(pixels: NDArray[np.uint8], stains: _Stains, reference: _Stains) -> NDArray[np.uint8]:
    """The field's amounts of each stain, in the strength and colours of the reference."""
    density = np.maximum(_density(pixels.reshape(-1, 3)), 0)
    amounts = _amounts(density, stains.vectors) * (reference.amounts / stains.amounts)
    changed = _GLASS * np.exp(-amounts @ reference.vectors.T)
    return changed.clip(0, 255).astype(np.uint8).reshape(pixels.shape)
