"""Runs of WanPipeline with LoRA files: one in the dialect of Wan's authors, one as diffusers and PEFT save it."""

import torch
from diffusers import WanPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from . import pipelines
from .metrics import psnr, relative
from .configs import CONFIGS, SEED
from .prompts import PROMPTS
from .runs import call
from .store import Store

# Layers of a block in the authors' words, and ranks: some products are much smaller than their weights, some are not.
LAYERS = {"self_attn.q": 3, "self_attn.k": 3, "self_attn.v": 4, "self_attn.o": 4, "cross_attn.q": 12, "cross_attn.k": 9} | {
    "cross_attn.v": 3, "cross_attn.o": 16, "ffn.0": 5, "ffn.2": 24,
}  # fmt: skip
OURS = {"self_attn": "attn1", "cross_attn": "attn2", "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}

ABOUT = """\
As pipelines.json, with pipe.load_lora_weights(loras/FILE) and pipe.set_adapters(["default"], [strength]). `change`: relative change of
the latents by the file, `psnr`: worst frame against the run without it. original.safetensors: `diffusion_model.LAYER.lora_down.weight`,
`.lora_up.weight`, `.alpha`, `.diff_b`. saved.safetensors: by save_lora_weights, rsLoRA, with lora_adapter_metadata."""


def original(path, pipe, generator) -> None:
    """A file for every layer of every block, in the authors' words."""
    tensors = {}
    randn = lambda *shape: torch.randn(shape, generator=generator)
    for block in range(len(pipe.transformer.blocks)):
        for layer, rank in LAYERS.items():
            ours = {"ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2"}.get(layer) or ".".join(OURS[part] for part in layer.split("."))
            module = pipe.transformer.get_submodule(f"blocks.{block}.{ours}")
            name = f"diffusion_model.blocks.{block}.{layer}"
            tensors[f"{name}.lora_down.weight"] = randn(rank, module.in_features) / module.in_features**0.5
            tensors[f"{name}.lora_up.weight"] = randn(module.out_features, rank) / rank**0.5
            tensors[f"{name}.alpha"] = torch.tensor(float(rank) * (0.5 + block))
            tensors[f"{name}.diff_b"] = randn(module.out_features) * 0.2
    save_file(tensors, path)


def saved(path, pipe, generator) -> None:
    """A file as training scripts of diffusers leave it."""
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
    config = LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=targets)
    pipe.transformer.add_adapter(config)
    for name, parameter in pipe.transformer.named_parameters():
        if ".lora_" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
    layers = get_peft_model_state_dict(pipe.transformer)
    metadata = {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": targets}
    WanPipeline.save_lora_weights(path.parent, layers, weight_name=path.name, transformer_lora_adapter_metadata=metadata)


# file, how it is made, pipeline, prompt, (width, height, frames), steps, guidance, strength, seed
CASES = [
    ("original", original, "a", "plain", (32, 32, 5), 3, 5.0, 1.0, 21),
    ("original", None, "a", "chinese", (48, 32, 5), 4, 4.0, -0.7, 22),
    ("saved", saved, "b", "plain", (32, 32, 5), 3, 5.0, 1.0, 23),
]


def make(store: Store) -> None:
    generator = torch.Generator("cpu").manual_seed(SEED)
    folder = store.root / "loras"
    folder.mkdir(exist_ok=True)
    tensors, cases = {}, []
    for number, (file, maker, name, prompt, size, steps, guidance, strength, seed) in enumerate(CASES):
        path = folder / f"{file}.safetensors"
        if maker:
            maker(path, pipelines.load(store.root, name), generator)
            path.chmod(0o644)
        config = CONFIGS[name]
        case = {"key": f"{number:02}_{name}_{file}", "pipeline": name, "file": path.name, "strength": strength}
        case |= {"prompt": PROMPTS[prompt], "negative": PROMPTS["empty"]} | dict(zip(("width", "height", "frames"), size))
        case |= {"steps": steps, "guidance": guidance, "seed": seed, "sampler": config.sampler, "shift": config.shift}
        case["given"] = {"sampler": None, "shift": None}
        pipe = pipelines.load(store.root, name)
        before, frames_before = call(pipe, case, "latent"), call(pipe, case, "pt")
        pipe.load_lora_weights(path, adapter_name="default")
        pipe.set_adapters(["default"], [strength])
        latents, frames = call(pipe, case, "latent"), call(pipe, case, "pt")
        assert torch.isfinite(latents).all() and latents.dtype == torch.float32
        case["change"] = round(relative(before, latents), 3)
        case["psnr"] = round(psnr(frames_before, frames), 1)
        assert case["psnr"] < 30, case
        tensors[f"{case['key']}.latents"], tensors[f"{case['key']}.frames"] = latents, frames.half()
        cases.append(case)
        print(f"{case['key']}: the latents change by {case['change']}, the frames to {case['psnr']} dB", flush=True)
    store.save("loras", {"about": ABOUT.split("\n"), "cases": cases}, tensors)
