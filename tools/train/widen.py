"""A wider VAE that begins as the same function as a narrower one.

Channels are added at the end of every layer's own. What they add is zero at first: nothing is written to them, so
nothing is read from them, and the gains of the norms make up for the larger number of channels that the scale counts.
In the part that is to be trained they are read with random weights, so that the first gradient tells what to write.
"""

import math

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders import autoencoder_kl_wan as wan


def widened(vae, dim_mult):
    """The decoder's new channels are ready to be trained; the encoder's stay zero."""
    same = {k: v for k, v in vae.config.items() if not k.startswith("_")}
    wide = AutoencoderKLWan(**{**same, "dim_mult": dim_mult}).to(vae.device)
    modules = dict(vae.named_modules())
    with torch.no_grad():
        for name, module in wide.named_modules():
            if isinstance(module, wan.WanRMS_norm):
                _norm(module, modules[name])
            elif isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)):
                trained = name.startswith("decoder.")
                _convolution(module, *_weights(modules, name, module), _parts(name, module), trained)
    for name, module in wide.named_modules():
        if isinstance(module, wan.WanAttentionBlock):
            _keep_logits(module, modules[name])
    return wide


def _weights(modules, name, wide):
    """The narrow layer's; the identity's where only the wide one needs a shortcut."""
    narrow = modules[name]
    if hasattr(narrow, "weight"):
        return narrow.weight, narrow.bias
    channels = modules[name.removesuffix(".conv_shortcut")].conv2.weight.shape[0]
    eye = torch.eye(channels, device=wide.weight.device)
    return eye.view(channels, channels, 1, 1, 1), torch.zeros(channels, device=wide.weight.device)


def _parts(name, module):
    """How many results of equal size a layer's output channels hold."""
    if name.endswith("to_qkv"):
        return 3
    return 2 if name.endswith("time_conv") and module.out_channels == 2 * module.in_channels else 1


def _rows(wide, narrow, parts):
    """Where the narrow one's channels are in the wide one."""
    return torch.cat([torch.arange(narrow // parts) + i * (wide // parts) for i in range(parts)])


def _convolution(module, weight, bias, parts, trained):
    rows = _rows(module.out_channels, weight.shape[0], parts)
    kept = torch.zeros_like(module.weight[rows])
    if trained:
        torch.nn.init.normal_(kept, std=1 / math.sqrt(kept[0].numel()))
    kept[:, : weight.shape[1]] = weight
    module.weight.zero_()
    module.bias.zero_()
    module.weight[rows] = kept
    module.bias[rows] = bias


def _norm(wide, narrow):
    count = len(narrow.gamma)
    wide.gamma.fill_(1.0)
    wide.gamma[:count] = narrow.gamma * math.sqrt(count / len(wide.gamma))


@torch.no_grad()
def _keep_logits(wide, narrow):
    """Attention divides by the root of the number of channels, which is larger now."""
    gain = math.sqrt(wide.dim / narrow.dim)
    wide.to_qkv.weight[: wide.dim] *= gain
    wide.to_qkv.bias[: wide.dim] *= gain
