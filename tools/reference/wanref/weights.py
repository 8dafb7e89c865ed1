"""Random weights with which every tensor shows in the frames.

diffusers' own initialisation is a bad test: norms are 1, biases and tables nearly 0, the prompt is drowned by 500 padding tokens.
Here each tensor is drawn from its own generator (seeded by its name), with a scale by its role. `sensitivity.py` proves the result.
"""

import zlib

import torch
from torch import nn

# Name endings (the longest match wins) and (mean, spread). Weights of linear layers and convolutions get spread / sqrt(fan in).
ROLES = {
    # transformer
    "attn1.to_k.bias": (0, 1.0),
    "attn1.norm_q.weight": (1.4, 0.6),
    "attn1.norm_k.weight": (1.4, 0.6),
    # The text must be heard among the 500 equal padding tokens, so the cross-attention's logits are large.
    "attn2.norm_q.weight": (1.7, 0.4),
    "attn2.norm_k.weight": (1.7, 0.4),
    "attn1.to_out.0.weight": (0, 1.6),
    "attn2.to_out.0.weight": (0, 1.6),
    "norm2.weight": (1.0, 0.3),
    "norm2.bias": (0, 0.3),
    "scale_shift_table": (0, 0.35),
    "time_proj.weight": (0, 0.4),
    "time_proj.bias": (0, 0.3),
    "time_embedder.linear_1.weight": (0, 1.5),
    "text_embedder.linear_1.weight": (0, 1.2),
    "proj_out.weight": (0, 0.9),
    # UMT5
    "shared.weight": (0, 1.0),
    "relative_attention_bias.weight": (0, 1.0),
    "layer_norm.weight": (1.0, 0.3),
    "SelfAttention.q.weight": (0, 0.8),
    "SelfAttention.k.weight": (0, 0.8),
    # VAE
    "gamma": (1.0, 0.7),
    "to_qkv.weight": (0, 1.2),
    "post_quant_conv.weight": (0, 1.0),
    "time_conv.weight": (0, 1.4),
    "time_conv.bias": (0, 0.6),
    "decoder.conv_out.weight": (0, 0.45),
    "decoder.conv_out.bias": (0, 0.15),
    # CLIP, and what the transformer makes of it
    "class_embedding": (0, 1.0),
    "position_embedding.weight": (0, 0.7),
    "layrnorm.weight": (1.0, 0.3),
    "layer_norm1.weight": (1.0, 0.3),
    "layer_norm2.weight": (1.0, 0.3),
    "self_attn.q_proj.weight": (0, 1.5),
    "self_attn.k_proj.weight": (0, 1.5),
    "image_embedder.norm1.weight": (1.0, 0.3),
    "image_embedder.norm1.bias": (0, 0.3),
    "pos_embed": (0, 0.7),
    "norm_added_k.weight": (1.7, 0.4),
    # the rest
    "bias": (0, 0.35),
    "weight": (0, 1.2),
}


def role(name: str) -> tuple[float, float]:
    """Mean and spread of the tensor called `name`."""
    return ROLES[max((end for end in ROLES if name.endswith(end)), key=len)]


def draw(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """The tensor `name`: the same for the same name, shape and seed."""
    mean, spread = role(name)
    generator = torch.Generator("cpu").manual_seed(seed ^ zlib.crc32(name.encode()))
    x = torch.randn(shape, generator=generator)
    is_table = name.endswith(("shared.weight", "relative_attention_bias.weight", "position_embedding.weight"))
    is_matrix = name.endswith("weight") and len(shape) > 1 and not is_table
    if is_matrix:
        spread /= shape[1:].numel() ** 0.5
    return mean + spread * x


@torch.no_grad()
def fill(module: nn.Module, seed: int, contrast: float = 1.0) -> None:
    """Draws every parameter of `module` anew; `contrast` scales a decoder's last convolution."""
    for name, parameter in module.named_parameters():
        parameter.copy_(draw(name, parameter.shape, seed))
        if name.startswith(("blocks.", "vace_blocks.")) and name.endswith("scale_shift_table"):
            parameter[:, (2, 5)] += 0.7  # both gates: no block may be shut
        if name.startswith("vace_blocks.") and name.endswith("attn1.to_q.bias"):
            parameter *= 2.5  # what the control asks for must be heard beside the video
        if name == "decoder.conv_out.weight":
            parameter *= contrast
