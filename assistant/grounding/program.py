"""What a phrase asks of the things it names, carried out on uncertain boxes.

A phrase is read as an operation ("largest", "nearest", "one box around all"), a place and, for relations, another
object; a network says of every box how probable it is that it is one of the things named. The rest is geometry, and
exact: the probability that a box is the largest of its kind is that it is one of the kind and no larger one is.
"""

from __future__ import annotations

import torch

SUPERLATIVES = (
    "largest", "smallest", "leftmost", "rightmost", "topmost", "bottommost", "central", "elongated", "darkest",
    "palest",
)  # fmt: skip
OPS = (
    "one", "all", "group", *SUPERLATIVES, "nearest", "farthest", "nearest to the largest", "farthest to the largest",
    "two largest", "three largest", "position", "positions", "group position",
)  # fmt: skip
GROUPS = tuple(OPS.index(op) for op in ("group", "group position"))
#: How many things an operation asks for, where it says so.
MOST = dict.fromkeys((*SUPERLATIVES, "nearest", "farthest", "nearest to the largest", "farthest to the largest"), 1) | {
    "two largest": 2,
    "three largest": 3,
}
PLACES = ("upper left", "upper right", "lower left", "lower right", "left", "right", "top", "bottom")
#: Columns of ``matcher.geometry_of``: centre, size, log of the area, log of width over height in pixels, grey.
_CENTRE, _SIZE, _AREA, _SHAPE, _GREY = slice(0, 2), slice(2, 4), 4, 5, 7
_SOFT = 0.015  # of the side of the image, over which a place begins
_TINY = 1e-4


def execute(
    ops: torch.Tensor, places: torch.Tensor, member: torch.Tensor, anchor: torch.Tensor, geometry: torch.Tensor
) -> torch.Tensor:
    """Probability [B, N] of each box to be meant.

    Args:
        ops: [B, len(OPS)] probabilities of the operations.
        places: [B, len(PLACES)] of the places.
        member: [B, N] of each box to be one of the things named; 0 for padding.
        anchor: [B, N] how well each box fits what a relation is to; the best is taken.
        geometry: [B, N, G] from ``matcher.geometry_of``.
    """
    centre = geometry[..., _CENTRE]
    # Distances in units of the height: shape is the log of (w · W) / (h · H).
    aspect = geometry[..., _SHAPE].exp() * geometry[..., 3].clamp(min=_TINY) / geometry[..., 2].clamp(min=_TINY)
    across = torch.stack([aspect, torch.ones_like(aspect)], dim=-1)
    area, shape, grey = geometry[..., _AREA], geometry[..., _SHAPE].abs(), geometry[..., _GREY]
    x, y = centre[..., 0], centre[..., 1]
    middle = ((centre - 0.5) * across).norm(dim=-1)
    keys = (-area, area, x, -x, y, -y, middle, -shape, grey, -grey)
    best = [winner(key, member) for key in keys]
    largest = best[0]
    relations = []
    for other in (anchor, largest):
        at = other.argmax(dim=1, keepdim=True)
        away = ((centre - centre.gather(1, at[..., None].expand(-1, -1, 2))) * across).norm(dim=-1)
        rest = member * (1 - torch.zeros_like(member).scatter(1, at, 1.0))
        relations += [winner(away, rest), winner(-away, rest)]
    nearest, farthest, nearest_largest, farthest_largest = relations
    inside = member * torch.einsum("bp,bnp->bn", places, within(x, y))
    numbers = [first(-area, member, count) for count in (2, 3)]
    rows = (
        member, member, member, *best, nearest, farthest, nearest_largest, farthest_largest, *numbers,
        inside, inside, inside,
    )  # fmt: skip
    return torch.einsum("bk,kbn->bn", ops, torch.stack(rows))


def winner(key: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
    """Probability [B, N] that a box is a member and none of a smaller key is, both [B, N]."""
    order = key.argsort(dim=1, stable=True)
    chance = member.gather(1, order)
    none = torch.cat([torch.ones_like(chance[:, :1]), (1 - chance).cumprod(dim=1)[:, :-1]], dim=1)
    return torch.zeros_like(member).scatter(1, order, chance * none)


def first(key: torch.Tensor, member: torch.Tensor, count: int) -> torch.Tensor:
    """Roughly the probability [B, N] that a box is a member and fewer than ``count`` of a smaller key are."""
    order = key.argsort(dim=1, stable=True)
    chance = member.gather(1, order)
    before = chance.cumsum(dim=1) - chance
    return torch.zeros_like(member).scatter(1, order, chance * torch.sigmoid((count - 0.5 - before) * 6))


def within(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How surely centres [B, N] in 0…1 lie in each of ``PLACES``, [B, N, 8]."""
    left, top = torch.sigmoid((0.5 - x) / _SOFT), torch.sigmoid((0.5 - y) / _SOFT)
    right, bottom = 1 - left, 1 - top
    corners = (left * top, right * top, left * bottom, right * bottom)
    return torch.stack([*corners, left, right, top, bottom], dim=-1)
