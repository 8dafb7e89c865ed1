"""Writing goldens: NAME.safetensors for the numbers, NAME.json for what they are, MANIFEST.json over all files."""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

PACKAGES = ("torch", "diffusers", "transformers", "tokenizers", "safetensors", "ftfy", "regex", "numpy", "pillow", "gguf", "peft")


class Store:
    """A folder of goldens."""

    def __init__(self, root: Path):
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def save(self, name: str, doc: dict, tensors: dict[str, torch.Tensor] | None = None) -> None:
        """Writes `NAME.json` and, when there are tensors, `NAME.safetensors`."""
        path = self.root / f"{name}.json"
        path.write_text(to_json(doc), encoding="utf-8")
        if tensors:
            flat = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
            save_file(flat, self.root / f"{name}.safetensors")
            (self.root / f"{name}.safetensors").chmod(0o644)
        size = sum(p.stat().st_size for p in self.root.glob(f"{name}.*"))
        print(f"{name}: {len(tensors or {})} tensors, {size / 1024:.0f} KiB", flush=True)

    def write_manifest(self, seed: int) -> None:
        """Lists every file with its size and sha256, and the versions that were loaded."""
        files = {}
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if path.is_file() and name not in ("MANIFEST.json", "README.md"):
                data = path.read_bytes()
                files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        doc = {
            "made_by": "tools/reference/make",
            "seed": seed,
            "python": platform.python_version(),
            "versions": {name: version(name).split("+")[0] for name in PACKAGES},
            "total_bytes": sum(entry["bytes"] for entry in files.values()),
            "files": files,
        }
        (self.root / "MANIFEST.json").write_text(to_json(doc), encoding="utf-8")
        print(f"MANIFEST.json: {len(files)} files, {doc['total_bytes'] / 1e6:.2f} MB")


def to_json(doc: object) -> str:
    """JSON that reads well and is plain ASCII, so that an odd character in a prompt survives every editor."""
    return json.dumps(doc, indent=1, ensure_ascii=True) + "\n"
