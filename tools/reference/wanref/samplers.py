"""Traces of the three samplers under a velocity that is written down, not learned."""

import math

import torch

from .schedulers import SAMPLERS, scheduler
from .store import Store

SIZE = 64
CASES = [(steps, shift) for steps in (1, 2, 3, 4, 5, 10) for shift in (1, 3, 5, 8, 12)]
CASES += [(20, 3), (20, 5), (20, 12), (50, 5), (50, 8), (4, 1.7), (15, 5), (16, 5)]

ABOUT = """\
v = a*x + b in f32, element by element, with a = f32(0.3*cos(t/300)) and b[i] = f32(0.1*sin(i)), both computed in f64 first; t is the
timestep that the scheduler gives the model (int64 for both UniPC, float32 for Euler), i = 0..63.
x0: the first sample, in tensor `x0`, the same for all cases.
Per case, with KEY = `SAMPLER_STEPS_SHIFT`: KEY.sigmas f32 [steps+1]; KEY.timesteps int64 [steps] (Euler: f32 [steps]); KEY.trace f32
[steps, 64], the sample after each step.
unipc: diffusers' UniPCMultistepScheduler, flow sigmas, order 2, bh2. unipc-wan: the same solver on the grid of Wan's own repository.
euler: FlowMatchEulerDiscreteScheduler(shift). With one step UniPC's grid from linspace(..)[:-1] is its first point."""


def make(store: Store) -> None:
    x0 = torch.randn(SIZE, generator=torch.Generator("cpu").manual_seed(7))
    b = torch.tensor([0.1 * math.sin(i) for i in range(SIZE)], dtype=torch.float64).float()
    tensors, cases = {"x0": x0}, []
    for sampler in SAMPLERS:
        for steps, shift in CASES:
            key = f"{sampler}_{steps}_{shift}"
            solver = scheduler(sampler, shift)
            solver.set_timesteps(steps)
            solver.set_begin_index(0)
            x, trace = x0[None], []  # the solvers want a batch dimension
            for t in solver.timesteps:
                a = torch.tensor(0.3 * math.cos(float(t) / 300), dtype=torch.float64).float()
                x = solver.step(a * x + b, t, x, return_dict=False)[0]
                trace.append(x[0])
            tensors[f"{key}.sigmas"] = solver.sigmas
            tensors[f"{key}.timesteps"] = solver.timesteps
            tensors[f"{key}.trace"] = torch.stack(trace)
            assert torch.isfinite(tensors[f"{key}.trace"]).all(), key
            assert solver.sigmas.dtype == x.dtype == torch.float32
            cases.append({"key": key, "sampler": sampler, "steps": steps, "shift": float(shift)})
    store.save("samplers", {"about": ABOUT.split("\n"), "cases": cases}, tensors)
