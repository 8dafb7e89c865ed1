"""Strings and what diffusers' prompt_clean (ftfy, html.unescape twice, whitespace) makes of them."""

from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from .store import Store

STRINGS = [
    "", " ", "\t\n\r ", "a red circle", "  two   spaces  ", "tab\tnewline\ncarriage\rreturn\r\nend",
    "\u00a0no-break\u00a0space\u2003em\u3000ideographic\u2028line\u2029paragraph\x85next", "form\x0cfeed vertical\x0btab",
    "\u200bzero\u200bwidth\u200d joiner\u2060 word\u00adsoft hyphen", "\ufeffwith a byte order mark", "mid\ufeffdle mark",
    # mojibake
    "schÃ¶n", "âœ” No problems", "The Mona Lisa doesnâ€™t have eyebrows.", "l’humanitÃ©", "Ã perturber la rÃ©flexion",
    "ã¨ã«ãƒ¼ã‚¯ãª", "cafÃƒÂ©", "Â£5 and Â©", "donâ\u0080\u0099t", "àèìòù", "ÐŸÑ€Ð¸Ð²ÐµÑ‚", "MÃƒÂ¼nchen ðŸ˜€",
    "VocÃª nÃ£o", "Ã©tÃ© Ã  Paris", "ä½ å¥½", "A cat â€” a dog â€¦ end", "Î‘Î¸Î®Î½Î±", "\x91quoted\x92 \x93text\x94 \x96 dash \x85",
    # html
    "a &lt;b&gt; &amp; c", "a &amp;lt;b&amp;gt;", "&amp;amp;amp;lt;", "&eacute;t&eacute; &Eacute; &HELLIP; &hearts;", "&#233; &#xe9; &#x1F600; &#0; &#128; &#xD800;",
    "&nbsp;space&nbsp;", "&notit; &unknown; &amp", "if a < b & c > d", "<b>bold &amp; bright</b>", "&lt; <tag>", "&ampquot; &copy2 &para", "&quot;hi&quot; &apos;there&apos; &#39;x&#39;",
    # quotes, ligatures, width, normal forms
    "\u2018single\u2019 \u201cdouble\u201d \u201alow\u201b \u201elow\u201f \u00abguillemets\u00bb", "\ufb01ne \ufb02ow \ufb00 \ufb03 \ufb04 \ufb05 \ufb06 \u0132sselmeer \u01c4",
    "ＡＢＣ　１２３！（ｆｕｌｌ）～", "ﾊﾝｶｸ ｶﾅ ﾀﾞｶﾞ", "一只红色的圆形，向右移动。", "一隻貓，坐在「屋頂」上！？", "cafe\u0301 A\u030a n\u0303 \u1112\u1161\u11ab", "\u212b \u2126 \u2460 x\u00b2 \u00bd \u2122",
    "ﷺ ﷲ", "Å\u0323\u0307 q\u0307\u0323",
    # control and terminal
    "\x1b[31mred\x1b[0m text", "\x1b[1;32;40mA\x1b[mB\x1b]0;title\x07C", "nul\x00bell\x07back\x08del\x7f", "\x80\x9f c1", "\u202dleft\u202c \u202eright\u202c \u206aold", "\ufff9annot\ufffaation\ufffb \ufffd \ufffc",
    "\U000e0041tag", "a\u0000b",
    # emoji
    "🐱 cat 👩‍👩‍👧‍👦 family 🇩🇪 flag 👍🏽", "☀️ sun ☺︎", "🎬",
    # mixtures
    "a “cat” &amp; a ‘dog’ — cafÃ© &eacute;\u3000ＯＫ", "line one\n\n\nline two\u200b", "Ünïcödé ßtraße ẞ İı ſ", "ﬁ &amp;#64257; &#64257;", "a\ud7ff\ue000b", "x" * 300 + "   " + "y" * 10,
    "Â Â Â", "â€œquoteâ€\x9d", "it&rsquo;s &ldquo;fine&rdquo; &mdash; &hellip;", "100% &percnt; &num; &lbrace;&rbrace;", "&LT;&GT;&AMP;&QUOT;", "&CounterClockwiseContourIntegral; &NotEqualTilde;",
]


def make(store: Store) -> None:
    cases = [{"in": text, "out": prompt_clean(text)} for text in STRINGS]
    store.save("clean", {"about": ["diffusers.pipelines.wan.pipeline_wan.prompt_clean(in) == out"], "cases": cases})
