"""The three samplers as diffusers schedulers."""

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

SAMPLERS = ("unipc", "unipc-wan", "euler")


def unipc(shift: float) -> UniPCMultistepScheduler:
    """As the scheduler folder of Wan's diffusers checkpoints configures it."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
        solver_order=2,
        solver_type="bh2",
        predict_x0=True,
        lower_order_final=True,
        final_sigmas_type="zero",
    )


class OriginalGridUniPC(UniPCMultistepScheduler):
    """diffusers' UniPC on the grid of Wan's own FlowUniPCMultistepScheduler (wan/utils/fm_solvers_unipc.py, used with
    shift=1 in its constructor and the real shift in set_timesteps). The two solvers' updates are the same."""

    def set_timesteps(self, num_inference_steps=None, device=None, **_):
        alphas = np.linspace(1, 1 / 1000, 1000)[::-1].copy()
        ends = torch.from_numpy(1.0 - alphas).to(torch.float32)
        grid = np.linspace(ends[0].item(), ends[-1].item(), num_inference_steps + 1)[:-1]
        super().set_timesteps(device=device, sigmas=grid)  # applies the shift in f64


def unipc_wan(shift: float) -> OriginalGridUniPC:
    return OriginalGridUniPC.from_config(unipc(shift).config)


def euler(shift: float) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=shift)


def scheduler(sampler: str, shift: float):
    return {"unipc": unipc, "unipc-wan": unipc_wan, "euler": euler}[sampler](float(shift))
