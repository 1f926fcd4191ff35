"""Writes tokens.json: the ids that llama.cpp gives for a varied set of texts, plain and with special tokens parsed.

python tests/data/make_tokens.py MODEL.gguf …     (in an environment with llama-cpp-python)
"""

import json
import sys
from pathlib import Path

from llama_cpp import Llama

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n\n",
    "\t\tx",
    "a b",
    " a  b   c    d",
    "trailing   ",
    "Hello, world!",
    "I'll you're WE'VE don'T",
    "1",
    "12",
    "123",
    "1234567890",
    "3.14159e-10",
    "x1y22z333",
    "def f(x):\n    return x ** 2  # square\n",
    "for (int i = 0; i < n; ++i) {\r\n\tsum += a[i];\r\n}",
    '<div class="a">&nbsp;</div>',
    '{"key": [1, 2.5, null, true]}',
    "SELECT * FROM t WHERE a='b' -- c",
    "C:\\Users\\n\\t",
    "https://example.org/a?b=c&d=%20#e",
    "你好，世界！",
    "日本語のテキスト、カタカナ。",
    "한국어 텍스트입니다.",
    "Привет, мир!",
    "مرحبا بالعالم ١٢٣",
    "שלום עולם",
    "नमस्ते दुनिया १२३",
    "สวัสดีชาวโลก",
    "Ελληνικά",
    "Tiếng Việt có dấu",
    "naïve café résumé coöperate",
    "e\u0301a\u0308n\u0303 combining",
    "👍🏽👩‍👩‍👧‍👦🇩🇪 emoji 🎉",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ₿ ∑∫√ ½ ², ③",
    "\u200bzero\u200dwidth\ufeff",
    "\x00\x01\x02\x1b[31m\x7f",
    "soft\u00adhyphen nbsp\u00a0here\u2003em",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "Donaudampfschifffahrtsgesellschaftskapitän",
    "<|im_start|>user\nhi<|im_end|>",
    "a<|endoftext|>b",
    "<|im_end",
    "<tool_call>{}</tool_call>",
    "x" * 300,
    "… — “quoted” ‘single’ «guillemets»",
    "mixed 漢字 and kana かな with 123 and émojis 😀!",
    "!!!???...---___***",
    "line one\n  line two\n\n    line three\n",
]


def main(paths: list[str]) -> None:
    target = Path(__file__).with_name("tokens.json")
    result: dict = {"texts": TEXTS}
    for path in paths:
        model = Llama(path, vocab_only=True, verbose=False)
        ids = {
            kind: [model.tokenize(t.encode(), add_bos=False, special=kind == "special") for t in TEXTS]
            for kind in ("plain", "special")
        }
        result[Path(path).name] = ids
    target.write_text(json.dumps(result, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
