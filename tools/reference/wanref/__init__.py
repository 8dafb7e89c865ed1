"""Makes the goldens of kernels-tests/goldens from diffusers and transformers; see README.md."""

from importlib import import_module

# In the order in which they are made. The parts after `pipelines` load the folders that it writes.
INDEPENDENT = ("noise", "samplers", "clean", "media", "videos", "quant", "files", "spiece", "sizes")
PARTS = (*INDEPENDENT, "pipelines", "sensitivity", "transformer", "umt5", "vae", "runs", "known", "video2video", "tiling", "clip", "vace", "loras", "experts", "blocks", "containers")


def make_part(part: str, store) -> None:
    """Runs one part's `make`."""
    import_module(f".{part}", __name__).make(store)
