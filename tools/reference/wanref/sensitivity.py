"""Proves that the pipelines are a test: without any one tensor, any one word or the guidance, the frames are visibly others.

Each tensor in turn is made to do nothing (biases and tables 0, gains 1, matrices with their columns rolled by one), and the frames must
then fall below LIMIT dB. Parity is asked at 50 dB, so an engine that forgets or mixes up a tensor cannot pass.
From pipeline d on some tensors are felt less: the residual VAE's ways around its blocks grow large beside them, each of two
transformers has only some of the steps, and what CLIP sees, or VACE adds, is one voice among several. For these FAINT dB is the limit,
which is about 3e-3 of the latents; the tests hold latents to 1e-4. Left out is what changes nothing: CLIP's last layer (the one before it is
used) with the norm behind it, and the biases of its keys, which attention without a norm of its keys does not feel.
"""

import torch
from diffusers import WanImageToVideoPipeline, WanVACEPipeline
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
    if name.endswith("gamma") or (x.dim() == 1 and name != "embeddings.class_embedding"):
        return torch.ones_like(x)
    if name.endswith(("pos_embed", "class_embedding", "position_embedding.weight")):
        return torch.zeros_like(x)
    return x.roll(1, dims=1) if x.shape[1] > 1 else -x


def frames(pipe, **changes) -> torch.Tensor:
    """Frames [T, H, W, 3] of REQUEST with `changes`."""
    request = {**REQUEST, **changes}
    generator = torch.Generator("cpu").manual_seed(2)
    pictures = [Image.fromarray(picture(REQUEST["width"], REQUEST["height"], generator).numpy()) for _ in range(REQUEST["num_frames"] + 1)]
    if isinstance(pipe, WanImageToVideoPipeline):
        request["image"] = pictures[0]
        if pipe.transformer.config.pos_embed_seq_len:
            request["last_image"] = pictures[1]
    if isinstance(pipe, WanVACEPipeline):
        half = Image.new("L", pictures[0].size, 0)
        half.paste(255, (0, 0, half.width // 2, half.height))
        request |= {"video": pictures[:-1], "mask": [half] * (len(pictures) - 1), "reference_images": [pictures[-1]]}
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
    further = [part for part in ("transformer_2", "image_encoder") if getattr(pipe, part, None)]
    unused = ("post_layernorm", f"encoder.layers.{pipe.image_encoder.config.num_hidden_layers - 1}.") if "image_encoder" in further else ()
    for part in ("transformer", "text_encoder", "vae", *further):
        for tensor, parameter in getattr(pipe, part).named_parameters():
            if part == "image_encoder" and (tensor.startswith(unused) or tensor.endswith("k_proj.bias")):
                continue
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
        limit = FAINT if name in ("d", "e", "f", "g", "h", "i") else LIMIT
        hidden = {key: db for key, db in {**found["tensors"], **found["inputs"]}.items() if db > limit}
        assert not hidden, f"pipeline {name} hides {hidden}"
    store.save("sensitivity", doc)
