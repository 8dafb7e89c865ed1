"""Stage 2: clips of the world as latents, whitened per channel."""

import torch

import run
import vae_parallel
import world


def encode(vae, clips):
    """Clips [B, 3, T, H, W] -> latent means, not whitened."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), vae_parallel.parallel():
        return vae_parallel.encode(vae, clips)[0]


def make(vae):
    """Renders and encodes `count` clips of the trained combinations, evenly over them. Writes
    out/latents.pt."""
    c = run.config("latents")
    rng = run.step_generators(2, 0)[0]
    chosen = []
    while len(chosen) < c["count"]:
        chosen += rng.sample(world.TRAINED, len(world.TRAINED))
    chosen = chosen[: c["count"]]
    stored = []
    for i in range(0, len(chosen), 8):
        clips = torch.stack([world.render(x, rng) for x in chosen[i : i + 8]])
        stored.append(encode(vae, clips.permute(0, 4, 1, 2, 3).float() / 127.5 - 1))
        if i % 800 == 0:
            run.log("latents", clips=i)
    z = torch.cat(stored)
    mean, std = z.mean((0, 2, 3, 4)), z.std((0, 2, 3, 4))
    z = (z - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)
    run.log("latents", clips=len(z), mean=mean.tolist(), std=std.tolist())
    torch.save({"latents": z.half(), "combinations": chosen, "mean": mean, "std": std}, run.OUT / "latents.pt")


def whiten(vae, stored):
    """Puts the latents' means and spreads into the VAE's configuration."""
    vae.register_to_config(latents_mean=stored["mean"].tolist(), latents_std=stored["std"].tolist())
