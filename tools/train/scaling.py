"""The scaling study: what 1/16 and 1/4 of the transformer's training give, with the same data and seed.

The learning rate is flat until it falls, so a shorter run is the beginning of the long one and a fall of its own: only the
falls cost something more.
"""

import random

import torch

import dit
import latents
import preview
import run
import scenes
import vae as vae_stage
from captions import prompt

ROWS = 8


class Branch:
    """Trains that share of the run; can be sent to other processes."""

    def __init__(self, share):
        self.share = share

    def __call__(self):
        dit.train(self.share)


def strip(path, made):
    """Held-out prompts from top to bottom, the shares of compute from left to right: three frames of each clip."""
    columns = []
    for clips in made:
        columns.append([vae_stage.to_bytes(c)[[0, c.shape[1] // 2, -1]] for c in clips])
    rows = [torch.cat([column[i] for column in columns]) for i in range(len(columns[0]))]
    vae_stage.sheet(path, *rows, scale=1)


def study():
    """Trains what is missing, logs every share's last loss, draws the strip. 3 when the time is spent before that."""
    shares = sorted(run.config("dit")["shares"])
    for share in shares[:-1]:
        run.workers(Branch(share), run.config("workers"))
        if run.spent():
            return 3
    vae = latents.whitened(vae_stage.trained())
    c = run.config("sampling")
    labels = random.Random(21).sample(scenes.HELD_OUT, ROWS)
    prompts = [prompt(x) for x in labels]
    made = []
    for share in shares:
        encoder, transformer = dit.trained(share)
        made.append(latents.decode(vae, preview.sample(encoder, transformer, prompts, c["size"], c["frames"])))
    strip(run.OUT / "scaling.png", made)
    run.log("scaling", shares=shares, prompts=prompts)
    return 0
