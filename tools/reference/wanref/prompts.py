"""Prompts that find the weak places of cleaning and tokenizing."""

PROMPTS = {
    "plain": "a red circle moves right over a blue background",
    "empty": "",
    "spaces": "  a   dog\n\n and\ta cat  ",
    "chinese": "一只红色的圆形，向右移动。ＡＢＣ　１２３！（全角）",
    "negative": "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，最差质量，低质量，丑陋的，残缺的",
    "emoji": "🐱 a cat 👩‍👩‍👧‍👦 and a 🎬 film ✨🌧 👍🏽",
    "html": "a &lt;b&gt;bold&lt;/b&gt; &amp;amp; “quoted” cat&#39;s cafÃ© &eacute;t&eacute; ﬁne",
    "unknown": "ꙮ ☃ zzzqqq ﷺ ʕ•ᴥ•ʔ",
    "long": "a red circle and a green square jump over the warm roof while the rain falls, " * 40,
    "long_chinese": "一只红色的圆形向右移动，背景是蓝色的。" * 60,
}
