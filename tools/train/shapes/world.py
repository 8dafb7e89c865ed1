"""The synthetic world: one coloured shape on a coloured background, still or moving one way.

A *combination* is (shape, colour, background, direction). `HELD_OUT` is a fixed set of them that no training
clip ever shows; `tools/train/check` measures on those.
"""

import random

import torch

SIZE = 64  # pixels, both sides
FRAMES = 17  # 5 latent frames
FPS = 8

SHAPES = ("circle", "square", "triangle", "diamond", "star")
COLOURS = {
    "red": (220, 35, 35),
    "green": (40, 170, 60),
    "blue": (40, 80, 225),
    "yellow": (245, 220, 45),
    "purple": (160, 50, 190),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
# Unit steps in pixels; y grows downwards.
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}

COMBINATIONS = [
    (s, c, b, d) for s in SHAPES for c in COLOURS for b in COLOURS if b != c for d in DIRECTIONS
]
# Of the moving combinations 120 are kept from training. The order is that of Python's Mersenne Twister for this
# seed, which the language fixes.
_moving = [x for x in COMBINATIONS if x[3] != "still"]
HELD_OUT = sorted(random.Random(20261122).sample(_moving, 120))
TRAINED = [x for x in COMBINATIONS if x not in set(HELD_OUT)]

_MOVING_CAPTIONS = (
    "a {c} {s} moves {d} over a {b} background",
    "a {c} {s} moves {d} on a {b} background",
    "a {c} {s} moving {d} over a {b} background",
    "a {c} {s} moving {d} on a {b} background",
    "{c} {s} moves {d}, {b} background",
    "on a {b} background, a {c} {s} moves {d}",
    "over a {b} background a {c} {s} is moving {d}",
    "the {c} {s} slides {d} over the {b} background",
    "a {c} {s} goes {d} in front of a {b} background",
    "{b} background, a {c} {s} travels {d}",
    "a video of a {c} {s} that moves {d} on {b}",
)
_STILL_CAPTIONS = (
    "a {c} {s} stays still over a {b} background",
    "a {c} {s} stays still on a {b} background",
    "a still {c} {s} on a {b} background",
    "on a {b} background, a {c} {s} does not move",
    "the {c} {s} rests on the {b} background",
    "{b} background, a motionless {c} {s}",
)
# One frame shows no motion, so its caption may leave the motion out.
_PICTURE_CAPTIONS = (
    "a {c} {s} on a {b} background",
    "a {c} {s} over a {b} background",
    "a picture of a {c} {s} on a {b} background",
    "{c} {s}, {b} background",
)
_WAYS = {
    "left": ("left", "left", "to the left"),
    "right": ("right", "right", "to the right"),
    "up": ("up", "up", "upwards"),
    "down": ("down", "down", "downwards"),
}


def prompt(combination):
    """The caption that a reader would write, and the one that the check asks for."""
    s, c, b, d = combination
    if d == "still":
        return _STILL_CAPTIONS[0].format(s=s, c=c, b=b)
    return _MOVING_CAPTIONS[0].format(s=s, c=c, b=b, d=d)


def caption(combination, rng, frames=FRAMES):
    """A caption from a random template."""
    s, c, b, d = combination
    if frames == 1 and rng.random() < 0.5:
        text = rng.choice(_PICTURE_CAPTIONS).format(s=s, c=c, b=b)
    elif d == "still":
        text = rng.choice(_STILL_CAPTIONS).format(s=s, c=c, b=b)
    else:
        # The plainest template gets a third: it is what people type.
        template = _MOVING_CAPTIONS[0] if rng.random() < 0.33 else rng.choice(_MOVING_CAPTIONS)
        text = template.format(s=s, c=c, b=b, d=rng.choice(_WAYS[d]))
    return text + "." if rng.random() < 0.1 else text


def all_captions():
    """Every caption there is: what the tokenizer learns from."""
    for s, c, b, d in COMBINATIONS:
        for template in _PICTURE_CAPTIONS:
            yield template.format(s=s, c=c, b=b) + "."
        if d == "still":
            for template in _STILL_CAPTIONS:
                yield template.format(s=s, c=c, b=b)
        else:
            for template in _MOVING_CAPTIONS:
                for way in set(_WAYS[d]):
                    yield template.format(s=s, c=c, b=b, d=way)


def _distance(shape, x, y, r):
    """Signed distance to the shape's edge in pixels (exact or nearly so close to the edge), negative inside."""
    if shape == "circle":
        return torch.sqrt(x * x + y * y) - r
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.88 * r
    if shape == "diamond":
        return (x.abs() * 0.8 + y.abs() * 0.6) - 0.72 * r  # taller than wide: a 3-4-5 rhombus
    if shape == "triangle":  # equilateral, point up
        half = 0.62 * r
        return torch.maximum(y - half, x.abs() * 0.8660254 - y * 0.5 - half)
    if shape == "star":  # five points: fold the plane into one half of one arm, then one edge
        angle = torch.atan2(x, -y)
        fifth = 2 * torch.pi / 5
        angle = (torch.remainder(angle + fifth / 2, fifth) - fifth / 2).abs()
        radius = torch.sqrt(x * x + y * y)
        px, py = radius * torch.sin(angle), radius * torch.cos(angle)
        outer, inner = 1.2 * r, 0.55 * r
        ix, iy = inner * 0.5877853, inner * 0.8090170  # the inner corner, at 36 degrees
        ex, ey = ix, iy - outer
        return (px * -ey + (py - outer) * ex) / (ex * ex + ey * ey) ** 0.5
    raise ValueError(f"no shape called {shape}")


def render(combination, rng, frames=FRAMES, crop=None, anywhere=True):
    """A clip of the combination at a random size and speed: uint8 [frames, SIZE, SIZE, 3].

    `anywhere`: at a random place, which is what the VAE learns from. Otherwise on a way whose middle is near the middle
    of the picture, which is what the transformer learns: where a shape is then follows from its direction, and so does
    the motion, which a small transformer is long in finding out from clips anywhere.

    `crop` cuts a square window of that many pixels out, somewhere about the shape: most of a whole frame is
    flat, so a window teaches the VAE more for its pixels.
    """
    s, c, b, d = combination
    r = rng.uniform(8.5, 12.5)
    step = rng.uniform(1.3, 2.0)
    dx, dy = (v * step for v in DIRECTIONS[d])
    # The whole way of a full-length clip lies inside the frame, so that a short clip looks like its beginning.
    way_x, way_y = dx * (FRAMES - 1), dy * (FRAMES - 1)
    margin = r + 1
    if anywhere:
        x0 = rng.uniform(margin - min(way_x, 0), SIZE - margin - max(way_x, 0))
        y0 = rng.uniform(margin - min(way_y, 0), SIZE - margin - max(way_y, 0))
    else:
        x0 = (SIZE - way_x) / 2 + rng.uniform(-3, 3)
        y0 = (SIZE - way_y) / 2 + rng.uniform(-3, 3)
    side, left, top = SIZE, 0, 0
    if crop:
        side = crop
        reach = SIZE - side
        left = min(max(round(x0 + dx * frames / 2 + rng.uniform(-12, 12) - side / 2), 0), reach)
        top = min(max(round(y0 + dy * frames / 2 + rng.uniform(-12, 12) - side / 2), 0), reach)
    grid = torch.arange(side, dtype=torch.float32) + 0.5
    t = torch.arange(frames, dtype=torch.float32)
    x = (grid + left).view(1, 1, -1) - (x0 + dx * t).view(-1, 1, 1)
    y = (grid + top).view(1, -1, 1) - (y0 + dy * t).view(-1, 1, 1)
    x, y = torch.broadcast_tensors(x, y)
    cover = (0.5 - _distance(s, x, y, r)).clamp(0, 1).unsqueeze(-1)
    back, fore = torch.tensor(COLOURS[b]).float(), torch.tensor(COLOURS[c]).float()
    return (back + (fore - back) * cover).round().to(torch.uint8)


def batch(rng, count, frames, crop=None, combinations=TRAINED):
    """`count` clips as the VAE sees them, f32 [count, 3, frames, SIZE, SIZE] in -1..1, with their combinations."""
    chosen = [rng.choice(combinations) for _ in range(count)]
    clips = torch.stack([render(x, rng, frames, crop) for x in chosen])
    return clips.permute(0, 4, 1, 2, 3).float() / 127.5 - 1, chosen
