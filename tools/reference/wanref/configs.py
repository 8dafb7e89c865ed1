"""The shapes of the small pipelines. Odd numbers on purpose: what works for these does not lean on powers of two."""

from dataclasses import dataclass

import torch

SEED = 1000  # of the weights; pipeline NAME uses SEED + ord(NAME) and on


@dataclass(frozen=True)
class Config:
    """One pipeline folder: what its parts are built from, and how its weights are scaled and saved."""

    name: str
    transformer: dict
    text: dict
    vae: dict
    tokenizer: str  # "unigram-t5", "unigram" or "bpe"
    vocab: int
    sampler: str  # the folder's scheduler: "unipc" or "euler"
    shift: float
    dtype: torch.dtype  # of the saved weights
    shard: str | None = None  # the largest shard of transformer and text encoder
    expand_timesteps: bool = False  # tokens have timesteps of their own
    boundary: float | None = None  # a second transformer below this share of the timesteps
    image: bool = False  # WanImageToVideoPipeline
    clip: dict | None = None  # the image encoder
    processor: dict | None = None  # how pictures are made ready for it
    vace: bool = False  # WanVACEPipeline
    contrast: float = 1.0  # of the frames: scales the last convolution so that they fill 0..1 with little clamped


CONFIGS = {
    config.name: config
    for config in (
        Config(
            name="a",
            transformer=dict(num_attention_heads=2, attention_head_dim=16, num_layers=2, ffn_dim=64, text_dim=32, freq_dim=256),
            text=dict(d_model=32, num_heads=4, d_kv=8, d_ff=64, num_layers=2),
            vae=dict(base_dim=3, num_res_blocks=2),
            tokenizer="unigram-t5",
            vocab=320,
            sampler="unipc",
            shift=3.0,
            dtype=torch.float32,
            contrast=2.0,
        ),
        Config(
            name="b",
            transformer=dict(num_attention_heads=3, attention_head_dim=20, num_layers=3, ffn_dim=104, text_dim=40, freq_dim=64),
            text=dict(d_model=40, num_heads=3, d_kv=12, d_ff=72, num_layers=3),
            vae=dict(base_dim=6, num_res_blocks=1),
            tokenizer="unigram",
            vocab=400,
            sampler="unipc",
            shift=5.0,
            dtype=torch.bfloat16,
            contrast=1.6,
            shard="80KB",
        ),
        Config(
            name="c",
            transformer=dict(
                num_attention_heads=5, attention_head_dim=12, num_layers=2, ffn_dim=52, text_dim=24, freq_dim=50, in_channels=6, out_channels=6
            ),
            text=dict(
                d_model=24, num_heads=5, d_kv=6, d_ff=52, num_layers=2, relative_attention_num_buckets=16, relative_attention_max_distance=64
            ),
            vae=dict(base_dim=5, num_res_blocks=1, z_dim=6, dim_mult=[1, 2, 3, 4], temperal_downsample=[True, True, False]),
            tokenizer="bpe",
            vocab=420,
            sampler="euler",
            shift=8.0,
            dtype=torch.float16,
            contrast=0.7,
        ),
        # As Wan 2.2 TI2V-5B: a timestep for every token, and the residual VAE.
        Config(
            name="d",
            transformer=dict(
                num_attention_heads=2, attention_head_dim=24, num_layers=2, ffn_dim=60, text_dim=28, freq_dim=64, in_channels=8, out_channels=8
            ),
            text=dict(d_model=28, num_heads=4, d_kv=8, d_ff=48, num_layers=2),
            vae=dict(
                base_dim=4, decoder_base_dim=6, num_res_blocks=1, z_dim=8, temperal_downsample=[False, True, True], is_residual=True,
                in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16,
            ),  # fmt: skip
            tokenizer="unigram",
            vocab=320,
            sampler="unipc",
            shift=5.0,
            dtype=torch.float32,
            expand_timesteps=True,
            contrast=1.0,
        ),
        # As Wan 2.2 I2V-A14B: two transformers, the picture in further channels.
        Config(
            name="e",
            transformer=dict(
                num_attention_heads=2, attention_head_dim=20, num_layers=2, ffn_dim=48, text_dim=24, freq_dim=32, in_channels=14, out_channels=5
            ),
            text=dict(d_model=24, num_heads=3, d_kv=8, d_ff=40, num_layers=2),
            vae=dict(base_dim=4, num_res_blocks=1, z_dim=5, dim_mult=[1, 2, 2, 3]),
            tokenizer="unigram",
            vocab=320,
            sampler="unipc",
            shift=5.0,
            dtype=torch.float16,
            boundary=0.9,
            image=True,
            contrast=1.0,
        ),
        # As Wan 2.1 I2V: the picture in further channels, and by CLIP beside the text.
        Config(
            name="f",
            transformer=dict(
                num_attention_heads=2, attention_head_dim=18, num_layers=2, ffn_dim=44, text_dim=24, freq_dim=32, in_channels=14, out_channels=5,
                image_dim=28, added_kv_proj_dim=36,
            ),  # fmt: skip
            text=dict(d_model=24, num_heads=3, d_kv=8, d_ff=40, num_layers=2),
            vae=dict(base_dim=3, num_res_blocks=1, z_dim=5, dim_mult=[1, 2, 2, 3]),
            tokenizer="unigram",
            vocab=320,
            sampler="unipc",
            shift=3.0,
            dtype=torch.float16,
            image=True,
            contrast=1.0,
            clip=dict(hidden_size=28, intermediate_size=52, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=7, hidden_act="gelu"),
            processor=dict(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        ),
        # As Wan 2.1 FLF2V: the first and the last picture, by CLIP with positions of their own.
        Config(
            name="g",
            transformer=dict(
                num_attention_heads=3, attention_head_dim=12, num_layers=2, ffn_dim=52, text_dim=28, freq_dim=32, in_channels=16, out_channels=6,
                image_dim=30, added_kv_proj_dim=36, pos_embed_seq_len=20,
            ),  # fmt: skip
            text=dict(d_model=28, num_heads=3, d_kv=8, d_ff=40, num_layers=2),
            vae=dict(base_dim=3, num_res_blocks=1, z_dim=6, dim_mult=[1, 2, 2, 3]),
            tokenizer="unigram",
            vocab=320,
            sampler="euler",
            shift=4.0,
            dtype=torch.float16,
            image=True,
            contrast=1.0,
            clip=dict(hidden_size=30, intermediate_size=46, num_hidden_layers=4, num_attention_heads=3, image_size=24, patch_size=8, hidden_act="quick_gelu"),
            processor=dict(size={"shortest_edge": 29}, crop_size={"height": 24, "width": 24}, image_mean=[0.4, 0.45, 0.5], image_std=[0.3, 0.25, 0.2]),
        ),
        # As Wan 2.1 VACE, and with two transformers as its Wan 2.2 form.
        Config(
            name="h",
            transformer=dict(
                num_attention_heads=2, attention_head_dim=18, num_layers=3, ffn_dim=44, text_dim=24, freq_dim=32, in_channels=5, out_channels=5,
                vace_layers=[0, 2], vace_in_channels=74,
            ),  # fmt: skip
            text=dict(d_model=24, num_heads=3, d_kv=8, d_ff=40, num_layers=2),
            vae=dict(base_dim=3, num_res_blocks=1, z_dim=5, dim_mult=[1, 2, 2, 3]),
            tokenizer="unigram",
            vocab=320,
            sampler="unipc",
            shift=4.0,
            dtype=torch.float16,
            boundary=0.875,
            vace=True,
            contrast=1.0,
        ),
        # As Wan 2.2 T2V-A14B: two transformers, text alone.
        Config(
            name="i",
            transformer=dict(
                num_attention_heads=2, attention_head_dim=14, num_layers=2, ffn_dim=44, text_dim=20, freq_dim=32, in_channels=4, out_channels=4
            ),
            text=dict(d_model=20, num_heads=3, d_kv=6, d_ff=36, num_layers=2),
            vae=dict(base_dim=2, num_res_blocks=2, z_dim=4, dim_mult=[1, 2, 3, 3]),
            tokenizer="unigram",
            vocab=320,
            sampler="unipc",
            shift=6.0,
            dtype=torch.float16,
            boundary=0.875,
            contrast=1.0,
        ),
    )
}
