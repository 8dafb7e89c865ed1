"""Writes the small pipelines as diffusers folders, and loads them as a user does."""

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel, WanVACEPipeline, WanVACETransformer3DModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging as transformers_logging

from . import tokenizer, weights
from .configs import CONFIGS, SEED, Config
from .schedulers import scheduler
from .store import Store

diffusers_logging.disable_progress_bar()
diffusers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def build(config: Config) -> WanPipeline:
    """The pipeline in f32, before it is rounded to the dtype of its files."""
    seed = SEED + ord(config.name)
    tokens = tokenizer.build(config.tokenizer, config.vocab)
    text = UMT5EncoderModel(UMT5Config(vocab_size=len(tokens), **config.text)).eval()
    shape = {"in_channels": 16, "out_channels": 16, **config.transformer}
    kind = WanVACETransformer3DModel if config.vace else WanTransformer3DModel
    transformers = [kind(**shape).eval() for _ in range(2 if config.boundary else 1)]
    vae = AutoencoderKLWan(**config.vae, **latent_statistics(config, seed)).eval()
    clip = [CLIPVisionModel(CLIPVisionConfig(**config.clip)).eval()] if config.clip else []
    for number, module in enumerate((text, transformers[0], vae, *transformers[1:], *clip)):
        weights.fill(module, seed + number, config.contrast)
    parts = {"tokenizer": tokens, "text_encoder": text, "vae": vae, "transformer": transformers[0]}
    parts["scheduler"] = scheduler(config.sampler, config.shift)
    if config.boundary:
        parts |= {"transformer_2": transformers[1], "boundary_ratio": config.boundary}
    if clip:
        parts |= {"image_encoder": clip[0], "image_processor": CLIPImageProcessorPil(**config.processor)}
    if not config.vace:
        parts["expand_timesteps"] = config.expand_timesteps
    return pipeline_class(config)(**parts)


def pipeline_class(config: Config):
    if config.vace:
        return WanVACEPipeline
    return WanImageToVideoPipeline if config.image else WanPipeline


def latent_statistics(config: Config, seed: int) -> dict:
    """Means and spreads of the latents' channels, four digits each, as in the real config."""
    z = config.vae.get("z_dim", 16)
    generator = torch.Generator("cpu").manual_seed(seed)
    mean = torch.randn(z, generator=generator) * 0.6
    std = 0.7 + torch.rand(z, generator=generator) * 1.3
    return {"latents_mean": [round(v, 4) for v in mean.tolist()], "latents_std": [round(v, 4) for v in std.tolist()]}


def write(config: Config, folder: Path) -> None:
    """Saves the pipeline part by part, since only some parts are sharded."""
    pipe = build(config)
    shutil.rmtree(folder, ignore_errors=True)
    if config.dtype == torch.bfloat16:
        save_mixed(pipe, config, folder)
    else:
        pipe.to(config.dtype).save_pretrained(folder)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def save_mixed(pipe: WanPipeline, config: Config, folder: Path) -> None:
    """As `from_pretrained(dtype)` followed by `save_pretrained`: the parts that diffusers keeps in fp32 stay fp32, the rest is rounded."""
    keep = WanTransformer3DModel._keep_in_fp32_modules
    for name, parameter in pipe.transformer.named_parameters():
        if not any(part in name.split(".") for part in keep):
            parameter.data = parameter.data.to(config.dtype)
    pipe.text_encoder.to(config.dtype)
    pipe.vae.to(config.dtype)
    pipe.save_pretrained(folder)
    if config.shard:
        for part in ("transformer", "text_encoder"):
            shutil.rmtree(folder / part)
            getattr(pipe, part).save_pretrained(folder / part, max_shard_size=config.shard)


def load(root: Path, name: str, dtype: torch.dtype | None = torch.float32) -> WanPipeline:
    """The stored pipeline with every part in `dtype`; with None as `from_pretrained(folder)` gives it."""
    pipe = pipeline_class(CONFIGS[name]).from_pretrained(root / "pipelines" / name, dtype=dtype, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def dtypes(pipe: WanPipeline) -> dict:
    """Which dtypes the weights of each part have."""
    parts = ("transformer", "text_encoder", "vae")
    return {part: sorted({str(p.dtype).removeprefix("torch.") for p in getattr(pipe, part).parameters()}) for part in parts}


def make(store: Store) -> None:
    for config in CONFIGS.values():
        folder = store.root / "pipelines" / config.name
        write(config, folder)
        assert all(found == ["float32"] for found in dtypes(load(store.root, config.name)).values())
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        print(f"pipelines/{config.name}: {size / 1024:.0f} KiB; loaded without a dtype: {dtypes(load(store.root, config.name, None))}")
