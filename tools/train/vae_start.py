"""Where the VAE starts from: not noise, but a codec that averages blocks of 4 x 8 x 8 pixels.

From random weights a VAE this small spends most of its training on finding out that colours have a way through.
Here the way is laid before the first step. Channels 0-2 of the trunk carry red, green and blue, 3-5 their negatives
and 6 a constant: the final norm keeps it all nearly linear for the constant's sake, and silu(x) - silu(-x) = x
undoes the activation. Downsampling averages, upsampling repeats, and residual branches begin at zero. All other
weights are random, so that training finds the detail that the average lacks.
"""

import math

import torch
from diffusers.models.autoencoders import autoencoder_kl_wan as wan

COLOUR = 3
CARRIED = 2 * COLOUR + 1  # and their negatives, and the constant
CONSTANT = 2.0


def _carry(conv, tap, gain=1.0):
    """The first CARRIED channels go through: one tap (or several, averaged) of the kernel, nothing else."""
    w = conv.weight
    w[:CARRIED] = 0
    where = torch.zeros(w.shape[2:])
    where[tap] = gain
    for i in range(CARRIED):
        w[i, i] = where / max(1, (where != 0).sum())
    conv.bias[:CARRIED] = 0


def _spread(conv):
    """Random weights that keep the variance; PyTorch's own lose two thirds of it at each layer."""
    torch.nn.init.normal_(conv.weight, std=1 / math.sqrt(conv.weight[0].numel()))
    torch.nn.init.zeros_(conv.bias)


def _enter(conv):
    """Colours from channels 0-2 into the trunk's seven."""
    middle = (-1, conv.kernel_size[1] // 2, conv.kernel_size[2] // 2)
    _spread(conv)
    conv.weight[:CARRIED] = 0
    for i in range(COLOUR):
        conv.weight[(i, i, *middle)] = 1
        conv.weight[(COLOUR + i, i, *middle)] = -1
    conv.bias[CARRIED - 1] = CONSTANT


def _leave(norm, conv, others):
    """Colours out of norm and SiLU again: x = silu(x) - silu(-x), and the norm's scale is that of the constant."""
    middle = (-1, 1, 1)
    _spread(conv)
    conv.weight *= others
    conv.weight[:COLOUR] = 0
    scale = math.sqrt(norm.gamma.numel()) / math.sqrt(CONSTANT**2 + 2 + 0.1 * norm.gamma.numel())
    for i in range(COLOUR):
        conv.weight[(i, i, *middle)] = 1 / scale
        conv.weight[(i, COLOUR + i, *middle)] = -1 / scale


def _trunk(part):
    for m in part.modules():
        if isinstance(m, wan.WanResidualBlock):
            torch.nn.init.zeros_(m.conv2.weight)
            torch.nn.init.zeros_(m.conv2.bias)
            if not isinstance(m.conv_shortcut, torch.nn.Identity):
                _spread(m.conv_shortcut)
                m.conv_shortcut.weight *= 0.5
                _carry(m.conv_shortcut, (0, 0, 0))
        elif isinstance(m, wan.WanAttentionBlock):
            torch.nn.init.zeros_(m.proj.weight)
            torch.nn.init.zeros_(m.proj.bias)
        elif isinstance(m, wan.WanResample):
            conv = m.resample[1]
            _spread(conv)
            if m.mode.startswith("down"):
                _carry(conv, (slice(0, 2), slice(0, 2)))
            else:
                _carry(conv, (1, 1))
            if m.mode == "downsample3d":
                _spread(m.time_conv)
                _carry(m.time_conv, (slice(1, 3), 0, 0))
            elif m.mode == "upsample3d":
                # Each latent frame twice: both halves of the output are the newest tap.
                _spread(m.time_conv)
                m.time_conv.weight *= 0.3
                for half in range(2):
                    for i in range(m.dim):
                        m.time_conv.weight[half * m.dim + i] *= 0 if i < CARRIED else 1
                        m.time_conv.weight[half * m.dim + i, i, -1] += 1


@torch.no_grad()
def block_average(vae):
    """Sets the weights of a fresh `AutoencoderKLWan`; draws from torch's global generator."""
    encoder, decoder = vae.encoder, vae.decoder
    _trunk(encoder)
    _trunk(decoder)
    # A pixel's other channels see its neighbours.
    _enter(encoder.conv_in)
    _leave(encoder.norm_out, encoder.conv_out, 1.0)
    torch.nn.init.eye_(vae.quant_conv.weight[:, :, 0, 0, 0])
    torch.nn.init.zeros_(vae.quant_conv.bias)
    torch.nn.init.eye_(vae.post_quant_conv.weight[:, :, 0, 0, 0])
    torch.nn.init.zeros_(vae.post_quant_conv.bias)
    _enter(decoder.conv_in)
    _leave(decoder.norm_out, decoder.conv_out, 0.1)
