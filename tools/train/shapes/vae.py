"""Stage 1: the video VAE, on stills and clips together from the first step on."""

import math
import time

import torch
from diffusers import AutoencoderKLWan
from PIL import Image

import run
import vae_parallel
import vae_start
import world


def psnr(a, b):
    """PSNR in dB of clips in -1..1 [B, 3, T, H, W]: of everything, and of the worst frame position over all clips."""
    error = ((a.clamp(-1, 1) - b) / 2).square().mean((0, 1, 3, 4))
    return -10 * math.log10(error.mean()), -10 * math.log10(error.max())


def sheet(path, *clips):
    """Rows of frames to look at: each argument is uint8-able [T, H, W, 3] in 0..255."""
    rows = [torch.cat(list(c), 1) for c in clips]
    image = Image.fromarray(torch.cat(rows, 0).byte().numpy())
    image.resize((image.width * 2, image.height * 2), Image.NEAREST).save(path)


def to_bytes(clip):
    """[3, T, H, W] in -1..1 -> [T, H, W, 3] in 0..255."""
    return ((clip.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 3, 0)


def draw(shared, rng, late):
    """A worker's part of a batch. Windows of 32 pixels about the shape cost a quarter of whole frames; whole frames
    teach the mid block's attention its real size, and have the larger share in the end."""
    if shared.random() < (0.5 if late else 0.15):
        count, frames = shared.choice(((2, 5), (1, 9), (1, 17), (8, 1)))
        return world.batch(rng, count, frames)[0]
    count, frames = shared.choice(((6, 5), (4, 9), (2, 17), (20, 1)))
    return world.batch(rng, count, frames, crop=32)[0]


def model():
    """The VAE before its first step, the same in every worker."""
    c = run.config("vae")
    torch.manual_seed(run.config("seed"))
    vae = AutoencoderKLWan(**c["model"])
    vae_start.block_average(vae)
    # The spread of the posterior is fixed: the encoder learns means only, and its log variances are a constant.
    with torch.no_grad():
        z = c["model"]["z_dim"]
        vae.quant_conv.weight[z:] = 0
        vae.quant_conv.bias[z:] = 2 * math.log(c["noise"])
    return vae


def evaluate(vae, held):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), vae_parallel.parallel():
        latents = vae_parallel.encode(vae, held)[0]
        again = vae_parallel.decode(vae, latents)
    db, worst = psnr(again, held)
    sheet(run.OUT / "vae.png", *(to_bytes(clip[i])[::2] for i in range(3) for clip in (held, again)))
    return {"psnr": round(db, 2), "worst_frame": round(worst, 2), "latent_rms": round(latents.std().item(), 3)}


def train():
    """One worker's run."""
    c = run.config("vae")
    vae = model()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=c["lr"], betas=(0.9, 0.99), weight_decay=0.0)
    checkpoint = run.Checkpoint("vae", model=vae, optimizer=optimizer)
    step = checkpoint.load()
    held = world.batch(run.random.Random(7), 6, world.FRAMES, combinations=world.HELD_OUT)[0]
    run.log("vae", step=step, parameters=sum(p.numel() for p in vae.parameters()))
    began, mean_loss = time.time(), 0.0
    while step < c["steps"]:
        shared, rng = run.step_generators(1, step)
        x = draw(shared, rng, step >= c["steps"] - c["decay"])
        for group in optimizer.param_groups:
            group["lr"] = run.learning_rate(step, c)
        with vae_parallel.parallel():
            with torch.autocast("cpu", torch.bfloat16):
                mean, _ = vae_parallel.encode(vae, x)
                y = vae_parallel.decode(vae, mean + c["noise"] * torch.randn_like(mean))
            error = y - x
            loss = error.abs().mean() + error.square().mean() + c["kl"] * mean.square().mean()
            loss.backward()
        run.average_gradients(vae.parameters())
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        mean_loss += loss.item()
        if step % 100 == 0:
            checkpoint.save(step)
        if step % 50 == 0 or step == 1:
            extra = {}
            if run.rank() == 0 and (step % 400 == 0 or step in (1, c["steps"])):
                extra = evaluate(vae, held)
            pace = (time.time() - began) / 50
            run.log("vae", step=step, loss=round(mean_loss / 50, 5), s_per_step=round(pace, 3), **extra)
            began, mean_loss = time.time(), 0.0
    checkpoint.save(step)


def trained():
    """The VAE of the last checkpoint, for the later stages."""
    vae = model()
    run.Checkpoint("vae", model=vae).load(must=True)
    return vae.eval().requires_grad_(False)
