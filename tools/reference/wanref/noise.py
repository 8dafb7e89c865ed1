"""torch.randn on the CPU for many shapes and seeds, checked against a plain mt19937 written out here."""

import math

import numpy as np
import torch

from .store import Store

SEEDS = (0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**53, 2**63 - 1, 2**64 - 1)
SHAPES = [(n,) for n in (*range(1, 18), 23, 31, 32, 33, 47, 48, 100, 1000)] + [(3, 5), (2, 8), (1, 3, 7)]
LATENTS = (1, 16, 2, 6, 10)
LARGE = [((4097,), 7), ((1, 16, 3, 8, 6), 42), ((1, 16, 21, 60, 104), 42), ((1, 16, 21, 60, 104), 2**32 + 42)]
# Several draws from one generator: the scalar path keeps its second normal for the next draw.
SEQUENCES = [(5, [(3,), (2,), (20,), (1,)]), (6, [(17,), (5,), (1,), (16,)])]

PATHS = """\
torch's CPU normal_ (aten/src/ATen/native/cpu/DistributionTemplates.h, ATen/core/DistributionsHelper.h) for contiguous float32:
- generator: mt19937, init_genrand(seed mod 2^32): a seed and the same seed plus 2^32 give the same noise.
- fewer than 16 elements (scalar path): per normal, two uniforms of 53 bits, u = (r & (2^53-1)) / 2^53 with r = 64 bits made of two
  32-bit draws, the FIRST one the high half; u1, then u2; radius = sqrt(-2 ln(1-u2)), theta = 2 pi u1, all in f64; the value is
  radius*cos(theta) rounded to f32, and radius*sin(theta) is kept IN THE GENERATOR for the next scalar normal (also of the next call).
- 16 elements or more (vectorised path): fill all n with uniforms of 24 bits, u = (r & (2^24-1)) / 2^24, one draw each; then for each
  full group of 16: for j in 0..8: u1 = 1 - u[j], u2 = u[j+8], radius = sqrt(-2 ln u1), theta = 2 pi u2, x[j] = radius cos(theta),
  x[j+8] = radius sin(theta), all in f32: theta MUST be rounded to f32 (f32(2 pi) * u2) before sin and cos, which gives torch to about
  5e-7; in f64 throughout one is off by 1.6e-6. The last bit depends on the CPU's log, sin and cos. When n is not a multiple of 16 the LAST 16
  elements are then drawn anew with 16 more draws, overwriting the tail of the last full group.
- WanPipeline draws its latents once, in float32 whatever the model's dtype, shape [1, C, T, H, W]."""


class Mt19937:
    """The generator and both normal paths as PATHS tells them, to prove the description."""

    def __init__(self, seed: int):
        # torch seeds with Knuth's init_genrand, and so does numpy's legacy seeding of one 32-bit word.
        self.bits = np.random.RandomState(seed % 2**32)
        self.kept = None

    def draw(self, n: int) -> np.ndarray:
        return self.bits.randint(0, 2**32, size=n, dtype=np.uint32).astype(np.uint64)

    def scalar(self) -> float:
        if self.kept is not None:
            value, self.kept = self.kept, None
            return value
        high1, low1, high2, low2 = (int(r) for r in self.draw(4))
        u1, u2 = (((high << 32 | low) & (2**53 - 1)) / 2**53 for high, low in ((high1, low1), (high2, low2)))
        radius, theta = math.sqrt(-2 * math.log1p(-u2)), 2 * math.pi * u1
        self.kept = radius * math.sin(theta)
        return radius * math.cos(theta)

    def group(self, u: np.ndarray) -> np.ndarray:
        u, f32 = u.astype(np.float32), np.float32
        radius, theta = np.sqrt(f32(-2) * np.log(f32(1) - u[:8])), f32(2 * np.pi) * u[8:]
        return np.concatenate([radius * np.cos(theta), radius * np.sin(theta)])

    def randn(self, n: int) -> np.ndarray:
        if n < 16:
            return np.array([self.scalar() for _ in range(n)])
        uniform = lambda k: (self.draw(k) & 0xFFFFFF) / 2**24
        x = uniform(n)
        for start in range(0, n - 15, 16):
            x[start : start + 16] = self.group(x[start : start + 16])
        if n % 16:
            x[-16:] = self.group(uniform(16))
        return x


def randn(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)


def make(store: Store) -> None:
    tensors, cases, worst = {}, [], 0.0

    def add(shape: tuple[int, ...], seed: int) -> None:
        nonlocal worst
        key = f"s{seed}_{'x'.join(map(str, shape))}"
        x = randn(shape, torch.Generator("cpu").manual_seed(seed))
        flat = x.flatten()
        case = {"key": key, "seed": seed, "shape": list(shape), "whole": flat.numel() <= 5000}
        case["sum"] = float(flat.double().sum())
        case["sum_of_squares"] = float(flat.double().square().sum())
        if case["whole"]:
            tensors[key] = x
        else:
            tensors[f"{key}.first"], tensors[f"{key}.last"] = flat[:16], flat[-16:]
        if flat.numel() <= 5000:
            worst = max(worst, float(np.abs(Mt19937(seed).randn(flat.numel()) - flat.numpy()).max()))
        cases.append(case)

    for seed in SEEDS:
        for shape in SHAPES if seed in (0, 42, 2**32 + 1) else [(1,), (2,), (7,), (15,), (16,), (17,), (33,)]:
            add(shape, seed)
        add(LATENTS, seed)
    for shape, seed in LARGE:
        add(shape, seed)

    sequences = []
    for seed, shapes in SEQUENCES:
        generator, plain, keys = torch.Generator("cpu").manual_seed(seed), Mt19937(seed), []
        for i, shape in enumerate(shapes):
            keys.append(f"seq{seed}_{i}")
            tensors[keys[-1]] = randn(shape, generator)
            worst = max(worst, float(np.abs(plain.randn(math.prod(shape)) - tensors[keys[-1]].numpy()).max()))
        sequences.append({"seed": seed, "shapes": [list(s) for s in shapes], "keys": keys})

    assert worst < 1e-6, f"the description of torch.randn is wrong by {worst}"
    doc = {"about": PATHS.split("\n"), "plain_python_max_difference": worst, "cases": cases, "sequences": sequences}
    store.save("noise", doc, tensors)
