"""Runs with known frames: WanImageToVideoPipeline and WanPipeline with `expand_timesteps`, on pipelines b, c and d, and as it is on e, f and g."""

import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image

from . import pipelines
from .configs import CONFIGS
from .metrics import relative
from .prompts import PROMPTS
from .schedulers import scheduler
from .store import Store

# pipeline, prompt, negative, (width, height, frames), steps, guidance, sampler, shift, seed, known frames: {first: (count, width, height)}
CASES = [
    ("b", "plain", "empty", (48, 32, 9), 3, 5.0, None, None, 3, {0: (1, 48, 32)}),
    ("b", "chinese", "negative", (32, 48, 5), 6, 4.0, "unipc-wan", 3.0, 5, {0: (1, 77, 41)}),
    ("c", "plain", "empty", (32, 32, 17), 3, 1.0, None, None, 6, {0: (1, 19, 130)}),
    ("c", "long", "negative", (48, 32, 1), 2, 3.0, "unipc", None, 7, {0: (1, 48, 32)}),
    ("b", "plain", "empty", (32, 32, 5), 3, 5.0, None, None, 8, {}),
    ("b", "emoji", "empty", (32, 32, 13), 3, 5.0, None, None, 9, {0: (5, 32, 32)}),
    ("c", "plain", "negative", (32, 16, 13), 4, 5.0, "unipc", 4.0, 10, {0: (1, 32, 16), 12: (1, 50, 40)}),
    ("b", "long", "empty", (16, 32, 17), 3, 2.0, "euler", None, 11, {6: (4, 16, 32), 13: (4, 16, 32)}),
    ("d", "plain", "empty", (64, 32, 9), 3, 5.0, None, None, 12, {}),
    ("d", "chinese", "negative", (32, 64, 9), 4, 3.0, None, None, 13, {0: (1, 100, 90)}),
    ("d", "emoji", "empty", (32, 32, 17), 3, 5.0, "unipc-wan", 8.0, 14, {0: (5, 32, 32), 16: (1, 64, 64)}),
    ("e", "plain", "empty", (48, 32, 9), 4, 5.0, None, None, 15, {0: (1, 60, 50)}),
    ("e", "chinese", "negative", (32, 48, 13), 5, 3.0, "unipc-wan", 8.0, 16, {0: (1, 32, 48), 12: (1, 30, 30)}),
    ("e", "emoji", "empty", (32, 32, 1), 4, 1.0, None, None, 17, {0: (1, 32, 32)}),
    ("e", "long", "empty", (32, 32, 13), 3, 4.0, "euler", None, 18, {0: (3, 32, 32), 7: (2, 20, 20)}),
    ("f", "plain", "negative", (48, 32, 9), 4, 5.0, None, None, 19, {0: (1, 70, 45)}),
    ("f", "chinese", "empty", (32, 32, 5), 3, 1.0, None, None, 20, {0: (1, 20, 33)}),
    ("f", "emoji", "empty", (32, 48, 13), 3, 3.0, "unipc-wan", 8.0, 21, {0: (1, 32, 48), 12: (1, 51, 40)}),
    ("f", "long", "negative", (32, 32, 9), 3, 4.0, "euler", None, 22, {3: (2, 40, 40)}),
    ("g", "plain", "empty", (48, 32, 9), 4, 5.0, None, None, 23, {0: (1, 48, 32), 8: (1, 61, 29)}),
    ("g", "chinese", "negative", (32, 32, 5), 3, 1.0, None, None, 24, {0: (1, 30, 30), 4: (1, 9, 90)}),
    ("g", "emoji", "negative", (32, 48, 13), 3, 6.0, "unipc", 3.0, 25, {0: (5, 32, 32), 12: (1, 24, 24)}),
]

ABOUT = """\
As pipelines.json, with `expand_timesteps` true. known[]: `start`, `count`, `width`, `height` of frames that are given: f16 KEY.known.START
[count, height, width, 3] in 0..255; another size than the video's is resized by the pipeline's video processor.
Without known frames: WanPipeline. With the first alone: WanImageToVideoPipeline(image=PIL.Image). Other sets: the same pipeline, whose
prepare_latents gives, as its condition, the latents of a video in which every frame shows the nearest known one (the earlier of two),
and, as its mask, 0 for the latent frames with any known frame. Pipeline e has no timestep for every token: the picture comes in
further channels, the last frame is diffusers' `last_image`, and for other sets prepare_latents does with any frames, grey where nothing is
known, what it does with these. So with pipelines f and g, of whose known frames CLIP sees the first (f), or the first and the last (g)."""


def picture(width: int, height: int, generator: torch.Generator) -> torch.Tensor:
    """A smooth random picture [height, width, 3], u8."""
    coarse = torch.rand((1, 3, 4, 4), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return (fine[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8)


def resized(pipe, picture: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """[1, 3, 1, height, width] in -1..1, by the pipeline's own processor."""
    return pipe.video_processor.preprocess(Image.fromarray(picture.numpy()), height=height, width=width).unsqueeze(2)


class KnownPipeline(WanImageToVideoPipeline):
    """WanImageToVideoPipeline whose known frames are `self.known`: {frame: picture}."""

    def prepare_latents(self, image, batch_size, channels, height, width, num_frames, dtype, device, generator, latents=None, last_image=None):
        def nearest(frame):
            return self.known[min(self.known, key=lambda at: (abs(at - frame), at))]

        video = torch.cat([resized(self, nearest(frame), width, height) for frame in range(num_frames)], 2)
        if not self.config.expand_timesteps:
            grey = torch.zeros(1, 3, 1, height, width)
            video = torch.cat([resized(self, self.known[i], width, height) if i in self.known else grey for i in range(num_frames)], 2)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (self.vae.config.latents_mean, self.vae.config.latents_std))
        condition = (self.vae.encode(video).latent_dist.mode() - mean) * (1.0 / std)
        if latents is None:
            latents = torch.randn(condition.shape, generator=generator)
        if not self.config.expand_timesteps:
            shown = torch.tensor([float(i in self.known) for i in range(num_frames)])
            shown = torch.cat([shown[:1].repeat(4), shown[1:]]).view(-1, 4).T.reshape(1, 4, -1, 1, 1)
            return latents, torch.cat([shown.expand(-1, -1, -1, *condition.shape[3:]), condition], 1)
        mask = torch.ones(1, 1, *condition.shape[2:])
        for frame in self.known:
            mask[:, :, (frame + 3) // 4] = 0
        return latents, condition, mask


def parts(pipe) -> dict:
    found = {name: getattr(pipe, name) for name in ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")}
    if getattr(pipe, "image_encoder", None):
        found |= {"image_encoder": pipe.image_encoder, "image_processor": pipe.image_processor}
    if pipe.config.boundary_ratio is not None:
        found |= {"transformer_2": pipe.transformer_2, "boundary_ratio": pipe.config.boundary_ratio}
    return found


def make(store: Store) -> None:
    tensors, cases = {}, []
    for number, (name, prompt, negative, (width, height, frames), steps, guidance, sampler, shift, seed, known) in enumerate(CASES):
        config = CONFIGS[name]
        key = f"{number:02}_{name}_{prompt}"
        case = {"key": key, "pipeline": name, "prompt": PROMPTS[prompt], "negative": PROMPTS[negative]}
        case |= {"width": width, "height": height, "frames": frames, "steps": steps, "guidance": guidance, "seed": seed}
        case |= {"sampler": sampler or config.sampler, "shift": shift or config.shift, "given": {"sampler": sampler, "shift": shift}}
        case["known"] = [{"start": start, "count": c, "width": w, "height": h} for start, (c, w, h) in known.items()]
        plain = pipelines.load(store.root, name)
        if sampler or shift:
            plain.scheduler = scheduler(case["sampler"], case["shift"])
        generator = torch.Generator("cpu").manual_seed(seed)
        shown = {}
        for start, (count, w, h) in known.items():
            pictures = torch.stack([picture(w, h, generator) for _ in range(count)])
            tensors[f"{key}.known.{start}"] = pictures.half()  # whole numbers to 255 are exact
            shown |= {start + i: pictures[i] for i in range(count)}
        expand = not config.image
        if not shown:
            pipe, given = WanPipeline(**parts(plain), expand_timesteps=True), {}
        else:
            given = {"image": Image.fromarray(shown[min(shown)].numpy())}
            sees_one = config.clip and "pos_embed_seq_len" not in config.transformer
            ends = {0, frames - 1} if config.image and not sees_one else {0}
            kind = WanImageToVideoPipeline if set(shown) in ({0}, ends) else KnownPipeline
            pipe = kind(**parts(plain), expand_timesteps=expand)
            pipe.known = shown
            if len(shown) > 1 and (kind is WanImageToVideoPipeline or (config.clip and not sees_one)):
                given["last_image"] = Image.fromarray(shown[max(shown)].numpy())
        pipe.set_progress_bar_config(disable=True)

        def call(output_type: str, latents=None):
            out = pipe(
                prompt=case["prompt"], negative_prompt=case["negative"], height=height, width=width, num_frames=frames,
                num_inference_steps=steps, guidance_scale=guidance, generator=torch.Generator("cpu").manual_seed(seed),
                latents=latents, output_type=output_type, **given,
            ).frames  # fmt: skip
            return out if output_type == "latent" else out[0].permute(0, 2, 3, 1)

        latents, pixels = call("latent"), call("pt")
        assert torch.isfinite(latents).all() and latents.dtype == torch.float32
        noise = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(seed))
        change = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(1))
        case["amplification"] = round(relative(latents, call("latent", noise * (1 + 1e-5 * change))) / 1e-5, 2)
        tensors[f"{key}.latents"], tensors[f"{key}.frames"] = latents, pixels.half()
        cases.append(case)
        print(f"{key}: amplification {case['amplification']}", flush=True)
    store.save("known", {"about": ABOUT.split("\n"), "cases": cases}, tensors)
