"""Whether other programs read what `mutoscope convert` writes: the gguf and safetensors packages against its own reading.

    tools/reference/convert BINARY       a built mutoscope
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors import safe_open
from safetensors.torch import load_file

PIPELINES = Path(__file__).resolve().parents[3] / "kernels-tests" / "goldens" / "pipelines"
# Relative errors of whole tensors; 0: bit for bit.
GGUF = {"f32": 0.0, "f16": 1e-3, "bf16": 4e-3, "q8_0": 6e-3, "q4_0": 0.12, "q4_k": 6e-3}
SAFETENSORS = {"f32": 0.0, "f16": 1e-3, "bf16": 4e-3, "fp8": 4e-2}


def by_gguf(path: Path, architecture: str = "wan") -> dict[str, torch.Tensor]:
    """The tensors of a file as the gguf package reads and expands them."""
    reader = gguf.GGUFReader(path)
    assert reader.get_field("general.architecture").contents() == architecture
    tensors = {}
    for tensor in reader.tensors:
        values = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        shape = [int(n) for n in reversed(tensor.shape)]
        original = reader.get_field(f"comfy.gguf.orig_shape.{tensor.name}")
        tensors[tensor.name] = values.reshape([int(n) for n in original.contents()] if original else shape)
    return tensors


def by_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file as the safetensors package reads them, fp8 as ComfyUI scales it."""
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt"
    tensors = load_file(path)
    marked = tensors.pop("scaled_fp8", None)
    assert (marked is not None) == any(name.endswith(".scale_weight") for name in tensors)
    scales = {name: tensors.pop(name) for name in list(tensors) if name.endswith(".scale_weight")}
    for name, scale in scales.items():
        weight = name.removesuffix(".scale_weight") + ".weight"
        assert tensors[weight].dtype == torch.float8_e4m3fn and scale.dtype == torch.float32, weight
        tensors[weight] = tensors[weight].float() * scale
    return tensors


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape, (a.shape, b.shape)
    return 0.0 if torch.equal(a.float(), b.float()) else ((a.float() - b.float()).norm() / b.float().norm()).item()


def check(binary: str, pipeline: str, kind: str, ending: str, most: float, folder: Path) -> None:
    source = PIPELINES / pipeline / "transformer"
    original = {}
    for file in source.glob("*.safetensors"):
        original |= load_file(file)
    new, back = folder / f"new.{ending}", folder / "back.safetensors"
    run = lambda *arguments: subprocess.run([binary, "convert", *map(str, arguments), "--quiet"], check=True)
    run(source, new, "--type", kind)
    run(new, back, "--type", "f32")
    theirs = by_gguf(new) if ending == "gguf" else by_safetensors(new)
    # What this program reads is what theirs read, in every bit.
    ours = load_file(back)
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    for name, values in theirs.items():
        assert error(ours[name], values) == 0, f"{pipeline} {kind} {name}: read differently"
    # And what it was, by the names that diffusers gives.
    if ending == "gguf":
        theirs = convert_wan_transformer_to_diffusers(dict(theirs))
    assert theirs.keys() == original.keys(), theirs.keys() ^ original.keys()
    errors = {name: error(values, original[name]) for name, values in theirs.items()}
    worst = max(errors, key=errors.get)
    assert errors[worst] <= most, f"{pipeline} {kind}: {worst} is off by {errors[worst]:.2e}"
    print(f"{pipeline} {kind} {ending}: {len(theirs)} tensors, worst {errors[worst]:.1e} ({worst})", flush=True)


def check_text_encoder(binary: str, pipeline: str, folder: Path) -> None:
    """A text encoder in llama.cpp's names and with its vocabulary, as the gguf package knows them of T5."""
    source, new = PIPELINES / pipeline / "text_encoder", folder / "t5.gguf"
    subprocess.run([binary, "convert", str(source), str(new), "--type", "f32", "--quiet"], check=True)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 64)
    original = {}
    for file in source.glob("*.safetensors"):
        original |= load_file(file)
    original.pop("encoder.embed_tokens.weight", None)
    theirs = by_gguf(new, "t5encoder")
    expected = {names.get_name(name, try_suffixes=(".weight",)): values for name, values in original.items()}
    assert theirs.keys() == expected.keys(), theirs.keys() ^ expected.keys()
    assert all(error(values, expected[name]) == 0 for name, values in theirs.items())
    field = lambda key: gguf.GGUFReader(new).get_field(key).contents()
    vocabulary = json.loads((PIPELINES / pipeline / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert field("tokenizer.ggml.model") == "t5"
    assert field("tokenizer.ggml.tokens") == [text for text, _ in vocabulary]
    assert all(abs(a - b) < 1e-5 for a, (_, b) in zip(field("tokenizer.ggml.scores"), vocabulary, strict=True))
    assert field("t5encoder.embedding_length") == original["shared.weight"].shape[1]
    print(f"{pipeline} text encoder: {len(theirs)} tensors, {len(vocabulary)} pieces", flush=True)


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        for pipeline in ("a", "b"):
            for types, ending in ((GGUF, "gguf"), (SAFETENSORS, "safetensors")):
                for kind, most in types.items():
                    if pipeline == "b" and kind in ("q8_0", "q4_0", "q4_k"):
                        continue  # rows of 60 elements are no blocks of 32
                    check(sys.argv[1], pipeline, kind, ending, most, Path(folder))
        check_text_encoder(sys.argv[1], "a", Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
