"""The tokenizer: Unigram with byte fallback, in the layout of T5's (pad 0, end 1, unknown 2).

Every word of the world's captions is one piece; any other text falls apart into letters or, where a letter is
not known either, into UTF-8 bytes, so nothing a user types can break it.
"""

import json
import re
import string

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import world

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def tokenizer():
    """The vocabulary is the world's words, letters and bytes: nothing is learned."""
    words = sorted({w for text in world.all_captions() for w in re.findall("[a-z]{2,}", text)})
    letters = ["▁", *string.ascii_lowercase, *string.digits, *string.punctuation]
    # Log probabilities: a word beats its letters, a letter beats its bytes.
    vocab = [(PAD, 0.0), (END, 0.0), (UNKNOWN, 0.0)]
    vocab += [(f"<0x{b:02X}>", -20.0) for b in range(256)]
    vocab += [(x, -10.0) for x in letters] + [("▁" + x, -11.0) for x in string.ascii_lowercase]
    vocab += [("▁" + x, -5.0) for x in words]

    made = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    made.add_special_tokens([PAD, END, UNKNOWN])
    made.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return made


def save(folder):
    """Writes tokenizer.json and its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "unk_token": UNKNOWN,
        "model_max_length": 512,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2) + "\n")
