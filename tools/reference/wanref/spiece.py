"""A vocabulary as SentencePiece writes it, with a table of characters, and the ids that transformers' T5Tokenizer finds by it."""

import io
import tempfile
import unicodedata
from pathlib import Path

import sentencepiece
from transformers import T5Tokenizer

from .prompts import PROMPTS
from .store import Store
from .tokenizer import LINES

ABOUT = """\
spiece/spiece.model: a Unigram model of 300 pieces, trained on a few lines, whose table of characters composes accents, takes full-width
letters, ligatures and fractions apart and makes spaces of other white space. Per case: the `ids` that T5Tokenizer, loaded from that file,
gives `text`, with </s>, not cut."""

TEXTS = ["Ｆｕｌｌ ｗｉｄｔｈ", "cafe\u0301 ﬁre ½ ℃ Ⅳ", "tab\tand\u3000space  two\n", "<extra_id_0> x</s><pad>", ""]


def rules() -> str:
    """What SentencePiece is to normalise: characters to characters, in hexadecimal, a rule a line."""
    code = lambda text: " ".join(f"{ord(c):X}" for c in text)  # noqa: E731
    pairs = [(chr(c), chr(c - 0xFEE0)) for c in range(0xFF01, 0xFF5F)]
    pairs += [(c, unicodedata.normalize("NFKC", c)) for c in "ﬁﬂⅣⅤ½℃…"]
    pairs += [(unicodedata.normalize("NFD", c), c) for c in "éèàùâêîôûäëïöüñÅ"]
    pairs += [(c, " ") for c in "\t\n\r\u3000\u00a0\u200b"]
    return "".join(f"{code(a)}\t{code(b)}\n" for a, b in pairs)


def make(store: Store) -> None:
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rules.tsv"
        table.write_text(rules(), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES * 3), model_writer=model, model_type="unigram", vocab_size=300, hard_vocab_limit=False,
            character_coverage=0.98, normalization_rule_tsv=str(table), user_defined_symbols=["<extra_id_0>"],
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2,
        )  # fmt: skip
    folder = store.root / "spiece"
    folder.mkdir(exist_ok=True)
    (folder / "spiece.model").write_bytes(model.getvalue())
    tokenizer = T5Tokenizer.from_pretrained(folder, extra_ids=0)
    texts = [*PROMPTS.values(), *TEXTS]
    cases = [{"text": text, "ids": tokenizer(text).input_ids} for text in texts if len(text) < 400]
    store.save("spiece", {"about": ABOUT.split("\n"), "cases": cases})
