"""Tiny tokenizers with T5's special tokens: pad 0, </s> 1 (appended), <unk> 2."""

import math
from collections import Counter

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Tokenizer

SPECIAL = ["<pad>", "</s>", "<unk>"]

LINES = """\
a red circle moves right over a blue background
a green square jumps over a yellow triangle and turns left
two small cats sleep on a warm roof while the rain falls
the quick brown fox runs through the snow at night
slow motion, close up, a wide shot of the sea, soft light, high quality
bright tones, overexposed, static, blurred details, subtitles, worst quality, low quality
a dog and a cat bake a cake together in a kitchen, sunlight through the window
the camera follows a train across a bridge; it's 5 o'clock, 1234567890!
café déjà vu, naïve façade, smörgåsbord, Ünïcödé, mañana
A Robot Paints The Sky (in oil) - "fine art" & <b>bold</b>?
一只红色的圆形向右移动，背景是蓝色的。
一隻貓坐在屋頂上看月亮。两个人在雨中散步，城市的灯光闪烁。
色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止
最差质量，低质量，丑陋的，残缺的，多余的手指，画得不好的手部
猫と犬が窓のそばで眠る。赤い風船が空へ昇る。
고양이가 지붕 위에 앉아 있다. 빨간 풍선
красный круг движется вправо по синему фону
ⅣⅤ ½ ﬁ ℃ 😀 🐱 🎬 👍 ✨ 🌧 🚲
""".splitlines()


def build(kind: str, vocab: int):
    """A transformers tokenizer of one of three kinds, with at most `vocab` pieces out of LINES."""
    if kind == "unigram-t5":
        return T5Tokenizer(vocab=unigram_pieces(vocab), extra_ids=0, model_max_length=512)
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(LINES, trainer)
    else:
        tokenizer = Tokenizer(models.Unigram(unigram_pieces(vocab), unk_id=2, byte_fallback=False))
        tokenizer.add_special_tokens(SPECIAL)
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **special)


def unigram_pieces(vocab: int) -> list[tuple[str, float]]:
    """Pieces with log probabilities: the commonest characters, then the substrings of words that save most. (The library's own
    Unigram trainer gives another vocabulary on every run.)"""
    counts = Counter()
    for line in LINES:
        for word in ("▁" + word for word in line.split()):
            counts.update(word[i:j] for i in range(len(word)) for j in range(i + 1, min(i + 9, len(word) + 1)))
    characters = sorted((piece for piece in counts if len(piece) == 1), key=lambda piece: (-counts[piece], piece))
    longer = [piece for piece in counts if len(piece) > 1 and counts[piece] > 1]
    longer.sort(key=lambda piece: (-counts[piece] * (len(piece) - 1), piece))
    chosen = characters[: vocab * 2 // 3]
    chosen += longer[: vocab - len(SPECIAL) - len(chosen)]
    total = sum(counts[piece] for piece in chosen)
    return [(piece, 0.0) for piece in SPECIAL] + [(piece, round(math.log(counts[piece] / total), 4)) for piece in chosen]
