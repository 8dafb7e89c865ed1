"""A scene as plain data, and how one is drawn at random.

Lengths are in units of the picture's short side, from the middle of the picture, y downwards; time is in seconds.
"""

import random
from dataclasses import dataclass, field

from things import BACKGROUND, BACKGROUNDS, CAMERAS, LIGHTS, MOTION, MOTIONS, THING, THINGS, WEATHERS

FPS = 8
FULL = 17  # frames: a motion takes at least this long, so a shorter clip is the beginning of one


@dataclass
class Actor:
    thing: int
    motion: int
    size: float  # of the drawing's longer side
    x: float = 0.0  # where its way's middle is
    y: float = 0.0
    reach: float = 0.0  # half of its way, or the height of its jumps, or the circle's radius
    rate: float = 0.0  # turns, jumps or circles a second; below 0 the other way round
    phase: float = 0.0  # of a circle, in turns
    flip: bool = False
    shot: int = 0
    there_and_back: bool = False  # for "hide": comes back on the side where it went

    def comes_from(self):
        """For "hide": the side where it begins."""
        return "right" if (self.rate > 0) == self.there_and_back else "left"


@dataclass
class Shot:
    background: int
    camera: str = "still"
    amount: float = 0.0  # how far the camera pans, or the logarithm of how much it zooms
    light: str = "day"
    weather: str = "clear"
    seed: tuple = (0.0, 0.0, 0.0, 0.0)  # what one meadow differs by from another


@dataclass
class Scene:
    width: int
    height: int
    frames: int
    shots: list
    actors: list  # from back to front; the first to be named is `named[0]`
    named: list = field(default_factory=list)  # actors in the order in which a caption names them
    cut: int = 0  # the frame at which the second shot begins; 0: there is none

    def label(self):
        """(thing, background, motion) of what the caption is about."""
        first = self.actors[self.named[0]]
        return first.thing, self.shots[0].background, first.motion


def held_out(count=400, seed=20261123):
    """The combinations that no stage sees: as many of each motion, things and backgrounds at random. The order is that
    of Python's Mersenne Twister for this seed, which the language fixes."""
    rng, found = random.Random(seed), []
    things, backgrounds = [], []
    while len(found) < count:
        if not things:
            things = rng.sample(range(len(THINGS)), len(THINGS))
        if not backgrounds:
            backgrounds = rng.sample(range(len(BACKGROUNDS)), len(BACKGROUNDS))
        new = (things.pop(), backgrounds.pop(), len(found) % len(MOTIONS))
        if new not in found:
            found.append(new)
    return found


HELD_OUT = held_out()
_HELD_OUT = set(HELD_OUT)

SIMPLE = [MOTION[x] for x in ("left", "right", "up", "down", "grow", "shrink", "spin", "bounce", "circle", "stay")]
IN_PLACE = [MOTION[x] for x in ("stay", "spin", "bounce", "grow", "shrink")]
STAY, HIDE = MOTION["stay"], MOTION["hide"]
# How often each is drawn to learn from: two things and one of four ways past each other take more clips than one thing.
# The recognisers, whose scenes are plain, see all alike.
OFTEN = [9 if i == HIDE else 1 for i in range(len(MOTIONS))]
COVERS = [i for i, thing in enumerate(THINGS) if thing.covers]


def other(thing):
    """What a prompt lets a thing hide behind."""
    return THING["house"] if thing != THING["house"] else THING["castle"]


def passage(thing, background):
    """How a prompt lets a thing pass behind another: (the side where it ends, -1 or 1; whether it comes back there)."""
    return 1 if thing % 2 else -1, background % 2 == 0


def _uniform(rng, low, high):
    return low + (high - low) * rng.random()


def _move(rng, actor, hx, hy):
    """Fills in what the actor's motion needs, for a picture of hx by hy about its middle."""
    m, kind = actor.size / 2, MOTIONS[actor.motion].name
    thing = THINGS[actor.thing]
    actor.flip = rng.random() < 0.5
    if kind in ("left", "right"):
        actor.reach = max(0.12, min(hx - m * 0.9, 0.62)) * _uniform(rng, 0.85, 1.0)
        if thing.faces:  # it looks where it goes
            actor.flip = (thing.faces == 1) == (kind == "left")
    elif kind in ("up", "down"):
        actor.reach = max(0.12, min(hy - m * 0.9, 0.62)) * _uniform(rng, 0.85, 1.0)
    elif kind == "spin":
        actor.rate = _uniform(rng, 0.4, 0.55) * rng.choice((-1, 1))
    elif kind == "bounce":
        actor.reach = min(0.4, max(0.14, (hy - m) * 0.8)) * _uniform(rng, 0.8, 1.0)
        actor.rate = _uniform(rng, 0.8, 1.1)
    elif kind == "circle":
        actor.reach = max(0.14, min(min(hx, hy) - m, 0.3)) * _uniform(rng, 0.85, 1.0)
        actor.rate = _uniform(rng, 0.45, 0.55) * rng.choice((-1, 1))
        actor.phase = rng.random()
    elif kind == "fall":
        actor.reach = hy + m  # starts this far above the middle, wholly outside


def _place(rng, actor, hx, hy):
    """Somewhere that keeps the whole way inside the picture."""
    m, kind = actor.size / 2, MOTIONS[actor.motion].name
    free_x, free_y = max(0.0, hx - m), max(0.0, hy - m)
    if kind in ("left", "right"):
        free_x = 0.0
    elif kind in ("up", "down", "bounce"):
        free_y = 0.0
    elif kind == "circle":
        free_x, free_y = max(0.0, free_x - actor.reach), max(0.0, free_y - actor.reach)
    actor.x = _uniform(rng, -1, 1) * min(0.3, free_x)
    actor.y = _uniform(rng, -0.5, 1) * min(0.14, free_y)
    if kind == "fall":
        actor.y = _uniform(rng, 0.5, 0.95) * free_y  # where it lands
    if kind == "bounce":
        actor.y = min(free_y + hy - m, hy - m) * 0.85 * _uniform(rng, 0.85, 1.1)  # the ground


def _single(rng, thing, motion, hx, hy, shot=0):
    actor = Actor(thing, motion, _uniform(rng, 0.4, 0.56), shot=shot)
    if MOTIONS[motion].name in ("up", "down", "circle", "left", "right", "bounce"):
        actor.size = _uniform(rng, 0.36, 0.46)
    if MOTIONS[motion].name in ("grow", "shrink"):
        actor.size = _uniform(rng, 0.62, 0.74)  # its size when it is largest
    _move(rng, actor, hx, hy)
    _place(rng, actor, hx, hy)
    return [actor], [0]


def _hide(rng, thing, background, hx, hy, prompted):
    cover = other(thing) if prompted else rng.choice([x for x in COVERS if x != thing])
    # As large as leaves room beside the cover.
    behind = Actor(thing, HIDE, min(max(hx - 0.38, 0.28), 0.4) * _uniform(rng, 0.94, 1.06))
    front = Actor(cover, STAY, behind.size + _uniform(rng, 0.17, 0.22), flip=rng.random() < 0.5)
    front.x = _uniform(rng, -0.04, 0.04)
    behind.x = front.x
    front.y = behind.y = _uniform(rng, 0.0, 0.1)
    behind.y += 0.03
    behind.reach = min(hx - behind.size * 0.45, 0.75) * _uniform(rng, 0.92, 1.0)
    drawn = rng.choice((-1, 1)), rng.random() < 0.5
    behind.rate, behind.there_and_back = passage(thing, background) if prompted else drawn
    if THINGS[thing].faces:  # it looks where it goes at last
        behind.flip = THINGS[thing].faces != behind.rate
    return [behind, front], [0, 1]


def _several(rng, things, motions, hx, hy):
    """Two or three beside each other; above each other in a tall picture."""
    tall, count = hy > hx * 1.15, len(things)
    long, short = (hy, hx) if tall else (hx, hy)
    cell = 2 * long / count
    actors = []
    for i, (thing, motion) in enumerate(zip(things, motions)):
        size = min(cell * 0.82, 2 * short * 0.5) * _uniform(rng, 0.85, 1.0)
        actor = Actor(thing, motion, size, flip=rng.random() < 0.5)
        along = -long + cell * (i + 0.5) + _uniform(rng, -0.03, 0.03)
        across = _uniform(rng, -0.06, 0.1)
        actor.x, actor.y = (across, along) if tall else (along, across)
        name = MOTIONS[motion].name
        if name == "bounce":
            actor.rate, actor.reach = _uniform(rng, 0.8, 1.1), min(0.22, cell / 3)
            actor.y += actor.reach / 2
        elif name == "spin":
            actor.rate = _uniform(rng, 0.4, 0.55) * rng.choice((-1, 1))
        actors.append(actor)
    return actors, list(range(count))


def _known(things, backgrounds, motions):
    return all((t, b, m) not in _HELD_OUT for t, b, m in zip(things, backgrounds, motions))


def scene(rng, width, height, frames, label=None, plain=False, prompted=False):
    """A scene at random; of `label` (thing, background, motion) where that is given, else of none that is held out.

    `plain`: one thing (two where one hides), one shot, no camera, light or weather. `prompted`: as
    `captions.prompt` of the label says, down to what the thing hides behind.
    """
    short = min(width, height)
    hx, hy = width / short / 2, height / short / 2
    while True:
        thing, background, motion = label or (
            rng.randrange(len(THINGS)),
            rng.randrange(len(BACKGROUNDS)),
            rng.choices(range(len(MOTIONS)), None if plain else OFTEN)[0],
        )
        if not label and frames < FULL:
            motion = STAY if frames == 1 else rng.choice(SIMPLE)
        shot = Shot(background, seed=tuple(rng.random() for _ in range(4)))
        kind = "single" if plain else rng.choices(("single", "pair", "three", "cut"), (64, 20, 8, 8))[0]
        if label and kind != "single":
            kind = "single"
        if kind == "cut" and frames < FULL:
            kind = "single"
        if kind == "pair" or kind == "three":
            things = rng.sample(range(len(THINGS)), 2 if kind == "pair" else 3)
            motion = rng.choice(IN_PLACE) if frames > 1 else STAY
            motions = [motion] * len(things)
            if kind == "pair" and rng.random() < 0.5:
                motions[1] = STAY
            actors, named = _several(rng, things, motions, hx, hy)
            made = Scene(width, height, frames, [shot], actors, named)
        elif kind == "cut":
            motion, second = rng.choice(SIMPLE), rng.choice(SIMPLE)
            other = rng.choice([b for b in range(len(BACKGROUNDS)) if b != background])
            cut = 1 + 4 * round((frames - 1) / 8)
            a, _ = _single(rng, thing, motion, hx, hy)
            b, _ = _single(rng, thing, second, hx, hy, shot=1)
            shots = [shot, Shot(other, seed=tuple(rng.random() for _ in range(4)))]
            made = Scene(width, height, frames, shots, a + b, [0, 1], cut)
        elif motion == HIDE:
            made = Scene(width, height, frames, [shot], *_hide(rng, thing, background, hx, hy, prompted))
        else:
            made = Scene(width, height, frames, [shot], *_single(rng, thing, motion, hx, hy))
        if not label and frames > 1:
            where = [made.shots[a.shot].background for a in made.actors]
            if not _known([a.thing for a in made.actors], where, [a.motion for a in made.actors]):
                continue
        if not plain and not made.cut:
            _dress(rng, made)
        return made


def _dress(rng, made):
    """Camera, light and weather, each now and then."""
    shot = made.shots[0]
    calm = {MOTION[x] for x in ("stay", "spin", "bounce")}
    if made.frames >= FULL and rng.random() < 0.3 and all(a.motion in calm for a in made.actors):
        shot.camera = rng.choice([x for x in CAMERAS if x != "still"])
        shot.amount = _uniform(rng, 0.3, 0.4) if "pan" in shot.camera else _uniform(rng, 0.45, 0.6)
    if made.frames >= FULL and rng.random() < 0.08:
        shot.light = rng.choice([x for x in LIGHTS if x != "day"])
    inside = {BACKGROUND[x] for x in ("underwater", "space", "room", "stage")}
    if shot.background not in inside and rng.random() < 0.1:
        shot.weather = rng.choice([x for x in WEATHERS if x != "clear"])
