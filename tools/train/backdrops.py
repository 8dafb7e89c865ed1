"""The backgrounds and the weather, as functions of where a pixel is.

Each takes a `View` of n scenes of one background and returns colours [n, 3, T, H, W] in 0..1 (any of the sizes may be
1). Lengths are in units of the picture's short side, so everything is sharp at every size.
"""


from dataclasses import dataclass

import torch

_TABLE = torch.rand(4, 64, 64, generator=torch.Generator().manual_seed(4))  # fixed random numbers by cell
_tables = {}


@dataclass
class View:
    x: torch.Tensor  # [n, 1, T, 1, W] from the middle of the picture, to the right
    y: torch.Tensor  # [n, 1, T, H, 1] from the middle, down
    half: float  # half of the picture's height
    time: torch.Tensor  # [n, 1, T, 1, 1] seconds
    seed: torch.Tensor  # [n, 4] in 0..1
    pixels: torch.Tensor  # [n, 1, T, 1, 1] pixels in a unit of length

    @property
    def v(self):
        """How far down the picture, 0..1."""
        return self.y / (2 * self.half) + 0.5

    def r(self, i, low=0.0, high=1.0):
        return low + (high - low) * self.seed[:, i].view(-1, 1, 1, 1, 1)

    def at(self, v):
        """The length y of a share of the height."""
        return (v - 0.5) * 2 * self.half

    def colour(self, text):
        return torch.tensor([int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)], device=self.x.device).view(3, 1, 1, 1)

    def inside(self, depth):
        """How much of a pixel is covered, by its distance into a shape."""
        return (0.5 + depth * self.pixels).clamp(0, 1)

    def disc(self, x, y, radius):
        return self.inside(radius - torch.hypot(self.x - x, self.y - y))


def mix(under, over, share):
    return under + (over - under) * share


def _gradient(w, stops):
    """Colours by height: [(v, "rrggbb"), ...]."""
    colour = w.colour(stops[0][1])
    for (low, _), (high, name) in zip(stops, stops[1:]):
        colour = mix(colour, w.colour(name), ((w.v - low) / (high - low)).clamp(0, 1))
    return colour


def _random(w, channel, i, j):
    key = w.x.device
    if key not in _tables:
        _tables[key] = _TABLE.to(key)
    return _tables[key][channel][i.long() % 64, j.long() % 64]


def _dots(w, x, y, cell, radius, share=1.0):
    """One soft dot in each cell of a grid, for a share of the cells; it stays inside its cell."""
    i, j = torch.floor(x / cell), torch.floor(y / cell)
    i, j = torch.broadcast_tensors(i, j)
    u, v = x / cell - i, y / cell - j
    room = 0.5 - radius / cell
    du = u - (0.5 + room * (2 * _random(w, 0, i, j) - 1))
    dv = v - (0.5 + room * (2 * _random(w, 1, i, j) - 1))
    there = _random(w, 2, i, j) < share
    return w.inside(radius - torch.hypot(du, dv) * cell) * there


def _clouds(w, amount=1.0):
    """A puff of three balls every 0.9 of the way."""
    x = torch.remainder(w.x + w.r(2) * 0.9, 0.9) - 0.45
    top = w.at(0.16)
    depth = None
    for dx, dy, r in ((-0.11, 0.02, 0.065), (0.0, -0.01, 0.09), (0.12, 0.02, 0.06)):
        ball = r - torch.hypot(x - dx, (w.y - top - dy) * 1.3)
        depth = ball if depth is None else torch.maximum(depth, ball)
    return w.inside(depth) * amount


def _hill(w, v, height, wide, shift):
    """How far below the line of a hill: positive is ground."""
    return w.y - w.at(v) - height * torch.sin(w.x * wide + shift * 6.283)


def white(w):
    return w.colour("f4f4f2") - 0.05 * (w.v - 0.5).clamp(min=0) + 0 * w.x


def yellow(w):
    return w.colour("f6d743") - 0.05 * (w.v - 0.5).clamp(min=0) + 0 * w.x


def pink(w):
    return w.colour("f39ac0") - 0.05 * (w.v - 0.5).clamp(min=0) + 0 * w.x


def blue(w):
    return w.colour("2f6fe0") - 0.05 * (w.v - 0.5).clamp(min=0) + 0 * w.x


def sunset(w):
    sky = _gradient(w, [(0.0, "3d2a78"), (0.35, "b23a7a"), (0.62, "f5703c"), (0.85, "ffc352")])
    sun = w.disc(w.r(0, -0.3, 0.3), w.at(0.7), 0.13)
    sky = mix(sky, w.colour("fff0a0"), sun)
    return mix(sky, w.colour("3a1c3c"), w.inside(_hill(w, 0.86, 0.03, 4.0, w.r(1))))


def meadow(w):
    sky = _gradient(w, [(0.0, "4aa3f0"), (0.6, "c4e6fb")])
    sky = mix(sky, w.colour("ffffff"), _clouds(w))
    sky = mix(sky, w.colour("6fbf4a"), w.inside(_hill(w, 0.56, 0.06, 3.1, w.r(0))))
    grass = _gradient(w, [(0.6, "57ad35"), (1.0, "2f7d22")])
    return mix(sky, grass, w.inside(_hill(w, 0.66, 0.03, 2.3, w.r(1))))


def desert(w):
    sky = _gradient(w, [(0.0, "f0b56a"), (0.6, "fbe6b8")])
    sky = mix(sky, w.colour("fffbe0"), w.disc(w.r(0, -0.35, 0.35), w.at(0.18), 0.09))
    sky = mix(sky, w.colour("d99a4e"), w.inside(_hill(w, 0.58, 0.07, 3.3, w.r(1))))
    return mix(sky, w.colour("e8b964"), w.inside(_hill(w, 0.7, 0.05, 2.2, w.r(2))))


def _pines(w, v, cell, tall, colour, under):
    x = torch.remainder(w.x + w.r(1) * cell, cell) - cell / 2
    i = torch.floor((w.x + w.r(1) * cell) / cell)
    high = tall * (0.7 + 0.3 * _random(w, 0, i, torch.zeros_like(i)))
    up = w.at(v) - w.y
    depth = torch.minimum((high - up) * 0.38 - x.abs(), up + 0.05)
    return mix(under, w.colour(colour), w.inside(depth))


def snowfield(w):
    sky = _gradient(w, [(0.0, "9db7cf"), (0.6, "dfe9f2")])
    sky = _pines(w, 0.6, 0.2, 0.26, "2f5d50", sky)
    return mix(sky, w.colour("f7fbff"), w.inside(_hill(w, 0.6, 0.025, 2.6, w.r(0))))


def sea(w):
    sky = _gradient(w, [(0.0, "7cc7f2"), (0.42, "dff3fb")])
    sky = mix(sky, w.colour("ffffff"), _clouds(w))
    for k, (v, name) in enumerate(((0.42, "2f86c8"), (0.58, "2374b8"), (0.74, "1a5f9f"), (0.9, "134d86"))):
        shift = w.r(0) + k * 0.37 + w.time * (0.35 if k % 2 else -0.35)
        depth = _hill(w, v, 0.022, 11.0, shift)
        sky = mix(sky, w.colour("c9ecfb"), w.inside(depth + 0.012))
        sky = mix(sky, w.colour(name), w.inside(depth - 0.008))
    return sky


def night(w):
    sky = _gradient(w, [(0.0, "0a1038"), (0.8, "24357a")])
    sky = mix(sky, w.colour("fdf6d0"), _dots(w, w.x + w.r(0) * 8, w.y + w.r(1) * 8, 0.2, 0.018, 0.6))
    mx, my = w.r(2, -0.4, 0.4), w.at(0.17)
    moon = w.disc(mx, my, 0.1) * (1 - w.disc(mx + 0.05, my - 0.03, 0.09))
    sky = mix(sky, w.colour("fff3b0"), moon)
    return mix(sky, w.colour("0b1a20"), w.inside(_hill(w, 0.86, 0.03, 3.5, w.r(3))))


def forest(w):
    back = _gradient(w, [(0.0, "a9d68c"), (0.7, "5d9e54")])
    for k, (cell, half, colour) in enumerate(((0.23, 0.032, "5f7a45"), (0.41, 0.055, "5a3b22"))):
        x = torch.remainder(w.x + w.r(k) * cell, cell) - cell / 2
        back = mix(back, w.colour(colour), w.inside(half - x.abs()) * w.inside(w.at(0.86) - w.y))
    crown = w.at(0.12) + 0.03 * torch.sin(w.x * 14 + w.r(2) * 6) - w.y
    back = mix(back, w.colour("2f7a38"), w.inside(crown))
    return mix(back, w.colour("3b6b2d"), w.inside(_hill(w, 0.8, 0.015, 6.0, w.r(3))))


def city(w):
    sky = _gradient(w, [(0.0, "6b7fb8"), (0.6, "f0c7c0")])
    cell = 0.24
    along = w.x + w.r(0) * 10
    i = torch.floor(along / cell)
    x = along - i * cell
    top = w.at(0.28) + 0.3 * _random(w, 0, i, torch.zeros_like(i)) * w.half
    shade = 0.8 + 0.4 * _random(w, 1, i, torch.zeros_like(i))
    house = w.inside(w.y - top) * w.inside(x - 0.008) * w.inside(cell - 0.008 - x)
    sky = mix(sky, w.colour("54608a") * shade, house)
    wx, wy = torch.remainder(x, 0.08), torch.remainder(w.y - top, 0.1)
    window = w.inside(0.022 - (wx - 0.04).abs()) * w.inside(0.028 - (wy - 0.055).abs())
    lit = _random(w, 2, i * 3 + torch.floor(x / 0.08), torch.floor((w.y - top) / 0.1) + 20) < 0.65
    sky = mix(sky, w.colour("ffe08a"), window * lit * house)
    road = w.inside(w.y - w.at(0.84))
    return mix(sky, w.colour("4a4a52"), road)


def underwater(w):
    water = _gradient(w, [(0.0, "35c2b5"), (1.0, "0b5a6e")])
    rise = w.time * 0.22
    for k in range(2):
        dots = _dots(w, w.x + w.r(k) * 7, w.y + rise * (1 + k * 0.5) + w.r(2 + k) * 7, 0.3, 0.035 - k * 0.012, 0.6)
        water = mix(water, w.colour("c8fbf2"), dots * 0.85)
    return mix(water, w.colour("b99a5e"), w.inside(_hill(w, 0.9, 0.02, 5.0, w.r(0))))


def space(w):
    sky = w.colour("050510") + 0 * w.x + 0 * w.y
    sky = mix(sky, w.colour("ffffff"), _dots(w, w.x + w.r(0) * 9, w.y + w.r(1) * 9, 0.17, 0.015, 0.55))
    px, py = w.r(2, -0.4, 0.4), w.at(0.24)
    ring = torch.hypot((w.x - px) * 0.55, (w.y - py) * 1.9)
    sky = mix(sky, w.colour("d8a6f0"), w.inside(0.02 - (ring - 0.12).abs()) * (w.y > py - 0.02))
    planet = mix(w.colour("8a3fc0"), w.colour("c070e8"), w.inside(0.02 - (w.y - py + 0.03).abs()))
    sky = mix(sky, planet, w.disc(px, py, 0.13))
    return mix(sky, w.colour("d8a6f0"), w.inside(0.018 - (ring - 0.12).abs()) * (w.y > py + 0.02))


def beach(w):
    sky = _gradient(w, [(0.0, "59b8f2"), (0.4, "d8f1fb")])
    sky = mix(sky, w.colour("fff2a8"), w.disc(w.r(0, -0.4, 0.4), w.at(0.15), 0.08))
    sky = mix(sky, w.colour("1fa3c8"), w.inside(w.y - w.at(0.4)))
    line = _hill(w, 0.6, 0.02, 4.0, w.r(1) + w.time * 0.2)
    sky = mix(sky, w.colour("f2fbfb"), w.inside(line + 0.02))
    return mix(sky, w.colour("f0d9a0"), w.inside(line - 0.01))


def mountains(w):
    sky = _gradient(w, [(0.0, "6fb2e8"), (0.6, "e3f1fa")])
    for k, (cell, tall, rock) in enumerate(((0.5, 0.42, "7d8aa6"), (0.7, 0.36, "5b6680"))):
        along = w.x + w.r(k) * cell
        i = torch.floor(along / cell)
        x = (along - (i + 0.5) * cell).abs()
        up = w.at(0.72) - w.y
        high = tall * (0.8 + 0.2 * _random(w, k, i, torch.zeros_like(i)))
        depth = (high - up - x * (2 * tall / cell)) * 0.5
        sky = mix(sky, w.colour(rock), w.inside(depth))
        zigzag = 0.02 * torch.sin(along * 50)
        sky = mix(sky, w.colour("ffffff"), w.inside(depth) * w.inside(up - high + 0.14 + zigzag))
    return mix(sky, w.colour("4d8a4a"), w.inside(_hill(w, 0.74, 0.02, 3.0, w.r(2))))


def stage(w):
    fold = 0.5 + 0.5 * torch.sin(w.x * 24 + w.r(0) * 6)
    curtain = mix(w.colour("7d0f1c"), w.colour("c0202f"), fold)
    light = (1.25 - torch.hypot((w.x - w.r(1, -0.1, 0.1)) / 0.75, (w.y - w.at(0.55)) / 0.75)).clamp(0, 0.55)
    floor = w.inside(w.y - w.at(0.82))
    scene = mix(curtain, w.colour("8a5a33"), floor)
    scene = mix(scene * 0.8, w.colour("fff0c8"), light * 0.6)
    gold = w.inside(0.012 - (w.y - w.at(0.82)).abs())
    return mix(scene, w.colour("e8b840"), gold)


def room(w):
    wall = w.colour("e9dcc3") + 0 * w.x + 0 * w.y
    cx, cy = w.r(0, -0.35, 0.35), w.at(0.28)
    dx, dy = (w.x - cx).abs(), (w.y - cy).abs()
    frame = w.inside(0.19 - dx) * w.inside(0.16 - dy)
    glass = w.inside(0.165 - dx) * w.inside(0.135 - dy) * (1 - w.inside(0.01 - dx)) * (1 - w.inside(0.01 - dy))
    wall = mix(wall, w.colour("ffffff"), frame)
    wall = mix(wall, w.colour("7fc4f0"), glass)
    plank = 0.9 + 0.1 * torch.sign(torch.sin((w.y - w.at(0.7)) * 42))
    floor = w.colour("a86f3d") * plank
    wall = mix(wall, floor, w.inside(w.y - w.at(0.7)))
    return mix(wall, w.colour("ffffff"), w.inside(0.012 - (w.y - w.at(0.7)).abs()))


def rain(w):
    """How much of each pixel is a falling drop."""
    drops = 0
    for k in range(2):
        x = (w.x + 0.25 * w.y + w.r(k) * 9) / 0.11
        i = torch.floor(x)
        j0 = torch.zeros_like(i)
        fall = w.y - w.time * (1.7 + k * 0.4) + _random(w, k, i, j0) * 3
        j = torch.floor(fall / 0.5)
        i, j = torch.broadcast_tensors(i, j)
        off = (x - i - 0.2 - 0.6 * _random(w, 2, i, j)).abs() * 0.11
        drops = drops + w.inside(0.008 - off) * w.inside(0.07 - (fall - (j + 0.5) * 0.5).abs())
    return drops.clamp(0, 1) * 0.7


def snow(w):
    flakes = 0
    for k in range(2):
        sway = 0.04 * torch.sin(w.time * 2 + w.y * 5 + k)
        x, y = w.x + sway + w.r(k) * 9, w.y - w.time * (0.28 + 0.12 * k) + w.r(2 + k) * 9
        flakes = flakes + _dots(w, x, y, 0.19, 0.022 - 0.005 * k, 0.75)
    return flakes.clamp(0, 1) * 0.95


def light(kind, share):
    """Gains of red, green and blue [.., 3] from day to dark as a share 0..1."""
    dark = torch.tensor([0.22, 0.24, 0.45] if kind == "dusk" else [0.3, 0.25, 0.4], device=share.device)
    return 1 + (dark - 1) * share.unsqueeze(-1)


