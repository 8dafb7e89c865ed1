"""Stage 4: the trained parts as a diffusers folder in f16, and what the engine takes as its defaults."""

import json
import shutil
from pathlib import Path

from diffusers import UniPCMultistepScheduler, WanPipeline
from transformers import AutoTokenizer

import dit
import run
import text
import world

LIMIT = 12_000_000  # bytes: what the binary has room for


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
    )
    pipeline.save_pretrained(folder)
    # As written by hand, without what transformers adds of its own version.
    shutil.rmtree(folder / "tokenizer")
    text.save(folder / "tokenizer")
    defaults = {
        "width": world.SIZE,
        "height": world.SIZE,
        "frames": world.FRAMES,
        "fps": world.FPS,
        "steps": sampling["steps"],
        "guidance": sampling["guidance"],
        "negative": "",
    }
    index = folder / "model_index.json"
    # The name that older releases of transformers know, too.
    index.write_text(index.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
    (folder / "defaults.json").write_text(json.dumps(defaults, indent=2) + "\n")
    WanPipeline.from_pretrained(folder)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    run.log("export", folder=folder.name, bytes=size)
    if size > LIMIT:
        raise ValueError(f"{folder} has {size} bytes, more than {LIMIT}")
    return size
