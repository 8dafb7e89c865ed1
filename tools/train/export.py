"""Stage 4: the trained parts as a diffusers folder in f16, and what the engine takes as its defaults."""

import json
import shutil
from pathlib import Path

from diffusers import UniPCMultistepScheduler, WanPipeline
from transformers import AutoTokenizer

import dit
import run
import scenes
import text

LIMIT = 30_000_000  # bytes: what the binary has room for
LICENCE = "OFL.txt"  # of the drawings that the model learned


def save(folder, vae, encoder, transformer):
    """Writes the folder anew, loads it back as a user would, and returns its size in bytes."""
    folder, sampling = Path(folder), run.config("sampling")
    shutil.rmtree(folder, ignore_errors=True)
    text.save(folder / "tokenizer")
    dit.pad_in_one(transformer, False)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=sampling["shift"],
        num_train_timesteps=1000,
    )
    pipeline = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=encoder.half(),
        transformer=transformer.half(),
        vae=vae.half(),
        scheduler=scheduler,
        expand_timesteps=True,
    )
    pipeline.save_pretrained(folder)
    for part in ("vae", "transformer"):
        _without_origin(folder / part)
    # As written by hand, without what transformers adds of its own version.
    shutil.rmtree(folder / "tokenizer")
    text.save(folder / "tokenizer")
    defaults = {
        "width": sampling["size"][0],
        "height": sampling["size"][1],
        "frames": sampling["frames"],
        "fps": scenes.FPS,
        "steps": sampling["steps"],
        "guidance": sampling["guidance"],
        "negative": "",
    }
    index = folder / "model_index.json"
    # The name that older releases of transformers know, too.
    index.write_text(index.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    (folder / "defaults.json").write_text(json.dumps(defaults, indent=2) + "\n")
    shutil.copy(run.HERE / LICENCE, folder / LICENCE)
    return _checked(folder)


def replace_vae(folder, vae):
    """Another VAE for a folder that is there, its latents the same; returns the folder's size in bytes."""
    own = Path(folder) / "vae"
    vae.half().save_pretrained(own)
    _without_origin(own)
    return _checked(Path(folder))


def _without_origin(part):
    """Takes from a part's config.json the place that the part was read from, if it was."""
    config = json.loads((part / "config.json").read_text())
    config.pop("_name_or_path", None)
    (part / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _checked(folder):
    """Loads it as a user would; its size in bytes."""
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
    WanPipeline.from_pretrained(folder)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    run.log("export", folder=folder.name, bytes=size)
    if size > LIMIT:
        raise ValueError(f"{folder} has {size} bytes, more than {LIMIT}")
    return size
