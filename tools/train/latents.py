"""Scenes as whitened latents with their captions, and which of their frames are given.

A pool holds the clips of every bucket (width, height, frames). Where the device renders and encodes fast, some of it is
replaced before every step; else it is made once and kept in a file.
"""

import functools
import multiprocessing
import random

import torch

import captions
import run
import text
import vae as vae_stage
import vae_parallel
import world

TOKENS = 48  # rows for a caption, its end included
KINDS = ("none", "first", "prefix", "last", "both", "suffix", "random")
CAUSAL = ("none", "first", "prefix")  # a causal encoder makes of these what it makes of the whole clip


def encode(vae, clips):
    """Clips [B, 3, T, H, W] -> latent means, not whitened."""
    with torch.no_grad(), run.autocast(), vae_parallel.parallel():
        return vae_parallel.encode(vae, clips)[0]


def decode(vae, whitened):
    """Whitened latents -> clips [B, 3, T, H, W] in -1..1, on the CPU."""
    like = lambda x: torch.tensor(x, device=whitened.device).view(1, -1, 1, 1, 1)
    z = whitened.float() * like(vae.config.latents_std) + like(vae.config.latents_mean)
    with torch.no_grad(), run.autocast(), vae_parallel.parallel():
        return torch.cat([vae_parallel.decode(vae, part).clamp(-1, 1).cpu() for part in z.split(8)])


def known_frames(kind, frames, rng):
    """Which pixel frames of a clip are given: booleans."""
    if kind == "none" or frames == 1:
        return [False] * frames
    if kind == "first":
        return [i == 0 for i in range(frames)]
    if kind == "last":
        return [i == frames - 1 for i in range(frames)]
    if kind == "both":
        return [i in (0, frames - 1) for i in range(frames)]
    if kind == "prefix":  # whole latent frames, at least the first two and not all
        count = 1 + 4 * rng.randint(1, max(1, (frames - 1) // 4 - 1))
        return [i < count for i in range(frames)]
    if kind == "suffix":
        count = rng.randint(2, max(2, frames - 5))
        return [i >= frames - count for i in range(frames)]
    some = set(rng.sample(range(frames), rng.randint(1, 3)))
    return [i in some for i in range(frames)]


def latent_known(frames):
    """A latent frame counts as given when any of its pixel frames is."""
    return [frames[0]] + [any(frames[i : i + 4]) for i in range(1, len(frames), 4)]


def filled(clips, known):
    """Clips [B, 3, T, H, W] as the engine fills them: an unknown frame holds the nearest known one, the earlier of two
    as near. `known`: [B][T]."""
    rows = []
    for row in known:
        at = [i for i, k in enumerate(row) if k]
        rows.append([min(at, key=lambda j: abs(j - i)) if at else i for i in range(len(row))])
    index = torch.tensor(rows, device=clips.device)
    return torch.stack([clip[:, picked] for clip, picked in zip(clips, index)])


def token_rows(tokenizer, said):
    """Captions -> ids int16 [N, TOKENS], zero after the end."""
    ids = torch.zeros(len(said), TOKENS, dtype=torch.int16)
    for row, caption in zip(ids, said):
        found = tokenizer.encode(caption).ids
        if len(found) > TOKENS:  # what a user types may be longer; no caption of the theatre's is
            found = found[: TOKENS - 1] + found[-1:]
        row[: len(found)] = torch.tensor(found, dtype=torch.int16)
    return ids


def draw(job):
    """Scenes of a bucket with captions and one set of known frames each that needs an encoding of its own."""
    key, bucket, count = job
    rng, c = random.Random(key), run.config("latents")
    made = world.batch(rng, count, bucket[:2], bucket[2])
    tokenizer = _tokenizer()
    said = [captions.caption(rng, s) for s in made for _ in range(c["captions"])]
    kinds = [k for k in KINDS if k not in CAUSAL]
    known = [known_frames(rng.choice(kinds), bucket[2], rng) for _ in made]
    ids = token_rows(tokenizer, said).view(count, c["captions"], TOKENS)
    return made, ids.numpy(), known


_made = []


def _tokenizer():
    if not _made:
        _made.append(text.tokenizer())
    return _made[0]


def encoded(vae, drawn, own):
    """(latents, latents as given, which of these are given, captions' ids, where things are) of drawn scenes, none
    whitened; `own` is the share of clips that get the second encoding, the others have zeros there and nothing given."""
    made, ids, known = drawn
    clips = world.clips(made)
    x = encode(vae, clips)
    given = torch.zeros(len(made), x.shape[2], dtype=torch.bool, device=x.device)
    held = torch.zeros_like(x)
    count = round(own * len(made)) if clips.shape[2] > 1 else 0
    if count:
        held[:count] = encode(vae, filled(clips[:count], known[:count]))
        given[:count] = torch.tensor([latent_known(k) for k in known[:count]], device=x.device)
    there = world.renderer().presence(made)
    later = there[:, 1:].unflatten(1, (-1, 4)).any(2) if there.shape[1] > 1 else there[:, 1:]
    return x, held, given, torch.from_numpy(ids).to(x.device), torch.cat([there[:, :1], later], 1)


class Source:
    """Drawn batches of a bucket, in an order fixed by the seed, made ahead by other processes where there are some."""

    def __init__(self, salt, processes):
        self.salt, self.count = salt, 0
        self.pool = multiprocessing.get_context("spawn").Pool(processes) if processes else None

    def jobs(self, buckets, count):
        """Yields (bucket number, drawn) for each of the buckets asked for, in order."""
        seed = run.config("seed")
        listed = [(i, (f"{seed} {self.salt} {self.count + n}", tuple(b), count(b))) for n, (i, b) in enumerate(buckets)]
        self.count += len(listed)
        each = self.pool.imap(draw, [job for _, job in listed]) if self.pool else (draw(job) for _, job in listed)
        for (i, _), drawn in zip(listed, each):
            yield i, drawn


class Pool:
    """The clips of all buckets on the device, whitened, in f16 (bf16 on a GPU would lose more than it saves)."""

    def __init__(self, vae, source):
        self.c, self.vae, self.source = run.config("latents"), vae, source
        self.buckets = self.c["buckets"]  # [width, height, frames, clips, weight]
        self.parts, self.at = [None] * len(self.buckets), [0] * len(self.buckets)

    def _round(self, bucket):
        """Clips encoded at once."""
        return max(1, round(self.c["pixels"] / (bucket[0] * bucket[1] * bucket[2])))

    def fill(self, share=1.0, offset=0.0):
        """Makes that part of every bucket, unwhitened."""
        wanted = []
        for i, b in enumerate(self.buckets):
            rounds = max(1, round(b[3] * share / self._round(b)))
            wanted += [((n + offset) / rounds, i) for n in range(rounds)]
        found = [[] for _ in self.buckets]
        order = [(i, self.buckets[i]) for _, i in sorted(wanted)]
        for n, (i, drawn) in enumerate(self.source.jobs(order, self._round)):
            x, held, *rest = encoded(self.vae, drawn, self.c["own"])
            found[i].append((x.half(), held.half(), *rest))
            if n % 100 == 0:
                run.log("latents", rounds=n, of=len(order))
        self.parts = [[torch.cat(column) for column in zip(*rows)] for rows in found]

    def statistics(self):
        """Mean and spread of each channel over all latents, every bucket as much as its weight."""
        weight = torch.tensor([b[4] for b in self.buckets], dtype=torch.float64)
        weight = weight / weight.sum()
        rows = [p[0].float().transpose(0, 1).flatten(1).double() for p in self.parts]
        mean = sum(w * r.mean(1).cpu() for w, r in zip(weight, rows))
        square = sum(w * r.square().mean(1).cpu() for w, r in zip(weight, rows))
        return mean.float(), (square - mean.square()).sqrt().float()

    def whiten(self, mean, std):
        self.mean, self.std = (v.view(1, -1, 1, 1, 1).to(run.device()) for v in (mean, std))
        for p in self.parts:
            p[0], p[1] = (((v.float() - self.mean) / self.std).half() for v in p[:2])

    def refresh(self, rng, rounds):
        """Replaces the oldest clips by new ones, `rounds` times."""
        weights = [b[3] for b in self.buckets]
        picked = rng.choices(range(len(self.buckets)), weights, k=rounds)
        for i, drawn in self.source.jobs([(i, self.buckets[i]) for i in picked], self._round):
            x, held, *rest = encoded(self.vae, drawn, self.c["own"])
            new = ((x - self.mean) / self.std, (held - self.mean) / self.std, *rest)
            size = len(self.parts[i][0])
            where = (torch.arange(len(x)) + self.at[i]) % size
            for old, part in zip(self.parts[i], new):
                old[where.to(old.device)] = part.to(old.device, old.dtype)
            self.at[i] = (self.at[i] + len(x)) % size

    def sample(self, shared, rng, tokens, known):
        """A batch of about `tokens` of the transformer's tokens of one bucket: latents, latents as given, which are
        given [B, T], ids, where things are [B, T, h, w]. `known`: whether frames are given (else none are)."""
        fit = [i for i, b in enumerate(self.buckets) if b[2] > 1 or not known]
        i = shared.choices(fit, [self.buckets[i][4] for i in fit])[0]
        x, held, given, ids, there = self.parts[i]
        t, h, w = x.shape[2:]
        count = max(1, round(tokens / (t * (h // 2) * (w // 2))))
        rows = torch.tensor([rng.randrange(len(x)) for _ in range(count)], device=x.device)
        which = torch.tensor([rng.randrange(ids.shape[1]) for _ in range(count)], device=x.device)
        x, held, given, ids, there = x[rows].float(), held[rows].float(), given[rows], ids[rows, which], there[rows]
        if not known:
            return x, x, torch.zeros_like(given), ids, there
        # Where a clip has no encoding of its own for what is given, its beginning is.
        causal = []
        for _ in range(count):
            kind = rng.choice(("first", "first", "prefix"))
            causal.append(latent_known(known_frames(kind, 1 + 4 * (t - 1), rng)))
        causal = torch.tensor(causal, device=x.device)
        bare = ~given.any(1)
        held = torch.where(bare.view(-1, 1, 1, 1, 1), x, held)
        given = torch.where(bare.view(-1, 1), causal, given)
        given[given.all(1), 1:] = False  # in short clips everything can be given: something has to be left to do
        return x, held, given, ids, there


def empty_row(ids):
    """The ids of the empty caption: its end alone."""
    row = torch.zeros_like(ids)
    row[:, 0] = 1
    return row


def made_part(part):
    return run.OUT / f"latents-{part}.pt"


def make():
    """One worker's share of the pool, unwhitened, into a file of its own; nothing where that is there."""
    part = run.rank()
    if made_part(part).exists():
        return
    pool = Pool(vae_stage.trained(), Source(f"pool {part}", run.config("latents")["processes"]))
    pool.fill(1 / run.config("workers"), part / run.config("workers"))
    torch.save(pool.parts, made_part(part))


def whitened(vae):
    """The VAE with the latents' means and spreads in its configuration."""
    mean, std = torch.load(run.OUT / "whitening.pt")
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    return vae


@functools.cache
def ready():
    """The VAE and the pool for a worker: from the files where clips are made once, else made here."""
    c, vae = run.config("latents"), vae_stage.trained()
    pool = Pool(vae, Source("fresh", c["processes"]))
    if c["keep"]:
        files = [torch.load(made_part(i), map_location=run.device()) for i in range(run.config("workers"))]
        pool.parts = [[torch.cat(column) for column in zip(*rows)] for rows in zip(*files)]
    else:
        pool.fill()
    file = run.OUT / "whitening.pt"
    if not file.exists() and run.rank() == 0:
        # Weights that are gone on with know their latents whitened as they were.
        config = vae.config
        known = (torch.tensor(config.latents_mean), torch.tensor(config.latents_std)) if run.beginning() else None
        torch.save(known or pool.statistics(), file.with_suffix(".tmp"))
        file.with_suffix(".tmp").rename(file)
    run.wait()
    pool.whiten(*torch.load(file))
    return whitened(vae), pool
