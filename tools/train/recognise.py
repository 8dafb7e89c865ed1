"""Recognisers of things, backgrounds and motions, trained on renderings of the theatre and on nothing else.

Two small networks that know nothing of the generator: one names what single frames show, one how it moves.
"""

import random

import torch
import torch.nn.functional as F
from torch import nn

import run
import scenes
import world
from things import BACKGROUNDS, MOTIONS, THINGS

SEEN = 64  # pixels of the short side that frames are shown at
MOVED = 32  # and clips


def _conv(a, b, stride):
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())


class Frames(nn.Module):
    """Frames [N, 3, H, W] -> one logit for each thing that may be there [N, things], logits of the backgrounds."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            _conv(3, 24, 2), _conv(24, 48, 2), _conv(48, 96, 1), _conv(96, 96, 2), _conv(96, 160, 1),
            _conv(160, 160, 1),
        )
        self.thing = nn.Conv2d(160, len(THINGS), 1)
        self.background = nn.Linear(2 * 160, len(BACKGROUNDS))

    def column(self, x, thing):
        """Where a thing is seen best in frames [N, 3, H, W], from -1 at the left edge to 1 at the right: [N]."""
        found = self.thing(self.body(x))[:, thing].amax(1)
        return (2 * found.argmax(1) + 1) / found.shape[1] - 1

    def forward(self, x):
        x = self.body(x)
        # A thing is where it is; a background is all around.
        things = torch.logsumexp(self.thing(x).flatten(2), 2) - 3.0
        return things, self.background(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


class Clips(nn.Module):
    """Clips [B, 3, T, H, W] -> logits of the motions. Sees where things are, frame by frame, then how that changes."""

    def __init__(self, wide=160):
        super().__init__()
        self.body = nn.Sequential(_conv(8, 32, 2), _conv(32, 32, 1), _conv(32, 64, 2), _conv(64, 48, 1))
        self.frame = nn.Linear(48 * 6 * 6, wide)
        self.time = nn.Sequential(
            nn.Conv1d(wide, wide, 5, padding=2), nn.BatchNorm1d(wide), nn.ReLU(),
            nn.Conv1d(wide, wide, 5, padding=2), nn.BatchNorm1d(wide), nn.ReLU(),
        )
        self.out = nn.Linear(3 * wide, len(MOTIONS))

    def forward(self, x):
        b, _, t, h, w = x.shape
        # What differs from the first frame shows what moves; the rest is background.
        shown = torch.cat([x, x - x[:, :, :1]], 1).transpose(1, 2).flatten(0, 1)
        place = torch.stack(torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij"))
        shown = torch.cat([shown, place.to(x).expand(b * t, -1, -1, -1)], 1)
        y = F.adaptive_avg_pool2d(self.body(shown), 6).flatten(1)
        y = self.time(F.relu(self.frame(y)).view(b, t, -1).transpose(1, 2))
        # Beginning, end, and the most of it anywhere: falling and rising differ by their order.
        return self.out(torch.cat([y.amax(2), y[:, :, : t // 2].mean(2), y[:, :, t // 2 :].mean(2)], 1))


def shown(clips, short):
    """Clips [B, 3, T, H, W] with that short side."""
    b, _, t, h, w = clips.shape
    scale = short / min(h, w)
    size = (max(short, round(h * scale)), max(short, round(w * scale)))
    flat = F.interpolate(clips.transpose(1, 2).flatten(0, 1), size=size, mode="bilinear", antialias=True)
    return flat.unflatten(0, (b, t)).transpose(1, 2)


def _worn(x):
    """A little blur, noise and another brightness, each for some of the batch: generated frames are not quite sharp."""
    shape = (len(x),) + (1,) * (x.dim() - 1)
    small = F.avg_pool3d(F.pad(x, (1, 1, 1, 1, 0, 0), mode="replicate"), (1, 3, 3), 1)
    x = torch.lerp(x, small, torch.rand(shape, device=x.device) * (torch.rand(shape, device=x.device) < 0.6))
    x = x * (0.9 + 0.2 * torch.rand(shape, device=x.device)) + 0.1 * torch.randn(shape, device=x.device)
    return (x + 0.08 * torch.rand(shape, device=x.device) * torch.randn_like(x)).clamp(-1, 1)


def _present(made):
    target = torch.zeros(len(made), len(THINGS))
    for row, s in zip(target, made):
        row[[a.thing for a in s.actors]] = 1
    return target.to(run.device())


def _stored(name, part, fit):
    """The network of that name, trained now or loaded; written beside the other things."""
    file = run.OUT / f"{name}-{run.preset()}.pt"
    part = part.to(run.device())
    if file.exists():
        part.load_state_dict(torch.load(file, map_location=run.device()))
    else:
        fit(part)
        torch.save(part.state_dict(), file)
    return part.eval().requires_grad_(False)


def _fit(part, c, batch_of, loss_of, name):
    optimizer = torch.optim.AdamW(part.parameters(), lr=c["lr"], weight_decay=0.01)
    for step in range(c["steps"]):
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = c["lr"] * min(1, (step + 1) / 50, 3 * (c["steps"] - step) / c["steps"])
        rng = random.Random(f"{name} {step}")
        loss = loss_of(part, *batch_of(rng))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            run.log(name, step=step + 1, loss=round(loss.item(), 4))


def of_frames():
    c = run.config("recognisers")

    def batch_of(rng):
        size = rng.choice(c["sizes"])
        made = world.batch(rng, c["frames"]["batch"], size, 1)
        clips = _worn(shown(world.clips(made), SEEN))[:, :, 0]
        return clips, _present(made), torch.tensor([s.shots[0].background for s in made], device=run.device())

    def loss_of(part, x, things, backgrounds):
        with run.autocast():
            found, where = part(x)
        weight = 1 + 9 * things
        each = F.binary_cross_entropy_with_logits(found.float(), things, weight)
        return each * 4 + F.cross_entropy(where.float(), backgrounds)

    return _stored("frames", Frames(), lambda part: _fit(part, c["frames"], batch_of, loss_of, "frames"))


def of_clips():
    c = run.config("recognisers")

    def batch_of(rng):
        size = rng.choice(c["sizes"])
        small = [16 * max(2, round(side * MOVED / min(size) / 16)) for side in size]
        made = world.batch(rng, c["clips"]["batch"], small, 17, plain=True)
        return _worn(world.clips(made)), torch.tensor([s.label()[2] for s in made], device=run.device())

    def loss_of(part, x, motions):
        with run.autocast():
            return F.cross_entropy(part(x).float(), motions, label_smoothing=0.05)

    return _stored("clips", Clips(), lambda part: _fit(part, c["clips"], batch_of, loss_of, "clips"))


class Recognisers:
    def __init__(self):
        self.frames, self.clips = of_frames(), of_clips()

    def things(self, clips):
        """For each frame the logits of things [B, T, things] and the backgrounds' [B, T, backgrounds]."""
        x = shown(clips.to(run.device()), SEEN)
        with torch.no_grad():
            found = [self.frames(part.transpose(0, 1)) for part in x]
        return torch.stack([f for f, _ in found]).float().cpu(), torch.stack([w for _, w in found]).float().cpu()

    def columns(self, clips, things):
        """Where each clip's thing is in each frame, from -1 at the left edge to 1 at the right: [B, T]."""
        x = shown(clips.to(run.device()), SEEN)
        with torch.no_grad():
            return torch.stack([self.frames.column(c.transpose(0, 1), thing) for c, thing in zip(x, things)]).cpu()

    def read(self, clips, labels):
        """Clips [B, 3, T, H, W] -> for each whether its thing, background and motion are as its label says.

        A thing is right when it scores highest over the frames; the highest but for what it hides behind, where it does.
        """
        things, where = self.things(clips)
        with torch.no_grad():
            motion = torch.cat([self.clips(shown(c[None].to(run.device()), MOVED)).cpu() for c in clips]).argmax(1)
        places = where.softmax(2).mean(1).argmax(1)
        # Where a thing is seen best, rather than on average: some come late, or are hidden for a while.
        best = things.topk(max(1, things.shape[1] // 3), 1).values.mean(1)
        found = []
        for i, (thing, background, move) in enumerate(labels):
            scores = best[i].clone()
            if move == scenes.HIDE:
                scores[scenes.other(thing)] = -1e9
            found.append({
                "thing": scores.argmax().item() == thing,
                "background": places[i].item() == background,
                "motion": motion[i].item() == move,
            })
        return found

    def own(self, count=156):
        """Their accuracy on renderings of held-out combinations, per size."""
        rates = {}
        for size in run.config("recognisers")["sizes"]:
            labels = scenes.HELD_OUT[:count]
            made = world.batch(random.Random(99), count, size, 17, labels, plain=True, prompted=True)
            found = []
            for i in range(0, count, 26):
                found += self.read(world.clips(made[i : i + 26]), labels[i : i + 26])
            rates["x".join(map(str, size))] = share(found)
        return rates


def share(found):
    """Percentages of what was right, `all` for everything at once."""
    if not found:
        return {}
    rates = {k: round(100 * sum(f[k] for f in found) / len(found), 1) for k in found[0]}
    return {**rates, "all": round(100 * sum(all(f.values()) for f in found) / len(found), 1), "of": len(found)}
