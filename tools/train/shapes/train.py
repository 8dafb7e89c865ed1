"""Everything from nothing to the embedded model; a stopped run goes on where it was. See README.md."""

import argparse
import subprocess
import sys

import torch

import dit
import export
import latents
import run
import vae as vae_stage


def main():
    parser = argparse.ArgumentParser(prog="train", description=__doc__)
    parser.add_argument("--model", default=str(run.HERE.parents[2] / "src/embedded/model"), help="where the folder goes")
    a = parser.parse_args()
    run.workers(vae_stage.train, run.config("vae_workers"))
    vae = vae_stage.trained()
    if not (run.OUT / "latents.pt").exists():
        latents.make(vae)
    latents.whiten(vae, torch.load(run.OUT / "latents.pt"))
    run.workers(dit.train, run.config("dit_workers"))
    export.save(a.model, vae, *dit.trained())
    check = [sys.executable, str(run.HERE / "check.py"), "--diffusers", a.model, "--count", "120"]
    found = subprocess.run([*check, "--out", str(run.OUT / "check")], capture_output=True, text=True)
    sys.stderr.write(found.stderr)
    run.log("check", result=found.stdout.splitlines()[-1] if found.stdout else None)
    return found.returncode


if __name__ == "__main__":
    sys.exit(main())
