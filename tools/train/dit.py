"""Stage 3: the transformer and the text encoder together, by flow matching on latents.

    x_s = (1 - s) x0 + s eps,   target eps - x0,   timestep 1000 s        (arXiv:2210.02747, 2209.03003)

As Wan 2.2's TI2V-5B (`expand_timesteps`) every token has a timestep of its own: frames that are given come in clean, at
timestep 0, and the loss leaves them out.
"""

import contextlib
import copy
import math
import time

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import UMT5Config, UMT5EncoderModel

import latents as latent_stage
import optim
import preview
import run
import text
import vae as vae_stage

PADDED = 512  # what diffusers' Wan pipeline pads text to


class PaddedCrossAttention(WanAttnProcessor):
    """Cross-attention to the captions' rows and one padding row that stands for all those up to PADDED.

    The padding rows are zeros, so their keys and values are all the same; one of them with ln(count) added to its
    logits is the same function as all of them.
    """

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        rows = encoder_hidden_states.shape[1]
        bias = hidden_states.new_zeros(1, 1, 1, rows)
        bias[..., -1] = math.log(PADDED - rows + 1)
        return super().__call__(attn, hidden_states, encoder_hidden_states, bias, rotary_emb)


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


def context(encoder, ids):
    """Ids [B, TOKENS] -> text states [B, rows + 1, D], zero after each caption's end and in the last row. As many rows
    as the longest caption has, in steps of eight so that there are few shapes."""
    ids = ids.to(run.device(), torch.long)
    rows = min(-(-int(ids.ne(0).sum(1).max()) // 8) * 8, ids.shape[1])
    ids = ids[:, :rows]
    mask = ids.ne(0)
    states = encoder(ids, mask.long()).last_hidden_state * mask.unsqueeze(-1)
    return torch.cat([states, torch.zeros_like(states[:, :1])], 1)


def token_times(t, given, shape):
    """Timesteps [B] and given frames [B, T] -> [B, L]: 0 for the tokens of given frames."""
    per_frame = t.view(-1, 1) * (~given)
    return per_frame.repeat_interleave((shape[3] // 2) * (shape[4] // 2), 1)


def attention():
    """On a CPU the plain form: for so few tokens the fused one's backward pass costs more than all the rest."""
    return sdpa_kernel(SDPBackend.MATH) if run.device().type == "cpu" else contextlib.nullcontext()


def compiled(transformer):
    """The blocks compiled, where that is fast to do; one program serves all of them."""
    if run.config("dit")["compile"]:
        torch._dynamo.config.cache_size_limit = 128
        for block in transformer.blocks:
            block.compile()


def batch_loss(both, batch, c, weight):
    """Flow matching on one batch. Most of a picture is background, which is soon learned; where things are counts for
    `thing` times as much."""
    x0, held, given, ids, there = batch
    encoder, transformer = both
    count = len(x0)
    ids = torch.where(torch.rand(count, 1, device=ids.device) < c["dropout"], latent_stage.empty_row(ids), ids)
    u = (torch.randperm(count, device=x0.device) + torch.rand(count, device=x0.device)) / count  # one in each part
    s = c["shift"] * u / (1 + (c["shift"] - 1) * u)
    eps = torch.randn_like(x0)
    clean = given.view(count, 1, -1, 1, 1)
    mix = s.view(-1, 1, 1, 1, 1)
    x = torch.where(clean, held, (1 - mix) * x0 + mix * eps)
    t = 1000 * s
    if given.any():
        t = token_times(t, given, x.shape)
    with run.autocast(), attention():
        states = context(encoder, ids)
        v = transformer(x, t, states, return_dict=False)[0]
        error = (weight * (v.float() - (eps - x0)).square()).mean(1, keepdim=True)
        counts = (1 + (c["thing"] - 1) * there.unsqueeze(1)) * ~clean
        return (error * counts).sum() / counts.sum()


def inside(name, parameter):
    """Whether a parameter is a matrix of a block's, which Muon is for."""
    skip = ("relative_attention_bias", "scale_shift_table")
    return parameter.dim() == 2 and ("blocks." in name or "encoder.block." in name) and not any(s in name for s in skip)


def branches(c):
    """The steps at which the scaling study's shorter runs leave the long one, by their share of its steps."""
    return {s: round(s * c["steps"]) - round(s * c["decay"]) for s in c["shares"]}


def train(share=1.0):
    """One worker's run: the whole one, or that share of it, which branches off the whole one where it has to decay."""
    c = dict(run.config("dit"))
    vae, pool = latent_stage.ready()
    # Whitening makes faint channels as loud as those that carry the colours; here they count for what they were.
    weight = pool.std / pool.std.mean()
    _, encoder, transformer = fresh()
    compiled(transformer)
    both = torch.nn.ModuleList([encoder, transformer])
    average = copy.deepcopy(both).requires_grad_(False)
    optimizer = optim.Both([(encoder, c["text_lr"]), (transformer, 1.0)], c, inside)
    parts = {"model": both, "average": average, "optimizer": optimizer}
    name, leave = f"dit-{share:g}", branches(c)
    checkpoint = run.Checkpoint(name, **parts)
    step = checkpoint.load()
    if share < 1 and step == 0:
        step = run.Checkpoint(f"dit-at-{share:g}", **parts).load(must=True)
    c["steps"], c["decay"] = round(share * c["steps"]), round(share * c["decay"])
    counts = {n: sum(p.numel() for p in m.parameters()) for n, m in (("text", encoder), ("transformer", transformer))}
    run.log(name, step=step, **counts, clips=[len(p[0]) for p in pool.parts])
    began, saved, sums, seen = time.time(), time.time(), {False: 0.0, True: 0.0}, {False: 0, True: 0}
    while step < c["steps"] and not run.all_spent():
        shared, rng = run.step_generators(3, step)
        if rng.random() < c["fresh"]:
            pool.refresh(rng, 1)
        known = shared.random() < c["known"]
        batch = pool.sample(shared, rng, c["tokens"] // run.config("workers"), known)
        loss = batch_loss(both, batch, c, weight)
        loss.backward()
        run.average_gradients(both.parameters())
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step(run.learning_rate(step, c))
        keep = min(c["average"], (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(both.parameters()), 1 - keep)
        step += 1
        sums[known], seen[known] = sums[known] + loss.detach(), seen[known] + 1
        for s, at in leave.items():
            if share == 1 and s < 1 and step == at:
                run.Checkpoint(f"dit-at-{s:g}", **parts).save(step)
        if time.time() - saved > 180:
            checkpoint.save(step)
            saved = time.time()
        if step % c["report"] == 0 or step == c["steps"]:
            extra = {}
            if run.rank() == 0 and (step % c["look"] == 0 or step == c["steps"]):
                extra = preview.look(vae, average, run.OUT / f"{name}.png")
            pace = (time.time() - began) / max(1, sum(seen.values()))
            losses = {k: round(float(sums[v]) / max(1, seen[v]), 5) for k, v in (("loss", False), ("given", True))}
            run.log(name, step=step, **losses, s_per_step=round(pace, 3), **extra)
            began, sums, seen = time.time(), {False: 0.0, True: 0.0}, {False: 0, True: 0}
    checkpoint.save(step)


def fresh():
    """Tokenizer, text encoder and transformer before the first step, the same in every worker."""
    torch.manual_seed(run.config("seed") + 3)
    tokenizer, folder = text.tokenizer(), run.beginning()
    if folder:
        if (folder / "tokenizer" / "tokenizer.json").read_text() != tokenizer.to_str(pretty=True):
            raise SystemExit(f"train: {folder} was trained with other words than the theatre's: begin with nothing")
        encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        transformer = WanTransformer3DModel.from_pretrained(folder / "transformer").float()
    else:
        encoder, transformer = models(run.config("dit"), tokenizer.get_vocab_size())
    pad_in_one(transformer)
    return tokenizer, encoder.to(run.device()), transformer.to(run.device())


def trained(share=1.0):
    """Text encoder and transformer of the last checkpoint, averaged."""
    _, encoder, transformer = fresh()
    run.Checkpoint(f"dit-{share:g}", average=torch.nn.ModuleList([encoder, transformer])).load(must=True)
    return encoder.eval(), transformer.eval()
