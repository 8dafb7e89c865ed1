"""Whole runs with transformers whose matrices are GGUF's blocks, expanded by the gguf package.

Nothing large is stored: both sides make bytes and values from the tensors' names, by the hash of sizes.py."""

import zlib

import gguf
import numpy as np
import torch
from diffusers import WanTransformer3DModel

from . import pipelines
from .configs import CONFIGS
from .metrics import relative
from .prompts import PROMPTS
from .runs import call
from .sizes import noise
from .store import Store

ABOUT = """\
As pipelines.json, with pipeline a whose transformer is another: `tensors` are its names and shapes. One that `types` does not list has
values as in sizes.json (bf16). Of one that it lists, byte j is h >> 24 of sizes.json with i = j; then, in each block, the 16 bits at each
OFFSET of `halves` become BITS + the byte that was there, with the highest bit set where SIGNED and the byte after it is odd, little endian:
[OFFSET, BITS, SIGNED]. They are expanded by gguf.quants.dequantize. `change`: the smallest relative change of the latents when the columns of one
such matrix are rolled by one."""

SHAPE = dict(num_attention_heads=2, attention_head_dim=128, num_layers=2, ffn_dim=512, text_dim=32, freq_dim=256)
K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
# Where halves lie in a block, and what makes values of mean 0 of them: the scale of quants, and that of minimums in scales.
HALVES = {
    "Q4_0": {0: 1}, "Q4_1": {0: 1, 2: -7.5}, "Q5_0": {0: 1}, "Q5_1": {0: 1, 2: -15.5}, "Q8_0": {0: 1},
    "Q2_K": {80: 1, 82: 1.5}, "Q3_K": {108: 1}, "Q4_K": {0: 1, 2: 7.5}, "Q5_K": {0: 1, 2: 15.5}, "Q6_K": {208: 1},
}  # fmt: skip
# As trained weights of 256 inputs.
SPREAD = 0.075

MATRICES = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
MATRICES = (*MATRICES, "ffn.net.0.proj", "ffn.net.2")
SMALL = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def mostly(kind: str, more: str):
    """As llama.cpp mixes types: values and the feed-forward's second matrix in the larger, in every second block."""
    return lambda block, matrix: more if block == 1 and matrix in ("attn1.to_v", "attn2.to_v", "ffn.net.2") else kind


# name, the type of a matrix, and of those outside of blocks whose rows are long enough (None: not quantised)
CASES = [
    *((kind.lower(), lambda block, matrix, kind=kind: kind, None) for kind in K_QUANTS),
    ("q4_k_m", mostly("Q4_K", "Q6_K"), None),
    ("all_k", lambda block, matrix: K_QUANTS[(MATRICES.index(matrix) + 3 * block) % 5], "Q6_K"),
    ("small", lambda block, matrix: SMALL[(MATRICES.index(matrix) + 2 * block) % 5], "Q8_0"),
]


def random_bytes(name: str, count: int) -> np.ndarray:
    """h >> 24 of `count` elements: the highest 8 of the 24 bits that `noise` keeps."""
    bits = (noise(name, count).astype(np.float64) + 1) * 2**23
    return (bits.astype(np.uint32) >> np.uint32(16)).astype(np.uint8)


def halves(kind: str) -> list:
    """[offset, bits, signed] for which values have about SPREAD."""
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    block = random_bytes(kind, 64 * size).reshape(64, size)
    for at, share in HALVES[kind].items():
        block[:, at : at + 2] = np.frombuffer(np.float16(share).tobytes(), np.uint8)
    spread = gguf.quants.dequantize(block, gguf.GGMLQuantizationType[kind]).std()
    bits = lambda share: int(np.float16(share * SPREAD / spread).view(np.uint16))
    # The byte that is added makes it larger by up to a quarter.
    return [[at, bits(share), len(HALVES[kind]) == 1] for at, share in HALVES[kind].items()]


def stored(name: str, shape, kind: str) -> np.ndarray:
    """Rows of blocks."""
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rows, columns = shape
    blocks = random_bytes(name, rows * columns // elements * size).reshape(-1, size)
    for at, bits, signed in halves(kind):
        sign = (blocks[:, at + 1] & 1).astype(np.uint16) << 15 if signed else np.uint16(0)
        half = (np.uint16(bits) + blocks[:, at].astype(np.uint16)) | sign
        blocks[:, at : at + 2] = half.astype("<u2").view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def values(name: str, shape, kind: str | None) -> torch.Tensor:
    if kind:
        expanded = gguf.quants.dequantize(stored(name, shape, kind), gguf.GGMLQuantizationType[kind])
        return torch.from_numpy(expanded.astype(np.float32)).reshape(shape)
    gain = name.endswith("weight") and len(shape) == 1
    u = noise(name, shape.numel()) * np.float32((3 / shape[1:].numel()) ** 0.5 if name.endswith("weight") and not gain else 0.3)
    return torch.from_numpy(u + np.float32(1) if gain else u).reshape(shape).bfloat16().float()


def make(store: Store) -> None:
    assert zlib.crc32(b"a") == 0xE8B7BE43
    config = CONFIGS["a"]
    tensors, cases, shapes = {}, [], []
    for number, (key, kind_of, outside) in enumerate(CASES):
        pipe = pipelines.load(store.root, "a")
        pipe.transformer = WanTransformer3DModel(in_channels=16, out_channels=16, **SHAPE).eval()
        types, shapes = {}, []
        for name, parameter in pipe.transformer.named_parameters():
            shapes.append([name, list(parameter.shape)])
            part = name.split(".")
            if name.endswith("weight") and parameter.dim() == 2:
                kind = kind_of(int(part[1]), ".".join(part[2:-1])) if part[0] == "blocks" else outside
                if kind and parameter.shape[1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0] == 0:
                    types[name] = kind.lower()
            parameter.data = values(name, parameter.shape, types.get(name, "").upper() or None)
        case = {"key": key, "pipeline": "a", "prompt": PROMPTS["plain"], "negative": PROMPTS["empty"], "width": 32, "height": 32, "frames": 5}
        case |= {"steps": 3, "guidance": 4.0, "seed": 50 + number, "sampler": config.sampler, "shift": config.shift}
        case |= {"given": {"sampler": None, "shift": None}, "types": types}
        latents, frames = call(pipe, case, "latent"), call(pipe, case, "pt")
        assert torch.isfinite(latents).all() and latents.dtype == torch.float32
        changes = {}
        for name in types:
            parameter = pipe.transformer.get_parameter(name)
            kept = parameter.data
            parameter.data = kept.roll(1, dims=1)
            changes[name] = relative(latents, call(pipe, case, "latent"))
            parameter.data = kept
        least = min(changes, key=changes.get)
        case["change"] = round(changes[least], 4)
        assert case["change"] > 0.005, changes
        tensors[f"{key}.latents"], tensors[f"{key}.frames"] = latents, frames.half()
        cases.append(case)
        print(f"{key}: {len(types)} matrices, the least felt is {least} with {case['change']}", flush=True)
    doc = {"about": ABOUT.split("\n"), "tensors": shapes, "halves": {kind.lower(): halves(kind) for kind in HALVES}, "cases": cases}
    store.save("blocks", doc, tensors)
