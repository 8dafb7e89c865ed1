"""What WanTransformer3DModel computes on the way, block by block."""

import torch

from . import pipelines
from .store import Store

# key, pipeline, batch, latent (T, H, W), text rows, rows after zero padding, timesteps
CASES = [
    ("b", "b", 1, (3, 4, 6), 13, 13, [937]),
    ("c_padded", "c", 1, (2, 6, 4), 9, 512, [250]),
    ("a_batch", "a", 2, (2, 2, 6), 7, 7, [999, 412]),
    ("c_float_time", "c", 1, (1, 4, 2), 5, 5, [717.3174]),
]

ABOUT = """\
Inputs: KEY.latents [B, C, T, H, W], KEY.text [B, rows, text_dim], which is zero-padded to `text_length` rows before the model (when longer
than `rows`), KEY.timestep [B] (i64, or f32 as Euler gives it).
Then, L = T * H/2 * W/2 tokens in (t, h, w) order, D = heads * head_dim, 0-based blocks N:
KEY.rope_cos, KEY.rope_sin [L, head_dim] (each value twice, pairs interleaved); KEY.patch_embed [B, L, D]; KEY.temb [B, D];
KEY.timestep_proj [B, 6, D]; KEY.text_proj [B, rows + 1 or rows, D] (with padding: one pad row after the real ones, all pad rows are equal);
KEY.block.N.attn1, .attn2, .ffn [B, L, D]: what these modules return (before gates and residuals); KEY.block.N [B, L, D]: the block's result;
KEY.norm_out [B, L, D]: LayerNorm before scale and shift; KEY.proj_out [B, L, 4 * C]; KEY.output [B, C, T, H, W]: the velocity."""


def run(root, key: str, name: str, batch: int, size: tuple, rows: int, length: int, times: list) -> tuple[dict, dict]:
    """One forward pass with hooks on every module of interest."""
    model = pipelines.load(root, name).transformer
    generator = torch.Generator("cpu").manual_seed(100 + ord(name))
    latents = torch.randn((batch, model.config.in_channels, *size), generator=generator)
    text = torch.randn((batch, rows, model.config.text_dim), generator=generator)
    padded = torch.cat([text, text.new_zeros(batch, length - rows, text.shape[2])], 1)
    timestep = torch.tensor(times)
    seen = {}

    def keep(label):
        return lambda module, args, out: seen.__setitem__(f"{key}.{label}", out)

    hooks = [model.norm_out.register_forward_hook(keep("norm_out")), model.proj_out.register_forward_hook(keep("proj_out"))]
    hooks += [model.patch_embedding.register_forward_hook(keep("patch_embed")), model.condition_embedder.register_forward_hook(keep("condition"))]
    hooks += [model.rope.register_forward_hook(keep("rope"))]
    for number, block in enumerate(model.blocks):
        hooks.append(block.register_forward_hook(keep(f"block.{number}")))
        hooks += [getattr(block, part).register_forward_hook(keep(f"block.{number}.{part}")) for part in ("attn1", "attn2", "ffn")]
    seen[f"{key}.output"] = model(latents, timestep, padded, return_dict=False)[0]
    for hook in hooks:
        hook.remove()
    seen[f"{key}.patch_embed"] = seen[f"{key}.patch_embed"].flatten(2).transpose(1, 2)
    cos, sin = seen.pop(f"{key}.rope")
    seen[f"{key}.rope_cos"], seen[f"{key}.rope_sin"] = cos[0, :, 0].float(), sin[0, :, 0].float()
    temb, time_proj, text_proj, _ = seen.pop(f"{key}.condition")
    seen |= {f"{key}.temb": temb, f"{key}.timestep_proj": time_proj.unflatten(1, (6, -1)), f"{key}.text_proj": text_proj[:, : rows + 1]}
    seen |= {f"{key}.latents": latents, f"{key}.text": text, f"{key}.timestep": timestep}
    doc = {"key": key, "pipeline": name, "batch": batch, "size": size, "rows": rows, "text_length": length, "timestep": times}
    return doc | {"blocks": len(model.blocks)}, seen


def make(store: Store) -> None:
    tensors, cases = {}, []
    for case in CASES:
        doc, seen = run(store.root, *case)
        cases.append(doc)
        tensors |= seen
    store.save("transformer", {"about": ABOUT.split("\n"), "cases": cases}, tensors)
