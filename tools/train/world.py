"""The theatre for the stages: batches of scenes as tensors, of one size and length each.

`./python world.py SEED` shows some of it.
"""

import functools
import random
import sys

import captions
import render
import run
import scenes


@functools.cache
def renderer():
    return render.Renderer(run.device(), render.drawings(run.OUT / "drawings.png"))


def clips(made, window=None):
    """Scenes -> f32 [B, 3, T, H, W] in -1..1 on the run's device."""
    return renderer()(made, window)


def batch(rng, count, size, frames, labels=None, **rest):
    """`count` scenes of (width, height) and `frames` frames, of these labels where there are some."""
    return [scenes.scene(rng, *size, frames, label=labels[i] if labels else None, **rest) for i in range(count)]


def held_out(rng, count, size, frames):
    """Scenes of combinations that no stage trains on, evenly over the motions."""
    return batch(rng, count, size, frames, scenes.HELD_OUT[:count], plain=True)


def windows(rng, made, side):
    """A square of the picture for each scene, mostly about one of its actors: (size, corners) for the renderer."""
    corners = []
    for s in made:
        actor, short = rng.choice(s.actors), min(s.width, s.height)
        spread = 0.15 + (0.5 if rng.random() < 0.3 else 0.0)
        corner = []
        for length, at in ((s.width, actor.x), (s.height, actor.y)):
            middle = length / 2 + short * (at + rng.uniform(-spread, spread))
            corner.append(min(max(round(middle - side / 2), 0), length - side))
        corners.append(corner)
    return (side, side), corners


def show(seed=1, rows=14, size=(96, 64)):
    """Writes out/theatre.png, scenes to look at, one a row, and prints what is said of them."""
    import vae as vae_stage  # which draws its scenes from here

    rng = random.Random(seed)
    made = batch(rng, rows, size, 17)
    for s in made:
        print(captions.caption(rng, s, False), "|", captions.caption(rng, s, True))
    vae_stage.sheet(run.OUT / "theatre.png", *(vae_stage.to_bytes(c)[::2] for c in clips(made)), scale=1)


if __name__ == "__main__":
    show(*map(int, sys.argv[1:]))
