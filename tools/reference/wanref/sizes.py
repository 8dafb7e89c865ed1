"""Every network at its real width, one layer of each, with weights that both sides make from their names by an integer hash.

So nothing large is stored: the list of tensors, and some of the numbers that come out."""

import zlib

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from .store import Store

ABOUT = """\
Element i of the tensor NAME: h = i * 0x9e3779b1 + crc32(NAME); h ^= h >> 16, h *= 0x85ebca6b, h ^= h >> 13, h *= 0xc2b2ae35, h ^= h >> 16
(murmur3's last steps), all in 32 bits; u = (h >> 8) * 2^-23 - 1 in f32. A gain (`gamma`, or a `weight` of one dimension) is 1 + 0.3 u,
another `weight` is u * sqrt(3 / the product of all dimensions but the first), anything else 0.3 u; the factor rounded to f32, the result
to bf16. An input is 1.2 u of the name `input.NAME`, in f32. KEY.RESULT: every `stride`-th element of the flattened result."""

# dim, heads, ffn, channels taken and given: Wan 2.1 T2V 1.3B, Wan 2.2 TI2V-5B, Wan 2.1 I2V 14B
TRANSFORMERS = [(1536, 12, 8960, 16, 16), (3072, 24, 14336, 48, 48), (5120, 40, 13824, 36, 16)]
TIME, TEXT = 937, 6
IDS = [5, 40, 17, 5, 63, 8, 1]


def noise(name: str, count: int) -> np.ndarray:
    """u of `count` elements."""
    h = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h ^= h >> np.uint32(shift)
        h *= np.uint32(factor)
    h ^= h >> np.uint32(16)
    return (h >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)


def fill(module: torch.nn.Module) -> torch.nn.Module:
    for name, parameter in module.named_parameters():
        shape = parameter.shape
        u = noise(name, shape.numel())
        gain = name.endswith("gamma") or (name.endswith("weight") and len(shape) == 1)
        u *= np.float32((3 / shape[1:].numel()) ** 0.5 if name.endswith("weight") and not gain else 0.3)
        parameter.data = torch.from_numpy(u + np.float32(1) if gain else u).reshape(shape).bfloat16().float()
    return module.eval()


def given(name: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(noise(f"input.{name}", int(np.prod(shape))) * np.float32(1.2)).reshape(shape)


def transformer(dim: int, heads: int, ffn: int, takes: int, gives: int) -> tuple[torch.nn.Module, dict]:
    pictures = {"image_dim": 1280, "added_kv_proj_dim": dim} if takes > gives else {}
    model = fill(
        WanTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=dim // heads, ffn_dim=ffn, num_layers=1, in_channels=takes, out_channels=gives,
            text_dim=4096, **pictures,
        )  # fmt: skip
    )
    seen = {}
    model.blocks[0].register_forward_hook(lambda module, args, out: seen.__setitem__("block", out))
    # 512 rows of text, as the pipelines have them: all but the first are zeros.
    text = torch.cat([given("text", 1, TEXT, 4096), torch.zeros(1, 512 - TEXT, 4096)], 1)
    shown = {"encoder_hidden_states_image": given("pictures", 1, 5, 1280)} if pictures else {}
    latents = given("latents", 1, takes, 2, 4, 4)
    seen["velocity"] = model(latents, torch.tensor([TIME]), text, return_dict=False, **shown)[0]
    return model, seen


def umt5() -> tuple[torch.nn.Module, dict]:
    model = fill(UMT5EncoderModel(UMT5Config(vocab_size=64, d_model=4096, num_heads=64, d_kv=64, d_ff=10240, num_layers=1)))
    return model, {"states": model(torch.tensor([IDS])).last_hidden_state}


def clip() -> tuple[torch.nn.Module, dict]:
    shape = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=2, num_attention_heads=16, image_size=224, patch_size=14)
    model = fill(CLIPVisionModel(CLIPVisionConfig(hidden_act="gelu", **shape)))
    return model, {"states": model(given("pixels", 1, 3, 224, 224), output_hidden_states=True).hidden_states[-2]}


def vae(**shape) -> tuple[torch.nn.Module, dict]:
    model = fill(AutoencoderKLWan(num_res_blocks=1, **shape))
    z, unit = model.config.z_dim, 16 if model.config.is_residual else 8
    video = model.decode(given("latents", 1, z, 2, 2, 3), return_dict=False)[0]
    mean = model.encode(given("video", 1, 3, 5, 2 * unit, 3 * unit)).latent_dist.mean
    return model, {"video": video, "mean": mean}


NETWORKS = {
    **{f"transformer_{shape[0]}": (lambda shape=shape: transformer(*shape)) for shape in TRANSFORMERS},
    "umt5": umt5,
    "clip": clip,
    "vae_2.1": lambda: vae(base_dim=96, z_dim=16),
    "vae_2.2": lambda: vae(
        base_dim=160, decoder_base_dim=256, z_dim=48, is_residual=True, in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16,
        temperal_downsample=[False, True, True],
    ),  # fmt: skip
}  # fmt: skip


def make(store: Store) -> None:
    tensors, cases = {}, []
    for key, build in NETWORKS.items():
        model, results = build()
        case = {"key": key, "tensors": [[name, list(p.shape)] for name, p in model.named_parameters()], "results": {}}
        for name, result in results.items():
            assert torch.isfinite(result).all()
            stride = max(1, result.numel() // 2000) | 1
            case["results"][name] = {"shape": list(result.shape), "stride": stride}
            tensors[f"{key}.{name}"] = result.flatten()[::stride].float()
            print(f"{key}.{name}: {list(result.shape)}, mean {result.mean():.3f}, spread {result.std():.3f}", flush=True)
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{key}: {len(case['tensors'])} tensors, {parameters / 1e6:.0f} million parameters", flush=True)
        cases.append(case)
        del model
    about = {"about": ABOUT.split("\n"), "time": TIME, "text": TEXT, "ids": IDS, "cases": cases}
    store.save("sizes", about, tensors)
