"""Runs of WanVideoToVideoPipeline on the small pipelines."""

import torch
from diffusers import WanVideoToVideoPipeline
from PIL import Image

from . import pipelines
from .configs import CONFIGS
from .known import picture
from .metrics import relative
from .prompts import PROMPTS
from .schedulers import scheduler
from .store import Store

# pipeline, prompt, negative, (width, height), video (frames, width, height), steps, strength, guidance, sampler, shift, seed
CASES = [
    ("a", "plain", "empty", (32, 32), (5, 16, 32), 5, None, 5.0, None, None, 1),
    ("a", "chinese", "negative", (48, 32), (7, 20, 30), 10, 0.35, 4.0, "euler", 5.0, 2),
    ("b", "plain", "empty", (32, 48), (12, 16, 24), 4, 0.5, 1.0, "unipc-wan", 3.0, 3),
    ("b", "emoji", "empty", (16, 16), (1, 90, 20), 6, 1.0, 5.0, None, None, 4),
    ("c", "plain", "negative", (32, 32), (5, 24, 24), 3, 0.7, 3.0, None, None, 5),
    ("c", "long", "empty", (32, 16), (10, 31, 17), 9, 0.25, 5.0, "unipc", 12.0, 6),
    ("d", "plain", "empty", (32, 32), (6, 25, 20), 4, 0.6, 5.0, None, None, 7),
]

ABOUT = """\
WanVideoToVideoPipeline(video=[PIL.Image, ...], strength=strength, ...) with the parts of a pipeline folder in f32; otherwise as
pipelines.json. `strength` null: the pipeline's default. `video`: frames, width, height of what is given, f16 KEY.video
[frames, height, width, 3] in 0..255; frames at the end that make no latent one are left out by the VAE, so the result has `frames`.
`first`: steps that are left out. The pipeline has no `expand_timesteps`, which makes no difference without known frames,
and its spatial factor is set to the VAE's."""


def make(store: Store) -> None:
    tensors, cases = {}, []
    for number, (name, prompt, negative, (width, height), video, steps, strength, guidance, sampler, shift, seed) in enumerate(CASES):
        config = CONFIGS[name]
        key = f"{number:02}_{name}_{prompt}"
        case = {"key": key, "pipeline": name, "prompt": PROMPTS[prompt], "negative": PROMPTS[negative], "width": width, "height": height}
        case |= {"video": dict(zip(("frames", "width", "height"), video)), "frames": 1 + (video[0] - 1) // 4 * 4, "steps": steps}
        case |= {"strength": strength, "guidance": guidance, "seed": seed, "sampler": sampler or config.sampler, "shift": shift or config.shift}
        case["given"] = {"sampler": sampler, "shift": shift}
        plain = pipelines.load(store.root, name)
        parts = {part: getattr(plain, part) for part in ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")}
        if sampler or shift:
            parts["scheduler"] = scheduler(case["sampler"], case["shift"])
        pipe = WanVideoToVideoPipeline(**parts)
        pipe.vae_scale_factor_spatial = plain.vae.config.scale_factor_spatial  # it counts the VAE's levels, and not the patches of Wan 2.2's
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator("cpu").manual_seed(seed)
        shown = torch.stack([picture(video[1], video[2], generator) for _ in range(video[0])])
        tensors[f"{key}.video"] = shown.half()  # whole numbers to 255 are exact

        def call(output_type: str, shown=shown):
            given = {} if strength is None else {"strength": strength}
            out = pipe(
                video=[Image.fromarray(frame.numpy()) for frame in shown], prompt=case["prompt"], negative_prompt=case["negative"],
                height=height, width=width, num_inference_steps=steps, guidance_scale=guidance,
                generator=torch.Generator("cpu").manual_seed(seed), output_type=output_type, **given,
            ).frames  # fmt: skip
            return out if output_type == "latent" else out[0].permute(0, 2, 3, 1)

        latents, pixels = call("latent"), call("pt")
        assert torch.isfinite(latents).all() and latents.dtype == torch.float32 and len(pixels) == case["frames"]
        case["first"] = steps - pipe.num_timesteps
        # How much of the video is left in the result: one that was not read would be noticed.
        case["change"] = round(relative(latents, call("latent", 255 - shown)), 4)
        assert case["change"] > 0.01 or not case["first"], case
        tensors[f"{key}.latents"], tensors[f"{key}.frames"] = latents, pixels.half()
        cases.append(case)
        print(f"{key}: {case['first']} of {steps} steps left out, the inverted video changes the latents by {case['change']}", flush=True)
    store.save("video2video", {"about": ABOUT.split("\n"), "cases": cases}, tensors)
