"""diffusers' Wan VAE over all frames at once.

`AutoencoderKLWan` walks over the frames in chunks and carries a cache of past frames. Its layers, called without
a cache, already pad with zeros in front, which is what an empty cache means; only the resampling layers leave
their time convolution out then. Here they have it, so that one call over the whole clip is the same function:

* encoder: the first frame passes `downsample3d` untouched; the time convolution (3 wide, stride 2, no padding)
  over all frames, the first one included, gives the rest;
* decoder: the first latent frame passes `upsample3d` untouched, and the ones after it start from zeros, not from
  the first frame.

`python -m unittest test_train` compares it with diffusers' own loop.
"""

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders import autoencoder_kl_wan as wan


def _resample(self, x):
    b, c, t, h, w = x.shape
    if self.mode == "upsample3d" and t > 1:
        later = self.time_conv(x[:, :, 1:])
        later = later.unflatten(1, (2, c)).permute(0, 2, 3, 1, 4, 5).reshape(b, c, 2 * (t - 1), h, w)
        x = torch.cat([x[:, :, :1], later], 2)
        t = x.shape[2]
    x = self.resample(x.transpose(1, 2).flatten(0, 1))
    x = x.unflatten(0, (b, t)).transpose(1, 2)
    if self.mode == "downsample3d" and t > 1:
        x = torch.cat([x[:, :, :1], self.time_conv(x)], 2)
    return x


def _conv(self, x, cache_x=None):
    if cache_x is not None:
        raise ValueError("the parallel forward has no cache")
    _, width, _, height, front, _ = self._padding
    if front:
        x = torch.cat([x.new_zeros(x.shape[0], x.shape[1], front, *x.shape[3:]), x], 2)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    return F.conv3d(x, self.weight, self.bias, self.stride, (0, height, width))


def _norm_of(x, gain):
    # x / |x| * gain over the last axis, summed in f32.
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().sum(1, keepdim=True) + 1e-12) * gain).to(x.dtype)


def _norm_silu_of(x, gain):
    return F.silu(_norm_of(x, gain))


torch._dynamo.config.recompile_limit = 64  # whole or cut batches, with and without gradients

# Half of an uncompiled step's time goes into these few elementwise passes.
_norm_fused = torch.compile(_norm_of, dynamic=True)
_norm_silu_fused = torch.compile(_norm_silu_of, dynamic=True)


def _rows(function, norm, x):
    # As rows of channels, so that one compiled function fits every shape.
    last = x.movedim(1, -1)
    rows = last.reshape(-1, last.shape[-1])
    return function(rows, (norm.gamma * norm.scale).flatten()).view(last.shape).movedim(-1, 1)


def _norm(self, x):
    return _rows(_norm_fused, self, x)


def _block(self, x, feat_cache=None, feat_idx=None):
    y = self.conv1(_rows(_norm_silu_fused, self.norm1, x))
    return self.conv2(_rows(_norm_silu_fused, self.norm2, y)) + self.conv_shortcut(x)


class parallel:
    """While active (`with parallel():`), Wan's VAE layers work on whole clips and take no cache."""

    _new = ((wan.WanResample, _resample), (wan.WanCausalConv3d, _conv), (wan.WanRMS_norm, _norm),
            (wan.WanResidualBlock, _block))

    def __enter__(self):
        self._old = [(cls, cls.forward) for cls, _ in self._new]
        for cls, forward in self._new:
            cls.forward = forward

    def __exit__(self, *_):
        for cls, forward in self._old:
            cls.forward = forward


def encode(vae, x):
    """Clips [B, 3, 1+4n, H, W] -> mean and log variance, each [B, z, 1+n, H/8, W/8]; inside `parallel()`."""
    mean, logvar = vae.quant_conv(vae.encoder(x)).float().chunk(2, 1)
    return mean, logvar.clamp(-30, 20)


def decode(vae, z):
    """Latents [B, z, 1+n, h, w] -> clips [B, 3, 1+4n, 8h, 8w], unclamped; inside `parallel()`."""
    return vae.decoder(vae.post_quant_conv(z)).float()
