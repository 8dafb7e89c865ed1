"""AutoencoderKLWan: decoding and encoding of a few frames, and the decoder's stages chunk by chunk."""

import torch

from . import pipelines
from .store import Store

# pipeline, latent (T, H, W)
DECODE = [("b", (1, 2, 3)), ("b", (2, 3, 2)), ("b", (3, 2, 2)), ("b", (9, 1, 2)), ("c", (1, 3, 2)), ("c", (2, 2, 2)), ("c", (3, 1, 3)), ("c", (9, 2, 1)), ("d", (1, 2, 3)), ("d", (3, 2, 2))]
STAGES = {("b", (2, 3, 2)), ("c", (2, 2, 2))}
# pipeline, pixel frames (T, H, W)
ENCODE = [("b", (1, 16, 24)), ("b", (5, 16, 16)), ("b", (9, 8, 16)), ("c", (1, 24, 16)), ("c", (5, 16, 16)), ("c", (9, 16, 8)), ("d", (1, 32, 48)), ("d", (9, 48, 32))]

ABOUT = """\
decode: KEY.latents [1, z, T, h, w] goes straight into vae.decode (it is NOT multiplied by latents_std here); KEY.video
[1, 3, 1 + 4(T-1), 8h, 8w], clamped to -1..1.
Where `stages` is true: KEY.chunkK.STAGE for the latent frames K = 0, 1, the result [1, C, t, H, W] of the decoder's module, in order:
post_quant_conv (of all frames at once, KEY.post_quant_conv), conv_in, mid_block, up_blocks.0 .. up_blocks.3, norm_out, conv_out (not yet clamped).
encode: KEY.video [1, 3, T, H, W] in -1..1; KEY.mean and KEY.logvar [1, z, 1 + (T-1)/4, H/8, W/8]: the latent distribution (mode = mean;
log variance clamped to -30..20), not yet normalised: the pipelines' latents are (mean - latents_mean) / latents_std."""


def statistics(vae) -> tuple[torch.Tensor, torch.Tensor]:
    """latents_mean and latents_std, shaped to go with latents."""
    return tuple(torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))


def decode(vae, key: str, size: tuple, stages: bool) -> dict:
    """Decodes normal latents of the size."""
    mean, std = statistics(vae)
    latents = torch.randn((1, vae.config.z_dim, *size), generator=torch.Generator("cpu").manual_seed(sum(size))) * std + mean
    seen, hooks, calls = {f"{key}.latents": latents}, [], {}

    def keep(label):
        def hook(module, args, out):
            calls[label] = calls.get(label, -1) + 1
            seen[f"{key}.chunk{calls[label]}.{label}"] = out

        return hook

    if stages:
        decoder = vae.decoder
        hooks.append(vae.post_quant_conv.register_forward_hook(lambda module, args, out: seen.__setitem__(f"{key}.post_quant_conv", out)))
        hooks += [getattr(decoder, part).register_forward_hook(keep(part)) for part in ("conv_in", "mid_block", "norm_out", "conv_out")]
        hooks += [block.register_forward_hook(keep(f"up_blocks.{i}")) for i, block in enumerate(decoder.up_blocks)]
    seen[f"{key}.video"] = vae.decode(latents, return_dict=False)[0]
    for hook in hooks:
        hook.remove()
    clamped = (seen[f"{key}.video"].abs() >= 1).float().mean()
    assert clamped < 0.1, f"{key}: {clamped} clamped"
    return seen


def encode(vae, key: str, size: tuple) -> dict:
    """Encodes a video of noise."""
    video = torch.rand((1, 3, *size), generator=torch.Generator("cpu").manual_seed(sum(size))) * 2 - 1
    distribution = vae.encode(video).latent_dist
    return {f"{key}.video": video, f"{key}.mean": distribution.mean, f"{key}.logvar": distribution.logvar}


def make(store: Store) -> None:
    tensors, doc = {}, {"about": ABOUT.split("\n"), "decode": [], "encode": []}
    vaes = {name: pipelines.load(store.root, name).vae for name in ("b", "c", "d")}
    for kind, cases in (("decode", DECODE), ("encode", ENCODE)):
        for name, size in cases:
            key = f"{kind}_{name}_{'x'.join(map(str, size))}"
            case = {"key": key, "pipeline": name, "size": size}
            if kind == "decode":
                case["stages"] = (name, size) in STAGES
                tensors |= decode(vaes[name], key, size, case["stages"])
            else:
                tensors |= encode(vaes[name], key, size)
            doc[kind].append(case)
    store.save("vae", doc, tensors)
