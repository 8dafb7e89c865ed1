"""Quantised elements: what gguf and torch expand them to, and how they quantise."""

import gguf
import numpy as np
import torch

from .store import Store

BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
FP8 = {"F8E4M3": torch.float8_e4m3fn, "F8E5M2": torch.float8_e5m2}
# Where the halves of a block lie: random bits would make them infinite or NaN now and then.
HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
# Block types whose rule of quantisation is the same everywhere.
EXACT = ("Q8_0", "Q4_0")


def make(store: Store) -> None:
    random = np.random.default_rng(20261123)
    tensors: dict[str, torch.Tensor] = {}
    expanded, quantised = [], []

    def add(cases: list, name: str, stored: np.ndarray, values: np.ndarray) -> None:
        key = f"{name}.{'expanded' if cases is expanded else 'quantised'}"
        tensors[f"{key}.stored"] = torch.from_numpy(stored.reshape(-1).view(np.uint32).copy())
        tensors[f"{key}.values"] = torch.from_numpy(values.copy())
        cases.append({"key": key, "type": name.lower(), "rows": values.shape[0], "columns": values.shape[1]})

    def fp8(values: np.ndarray, kind: torch.dtype) -> np.ndarray:
        return torch.from_numpy(values).to(kind).view(torch.uint8).numpy()

    for name in BLOCKS:
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        count = 4 if elements == 256 else 16
        blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
        for at in HALVES.get(name, (0,)):
            # From far below the least normal half to about one, of both signs.
            half = (np.exp(random.uniform(-15, 0, count)) * random.choice([-1, 1], count)).astype(np.float16)
            blocks[:, at : at + 2] = half.view(np.uint8).reshape(count, 2)
        values = gguf.dequantize(blocks.reshape(count // 2, 2 * size), kind)
        add(expanded, name, blocks, values.astype(np.float32).view(np.uint32))
    for name, kind in FP8.items():
        stored = np.arange(256, dtype=np.uint8)
        values = torch.from_numpy(stored).view(kind).to(torch.float32).numpy()
        add(expanded, name, stored, values.reshape(4, 64).view(np.uint32))

    # Rows of very different size, ties, zeros, and blocks of zeros alone.
    values = random.standard_normal((8, 64)).astype(np.float32) * np.exp(random.uniform(-12, 4, (8, 1))).astype(np.float32)
    values[1] = np.round(values[1] * 8) / 8
    values[2, 32:] = 0
    values[3, ::2] = -values[3, 1::2]
    for name in EXACT:
        add(quantised, name, gguf.quantize(values, gguf.GGMLQuantizationType[name]), values)
    for name, kind in FP8.items():
        # Every number of the type, everything halfway between two, and their neighbours in f32.
        finite = torch.arange(256, dtype=torch.uint8).view(kind).to(torch.float64)
        finite = torch.unique(finite[finite.isfinite()])
        middle = (finite[1:] + finite[:-1]) / 2
        edges = torch.cat([finite, middle]).to(torch.float32)
        least, most = finite.min().item(), finite.max().item()
        beside = [torch.nextafter(edges, torch.full_like(edges, to)) for to in (least, most)]
        edges = torch.cat([edges, *beside]).numpy()
        row = np.concatenate([edges, edges[: -len(edges) % 4]]).reshape(1, -1)
        add(quantised, name, fp8(row, kind), row)
    store.save("quant", {"expanded": expanded, "quantised": quantised}, tensors)
