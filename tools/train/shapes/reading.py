"""Reads a clip back: which shape, which colour, which background, which way. Knows nothing of the model."""

import math

import torch

import world

_NAMES = list(world.COLOURS)
_PALETTE = torch.tensor([world.COLOURS[n] for n in _NAMES], dtype=torch.float32)


def _name(rgb):
    """The palette's name for a measured colour [3], or None when it is far from all of them."""
    distance = (_PALETTE - rgb).norm(dim=1)
    best = distance.argmin().item()
    return _NAMES[best] if distance[best] < 70 else None


def _shape(mask):
    """The shape whose outline, at the best size, covers the mask [H, W] best (intersection over union)."""
    h, w = mask.shape
    ys, xs = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    top, bottom = ys[mask].min() - 0.5, ys[mask].max() + 0.5
    left, right = xs[mask].min() - 0.5, xs[mask].max() + 0.5
    best, found = 0.0, None
    for shape in world.SHAPES:
        for r in torch.arange(6.0, 16.0, 0.5).tolist():
            # Align the boxes: a template's own box is found on a grid about the origin.
            cover = _template(shape, r)
            dx, dy = (left + right) / 2 - cover["x"], (top + bottom) / 2 - cover["y"]
            drawn = world._distance(shape, xs - dx, ys - dy, r) < 0
            score = (drawn & mask).sum() / (drawn | mask).sum()
            if score > best:
                best, found = score, shape
    return found


_boxes = {}


def _template(shape, r):
    if (shape, r) not in _boxes:
        grid = torch.arange(-20, 20, 0.25)
        y, x = torch.meshgrid(grid, grid, indexing="ij")
        inside = world._distance(shape, x, y, r) < 0
        _boxes[shape, r] = {
            "x": (x[inside].min() + x[inside].max()) / 2,
            "y": (y[inside].min() + y[inside].max()) / 2,
        }
    return _boxes[shape, r]


def read(frames):
    """(shape, colour, background, direction) of uint8 frames [T, H, W, 3]; None for what cannot be told.

    The background is the median of the picture's rim, over all frames. What differs from it is the thing, which
    has to be there, of a believable size, in every frame. Its colour is the median of its pixels away from the
    edge, over all frames. Its direction is that of the line fitted to its centre: `still` under 4 pixels in 16
    frames, else an axis, which must outweigh the other one twice.
    """
    frames = frames.float()
    count, h, w, _ = frames.shape
    rim = torch.cat([frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1]], 1).flatten(0, 1)
    ground = rim.median(0).values
    background = _name(ground)
    away = (frames - ground).norm(dim=3)
    mask = away > 60
    area = mask.sum((1, 2))
    small, large = 0.01 * h * w, 0.35 * h * w
    if ((area < small) | (area > large)).any():
        return None, None, background, None
    # Away from the edge: all four neighbours belong to the thing, too.
    core = mask.clone()
    for shift, dim in ((1, 1), (-1, 1), (1, 2), (-1, 2)):
        core &= mask.roll(shift, dim)
    colour = _name(frames[core].median(0).values) if core.any() else None
    shape = _shape(mask[count // 2])
    if count < 2:
        return shape, colour, background, None
    weight = away * mask
    total = weight.sum((1, 2))
    x = (weight.sum(1) * torch.arange(w)).sum(1) / total
    y = (weight.sum(2) * torch.arange(h)).sum(1) / total
    t = torch.arange(count, dtype=torch.float32)
    t -= t.mean()
    dx, dy = (((v - v.mean()) * t).sum() / t.square().sum() * (world.FRAMES - 1) for v in (x, y))
    dx, dy = dx.item(), dy.item()
    if math.hypot(dx, dy) < 4:
        direction = "still"
    elif abs(dx) > 2 * abs(dy):
        direction = "right" if dx > 0 else "left"
    elif abs(dy) > 2 * abs(dx):
        direction = "down" if dy > 0 else "up"
    else:
        direction = None
    return shape, colour, background, direction


def score(combinations, clips):
    """Shares read rightly: each alone, `all` = colour, background and direction, `all_four` with the shape."""
    right = torch.tensor([[a == b for a, b in zip(c, read(f))] for c, f in zip(combinations, clips)]).float()
    shape, colour, background, direction = right.mean(0).tolist()
    return {
        "clips": len(right),
        "colour": round(colour, 4),
        "background": round(background, 4),
        "direction": round(direction, 4),
        "all": round(right[:, 1:].prod(1).mean().item(), 4),
        "shape": round(shape, 4),
        "all_four": round(right.prod(1).mean().item(), 4),
    }
