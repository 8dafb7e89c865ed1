"""Does the model show what the prompt says? On combinations that no training clip ever showed.

    check --binary PATH       runs `PATH generate PROMPT --seed N --out DIR/%04d.png` for each prompt
    check --diffusers FOLDER  the same prompts and seeds through diffusers' WanPipeline, with the folder's defaults
    check --frames DIR        reads what an earlier run with --out DIR made
    check --real              real renderings: how good the reading itself is

Prints one JSON line a clip and a last one with the shares read rightly; `all` is colour, background and direction
together. Ends with 0 when `all` is at least --least (0.8), else with 1.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import reading
import world


def load(folder):
    """A folder of PNG frames in the order of their names -> uint8 [T, H, W, 3]."""
    files = sorted(folder.glob("*.png"))
    if not files:
        raise SystemExit(f"check: no PNG frames in {folder}")
    return torch.stack([torch.from_numpy(np.array(Image.open(f).convert("RGB"))) for f in files])


def store(frames, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame.numpy()).save(folder / f"{i:04d}.png")


def by_binary(binary, rest):
    def make(combination, seed, folder):
        command = [binary, "generate", world.prompt(combination), "--seed", str(seed), "--quiet"]
        subprocess.run([*command, *rest, "--out", str(folder / "%04d.png")], check=True)

    return make


def by_diffusers(model):
    from diffusers import WanPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()
    pipeline = WanPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    d = json.loads((Path(model) / "defaults.json").read_text())

    def make(combination, seed, folder):
        frames = pipeline(
            world.prompt(combination),
            negative_prompt=d["negative"],
            height=d["height"],
            width=d["width"],
            num_frames=d["frames"],
            num_inference_steps=d["steps"],
            guidance_scale=d["guidance"],
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).frames[0]
        store(torch.from_numpy((frames * 255).round().astype(np.uint8)), folder)

    return make


def by_rendering(combination, seed, folder):
    store(world.render(combination, random.Random(seed)), folder)


def sheet(folders, path):
    """Every fourth frame of each clip, one clip a row in four columns of clips: for the eye."""
    rows = [torch.cat(list(load(f)[::4]), 1) for f in folders]
    wide = max(r.shape[1] for r in rows)
    gap = 8
    columns = 4
    height = max(r.shape[0] for r in rows)
    lines = -(-len(rows) // columns)
    image = torch.full((lines * (height + gap), columns * (wide + gap), 3), 128, dtype=torch.uint8)
    for i, row in enumerate(rows):
        y, x = i // columns * (height + gap), i % columns * (wide + gap)
        image[y : y + row.shape[0], x : x + row.shape[1]] = row
    Image.fromarray(image.numpy()).save(path)


def main():
    parser = argparse.ArgumentParser(
        prog="check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--binary", metavar="PATH", help="the mutoscope binary; more arguments for it after --")
    source.add_argument("--diffusers", metavar="FOLDER", help="a model folder")
    source.add_argument("--frames", metavar="DIR", type=Path, help="frames made before, one folder a prompt")
    source.add_argument("--real", action="store_true", help="real renderings")
    parser.add_argument("--count", type=int, default=60, help="prompts, at most 120 (60)")
    parser.add_argument("--seed", type=int, default=1, help="prompt i has seed SEED + i (1)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="keep the frames there, and sheet.png over all")
    parser.add_argument("--least", type=float, default=0.8, help="the share of `all` to pass (0.8)")
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if not 1 <= a.count <= len(world.HELD_OUT):
        parser.error(f"--count is 1 to {len(world.HELD_OUT)}")
    chosen = random.Random(5).sample(world.HELD_OUT, a.count)
    make = None
    if a.binary:
        make = by_binary(a.binary, a.rest)
    elif a.diffusers:
        make = by_diffusers(a.diffusers)
    elif a.real:
        make = by_rendering
    with tempfile.TemporaryDirectory() as temporary:
        root = a.frames or a.out or Path(temporary)
        folders = [root / f"{i:03d}" for i in range(a.count)]
        clips = []
        for i, (combination, folder) in enumerate(zip(chosen, folders)):
            if make:
                folder.mkdir(parents=True, exist_ok=True)
                make(combination, a.seed + i, folder)
            clips.append(load(folder))
            read = reading.read(clips[-1])
            line = {"prompt": world.prompt(combination), "seed": a.seed + i, "read": read}
            print(json.dumps({**line, "right": read[1:] == combination[1:]}), flush=True)
        if a.out or a.frames:
            sheet(folders, root / "sheet.png")
    result = reading.score(chosen, clips)
    print(json.dumps(result))
    return 0 if result["all"] >= a.least else 1


if __name__ == "__main__":
    sys.exit(main())
