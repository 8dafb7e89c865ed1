"""Everything from nothing to the embedded model; a stopped run goes on where it was. See README.md."""

import argparse
import sys
import time

import dit
import export
import latents
import run
import scaling
import vae as vae_stage


def main():
    parser = argparse.ArgumentParser(prog="train", description=__doc__)
    parser.add_argument("--model", default=str(run.OUT / "model"), help="where the diffusers folder goes (%(default)s)")
    parser.add_argument("--from", dest="begin", metavar="MODEL", help="a model's folder to begin with; its VAE stays as it is")
    parser.add_argument("--preset", help="which part of config.json counts (cpu or gpu: what the machine has)")
    parser.add_argument("--minutes", type=float, help="stop after about so long, to be gone on with later")
    parser.add_argument("--scaling", action="store_true", help="then the scaling study: the same at 1/16 and 1/4 of the steps")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=JSON", help="for instance dit.steps=3000")
    a = parser.parse_args()
    if a.preset:
        run.choose(a.preset)
    run.override(a.set)
    if a.minutes:
        run.stop_at(time.time() + 60 * a.minutes)
    if a.begin:
        run.begin_with(a.begin)
    run.keep_config()
    stages = [*([] if a.begin else [vae_stage.train]), *([latents.make] if run.config("latents")["keep"] else []), dit.train]
    for stage in stages:
        run.workers(stage, run.config("workers"))
        if run.spent():
            run.log("train", stopped=True)
            return 3
    export.save(a.model, latents.whitened(vae_stage.trained()), *dit.trained())
    return scaling.study() if a.scaling else 0


if __name__ == "__main__":
    sys.exit(main())
