"""Prompts through cleaning, tokenizer and UMT5 encoder, as WanPipeline does it."""

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from . import pipelines
from .configs import CONFIGS
from .prompts import PROMPTS
from .store import Store

ABOUT = """\
Per case: `clean` = prompt_clean(prompt); `ids` (i64, tensor KEY.ids [tokens]) = the tokenizer's ids with </s>, truncated at 512, no padding;
`states` (f32, tensor KEY.states) = the encoder's last hidden state at these tokens, run as WanPipeline does: padded to 512 with
an attention mask. All rows when `stride` is 1, else every `stride`-th row (0, stride, ..). `sum_abs`: sum of |x| over all real rows, f64.
After the last token WanPipeline fills up with zeros to 512 rows. Weights read as f32."""


def make(store: Store) -> None:
    tensors, cases = {}, []
    for name in CONFIGS:
        pipe = pipelines.load(store.root, name)
        for label, prompt in PROMPTS.items():
            clean = prompt_clean(prompt)
            encoded = pipe.tokenizer([clean], padding="max_length", max_length=512, truncation=True, return_attention_mask=True)
            count = sum(encoded.attention_mask[0])
            embeds, _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)
            assert not embeds[0, count:].any()
            key, stride = f"{name}.{label}", 1 if count <= 48 else 16
            tensors[f"{key}.ids"] = torch.tensor(encoded.input_ids[0][:count])
            tensors[f"{key}.states"] = embeds[0, :count:stride]
            total = float(embeds[0, :count].double().abs().sum())
            cases.append({"key": key, "pipeline": name, "prompt": prompt, "clean": clean, "tokens": count, "stride": stride, "sum_abs": total})
    store.save("umt5", {"about": ABOUT.split("\n"), "cases": cases}, tensors)
