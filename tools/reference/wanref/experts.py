"""Runs of WanPipeline with two transformers (Wan 2.2 T2V-A14B): guidance for each, and LoRA files on one, the other, or both."""

import torch
from diffusers import WanPipeline
from peft import LoraConfig, get_peft_model_state_dict

from . import loras, pipelines
from .configs import CONFIGS, SEED
from .metrics import psnr, relative
from .prompts import PROMPTS
from .schedulers import scheduler
from .store import Store

ABOUT = """\
As pipelines.json, with guidance_scale_2=guidance_low (null: None). `high`: how many of the steps are the first transformer's, which has
those at `boundary_ratio` and above. `loras`: none; or for each file of experts/ its `strength` and the transformers that it is loaded into
("high", "low": load_lora_weights without and with load_into_transformer_2, adapters of different names, set_adapters); or,
for both.safetensors, which has layers for both ("both"), the adapters that were saved to it. `change`: relative change of the latents without
them. `alone`: the same for each of the files taken away. original.safetensors: as in loras.json. saved.safetensors: save_lora_weights of
transformer_2 with lora_adapter_metadata. both.safetensors: _save_lora_weights of both transformers, each with metadata of its own."""

# Adapters of both.safetensors: part, rank, alpha, layers.
BOTH = (
    ("transformer", dict(r=3, lora_alpha=2, use_rslora=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"])),
    ("transformer_2", dict(r=2, lora_alpha=5, use_rslora=True, target_modules=["to_q", "to_v", "ffn.net.0.proj", "ffn.net.2"])),
)

# prompt, negative, (width, height, frames), steps, guidance, guidance at low noise, sampler, shift, seed, files: {file: (strength, transformers)}
CASES = [
    ("plain", "empty", (32, 32, 5), 4, 5.0, None, None, None, 31, {}),
    ("chinese", "negative", (48, 32, 9), 6, 4.0, 2.5, "unipc-wan", 12.0, 32, {}),
    ("emoji", "empty", (32, 16, 5), 5, 3.0, 6.0, "euler", 5.0, 33, {}),
    ("plain", "negative", (32, 32, 5), 3, 1.0, 4.0, None, None, 34, {}),
    ("plain", "empty", (32, 32, 5), 4, 5.0, 3.0, None, None, 35, {"original": (0.8, "high"), "saved": (-1.25, "low")}),
    ("chinese", "negative", (48, 32, 5), 4, 4.0, None, None, None, 36, {"original": (0.6, "low"), "saved": (1.5, "high")}),
    ("plain", "empty", (32, 48, 5), 4, 5.0, None, None, None, 37, {"both": (0.7, "both")}),
]


def adapter(module, config: dict, generator) -> dict:
    """Adds an adapter of random factors to a transformer, and gives its tensors."""
    module.add_adapter(LoraConfig(**config), adapter_name="both")
    for name, parameter in module.named_parameters():
        if ".lora_" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
    return get_peft_model_state_dict(module, adapter_name="both")


def write(folder, root, generator) -> None:
    """Writes the three files."""
    folder.mkdir(exist_ok=True)
    loras.original(folder / "original.safetensors", pipelines.load(root, "i"), generator)
    pipe = pipelines.load(root, "i")
    layers = {part: adapter(getattr(pipe, part), config, generator) for part, config in BOTH}
    metadata = dict(BOTH)
    WanPipeline.save_lora_weights(
        folder, layers["transformer_2"], weight_name="saved.safetensors", transformer_lora_adapter_metadata=metadata["transformer_2"]
    )
    WanPipeline._save_lora_weights(folder, layers, metadata, True, "both.safetensors", None, True)
    for path in folder.iterdir():
        path.chmod(0o644)


def load(root, files: dict):
    """The pipeline with LoRA files."""
    pipe = pipelines.load(root, "i")
    for file, (_, where) in files.items():
        path = root / "experts" / f"{file}.safetensors"
        if where == "both":
            # diffusers has no way to load what it saved for both: each half into its transformer, by its own name.
            layers, metadata = pipe.lora_state_dict(path, return_lora_metadata=True)
            for part, _ in BOTH:
                getattr(pipe, part).load_lora_adapter(layers, prefix=part, adapter_name=file, metadata=metadata)
        else:
            pipe.load_lora_weights(path, adapter_name=file, load_into_transformer_2=where == "low")
    # An adapter that a transformer does not have is nothing to it.
    for module in (pipe.transformer, pipe.transformer_2):
        names = [file for file in files if file in getattr(module, "peft_config", {})]
        if names:
            module.set_adapters(names, [files[file][0] for file in names])
    return pipe


def call(pipe, case: dict, output_type: str) -> torch.Tensor:
    """One run; frames as [T, H, W, 3], or latents."""
    out = pipe(
        case["prompt"], negative_prompt=case["negative"], height=case["height"], width=case["width"], num_frames=case["frames"],
        num_inference_steps=case["steps"], guidance_scale=case["guidance"], guidance_scale_2=case["guidance_low"],
        generator=torch.Generator("cpu").manual_seed(case["seed"]), output_type=output_type,
    ).frames  # fmt: skip
    return out if output_type == "latent" else out[0].permute(0, 2, 3, 1)


def make(store: Store) -> None:
    config = CONFIGS["i"]
    write(store.root / "experts", store.root, torch.Generator("cpu").manual_seed(SEED))
    tensors, cases = {}, []
    for number, (prompt, negative, size, steps, guidance, low, sampler, shift, seed, files) in enumerate(CASES):
        key = "_".join([f"{number:02}", prompt, *files])
        case = {"key": key, "pipeline": "i", "prompt": PROMPTS[prompt], "negative": PROMPTS[negative]}
        case |= dict(zip(("width", "height", "frames"), size)) | {"steps": steps, "guidance": guidance, "guidance_low": low, "seed": seed}
        case |= {"sampler": sampler or config.sampler, "shift": shift or config.shift, "given": {"sampler": sampler, "shift": shift}}

        def run(files: dict, output_type: str) -> torch.Tensor:
            pipe = load(store.root, files)
            if sampler or shift:
                pipe.scheduler = scheduler(case["sampler"], case["shift"])
            return call(pipe, case, output_type)

        latents, frames = run(files, "latent"), run(files, "pt")
        assert torch.isfinite(latents).all() and latents.dtype == torch.float32
        steps_of = scheduler(case["sampler"], case["shift"])
        steps_of.set_timesteps(steps)
        case["high"] = int((steps_of.timesteps >= 1000 * config.boundary).sum())
        assert 0 < case["high"] < steps, case
        case["loras"] = [{"file": f"{file}.safetensors", "strength": strength, "experts": where} for file, (strength, where) in files.items()]
        if files:
            case["change"] = round(relative(run({}, "latent"), latents), 3)
            case["alone"] = [round(relative(run({f: v for f, v in files.items() if f != file}, "latent"), latents), 3) for file in files]
            case["psnr"] = round(psnr(run({}, "pt"), frames), 1)
            assert min(case["alone"]) > 0.05 and case["psnr"] < 30, case
        tensors[f"{key}.latents"], tensors[f"{key}.frames"] = latents, frames.half()
        cases.append(case)
        print(f"{key}: {case['high']} of {steps} steps at high noise, changes {case.get('change')}, {case.get('alone')}", flush=True)
    store.save("experts", {"about": ABOUT.split("\n"), "cases": cases}, tensors)
