"""Proves that the pipelines are a test: without any one tensor, any one word or the guidance, the frames are visibly others.

Each tensor in turn is made to do nothing (biases and tables 0, gains 1, matrices with their columns rolled by one), and the frames must
then fall below LIMIT dB. Parity is asked at 50 dB, so an engine that forgets or mixes up a tensor cannot pass.
In pipelines d and e some tensors are felt less: the residual VAE's ways around its blocks grow large beside them, and each of two
transformers has only some of the steps. For these FAINT dB is the limit, which is about 3e-3 of the latents; the tests hold latents to 1e-4.
"""

import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image

from . import pipelines
from .configs import CONFIGS
from .known import picture
from .metrics import psnr
from .store import Store

LIMIT, FAINT = 45.0, 66.0
REQUEST = dict(
    prompt="a red circle moves right over a blue background", negative_prompt="", height=32, width=48, num_frames=5, num_inference_steps=2, guidance_scale=5.0
)


def neutral(name: str, x: torch.Tensor) -> torch.Tensor:
    """What a forgotten or misread tensor would amount to."""
    if name.endswith(("bias", "scale_shift_table")):
        return torch.zeros_like(x)
    if name.endswith("gamma") or x.dim() == 1:
        return torch.ones_like(x)
    return x.roll(1, dims=1) if x.shape[1] > 1 else -x


def frames(pipe, **changes) -> torch.Tensor:
    """Frames [T, H, W, 3] of REQUEST with `changes`."""
    request = {**REQUEST, **changes}
    if isinstance(pipe, WanImageToVideoPipeline):
        smooth = picture(REQUEST["width"], REQUEST["height"], torch.Generator("cpu").manual_seed(2))
        request["image"] = Image.fromarray(smooth.numpy())
    out = pipe(**request, generator=torch.Generator("cpu").manual_seed(0), output_type="pt").frames[0]
    return out.permute(0, 2, 3, 1)


def encoded(pipe, video: torch.Tensor) -> torch.Tensor:
    """Both halves of the encoder's output (mean and log variance) as [T, h, w, 2C]."""
    return pipe.vae.encode(video).latent_dist.parameters[0].permute(1, 2, 3, 0)


def measure(root, name: str) -> dict:
    """dB of the worst frame for every tensor, and for a changed prompt, guidance and negative."""
    pipe = pipelines.load(root, name)
    base = frames(pipe)
    assert 0.05 < base.std() < 0.3 and ((base <= 0) | (base >= 1)).float().mean() < 0.05, name
    inputs = {
        "prompt, one word": frames(pipe, prompt=REQUEST["prompt"].replace("right", "left")),
        "negative": frames(pipe, negative_prompt="static"),
        "guidance 4.5": frames(pipe, guidance_scale=4.5),
        "guidance off": frames(pipe, guidance_scale=1.0),
    }
    video = torch.rand(1, 3, 5, 32, 48, generator=torch.Generator("cpu").manual_seed(1)) * 2 - 1
    encoded_base = encoded(pipe, video)
    scale = 0.25 / encoded_base.std()  # so that dB mean about the same as for frames
    tensors = {}
    for part in ("transformer", "text_encoder", "vae", *(["transformer_2"] if pipe.config.boundary_ratio else [])):
        for tensor, parameter in getattr(pipe, part).named_parameters():
            kept = parameter.data
            parameter.data = neutral(tensor, kept)
            if tensor.startswith(("encoder.", "quant_conv")) and part == "vae":
                decibels = psnr(encoded_base * scale, encoded(pipe, video) * scale)
            else:
                decibels = psnr(base, frames(pipe))
            parameter.data = kept
            tensors[f"{part}.{tensor}"] = round(decibels, 1)
    return {"inputs": {key: round(psnr(base, other), 1) for key, other in inputs.items()}, "tensors": tensors}


def make(store: Store) -> None:
    doc = {"about": __doc__.strip().split("\n"), "request": {**REQUEST, "seed": 0}, "limit_db": LIMIT, "faint_limit_db": FAINT, "pipelines": {}}
    for name in CONFIGS:
        found = measure(store.root, name)
        doc["pipelines"][name] = found
        highest = max(found["tensors"], key=found["tensors"].get)
        print(f"pipeline {name}: {len(found['tensors'])} tensors; least felt: {highest}, {found['tensors'][highest]} dB; {found['inputs']}", flush=True)
        limit = FAINT if name in ("d", "e") else LIMIT
        hidden = {key: db for key, db in {**found["tensors"], **found["inputs"]}.items() if db > limit}
        assert not hidden, f"pipeline {name} hides {hidden}"
    store.save("sensitivity", doc)
