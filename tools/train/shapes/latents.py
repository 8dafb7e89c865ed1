"""Stage 2: clips of the world as latents, whitened per channel."""

import torch

import run
import vae_parallel
import world


def encode(vae, clips):
    """Clips [B, 3, T, H, W] -> latent means, not whitened."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), vae_parallel.parallel():
        return vae_parallel.encode(vae, clips)[0]


def clips_of(vae, count, rng, anywhere):
    """Latents of `count` clips of the trained combinations, evenly over them, and which each is of."""
    chosen = []
    while len(chosen) < count:
        chosen += rng.sample(world.TRAINED, len(world.TRAINED))
    chosen = chosen[:count]
    stored = []
    for i in range(0, len(chosen), 8):
        clips = torch.stack([world.render(x, rng, anywhere=anywhere) for x in chosen[i : i + 8]])
        stored.append(encode(vae, clips.permute(0, 4, 1, 2, 3).float() / 127.5 - 1))
        if i % 800 == 0:
            run.log("latents", clips=i, anywhere=anywhere)
    return torch.cat(stored), chosen


def make(vae):
    """Renders and encodes clips anywhere in the picture and clips through its middle (`world.render`), both whitened by
    the former. Writes out/latents.pt."""
    c = run.config("latents")
    rng = run.step_generators(2, 0)[0]
    anywhere, chosen = clips_of(vae, c["anywhere"], rng, True)
    middle, of_middle = clips_of(vae, c["middle"], rng, False)
    mean, std = anywhere.mean((0, 2, 3, 4)), anywhere.std((0, 2, 3, 4))
    white = lambda z: ((z - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)).half()
    run.log("latents", clips=len(anywhere) + len(middle), mean=mean.tolist(), std=std.tolist())
    parts = {"anywhere": (white(anywhere), chosen), "middle": (white(middle), of_middle)}
    torch.save({**parts, "mean": mean, "std": std}, run.OUT / "latents.pt")


def whiten(vae, stored):
    """Puts the latents' means and spreads into the VAE's configuration."""
    vae.register_to_config(latents_mean=stored["mean"].tolist(), latents_std=stored["std"].tolist())
