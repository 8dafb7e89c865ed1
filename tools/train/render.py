"""Scenes -> pixels, a batch of one size at a time, on any device."""

import math
import os

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

import backdrops
from scenes import FPS, FULL
from things import BACKGROUNDS, MOTION, THINGS

# Debian: fonts-noto-color-emoji.
FONT = os.environ.get("TRAIN_FONT", "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
TEXTURE = 128  # pixels a side of the finest drawing
LEVELS = [128, 91, 64, 45, 32, 23, 16, 11]  # and of the coarser ones, each 1/sqrt(2) of the last


def drawn():
    """The things from the font, as one picture with a row for each: premultiplied RGBA, each as large as fits."""
    emoji = ImageFont.truetype(FONT, 109)  # the one size that the font's bitmaps have
    column = Image.new("RGBa", (TEXTURE, TEXTURE * len(THINGS)))
    for i, thing in enumerate(THINGS):
        picture = Image.new("RGBA", (220, 220))
        ImageDraw.Draw(picture).text((30, 30), thing.emoji, font=emoji, embedded_color=True)
        picture = picture.crop(picture.getbbox())
        scale = (TEXTURE - 6) / max(picture.size)
        picture = picture.convert("RGBa").resize([round(s * scale) for s in picture.size], Image.LANCZOS)
        column.paste(picture, ((TEXTURE - picture.width) // 2, i * TEXTURE + (TEXTURE - picture.height) // 2))
    return Image.frombytes("RGBA", column.size, column.tobytes())


def drawings(kept):
    """[things, 4, 128, 128] in 0..1, premultiplied; from the file `kept` where there is one (a machine without the font
    can do with it), else from the font and into that file."""
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        new = kept.with_suffix(f".{os.getpid()}.png")
        drawn().save(new)
        os.replace(new, kept)
    raw = torch.frombuffer(bytearray(Image.open(kept).tobytes()), dtype=torch.uint8)
    return raw.view(len(THINGS), TEXTURE, TEXTURE, 4).permute(0, 3, 1, 2).float() / 255


class Renderer:
    """Holds the drawings at all levels on a device."""

    def __init__(self, device, atlas):
        self.device = torch.device(device)
        levels = [F.interpolate(atlas, size=(s, s), mode="area") if s < TEXTURE else atlas for s in LEVELS]
        self.levels = [level.to(self.device) for level in levels]

    @torch.no_grad()
    def __call__(self, scenes, window=None):
        """Scenes of one size and length -> clips f32 [B, 3, T, H, W] in -1..1.

        `window`: (width, height) and one (left, top) a scene: only that part of the picture.
        """
        first = scenes[0]
        width, height, frames = first.width, first.height, first.frames
        short = min(width, height)
        left = torch.zeros(len(scenes), device=self.device)
        top = left.clone()
        w, h = width, height
        if window:
            (w, h), corners = window
            left, top = torch.tensor(corners, dtype=torch.float32, device=self.device).unbind(1)
        # Places of the pixels' middles on the screen [B, W] and [B, H].
        x = (torch.arange(w, device=self.device) + 0.5 + left.view(-1, 1) - width / 2) / short
        y = (torch.arange(h, device=self.device) + 0.5 + top.view(-1, 1) - height / 2) / short
        frame = torch.arange(frames, dtype=torch.float32, device=self.device)
        cut = torch.tensor([s.cut or 10**6 for s in scenes], device=self.device).view(-1, 1)
        shot = (frame >= cut).long()  # [B, T]
        pan, zoom = self._camera(scenes, frame)
        pan, zoom = pan.view(-1, 1, frames, 1, 1), zoom.view(-1, 1, frames, 1, 1)
        world_x = x.view(-1, 1, 1, 1, w) / zoom + pan
        world_y = y.view(-1, 1, 1, h, 1) / zoom
        seconds = ((frame - shot * cut) / FPS).view(-1, 1, frames, 1, 1)
        canvas = torch.zeros(len(scenes), 3, frames, h, w, device=self.device)
        self._backgrounds(canvas, scenes, shot, world_x, world_y, height / short / 2, seconds, short * zoom)
        self._actors(canvas, scenes, shot, frame, x, y, pan.flatten(1), zoom.flatten(1), short)
        self._air(canvas, scenes, x, y, height / short / 2, frame, short)
        return canvas.clamp_(0, 1).mul_(2).sub_(1)

    @torch.no_grad()
    def presence(self, scenes, cell=8):
        """Where things are: [B, T, H / cell, W / cell], true for cells whose middle is inside the box of one that shows."""
        first = scenes[0]
        width, height, short = first.width, first.height, min(first.width, first.height)
        frame = torch.arange(first.frames, dtype=torch.float32, device=self.device)
        x = ((torch.arange(width // cell, device=self.device) + 0.5) * cell - width / 2) / short
        y = ((torch.arange(height // cell, device=self.device) + 0.5) * cell - height / 2) / short
        pan, zoom = self._camera(scenes, frame)
        _, cx, cy, size, _, alpha, _ = self._paths(scenes, frame)
        cx, cy, size = (cx - pan.unsqueeze(1)) * zoom.unsqueeze(1), cy * zoom.unsqueeze(1), size * zoom.unsqueeze(1)
        box = lambda v: v.unsqueeze(-1).unsqueeze(-1)
        reach = box(size / 2 + cell / short / 2)
        inside = ((x - box(cx)).abs() < reach) & ((y.unsqueeze(-1) - box(cy)).abs() < reach) & (box(alpha) > 0.1)
        return inside.any(1)

    def _rows(self, rows):
        return torch.tensor(rows, dtype=torch.float32, device=self.device)

    def _camera(self, scenes, frame):
        """Where the camera looks (x) and how near it is, [B, T] each. It moves over the whole clip."""
        share = (frame / max(FULL - 1, len(frame) - 1)).unsqueeze(0)
        shots = [s.shots[0] for s in scenes]
        side = self._rows([{"pan left": -1, "pan right": 1}.get(s.camera, 0) * s.amount for s in shots])
        near = self._rows([{"zoom in": 1, "zoom out": -1}.get(s.camera, 0) * s.amount for s in shots])
        pan = side.unsqueeze(1) * (share - 0.5)
        return pan, torch.exp(near.unsqueeze(1) * (share - 0.5))

    def _backgrounds(self, canvas, scenes, shot, x, y, half, seconds, pixels):
        groups = {}
        for i, s in enumerate(scenes):
            for k, one in enumerate(s.shots):
                groups.setdefault(one.background, []).append((i, k, one.seed))
        for background, members in groups.items():
            rows = torch.tensor([i for i, _, _ in members], device=self.device)
            which = torch.tensor([k for _, k, _ in members], device=self.device).view(-1, 1)
            seed = self._rows([s for _, _, s in members])
            view = backdrops.View(x[rows], y[rows], half, seconds[rows], seed, pixels[rows])
            drawn = getattr(backdrops, BACKGROUNDS[background].name)(view)
            here = (shot[rows] == which).view(len(members), 1, -1, 1, 1)
            # A scene of two shots is in two groups, so what is not this shot's stays.
            canvas.index_add_(0, rows, (drawn * here).expand(-1, 3, *canvas.shape[2:]).contiguous())

    def _paths(self, scenes, frame):
        """Every actor's thing, place, size, angle, alpha: [B, S, T], alpha 0 where there is none."""
        slots = max(len(s.actors) for s in scenes)
        rows = []
        for s in scenes:
            for slot in range(slots):
                if slot >= len(s.actors):
                    rows.append([0.0] * 15)
                    continue
                a = s.actors[slot]
                start = s.cut if a.shot else 0
                end = s.cut if s.cut and not a.shot else s.frames
                length = max(end - start, FULL) if not s.cut else end - start
                rows.append([1, a.thing, a.motion, a.size, a.x, a.y, a.reach, a.rate, a.phase, a.flip, start, end,
                             length, a.there_and_back, 0])
        p = self._rows(rows).view(len(scenes), slots, 15, 1).unbind(2)
        present, thing, motion, size, x, y, reach, rate, phase, flip, start, end, length, back, _ = p
        local = frame.view(1, 1, -1) - start
        u = (local / (length - 1)).clamp(0, 1)
        seconds = local / FPS
        is_ = lambda name: (motion == MOTION[name]).float()
        way = 2 * u - 1  # -1..1 over the clip
        angle = is_("spin") * 2 * math.pi * rate * seconds
        turn = 2 * math.pi * (rate * seconds + phase)
        dx = reach * (is_("right") * way - is_("left") * way + is_("circle") * torch.cos(turn))
        dy = reach * (is_("down") * way - is_("up") * way + is_("circle") * torch.sin(turn))
        dy = dy - is_("bounce") * reach * torch.sin(math.pi * rate * seconds).abs()
        # From wholly outside (reach above the middle) to y, faster and faster, in 1.4 s; then it lies there.
        drop = (seconds / 1.4).clamp(0, 1).square()
        dy = dy + is_("fall") * (1 - drop) * (-reach - y)
        # Behind the other and out again: slow there, since there is nothing to see.
        across = way * rate
        returning = torch.where(u < 0.5, 1 - 2 * u, 2 * u - 1) * rate
        dx = dx + is_("hide") * reach * torch.where(back > 0, returning, across)
        scale = 1 - is_("grow") * (1 - u) * 0.58 - is_("shrink") * u * 0.58
        appear = ((u - 0.2) / 0.4).clamp(0, 1)
        alpha = torch.where(motion == MOTION["appear"], appear, torch.ones_like(u))
        alpha = alpha * present * (local >= 0) * (frame.view(1, 1, -1) < end)
        return thing.expand_as(u).long(), x + dx, y + dy, size * scale, angle, alpha, flip.expand_as(u)

    def _actors(self, canvas, scenes, shot, frame, x, y, pan, zoom, short):
        thing, cx, cy, size, angle, alpha, flip = self._paths(scenes, frame)
        # To the screen: the camera moves everything.
        cx = (cx - pan.unsqueeze(1)) * zoom.unsqueeze(1)
        cy = cy * zoom.unsqueeze(1)
        size = size * zoom.unsqueeze(1) * TEXTURE / (TEXTURE - 6)
        # Wholly outside the window: nothing to draw.
        near = (cx - x.mean(1).view(-1, 1, 1)).abs() < size * 0.75 + (x[0, -1] - x[0, 0]) / 2
        near &= (cy - y.mean(1).view(-1, 1, 1)).abs() < size * 0.75 + (y[0, -1] - y[0, 0]) / 2
        level = torch.floor(2 * torch.log2(TEXTURE / (size * short)).clamp(min=0)).long()
        level = level.clamp(0, len(LEVELS) - 1)
        level = torch.where((alpha > 0) & near, level, -1)
        for slot in range(thing.shape[1]):
            used = level[:, slot].unique().tolist()
            for k in used:
                if k < 0:
                    continue
                b, t = (level[:, slot] == k).nonzero(as_tuple=True)
                pick = lambda v: v[b, slot, t].view(-1, 1, 1)
                du = (x[b].unsqueeze(1) - pick(cx)) / (pick(size) / 2)
                dv = (y[b].unsqueeze(2) - pick(cy)) / (pick(size) / 2)
                c, s = torch.cos(pick(angle)), torch.sin(pick(angle))
                u, v = c * du + s * dv, c * dv - s * du
                u = u * (1 - 2 * pick(flip))
                texture = self.levels[k][thing[b, slot, t]]
                found = F.grid_sample(texture, torch.stack([u, v], -1), align_corners=False)
                found = found * alpha[b, slot, t].view(-1, 1, 1, 1)
                under = canvas[b, :, t]
                canvas[b, :, t] = found[:, :3] + under * (1 - found[:, 3:])

    def _air(self, canvas, scenes, x, y, half, frame, short):
        """Light and weather, over everything."""
        frames, device = len(frame), self.device
        share = frame / max(FULL - 1, frames - 1)
        for kind in ("dawn", "dusk"):
            rows = [i for i, s in enumerate(scenes) if s.shots[0].light == kind]
            if rows:
                dark = 1 - share if kind == "dawn" else share
                gain = backdrops.light(kind, dark).t().reshape(1, 3, frames, 1, 1)
                canvas[rows] = canvas[rows] * gain
        for kind in ("rain", "snow"):
            rows = [i for i, s in enumerate(scenes) if s.shots[0].weather == kind]
            if rows:
                seed = self._rows([scenes[i].shots[0].seed for i in rows])
                seconds = (frame / FPS).view(1, 1, -1, 1, 1).expand(len(rows), -1, -1, -1, -1)
                pixels = torch.full((1, 1, 1, 1, 1), float(short), device=device)
                view = backdrops.View(
                    x[rows].view(len(rows), 1, 1, 1, -1), y[rows].view(len(rows), 1, 1, -1, 1), half, seconds, seed, pixels
                )
                colour = view.colour("dce8f5" if kind == "rain" else "ffffff")
                canvas[rows] = backdrops.mix(canvas[rows], colour, getattr(backdrops, kind)(view))
