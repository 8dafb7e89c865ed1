"""Sampling as the engine does it, and pictures to look at while training."""

import random

import torch
from diffusers import UniPCMultistepScheduler

import dit
import latents
import run
import scenes
import text
import vae as vae_stage
import world
from captions import prompt


def sample(encoder, transformer, prompts, size, frames, seed=0, held=None, given=None, batch=16):
    """Whitened latents for prompts, as the pipeline makes them: UniPC on the shifted grid, guidance away from the empty
    caption. `held` [B, 16, T, h, w] and `given` [B, T]: latent frames that are given."""
    c = run.config("sampling")
    if len(prompts) > batch:
        parts = range(0, len(prompts), batch)
        cut = lambda v, i: None if v is None else v[i : i + batch]
        each = [
            sample(encoder, transformer, prompts[i : i + batch], size, frames, seed + i, cut(held, i), cut(given, i))
            for i in parts
        ]
        return torch.cat(each)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=c["shift"], num_train_timesteps=1000
    )
    scheduler.set_timesteps(c["steps"])
    tokenizer = text.tokenizer()
    shape = (16, 1 + (frames - 1) // 4, size[1] // 8, size[0] // 8)
    count, device = len(prompts), run.device()
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)]
    x = torch.stack(noise).to(device)
    if given is None:
        given, held = torch.zeros(count, shape[1], dtype=torch.bool), torch.zeros_like(x)
    given, held = given.to(device), held.to(device).float()
    clean = given.view(count, 1, -1, 1, 1)
    with torch.no_grad(), run.autocast(), dit.attention():
        ids = latents.token_rows(tokenizer, [*prompts, *[""] * count])
        states = dit.context(encoder, ids)
        for t in scheduler.timesteps:
            x = torch.where(clean, held, x)
            times = t.to(device).expand(count).float()
            if given.any():
                times = dit.token_times(times, given, x.shape)
            out = transformer(torch.cat([x, x]), torch.cat([times, times]), states, return_dict=False)[0]
            with_text, without = out.float().chunk(2)
            x = scheduler.step(without + c["guidance"] * (with_text - without), t, x, return_dict=False)[0]
    return torch.where(clean, held, x)


def animated(vae, encoder, transformer, prompts, clips, known, size, seed=0):
    """Clips made around the given pixel frames of `clips` [B, 3, T, H, W]; `known` [B][T]."""
    mean = torch.tensor(vae.config.latents_mean, device=run.device()).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=run.device()).view(1, -1, 1, 1, 1)
    held = torch.cat([latents.encode(vae, part) for part in latents.filled(clips, known).split(4)])
    given = torch.tensor([latents.latent_known(k) for k in known])
    z = sample(encoder, transformer, prompts, size, clips.shape[2], seed, (held - mean) / std, given)
    return latents.decode(vae, z)


def look(vae, average, path):
    """A sheet of held-out prompts, some in Chinese, some with a first or a last frame given."""
    encoder, transformer = average
    size, frames = run.config("sampling")["size"], 17
    labels = random.Random(11).sample([x for x in scenes.HELD_OUT if x[2] != scenes.HIDE], 15)
    prompts = [prompt(x, chinese=i % 5 == 4) for i, x in enumerate(labels)]
    clips = latents.decode(vae, sample(encoder, transformer, prompts[:11], size, frames))
    real = world.clips(world.batch(random.Random(12), 4, size, frames, labels[11:], plain=True))
    known = [latents.known_frames(kind, frames, random.Random(1)) for kind in ("first", "first", "last", "prefix")]
    led = animated(vae, encoder, transformer, prompts[11:], real, known, size)
    stills = latents.decode(vae, sample(encoder, transformer, prompts, size, 1))
    rows = [vae_stage.to_bytes(x)[::2] for x in (*clips, *led)]
    rows += [torch.stack([vae_stage.to_bytes(x)[0] for x in stills[i : i + 9]]) for i in (0, 6)]
    vae_stage.sheet(path, *rows)
    return {}
