"""A better decoder for a model that is trained already. See README.md.

The encoder stays as it is, and so do the latents: the transformer need not know. The decoder is made wider first where
config.json says so (`widen.py`). Stops and goes on as `train` does.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

import export
import optim
import run
import vae as vae_stage
import vae_parallel
import widen

FROM = "TRAIN_MODEL"  # in the environment: the model's folder, for the workers


def config():
    """The VAE's settings, but for those that the decoder has of its own."""
    return {**run.config("vae"), **run.config("decoder")}


def model():
    """The model's VAE, as wide as it is to be; the same in every worker."""
    torch.manual_seed(run.config("seed"))
    vae = AutoencoderKLWan.from_pretrained(Path(os.environ[FROM]) / "vae").float()
    now = list(vae.config.dim_mult)
    wanted = [max(pair) for pair in zip(now, config()["dim_mult"], strict=True)]
    return vae if now == wanted else widen.widened(vae, wanted)


def train():
    """One worker's run."""
    c = config()
    vae = model().to(run.device()).requires_grad_(False)
    trained = [vae.post_quant_conv.requires_grad_(True), vae.decoder.requires_grad_(True)]
    parameters = [p for part in trained for p in part.parameters()]
    optimizer = optim.Both([(part, 1.0) for part in trained], c, vae_stage.inside)
    checkpoint = run.Checkpoint("decoder", model=vae, optimizer=optimizer)
    step, saved = checkpoint.load(), time.time()
    held = vae_stage.held_out()
    first = vae_stage.evaluate(vae, held) if run.rank() == 0 else {}
    run.log("decoder", step=step, parameters=sum(p.numel() for p in parameters), **first)
    began, mean_loss = time.time(), 0.0
    while step < c["steps"] and not run.all_spent():
        shared, rng = run.step_generators(9, step)
        x = vae_stage.draw(c, shared, rng, step >= c["steps"] - c["decay"] / 3)
        with vae_parallel.parallel():
            with run.autocast():
                with torch.no_grad():
                    mean, _ = vae_parallel.encode(vae, x)
                y = vae_parallel.decode(vae, mean + c["noise"] * torch.randn_like(mean))
            error = y - x
            loss = error.abs().mean() + c["square"] * error.square().mean()
            loss.backward()
        run.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step(run.learning_rate(step, c))
        step += 1
        mean_loss += loss.detach()
        if time.time() - saved > 120:
            checkpoint.save(step)
            saved = time.time()
        if step % 100 == 0 or step == c["steps"]:
            measured = run.rank() == 0 and (step % 500 == 0 or step == c["steps"])
            extra = vae_stage.evaluate(vae, held) if measured else {}
            pace = (time.time() - began) / 100
            run.log("decoder", step=step, loss=round(float(mean_loss) / 100, 5), s_per_step=round(pace, 3), **extra)
            began, mean_loss = time.time(), 0.0
    checkpoint.save(step)


def main():
    parser = argparse.ArgumentParser(prog="decoder.py", description=__doc__)
    parser.add_argument("model", help="a folder that `train` wrote; its VAE is replaced in the end")
    parser.add_argument("--preset", help="which part of config.json counts (cpu or gpu: what the machine has)")
    parser.add_argument("--minutes", type=float, help="stop after about so long, to be gone on with later")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=JSON", help="for instance decoder.steps=3000")
    a = parser.parse_args()
    if a.preset:
        run.choose(a.preset)
    run.override(a.set)
    if a.minutes:
        run.stop_at(time.time() + 60 * a.minutes)
    os.environ[FROM] = a.model
    run.keep_config()
    run.workers(train, run.config("workers"))
    if run.spent():
        run.log("decoder", stopped=True)
        return 3
    vae = model()
    run.Checkpoint("decoder", model=vae).load(must=True)
    export.replace_vae(a.model, vae)
    (run.OUT / "decoder.pt").unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
