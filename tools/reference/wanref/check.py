"""Compares a fresh set of goldens with the stored one, file by file, number by number."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

# The noise of another CPU's sums, sines and logarithms, and what a pipeline's 20 steps make of it. More than this is a change.
RELATIVE = 1e-4


def compare(stored: Path, fresh: Path) -> int:
    """Prints what differs; returns how many files differ by more than rounding."""
    bad = 0
    names = sorted(p.relative_to(fresh).as_posix() for p in fresh.rglob("*") if p.is_file() and p.name != "MANIFEST.json")
    for name in names:
        old, new = stored / name, fresh / name
        if not old.exists():
            verdict = "is not stored"
        elif old.read_bytes() == new.read_bytes():
            continue
        elif name.endswith(".safetensors"):
            verdict = compare_tensors(load_file(old), load_file(new), name)
        elif name.endswith(".json"):
            verdict = compare_json(json.loads(old.read_text()), json.loads(new.read_text()), name)
        else:
            verdict = "differs"
        if verdict:
            bad += 1
            print(f"{name}: {verdict}")
    print(f"{len(names)} files compared, {bad} differ by more than rounding ({RELATIVE:g} relative)")
    return bad


def compare_tensors(old: dict, new: dict, name: str) -> str | None:
    if old.keys() != new.keys():
        return f"other tensors: {sorted(old.keys() ^ new.keys())[:5]}"
    worst, largest, where = 0.0, 0.0, ""
    for key, a in old.items():
        b = new[key]
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{key}: {a.dtype} {list(a.shape)} stored, {b.dtype} {list(b.shape)} now"
        if not a.is_floating_point() and a.dtype != torch.uint8 and not torch.equal(a, b):
            return f"{key}: integers differ"
        a, b = a.double(), b.double()
        difference = (a - b).abs().max().item() if a.numel() else 0.0
        relative = ((a - b).norm() / a.norm().clamp_min(1e-30)).item()
        # A rounded pixel may fall to the other side.
        limit = 1.0 if old[key].dtype == torch.uint8 and difference <= 1 else RELATIVE
        if relative > limit:
            return f"{key}: relative difference {relative:.3g}, largest {difference:.3g}"
        if relative > worst:
            worst, largest, where = relative, difference, key
    print(f"{name}: rounding only, worst relative {worst:.3g} (largest {largest:.3g}) in {where}")
    return None


def compare_json(old, new, where: str) -> str | None:
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return next((v for key in old if (v := compare_json(old[key], new[key], f"{where}.{key}"))), None)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return next((v for i in range(len(old)) if (v := compare_json(old[i], new[i], f"{where}[{i}]"))), None)
    # measures: dB, sums
    if isinstance(old, float) and isinstance(new, float) and abs(old - new) <= 0.02 * max(1.0, abs(old)):
        return None
    return None if old == new else f"{where}: {str(old)[:60]!r} stored, {str(new)[:60]!r} now"
