"""Whole runs of WanPipeline on the small pipelines."""

import torch

from . import pipelines
from .configs import CONFIGS
from .metrics import psnr, relative
from .prompts import PROMPTS
from .schedulers import scheduler
from .store import Store

# pipeline, prompt, negative, (width, height, frames), steps, guidance, sampler and shift (None: the folder's), seed
CASES = [
    ("a", "plain", "empty", (32, 32, 5), 3, 5.0, None, None, 0),
    ("a", "empty", "empty", (48, 80, 1), 1, 1.0, None, None, 1),
    ("a", "chinese", "negative", (32, 16, 9), 20, 5.0, "unipc-wan", 8.0, 2**32 + 5),
    ("a", "long", "plain", (112, 16, 5), 2, 5.0, "euler", 5.0, 4),
    ("a", "plain", "negative", (16, 32, 33), 2, 6.0, None, None, 42),
    ("b", "emoji", "negative", (48, 32, 9), 3, 5.0, None, None, 7),
    ("b", "plain", "empty", (16, 112, 1), 20, 1.0, None, None, 8),
    ("b", "long_chinese", "empty", (32, 32, 5), 4, 5.0, "unipc-wan", None, 9),
    ("b", "unknown", "spaces", (48, 80, 5), 2, 3.5, "euler", None, 10),
    ("c", "plain", "negative", (48, 32, 5), 3, 5.0, None, None, 11),
    ("c", "chinese", "empty", (32, 32, 9), 20, 5.0, None, None, 12),
    ("c", "empty", "plain", (80, 48, 1), 1, 5.0, None, None, 13),
    ("c", "long", "empty", (32, 16, 5), 10, 5.0, "unipc", 12.0, 14),
    ("c", "html", "emoji", (16, 16, 33), 5, 5.0, "unipc-wan", 3.0, 2**53 + 1),
]

ABOUT = """\
WanPipeline.from_pretrained(folder, dtype=torch.float32)(prompt, negative_prompt=negative, height, width, num_frames=frames,
num_inference_steps=steps, guidance_scale=guidance, generator=torch.Generator("cpu").manual_seed(seed)), guidance 1 is off.
`folder_sampler`: the folder's scheduler as it stands; otherwise `sampler` (unipc, unipc-wan, euler) with `shift`, see schedulers.py.
`shift` is always the one used. `given`: which of sampler and shift the case sets; the other is the folder's.
KEY.latents f32 [1, C, T, h, w]: after the last step, normalised (before * std + mean). KEY.frames f16 [frames, H, W, 3] in 0..1.
`amplification`: relative change of the latents for a relative change of 1e-5 of the initial noise, divided by 1e-5: how much of the
rounding a case lets through. `default_dtype_psnr`: worst frame of `from_pretrained(folder)` without a dtype against these frames (UMT5
then runs in the dtype of its files, all else in f32); information, not a target."""


def call(pipe, case: dict, output_type: str, latents: torch.Tensor | None = None) -> torch.Tensor:
    """One run; frames as [T, H, W, 3], or latents."""
    out = pipe(
        case["prompt"],
        negative_prompt=case["negative"],
        height=case["height"],
        width=case["width"],
        num_frames=case["frames"],
        num_inference_steps=case["steps"],
        guidance_scale=case["guidance"],
        generator=torch.Generator("cpu").manual_seed(case["seed"]),
        latents=latents,
        output_type=output_type,
    ).frames
    return out if output_type == "latent" else out[0].permute(0, 2, 3, 1)


def amplification(pipe, case: dict, latents: torch.Tensor) -> float:
    """How many times a small relative change of the noise is larger in the latents."""
    noise = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(case["seed"]))
    change = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(1))
    other = call(pipe, case, "latent", noise * (1 + 1e-5 * change))
    return relative(latents, other) / 1e-5


def make(store: Store) -> None:
    tensors, cases = {}, []
    for number, (name, prompt, negative, size, steps, guidance, sampler, shift, seed) in enumerate(CASES):
        config = CONFIGS[name]
        case = {"key": f"{number:02}_{name}_{prompt}", "pipeline": name, "prompt": PROMPTS[prompt], "negative": PROMPTS[negative]}
        case |= dict(zip(("width", "height", "frames"), size)) | {"steps": steps, "guidance": guidance, "seed": seed}
        case |= {"sampler": sampler or config.sampler, "shift": shift or config.shift, "folder_sampler": not (sampler or shift)}
        case["given"] = {"sampler": sampler, "shift": shift}
        pipe, plain = pipelines.load(store.root, name), pipelines.load(store.root, name, dtype=None)
        if sampler or shift:
            pipe.scheduler = plain.scheduler = scheduler(case["sampler"], case["shift"])
        latents, frames = call(pipe, case, "latent"), call(pipe, case, "pt")
        assert torch.isfinite(latents).all() and latents.dtype == torch.float32
        clamped = ((frames <= 0) | (frames >= 1)).float().mean().item()
        assert clamped < 0.1, (case, clamped)
        case["amplification"] = round(amplification(pipe, case, latents), 2)
        case["default_dtype_psnr"] = round(psnr(frames, call(plain, case, "pt")), 1)
        tensors[f"{case['key']}.latents"], tensors[f"{case['key']}.frames"] = latents, frames.half()
        cases.append(case)
        print(f"{case['key']}: amplification {case['amplification']}, default dtypes {case['default_dtype_psnr']} dB, clamped {clamped:.3f}", flush=True)
    store.save("pipelines", {"about": ABOUT.split("\n"), "cases": cases}, tensors)
