"""Runs of WanVACEPipeline: a video with a mask, references, both, neither, on pipeline h, with both of its transformers or the first alone."""

import torch
from diffusers import WanVACEPipeline
from PIL import Image

from . import pipelines
from .configs import CONFIGS
from .known import parts, picture
from .metrics import relative
from .prompts import PROMPTS
from .schedulers import scheduler
from .store import Store

# prompt, negative, (width, height, frames), steps, guidance, sampler, shift, seed, both transformers, given
CASES = [
    ("plain", "negative", (48, 32, 9), 4, 5.0, None, None, 0, True, {"video": (48, 32), "mask": (48, 32), "references": [(48, 32), (50, 77)]}),
    ("plain", "empty", (32, 32, 9), 3, 5.0, None, None, 1, False, {}),
    ("chinese", "negative", (32, 48, 5), 3, 4.0, None, None, 2, False, {"references": [(61, 19)]}),
    ("emoji", "empty", (48, 32, 5), 3, 1.0, "euler", 6.0, 3, False, {"video": (96, 64), "mask": (40, 60), "scale": [0.6]}),
    ("long", "empty", (32, 32, 13), 3, 3.0, "unipc-wan", None, 4, False, {"video": (32, 32), "scale": [0.5, 1.5]}),
    ("plain", "negative", (32, 32, 9), 3, 5.0, None, None, 5, False, {"known": {0: (32, 32), 8: (32, 32)}}),
    ("html", "negative", (32, 32, 9), 3, 5.0, None, None, 6, True, {"references": [(20, 20), (33, 16), (16, 40)], "known": {4: (32, 32)}}),
]

ABOUT = """\
As pipelines.json, on pipeline h; `both`: with transformer_2 and the boundary, else transformer alone. `given`: what the pipeline is given
besides, f16 in 0..255: KEY.video, KEY.mask [frames, height, width, 3] (the mask has three equal channels; it is PIL's L), KEY.reference.N
[height, width, 3]; `scale`: conditioning_scale, one or one for each layer of VACE; `known`: frames of a video that is grey (0.5)
elsewhere, with a mask that is 0 there and 1 elsewhere, as tensors: KEY.known.FRAME [1, height, width, 3].
KEY.latents [1, C, references + T, h, w]; KEY.frames f16 [frames, H, W, 3] in 0..1."""


def mask(width: int, height: int, generator: torch.Generator) -> torch.Tensor:
    """A mask with soft edges [height, width], u8."""
    smooth = picture(width, height, generator)[..., 0].float()
    return ((smooth - 128) * 4 + 128).clamp(0, 255).to(torch.uint8)


def inputs(given: dict, width: int, height: int, frames: int, seed: int) -> tuple[dict, dict]:
    """What the pipeline is called with, and the tensors to store."""
    generator = torch.Generator("cpu").manual_seed(100 + seed)
    call, stored = {}, {}
    if "video" in given:
        video = [picture(*given["video"], generator) for _ in range(frames)]
        call["video"], stored["video"] = [Image.fromarray(p.numpy()) for p in video], torch.stack(video).half()
    if "mask" in given:
        masks = [mask(*given["mask"], generator) for _ in range(frames)]
        call["mask"] = [Image.fromarray(m.numpy()) for m in masks]
        stored["mask"] = torch.stack(masks).unsqueeze(3).expand(-1, -1, -1, 3).half()
    if "references" in given:
        shown = [picture(*size, generator) for size in given["references"]]
        call["reference_images"] = [Image.fromarray(p.numpy()) for p in shown]
        stored |= {f"reference.{n}": p.half() for n, p in enumerate(shown)}
    if "known" in given:
        video, unknown = torch.full((1, frames, 3, height, width), 0.5), torch.ones(1, frames, 1, height, width)
        for frame, size in given["known"].items():
            assert size == (width, height)
            shown = picture(*size, generator)
            video[0, frame], unknown[0, frame] = shown.permute(2, 0, 1) / 255.0, 0
            stored[f"known.{frame}"] = shown.unsqueeze(0).half()
        call["video"], call["mask"] = video, unknown
    if "scale" in given:
        call["conditioning_scale"] = given["scale"][0] if len(given["scale"]) == 1 else given["scale"]
    return call, stored


def make(store: Store) -> None:
    tensors, cases = {}, []
    for number, (prompt, negative, (width, height, frames), steps, guidance, sampler, shift, seed, both, given) in enumerate(CASES):
        config = CONFIGS["h"]
        key = f"{number}_h_{prompt}"
        case = {"key": key, "pipeline": "h", "prompt": PROMPTS[prompt], "negative": PROMPTS[negative]}
        case |= {"width": width, "height": height, "frames": frames, "steps": steps, "guidance": guidance, "seed": seed, "both": both}
        case |= {"sampler": sampler or config.sampler, "shift": shift or config.shift, "given": {"sampler": sampler, "shift": shift}}
        case |= {"references": len(given.get("references", [])), "scale": given.get("scale", [])}
        case["known"] = [{"start": frame, "count": 1, "width": w, "height": h} for frame, (w, h) in given.get("known", {}).items()]
        call_with, stored = inputs(given, width, height, frames, seed)
        pipe = pipelines.load(store.root, "h")
        if not both:
            pipe = WanVACEPipeline(**{name: part for name, part in parts(pipe).items() if name not in ("transformer_2", "boundary_ratio")})
            pipe.set_progress_bar_config(disable=True)
        if sampler or shift:
            pipe.scheduler = scheduler(case["sampler"], case["shift"])

        def call(output_type: str, latents=None):
            out = pipe(
                prompt=case["prompt"], negative_prompt=case["negative"], height=height, width=width, num_frames=frames,
                num_inference_steps=steps, guidance_scale=guidance, generator=torch.Generator("cpu").manual_seed(seed),
                latents=latents, output_type=output_type, **call_with,
            ).frames  # fmt: skip
            return out if output_type == "latent" else out[0].permute(0, 2, 3, 1)

        latents, pixels = call("latent"), call("pt")
        assert torch.isfinite(latents).all() and latents.dtype == torch.float32
        noise = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(seed))
        change = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(1))
        case["amplification"] = round(relative(latents, call("latent", noise * (1 + 1e-5 * change))) / 1e-5, 2)
        tensors |= {f"{key}.{name}": value for name, value in stored.items()}
        tensors[f"{key}.latents"], tensors[f"{key}.frames"] = latents, pixels.half()
        cases.append(case)
        print(f"{key}: amplification {case['amplification']}", flush=True)
    store.save("vace", {"about": ABOUT.split("\n"), "cases": cases}, tensors)
