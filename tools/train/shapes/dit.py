"""Stage 3: the transformer and the text encoder together, by flow matching on stored latents.

    x_s = (1 - s) x0 + s eps,   target eps - x0,   timestep 1000 s        (arXiv:2210.02747, 2209.03003)
"""

import copy
import math
import time

import torch
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import UMT5Config, UMT5EncoderModel

import latents as latent_stage
import reading
import run
import text
import vae as vae_stage
import vae_parallel
import world

TOKENS = 16  # the longest caption has 15 with its end
PADDED = 512  # what diffusers' Wan pipeline pads text to


class PaddedCrossAttention(WanAttnProcessor):
    """Cross-attention to TOKENS rows and one padding row that stands for all those up to PADDED.

    The padding rows are zeros, so their keys and values are all the same; one of them with ln(count) added to its
    logits is the same function as all of them.
    """

    bias = torch.cat([torch.zeros(TOKENS), torch.tensor([math.log(PADDED - TOKENS)])]).view(1, 1, 1, -1)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        return super().__call__(attn, hidden_states, encoder_hidden_states, self.bias, rotary_emb)


def pad_in_one(transformer, on=True):
    """Switches the transformer between one padding row (`on`) and diffusers' own 512."""
    for block in transformer.blocks:
        block.attn2.set_processor(PaddedCrossAttention() if on else WanAttnProcessor())


def attend_neighbours(encoder):
    """Lets three heads of each text layer look at one neighbour each: the next word, the one before, the second next.

    With the nearly even attention of a fresh encoder a caption is a bag of words, in which "a red circle over a blue
    background" and "a blue circle over a red background" are the same; the position biases that tell them apart
    would take thousands of small steps to grow.
    """
    near = {0: +1, 1: -1, 2: +2}  # head: key position - query position
    for block in encoder.encoder.block:
        bias = block.layer[0].SelfAttention.relative_attention_bias.weight  # [buckets, heads]
        for head, offset in near.items():
            bucket = abs(offset) + (bias.shape[0] // 2 if offset > 0 else 0)
            bias[bucket, head] = 5.0


def models(c, vocabulary):
    encoder = UMT5EncoderModel(UMT5Config(vocab_size=vocabulary, **c["text_encoder"]))
    transformer = WanTransformer3DModel(**c["transformer"])
    # Hundreds of padding rows would drown a dozen words. At first they are silent (all biases on their way are
    # zero), and queries point away from their common key, so that they weigh about as much as the words do.
    with torch.no_grad():
        attend_neighbours(encoder)
        embedder = transformer.condition_embedder.text_embedder
        embedder.linear_1.bias.zero_()
        embedder.linear_2.bias.zero_()
        for block in transformer.blocks:
            sign = torch.randint(0, 2, block.attn2.to_k.bias.shape) * 2.0 - 1
            block.attn2.to_k.bias.copy_(0.02 * sign)
            block.attn2.to_q.bias.copy_(-0.5 * sign)
            block.attn2.to_v.bias.zero_()
        # What goes in comes out: the way through the residual stream is an isometry and its transpose, scaled for
        # the last norm. At much noise that is nearly the answer, since there x is nearly eps.
        enter, leave = transformer.patch_embedding, transformer.proj_out
        torch.nn.init.orthogonal_(enter.weight.view(enter.weight.shape[0], -1))
        size = enter.weight[0].numel()
        back = enter.weight.permute(2, 3, 4, 1, 0).reshape(size, -1)
        leave.weight.copy_(back * (size / len(enter.weight)) ** 0.5)
    return encoder, transformer


def context(tokenizer, encoder, captions):
    """Captions -> text states [B, TOKENS + 1, D], zero after each caption's end and in the last row."""
    ids = torch.zeros(len(captions), TOKENS, dtype=torch.long)
    for row, caption in zip(ids, captions):
        found = tokenizer.encode(caption).ids
        if len(found) > TOKENS:
            raise ValueError(f"{caption!r} has {len(found)} tokens, more than {TOKENS}")
        row[: len(found)] = torch.tensor(found)
    mask = ids.ne(0)
    states = encoder(ids, mask.long()).last_hidden_state * mask.unsqueeze(-1)
    return torch.cat([states, torch.zeros_like(states[:, :1])], 1)


def sample(tokenizer, encoder, transformer, prompts, seed=0, frames=world.FRAMES):
    """Latents as the pipeline makes them: UniPC on the shifted grid, guidance away from the empty caption."""
    c = run.config("sampling")
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=c["shift"], num_train_timesteps=1000
    )
    scheduler.set_timesteps(c["steps"])
    size = world.SIZE // 8
    with torch.no_grad():
        states = context(tokenizer, encoder, prompts)
        empty = context(tokenizer, encoder, [""]).expand_as(states)
        x = torch.stack(
            [
                torch.randn(16, 1 + (frames - 1) // 4, size, size, generator=torch.Generator().manual_seed(seed + i))
                for i in range(len(prompts))
            ]
        )
        for t in scheduler.timesteps:
            both = transformer(torch.cat([x, x]), t.expand(2 * len(x)), torch.cat([states, empty]), return_dict=False)[0]
            with_text, without = both.float().chunk(2)
            x = scheduler.step(without + c["guidance"] * (with_text - without), t, x, return_dict=False)[0]
    return x


def frames_of(vae, latents):
    """Whitened latents -> uint8 clips [B, T, H, W, 3]."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    clips = []
    for z in (latents * std + mean).split(4):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), vae_parallel.parallel():
            clips += [vae_stage.to_bytes(x).byte() for x in vae_parallel.decode(vae, z)]
    return clips


def train():
    """One worker's run."""
    c = run.config("dit")
    vae = vae_stage.trained()
    data = torch.load(run.OUT / "latents.pt")
    latent_stage.whiten(vae, data)
    # Whitening makes faint channels as loud as those that carry the colours; here they count for what they were.
    weight = (data["std"] / data["std"].mean()).view(1, -1, 1, 1, 1)
    tokenizer, encoder, transformer = fresh()
    both = torch.nn.ModuleList([encoder, transformer])
    average = copy.deepcopy(both).requires_grad_(False)
    # The text encoder's attention is unscaled; at the transformer's rate it saturates, and all words become one.
    optimizer = torch.optim.AdamW(
        [
            {"params": list(encoder.parameters()), "share": c["text_lr"]},
            {"params": list(transformer.parameters()), "share": 1.0},
        ],
        lr=c["lr"],
        betas=(0.9, 0.99),
        weight_decay=c["weight_decay"],
    )
    checkpoint = run.Checkpoint("dit", model=both, average=average, optimizer=optimizer)
    step = checkpoint.load()
    run.log(
        "dit",
        step=step,
        text_encoder=sum(p.numel() for p in encoder.parameters()),
        transformer=sum(p.numel() for p in transformer.parameters()),
        latents=len(data["anywhere"][1]) + len(data["middle"][1]),
    )
    asked = run.random.Random(11).sample(world.HELD_OUT, 24)
    began, mean_loss = time.time(), 0.0
    while step < c["steps"]:
        shared, rng = run.step_generators(3, step)
        # First what the words look like, anywhere in the picture; then how it moves, through the middle.
        latents, combinations = data["anywhere" if step < c["anywhere"] else "middle"]
        # Stills teach the words for what is seen, at a fifth of the cost, so every other batch is of them, and
        # twice as large. The first latent frames of a clip are those of the clip cut short: the VAE is causal.
        short = c["short_late"] if step >= c["steps"] - c["decay"] else c["short"]
        length = shared.choice((1, 1, 1, 3)) if shared.random() < short else latents.shape[2]
        batch = c["batch"] // run.config("dit_workers") * (2 if length == 1 else 1)
        picked = rng.sample(range(len(latents)), batch)
        x0 = latents[picked, :, :length].float()
        captions = [
            "" if rng.random() < c["dropout"] else world.caption(combinations[i], rng, 1 + 4 * (length - 1))
            for i in picked
        ]
        u = (torch.randperm(batch) + torch.rand(batch)) / batch  # one in each of `batch` equal parts of 0..1
        s = c["shift"] * u / (1 + (c["shift"] - 1) * u)
        eps = torch.randn_like(x0)
        mix = s.view(-1, 1, 1, 1, 1)
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * run.learning_rate(step, c)
        # The plain form of attention: for 80 tokens the fused one's backward pass costs more than all the rest.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            states = context(tokenizer, encoder, captions)
            v = transformer((1 - mix) * x0 + mix * eps, 1000 * s, states, return_dict=False)[0]
            loss = (weight * (v.float() - (eps - x0)).square()).mean()
            loss.backward()
        run.average_gradients(both.parameters())
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        keep = min(c["average"], (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(both.parameters()), 1 - keep)
        step += 1
        mean_loss += loss.item()
        if step % 100 == 0:
            checkpoint.save(step)
        if step % 50 == 0:
            extra = {}
            if run.rank() == 0 and (step % 400 == 0 or step == c["steps"]):
                # On prompts of held-out combinations, with the averaged weights.
                clips = frames_of(vae, sample(tokenizer, *average, [world.prompt(x) for x in asked]))
                extra = reading.score(asked, clips)
                vae_stage.sheet(run.OUT / "dit.png", *(x[::2] for x in clips[:10]))
            pace = (time.time() - began) / 50
            run.log("dit", step=step, loss=round(mean_loss / 50, 5), s_per_step=round(pace, 3), **extra)
            began, mean_loss = time.time(), 0.0
    checkpoint.save(step)


def fresh():
    """Tokenizer, text encoder and transformer before the first step, the same in every worker."""
    torch.manual_seed(run.config("seed") + 3)
    tokenizer = text.tokenizer()
    encoder, transformer = models(run.config("dit"), tokenizer.get_vocab_size())
    pad_in_one(transformer)
    return tokenizer, encoder, transformer


def trained():
    """Text encoder and transformer of the last checkpoint, averaged."""
    _, encoder, transformer = fresh()
    run.Checkpoint("dit", average=torch.nn.ModuleList([encoder, transformer])).load(must=True)
    return encoder, transformer
