"""Stage 1: the video VAE, on stills and clips together from the first step on."""

import math
import time

import torch
from diffusers import AutoencoderKLWan
from PIL import Image

import optim
import run
import vae_parallel
import vae_start
import world


def psnr(a, b):
    """PSNR in dB of clips in -1..1 [B, 3, T, H, W]: of everything, and of the worst frame position over all clips."""
    error = ((a.clamp(-1, 1) - b) / 2).square().mean((0, 1, 3, 4))
    return -10 * math.log10(error.mean().item()), -10 * math.log10(error.max().item())


def sheet(path, *clips, scale=2):
    """Rows of frames to look at: each argument is uint8-able [T, H, W, 3] in 0..255; shorter rows end in grey."""
    rows = [torch.cat(list(c), 1) for c in clips]
    wide = max(r.shape[1] for r in rows)
    rows = [torch.nn.functional.pad(r, (0, 0, 0, wide - r.shape[1]), value=128) for r in rows]
    image = Image.fromarray(torch.cat(rows, 0).byte().numpy())
    image.resize((image.width * scale, image.height * scale), Image.NEAREST).save(path)


def to_bytes(clip):
    """[3, T, H, W] in -1..1 -> [T, H, W, 3] in 0..255."""
    return ((clip.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 3, 0).cpu()


def draw(c, shared, rng, late):
    """A worker's part of a batch: about `pixels` pixels, as the stage's configuration says.

    Windows about the things teach more for their pixels than whole pictures, most of which are background; whole ones
    teach the mid block's attention its real size, and have the larger share in the end.
    """
    frames, size = shared.choice(c["frames"]), shared.choice(c["sizes"])
    whole = shared.random() < (c["late"] if late else c["whole"])
    area = size[0] * size[1] if whole else c["window"] ** 2
    made = world.batch(rng, max(1, round(c["pixels"] / (area * frames))), size, frames)
    return world.clips(made, None if whole else world.windows(rng, made, c["window"]))


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


def held_out():
    """Clips that no step sees, to measure on."""
    return world.clips(world.held_out(run.random.Random(7), 13, (96, 64), 17))


def evaluate(vae, held):
    with torch.no_grad(), run.autocast(), vae_parallel.parallel():
        latents = vae_parallel.encode(vae, held)[0]
        again = vae_parallel.decode(vae, latents)
    db, worst = psnr(again, held)
    sheet(run.OUT / "vae.png", *(to_bytes(clip[i])[::2] for i in range(0, 12, 2) for clip in (held, again)))
    return {"psnr": round(db, 2), "worst_frame": round(worst, 2), "latent_rms": round(latents.std().item(), 3)}


def inside(name, parameter):
    """Whether a parameter is the kernel of a convolution between features, which Muon is for."""
    ends = ("conv_in", "conv_out", "quant_conv")
    gain = parameter.numel() == len(parameter)  # of a norm, though of four dimensions
    return parameter.dim() >= 4 and not gain and not any(end in name for end in ends)


def train():
    """One worker's run."""
    c = run.config("vae")
    vae = model().to(run.device())
    optimizer = optim.Both([(vae, 1.0)], c, inside)
    checkpoint = run.Checkpoint("vae", model=vae, optimizer=optimizer)
    step, saved = checkpoint.load(), time.time()
    held = held_out()
    run.log("vae", step=step, parameters=sum(p.numel() for p in vae.parameters()))
    began, mean_loss = time.time(), 0.0
    while step < c["steps"] and not run.all_spent():
        shared, rng = run.step_generators(1, step)
        x = draw(c, shared, rng, step >= c["steps"] - c["decay"])
        with vae_parallel.parallel():
            with run.autocast():
                mean, _ = vae_parallel.encode(vae, x)
                y = vae_parallel.decode(vae, mean + c["noise"] * torch.randn_like(mean))
            error = y - x
            loss = error.abs().mean() + 2 * error.square().mean() + c["kl"] * mean.square().mean()
            loss.backward()
        run.average_gradients(vae.parameters())
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step(run.learning_rate(step, c))
        step += 1
        mean_loss += loss.detach()
        if time.time() - saved > 120:
            checkpoint.save(step)
            saved = time.time()
        if step % 50 == 0 or step == 1:
            extra = {}
            if run.rank() == 0 and (step % 400 == 0 or step in (1, c["steps"])):
                extra = evaluate(vae, held)
            pace = (time.time() - began) / 50
            run.log("vae", step=step, loss=round(float(mean_loss) / 50, 5), s_per_step=round(pace, 3), **extra)
            began, mean_loss = time.time(), 0.0
    checkpoint.save(step)


def trained():
    """The VAE for the later stages: the one that was begun with, or that of the last checkpoint."""
    if run.beginning():
        vae = AutoencoderKLWan.from_pretrained(run.beginning() / "vae").float().to(run.device())
    else:
        vae = model().to(run.device())
        run.Checkpoint("vae", model=vae).load(must=True)
    return vae.eval().requires_grad_(False)
