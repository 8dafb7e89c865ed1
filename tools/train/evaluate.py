"""Does the model show what the prompt says? On combinations that no training clip ever showed.

    evaluate --binary PATH     frames that `PATH generate` makes; more arguments for it after --
    evaluate --own [--model F] the same prompts and seeds through the trainer's own sampler, for a model folder
    evaluate --real            renderings in place of a model: the best that can be scored

First prints the recognisers' own accuracy on renderings, then one line for each ability, at last a table in Markdown.
Sheets (PNG) of every ability go to --out.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import latents
import preview
import recognise
import run
import scenes
import vae as vae_stage
import world
from captions import prompt
from things import MOTION


def load(folder):
    """A folder of PNG frames in the order of their names -> [3, T, H, W] in -1..1."""
    files = sorted(folder.glob("*.png"))
    if not files:
        raise SystemExit(f"evaluate: no frames in {folder}")
    frames = torch.stack([torch.from_numpy(np.array(Image.open(f).convert("RGB"))) for f in files])
    return frames.permute(3, 0, 1, 2).float() / 127.5 - 1


def store(clip, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(vae_stage.to_bytes(clip).byte()):
        Image.fromarray(frame.numpy()).save(folder / f"{i:04d}.png")


class Binary:
    """The real program. Given frames go to it as pictures; runs of given frames as numbered ones."""

    def __init__(self, path, rest, folder, jobs=1):
        self.command, self.rest, self.folder, self.jobs = path, rest, folder, ThreadPoolExecutor(jobs)

    def __call__(self, prompts, size, frames, clips=None, known=None, seed=0):
        def one(i):
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                folder = Path(folder)
                given = self._given(clips[i], known[i], folder / "given") if clips is not None else []
                line = [self.command, "generate", prompts[i], "--size", f"{size[0]}x{size[1]}", "--frames", str(frames)]
                line += ["--seed", str(seed + i), "--quiet", *given, *self.rest, "--out", str(folder / "%04d.png")]
                subprocess.run(line, check=True)
                return load(folder)

        return torch.stack(list(self.jobs.map(one, range(len(prompts)))))

    def _given(self, clip, known, folder):
        store(clip, folder)
        at, given = [i for i, k in enumerate(known) if k], []
        if at == [0]:
            return ["--image", str(folder / "0000.png")]
        if at == [0, len(known) - 1]:
            return ["--image", str(folder / "0000.png"), "--end-image", str(folder / f"{at[-1]:04d}.png")]
        given = []
        for span in self._runs(known):
            part = folder / f"from-{span[0]:04d}"
            part.mkdir()
            for n, i in enumerate(span):
                (folder / f"{i:04d}.png").rename(part / f"{n:04d}.png")
            given += ["--known", f"{span[0]}..{span[-1] + 1}={part}/%04d.png"]
        return given

    @staticmethod
    def _runs(known):
        """Given frames that follow each other: lists of their numbers."""
        runs = []
        for i, k in enumerate(known):
            if k and i and known[i - 1]:
                runs[-1].append(i)
            elif k:
                runs.append([i])
        return runs


class Own:
    """The trainer's sampler on a model folder, with diffusers' parts."""

    def __init__(self, folder):
        from diffusers import AutoencoderKLWan, WanTransformer3DModel
        from transformers import UMT5EncoderModel

        import dit

        load = lambda cls, name: cls.from_pretrained(Path(folder) / name, torch_dtype=torch.float32).to(run.device()).eval()
        self.vae, self.encoder = load(AutoencoderKLWan, "vae"), load(UMT5EncoderModel, "text_encoder")
        self.transformer = load(WanTransformer3DModel, "transformer")
        dit.pad_in_one(self.transformer)

    def __call__(self, prompts, size, frames, clips=None, known=None, seed=0):
        parts = (self.encoder, self.transformer)
        if clips is None:
            return latents.decode(self.vae, preview.sample(*parts, prompts, size, frames, seed))
        return preview.animated(self.vae, *parts, prompts, clips.to(run.device()), known, size, seed)

    def again(self, clips):
        """Through the VAE and back."""
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (self.vae.config.latents_mean, self.vae.config.latents_std))
        z = torch.cat([latents.encode(self.vae, part).cpu() for part in clips.split(4)])
        return latents.decode(self.vae, ((z - mean) / std).to(run.device()))


class Real:
    """Renderings of what is asked for, which the caller has."""

    def __call__(self, prompts, size, frames, clips=None, known=None, seed=0):
        labels = [self.labels[p] for p in prompts]
        made = world.batch(random.Random(seed + 5), len(labels), size, frames, labels, plain=True, prompted=True)
        return world.clips(made).cpu()

    def __init__(self):
        self.labels = {prompt(x, zh): x for x in scenes.HELD_OUT for zh in (False, True)}


def by_motion(names, count, skip=0):
    """Held-out labels of these motions."""
    wanted = {MOTION[n] for n in names}
    found = [x for x in scenes.HELD_OUT if x[2] in wanted]
    return [found[(skip + i) % len(found)] for i in range(count)]


def renderings(labels, size, frames, seed):
    made = world.batch(random.Random(seed), len(labels), size, frames, labels, plain=True, prompted=True)
    return world.clips(made).cpu()


def db(a, b):
    return -10 * torch.log10(((a - b) / 2).square().mean().clamp(min=1e-10)).item()


class Evaluation:
    def __init__(self, make, reader, size, frames, out):
        self.make, self.reader, self.size, self.frames, self.out = make, reader, size, frames, out
        self.table = []

    def row(self, name, wanted, value, **rest):
        self.table.append((name, wanted, value))
        run.log("evaluate", ability=name, value=value, **rest)

    def sheet(self, name, clips, rows=8):
        picked = [vae_stage.to_bytes(c)[:: max(1, c.shape[1] // 6)] for c in clips[:rows]]
        vae_stage.sheet(self.out / f"{name}.png", *picked, scale=1)

    def text_to_video(self, count):
        """Every other prompt in Chinese."""
        labels = scenes.HELD_OUT[:count]
        prompts = [prompt(x, chinese=i // 13 % 2 == 1) for i, x in enumerate(labels)]
        clips = self.make(prompts, self.size, self.frames)
        found = self.reader.read(clips, labels)
        both = recognise.share(found)
        for key, wanted in (("thing", "90"), ("background", "95"), ("motion", "85"), ("all", "75")):
            self.row(f"text to video: {key}", f">= {wanted}%", f"{both[key]}% of {both['of']}")
        for name, chinese in (("English", 0), ("Chinese", 1)):
            part = [f for i, f in enumerate(found) if i // 13 % 2 == chinese]
            if part:
                part = recognise.share(part)
                each = ", ".join(f"{key} {part[key]}%" for key in ("thing", "background", "motion"))
                self.row(f"prompts in {name}: all three", "within 5", f"{part['all']}% of {part['of']} ({each})")
        for i, motion in enumerate(MOTION):
            part = recognise.share([f for f, x in zip(found, labels) if x[2] == i])
            run.log("evaluate", of_motion=motion, **part)
        self.sheet("text", [c for c in clips[: min(12, len(clips))]], 12)

    def image_to_video(self, count):
        labels = by_motion(("left", "right", "up", "down", "grow", "shrink", "spin", "bounce"), count)
        real = renderings(labels, self.size, self.frames, 31)
        known = [latents.known_frames("first", self.frames, None)] * count
        clips = self.make([prompt(x) for x in labels], self.size, self.frames, real, known, seed=1000)
        near = [db(a[:, 0], b[:, 0]) for a, b in zip(clips, real)]
        found = recognise.share(self.reader.read(clips, labels))
        self.row("image to video: first frame, PSNR", ">= 28 dB", f"{sum(near) / count:.1f} dB", worst=round(min(near), 1))
        self.row("image to video: motion", "", f"{found['motion']}% of {count}")
        self.sheet("image", clips)

    def extension(self, count):
        """The first half of a rendering is given; does the whole show the motion?"""
        labels = by_motion(("left", "right", "up", "down", "grow", "shrink"), count, 6)
        real = renderings(labels, self.size, self.frames, 32)
        half = 1 + 4 * ((self.frames - 1) // 8)
        known = [[i < half for i in range(self.frames)]] * count
        clips = self.make([prompt(x) for x in labels], self.size, self.frames, real, known, seed=2000)
        found = recognise.share(self.reader.read(clips, labels))
        self.row("extension: the motion goes on", ">= 85%", f"{found['motion']}% of {count}")
        self.sheet("extend", clips)

    def connection(self, count):
        """The first five and the last four frames of a rendering are given; does the whole show the motion?"""
        labels = by_motion(("left", "right", "up", "down", "grow", "shrink"), count, 12)
        real = renderings(labels, self.size, self.frames, 35)
        known = [[i < 5 or i >= self.frames - 4 for i in range(self.frames)]] * count
        clips = self.make([prompt(x) for x in labels], self.size, self.frames, real, known, seed=5000)
        found = recognise.share(self.reader.read(clips, labels))
        self.row("connection: one motion through both", "", f"{found['motion']}% of {count}")
        self.sheet("connect", clips)

    def sizes(self, count):
        """The same weights at other sizes, and for four seconds."""
        labels, rows = scenes.HELD_OUT[-count:], []
        for size, frames in (((160, 96), 17), ((96, 160), 17), ((128, 128), 17), (self.size, 33)):
            clips = self.make([prompt(x) for x in labels], size, frames, seed=6000)
            found = recognise.share(self.reader.read(clips, labels))
            each = ", ".join(f"{key} {found[key]}%" for key in ("thing", "background", "motion"))
            self.row(f"text to video at {size[0]}x{size[1]}, {frames} frames", "", f"{each} of {count}")
            rows += [vae_stage.to_bytes(c)[:: frames // 6] for c in clips[:3]]
        vae_stage.sheet(self.out / "sizes.png", *rows, scale=1)

    def loop(self, count):
        """One picture as first and last frame: the step over the seam against the median step inside."""
        labels = by_motion(("spin", "bounce", "circle"), count)
        real = renderings(labels, self.size, self.frames, 33)
        real[:, :, -1] = real[:, :, 0]
        known = [latents.known_frames("both", self.frames, None)] * count
        clips = self.make([prompt(x) for x in labels], self.size, self.frames, real, known, seed=3000)
        steps = (clips[:, :, 1:] - clips[:, :, :-1]).abs().mean((1, 3, 4))
        seam = (clips[:, :, 0] - clips[:, :, -1]).abs().mean((1, 2, 3))
        ratio = seam / steps.median(1).values.clamp(min=1e-4)
        self.row("loop: seam over the median step", "<= 1.5", f"{ratio.median().item():.2f} (median of {count})",
                 moving=round(steps.median().item(), 4))
        self.sheet("loop", clips)

    def behind(self, count):
        """Does what comes out from behind look like what went in? Asked for by text alone."""
        labels = by_motion(("hide",), count)
        clips = self.make([prompt(x) for x in labels], self.size, self.frames, seed=4000)
        things, _ = self.reader.things(clips)
        same = 0
        for scores, (thing, _, _) in zip(things, labels):
            scores[:, scenes.other(thing)] = -1e9
            before, after = scores[:3].mean(0), scores[-3:].mean(0)
            same += before.argmax().item() == thing and after.argmax().item() == thing
        self.row("behind and back: the same at both ends", ">= 80%", f"{100 * same / count:.1f}% of {count}")
        columns, told = self.reader.columns(clips, [x[0] for x in labels]), 0
        for at, label in zip(columns, labels):
            end, back = scenes.passage(*label[:2])
            begin = end if back else -end
            told += (at[:3].mean() * begin > 0).item() and (at[-3:].mean() * end > 0).item()
        self.row("behind and back: on the sides that were told", "", f"{100 * told / count:.1f}% of {count}")
        self.sheet("behind", clips)

    def codec(self, again, count):
        labels = scenes.HELD_OUT[:count]
        real = renderings(labels, self.size, self.frames, 34)
        near = vae_stage.psnr(again(real.to(run.device())), real)
        self.row("VAE on held-out scenes, PSNR", ">= 32 dB", f"{near[0]:.1f} dB", worst_frame=round(near[1], 1))

    def write(self):
        lines = ["| | wanted | measured |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in self.table)]
        (self.out / "table.md").write_text("\n".join(lines) + "\n")
        print("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(
        prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--binary", metavar="PATH", help="the mutoscope binary")
    source.add_argument("--own", action="store_true", help="the trainer's own sampler")
    source.add_argument("--real", action="store_true", help="renderings")
    parser.add_argument("--model", default=str(run.OUT / "model"), help="the folder for --own (%(default)s)")
    parser.add_argument("--count", type=int, default=300, help="text prompts; the other abilities take a tenth (300)")
    parser.add_argument("--jobs", type=int, default=1, help="videos that the binary makes at once (%(default)s)")
    parser.add_argument("--size", help="of what is generated, WxH (that of the configuration)")
    parser.add_argument("--preset", help="which part of config.json counts")
    parser.add_argument("--out", type=Path, default=run.OUT / "evaluate", help="for sheets and the table (%(default)s)")
    parser.add_argument("rest", nargs="*", help="after --: more arguments of the binary")
    a = parser.parse_args()
    if a.preset:
        run.choose(a.preset)
    c = run.config("sampling")
    a.out.mkdir(parents=True, exist_ok=True)
    reader = recognise.Recognisers()
    run.log("evaluate", recognisers_on_renderings=reader.own())
    with tempfile.TemporaryDirectory() as folder:
        make = Own(a.model) if a.own else Real() if a.real else Binary(a.binary, a.rest, folder, a.jobs)
        size = [int(n) for n in a.size.split("x")] if a.size else c["size"]
        e = Evaluation(make, reader, size, c["frames"], a.out)
        few = max(4, a.count // 10)
        e.text_to_video(a.count)
        e.image_to_video(few)
        e.extension(few)
        e.connection(few)
        e.loop(few)
        e.behind(few)
        e.sizes(max(4, few // 2))
        if a.own:
            e.codec(make.again, few)
    e.write()
    run.log("evaluate", table=json.dumps(e.table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
