"""AutoencoderKLWan with tiling: decoding and encoding in overlapping tiles that are blended."""

import torch

from . import pipelines
from .store import Store
from .vae import statistics

# pipeline, latent (T, h, w), tile, stride in pixels
DECODE = [
    ("a", (2, 7, 5), 32, 24),
    ("a", (1, 3, 9), 32, 16),
    ("b", (2, 4, 3), 16, 16),
    ("c", (2, 5, 6), 24, 16),
    ("d", (2, 3, 3), 32, 16),
    ("d", (1, 4, 2), 48, 32),
]
# pipeline, pixel frames (T, H, W), tile, stride in pixels
ENCODE = [
    ("a", (5, 40, 48), 32, 24),
    ("a", (1, 24, 72), 32, 16),
    ("c", (5, 40, 32), 24, 16),
    ("d", (5, 64, 48), 32, 16),
    ("d", (1, 64, 96), 48, 32),
]

ABOUT = """\
AutoencoderKLWan with enable_tiling(tile, tile, stride, stride); otherwise as vae.json. decode: KEY.latents [1, z, T, h, w] are NORMALISED
here (as a pipeline's: times latents_std plus latents_mean before vae.decode); KEY.frames [T', H, W, 3] in 0..1 as the pipelines give them (f16).
encode: f16 KEY.frames [T, H, W, 3] in 0..255, each preprocessed to -1..1; KEY.latents: the mean of the distribution, normalised.
`seams`: mean difference of the result from that without tiles, in dB (decode) or relative (encode): tiles show."""


def tiled(vae, tile: int, stride: int):
    vae.enable_tiling(tile, tile, stride, stride)
    return vae


def decode(vae, key: str, size: tuple, tile: int, stride: int) -> tuple[dict, float]:
    mean, std = statistics(vae)
    latents = torch.randn((1, vae.config.z_dim, *size), generator=torch.Generator("cpu").manual_seed(sum(size)))

    def frames():
        video = vae.decode(latents / (1.0 / std) + mean, return_dict=False)[0]
        return (video[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1)

    vae.use_tiling = False
    whole = frames()
    got = frames() if tiled(vae, tile, stride) else None
    noise = ((got - whole) ** 2).mean().item()
    assert noise > 0, key
    return {f"{key}.latents": latents, f"{key}.frames": got.half()}, round(-10 * torch.log10(torch.tensor(noise)).item(), 1)


def encode(vae, key: str, size: tuple, tile: int, stride: int) -> tuple[dict, float]:
    mean, std = statistics(vae)
    shown = torch.randint(0, 256, (*size, 3), generator=torch.Generator("cpu").manual_seed(sum(size)))
    video = (2.0 * (shown.float() / 255.0) - 1.0).permute(3, 0, 1, 2)[None]

    def latents():
        return (vae.encode(video).latent_dist.mode() - mean) * (1.0 / std)

    vae.use_tiling = False
    whole = latents()
    got = latents() if tiled(vae, tile, stride) else None
    change = ((got - whole).norm() / whole.norm()).item()
    assert change > 1e-4, (key, change)
    return {f"{key}.frames": shown.half(), f"{key}.latents": got}, round(change, 4)


def make(store: Store) -> None:
    tensors, doc = {}, {"about": ABOUT.split("\n"), "decode": [], "encode": []}
    vaes = {name: pipelines.load(store.root, name).vae for name in ("a", "b", "c", "d")}
    for kind, run, cases in (("decode", decode, DECODE), ("encode", encode, ENCODE)):
        for name, size, tile, stride in cases:
            key = f"{kind}_{name}_{'x'.join(map(str, size))}"
            made, seams = run(vaes[name], key, size, tile, stride)
            tensors |= made
            doc[kind].append({"key": key, "pipeline": name, "size": size, "tile": tile, "stride": stride, "seams": seams})
            print(f"{key}: seams {seams}", flush=True)
    store.save("tiling", doc, tensors)
