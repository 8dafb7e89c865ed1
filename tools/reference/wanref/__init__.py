"""Makes the goldens of kernels-tests/goldens from diffusers and transformers; see README.md."""

from importlib import import_module

# In the order in which they are made: `runs`, `transformer`, `umt5` and `vae` load what `pipelines` wrote.
PARTS = ("noise", "samplers", "clean")


def make_part(part: str, store) -> None:
    """Runs one part's `make`."""
    import_module(f".{part}", __name__).make(store)
