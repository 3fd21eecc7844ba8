#!/usr/bin/env python3
"""Makes the tokenizers and the expected ids that the tests in the folder above compare with.

    pip install tokenizers==0.23.3 sentencepiece==0.1.97
    python3 generate.py            # writes next to itself

The tokenizers are trained here, on text written here, so nothing of a third party is stored.
Each has the shape of a well-known family (split pattern, normaliser, flags). The expected ids
come from the reference packages; "decoded" is left out where it is the text. Commit the
tokenizers and the ids together.
"""

import contextlib
import json
import pathlib
import random
import shutil
import tempfile
import unicodedata

import sentencepiece
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

HERE = pathlib.Path(__file__).resolve().parent
QWEN_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3_PATTERN = QWEN_PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|")
DEEPSEEK_PATTERNS = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]

TRAINING_TEXT = """
The lighthouse keeper wrote down the weather every evening: wind, rain, the height of the waves.
When the fog came in from the sea, he rang the bell once a minute until the morning.
It's what they've always done; we'll see whether she'd do it, too. I'm sure you're right, don't worry.
Numbers: 1, 22, 333, 4444, 3.14159, 1,000,000 and 2024-05-17. Prices rise from $9.99 to 12.50.
def fibonacci(n):
    if n < 2:
        return n
    return fibonacci(n - 1) + fibonacci(n - 2)

for (int i = 0; i < count; ++i) {
    total += values[i] * weights[i];  // dot product
}
#include <vector>
std::vector<std::string> names = {"alpha", "beta", "gamma"};
SELECT name, COUNT(*) FROM sailors WHERE age > 30 GROUP BY name;
Der Leuchtturmwärter schrieb jeden Abend das Wetter auf: Wind, Regen, die Höhe der Wellen.
Größe, Straße, Übermut und Ärger; schöne Grüße aus München.
Le gardien du phare écrivait chaque soir le temps qu'il faisait: le vent, la pluie, la hauteur des vagues.
Où est l'été? Ça va très bien, à bientôt, mon cœur.
El farero escribía cada noche el tiempo: ¿viento, lluvia, olas? ¡Mañana será otro día!
Смотритель маяка каждый вечер записывал погоду: ветер, дождь, высоту волн.
Ο φαροφύλακας έγραφε κάθε βράδυ τον καιρό.
灯台守は毎晩、天気を書き留めた。風、雨、波の高さ。カタカナとひらがな。
灯塔看守人每天晚上都记下天气:风、雨、浪的高度。
등대지기는 매일 저녁 날씨를 적었다. 바람, 비, 파도의 높이.
كان حارس المنارة يكتب الطقس كل مساء.
שומר המגדלור רשם את מזג האוויר בכל ערב.
प्रकाशस्तंभ का रखवाला हर शाम मौसम लिखता था।
ผู้ดูแลประภาคารจดบันทึกสภาพอากาศทุกเย็น
Người gác hải đăng ghi lại thời tiết mỗi buổi tối.
Emoji: 😀 🚀 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 ❤️ 🇩🇪
"""

CORPUS = [
    "", " ", "  ", "a", "Hello", " Hello", "Hello ", "Hello, world!", "  two  spaces  inside  ",
    "The keeper rang the bell once a minute.", "It's we'll they'VE I'M DON'T you'd'S 'ſ 'K 'S",
    "O'Neill's cats' toys; rock 'n' roll",
    "x=1\n\ny=22\r\nz=333\r\n\r\n\tq = 4444;   \n   ", "line one\n   line two\n\n\n\nline five\n",
    "def f(x):\n    if x < 10:\n        return x**2  # comment\n\treturn None\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]; }  // sum", "#include <span>\nint main(){return 0;}",
    "https://example.com/a?b=c&d=%20#frag user@example.org C:\\temp\\file.txt",
    "1 12 123 1234 12345 1234567890 3.14 1e-9 ½ Ⅷ ² ٣٤٥ 一二三 ௧௨",
    "Größe Straße ÜBERMUT äöü ß ẞ", "Où est l'été ? Ça va, cœur.", "¿Qué? ¡Mañana! niño",
    "Ветер, дождь и ВОЛНЫ; ёлка", "Ο καιρός ΚΑΛΌΣ ς", "灯台守は毎晩、天気を書いた。カタカナABC漢字123",
    "风雨浪的高度,看守人。", "등대지기는 매일 적었다. 바람, 비", "كان حارس المنارة يكتب.",
    "שומר המגדלור רשם", "मौसम लिखता था। क्षत्रिय", "ผู้ดูแลประภาคาร ำ", "Người gác hải đăng",
    "😀😃 🚀! 👍🏽👍🏿 👩‍👩‍👧‍👦 🏳️‍🌈 ❤️ 🇩🇪🇫🇷 1️⃣ ☃", "a😀b 😀 c",
    # Composed, decomposed, and marks in the wrong order.
    "\u00e9 e\u0301 \u00c5 A\u030a \u212b a\u0327\u0301 a\u0301\u0327 \u1e69 s\u0323\u0307 s\u0307\u0323",
    "\u1100\u1161\u11a8 \uac01 \u0958 \u0915\u093c \u0344 \u0340 \ufb01 \u2126 \U0001d15e",
    "q\u0307\u0323\u0301\u0327\u0345 \u0301 \u0301leading mark", "Z\u0351\u036b\u0343a\u0331l\u0338g\u0321o",
    # Control characters, odd spaces, format characters, noncharacters.
    "\x00\x01\x02 a\x00b \x07\x1b[31mred\x1b[0m \x7f\x80\x9f", "a\u0085b \u0085 \x0b\x0c \x1c\x1d\x1e\x1f",
    "a\u00a0b\u00a0 \u2003em\u2009thin\u200a \u202f \u205f \u3000全角\u3000 \u1680ogham",
    "a\u180eb \u180e x\u200bx \u200b \u200c\u200d \u2060 \ufeffbom \ufeff \u00adsoft",
    "\u2028ls\u2028 \u2029ps\u2029\u2029", "\ufffd \ufffe \uffff \U0010ffff \U0001f9ff \ue000 \U000f0000",
    "tab\ttab\t\ttab \t mixed \t\t  ", " " * 40 + "x" + " " * 17, "\n" * 20 + " \n" * 5 + "end",
    "a" * 200, "aaaaab" * 30, "=" * 77 + " " + "-" * 33 + "\n" + "*" * 5, "ABCdefGHI snake_case_word kebab-case camelCase",
    "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<|endoftext|><|endoftext|>x",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|", "<|<|im_end|>|>", "<|im_end|>\u0301",
    "one [MASK] two", "one   [MASK]\n\t two", "[MASK][MASK]  [MASK] ", "x [LEFT]   y", "x   [LEFT] y", "x \u3000[RIGHT] \u00a0y",
    "word single word", "wordsingle single_ singleword (single) single", "ésingle single\u0301 Ⓐsingle \u200dsingle single",
    "CAF\u00c9 cafe\u0301 CAFE\u0301 x", "caf\u00e9caf\u00e9 e\u0301<|im_end|>\u0301", "foo  bar foo bar  foobar",
    "<s>not control</s> <unk> <0x41> \u2581under\u2581score \u2047", "\u2581", "\u2581\u2581x", "<user>hi</user> <user><user>",
    "\u0120byte \u010a level \u0100 alphabet",
]

# Full-width letters, odd spaces, a ligature; control characters vanish.
NORMALIZATION_RULES = [("\u3000", "20"), ("\u00a0", "20"), ("\t", "20"), ("\n", "20"), ("\r", ""),
                       ("\ufb01", "66 69"), ("\u00bd", "31 2044 32"), ("\x07", ""),
                       ("\u212b", "C5"), ("\u2003", "20")]


def random_strings(count):
    """Strings over characters that the split patterns treat differently."""
    rng = random.Random(20240517)
    alphabet = (list("abcXYZ019 '\"_-.,;!?()[]{}<>|/\\\n\r\t") +
                list("éßÑжΩ中文かカ한ก\u0301\u0327\u093f\u200d\u00a0\u2003\u3000\u180e\u0085٣½😀👍🏽") +
                [" ", "  ", "\n\n", "'s", "'LL", "ing", "the", "<|im_end|>", "[MASK]", "single", "[LEFT]"])
    return ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 40))) for _ in range(count)]


def training_lines():
    lines = [line + "\n" for line in TRAINING_TEXT.strip().split("\n")]
    return lines * 3


def added_tokens():
    return [
        AddedToken("<|endoftext|>", special=True, normalized=False),
        AddedToken("<|im_start|>", special=True, normalized=False),
        AddedToken("<|im_end|>", special=True, normalized=False),
        AddedToken("[MASK]", lstrip=True, special=True, normalized=False),
        AddedToken("[LEFT]", lstrip=True, rstrip=True, normalized=False),
        AddedToken("[RIGHT]", rstrip=True, normalized=False),
        AddedToken("single", single_word=True, normalized=False),
        AddedToken("CAFE\u0301", normalized=True),
        AddedToken("foo  bar", normalized=True),
        AddedToken("foo", normalized=True),
    ]


def train_bpe(pre_tokenizer, normalizer, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, min_frequency=2,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(training_lines(), trainer)
    return tokenizer


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(**kwargs):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, **kwargs)


def gpt2():
    tokenizer = train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), None, 1000)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def gpt2_prefix_space():
    tokenizer = train_bpe(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                 pre_tokenizers.ByteLevel(add_prefix_space=True)]), None, 500)
    tokenizer.add_tokens(added_tokens())
    return tokenizer


def qwen():
    tokenizer = train_bpe(pre_tokenizers.Sequence([split(QWEN_PATTERN), byte_level()]),
                          normalizers.NFC(), 1000)
    tokenizer.add_tokens(added_tokens())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def llama3():
    tokenizer = train_bpe(pre_tokenizers.Sequence([split(LLAMA3_PATTERN), byte_level()]), None, 900)
    # Words that no merge builds: only ignore_merges finds them.
    config = json.loads(tokenizer.to_str())
    for word in ["ĠMASK", "lighthouse", "Ġ\u00cf\u0125\u00ce\u00bf", "aaaaab", "Ġspaces"]:
        config["model"]["vocab"].setdefault(word, len(config["model"]["vocab"]))
    config["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(config))
    tokenizer.add_special_tokens([AddedToken("<|begin|>", special=True, normalized=False)])
    tokenizer.add_tokens(added_tokens())
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(
            single="<|begin|> $A <|im_end|>", pair="<|begin|> $A <|begin|> $B",
            special_tokens=[("<|begin|>", tokenizer.token_to_id("<|begin|>")),
                            ("<|im_end|>", tokenizer.token_to_id("<|im_end|>"))]),
    ])
    return tokenizer


def deepseek():
    stages = [split(pattern) for pattern in DEEPSEEK_PATTERNS]
    tokenizer = train_bpe(pre_tokenizers.Sequence(stages + [byte_level()]),
                          normalizers.Sequence([]), 700)
    tokenizer.add_special_tokens([AddedToken("<｜begin▁of▁sentence｜>", special=True, normalized=False)])
    return tokenizer


def dump(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def string_merges(text):
    """The format of older files: "a b" instead of ["a", "b"]."""
    config = json.loads(text)
    config["model"]["merges"] = [" ".join(pair) for pair in config["model"]["merges"]]
    return config


def decode(reference, ids, skip_special_tokens):
    """As the reference does, but an added token gives the text it was added as. The reference
    reads a Latin-1 letter in it as the byte that the byte-level alphabet spells so."""
    accented = reference.token_to_id("CAFE\u0301")
    if accented is None or accented not in ids:
        return reference.decode(ids, skip_special_tokens)
    at = ids.index(accented)
    return (reference.decode(ids[:at], skip_special_tokens) + "CAFE\u0301" +
            decode(reference, ids[at + 1:], skip_special_tokens))


def write_bpe(name, tokenizer, texts):
    config = json.loads(tokenizer.to_str())
    if name == "gpt2":
        config = string_merges(tokenizer.to_str())
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    dump(folder / "tokenizer.json", config)
    reference = Tokenizer.from_str((folder / "tokenizer.json").read_text())
    cases = []
    for i, text in enumerate(texts):
        ids = reference.encode(text, add_special_tokens=False).ids
        case = {"text": text, "ids": ids}
        decoded = decode(reference, ids, skip_special_tokens=False)
        skipped = decode(reference, ids, skip_special_tokens=True)
        if decoded != text:
            case["decoded"] = decoded
        if skipped != decoded:
            case["decoded_skip"] = skipped
        if i < 3:
            case["with_special"] = reference.encode(text).ids
        cases.append(case)
    dump(folder / "expected.json", cases)


def train_sentencepiece(name, rules=(), **options):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    lines = [line.rstrip("\n") for line in training_lines() if line.strip()]
    # The model file records the paths it was trained with: use names that say nothing.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        if rules:
            pathlib.Path("rules.tsv").write_text(
                "".join(f"{ord(source):X}\t{target}\n" for source, target in rules))
            options["normalization_rule_tsv"] = "rules.tsv"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix="tokenizer", minloglevel=2, num_threads=1,
            **options)
        shutil.copyfile("tokenizer.model", folder / "tokenizer.model")


def write_sentencepiece(name, texts):
    folder = HERE / name
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    cases = []
    for text in texts:
        ids = reference.encode(text)
        case = {"text": text, "ids": ids}
        if reference.decode(ids) != text:
            case["decoded"] = reference.decode(ids)
        cases.append(case)
    dump(folder / "expected.json", cases)


def write_nfc():
    rng = random.Random(7)
    marks = [chr(c) for c in list(range(0x300, 0x345)) + [0x591, 0x5B0, 0x64B, 0x93C, 0x94D, 0x3099, 0x1D165]]
    bases = list("aeoscAEZq") + ["\u1100", "\u1161", "\u11a8", "\uac00", "\u0915", "か", "\u212b", "\u2126", "\ufb1d"]
    cases = []
    for _ in range(300):
        text = "".join(rng.choice(bases if rng.random() < 0.4 else marks) for _ in range(rng.randint(1, 10)))
        cases.append([text, unicodedata.normalize("NFC", text)])
    dump(HERE / "nfc.json", cases)


def main():
    texts = CORPUS + random_strings(60)
    for make in [gpt2, gpt2_prefix_space, qwen, llama3, deepseek]:
        write_bpe(make.__name__, make(), texts)
    # SentencePiece's defaults (extra spaces removed, unknown characters), but a few rules of
    # normalisation instead of all of NFKC, which alone are 240 KB.
    train_sentencepiece("sp_unigram", vocab_size=440, model_type="unigram",
                        rules=NORMALIZATION_RULES,
                        character_coverage=0.995, user_defined_symbols=["<user>", "</user>"])
    # As Llama 2: bytes for unknown characters, the text's own spaces.
    train_sentencepiece("sp_bpe", vocab_size=900, model_type="bpe", byte_fallback=True,
                        split_digits=True, normalization_rule_name="identity",
                        remove_extra_whitespaces=False, character_coverage=0.98,
                        allow_whitespace_only_pieces=True)
    # No dummy prefix: the first space is text.
    train_sentencepiece("sp_plain", vocab_size=700, model_type="bpe", byte_fallback=True,
                        normalization_rule_name="identity", remove_extra_whitespaces=False,
                        add_dummy_prefix=False, character_coverage=0.98)
    for name in ["sp_unigram", "sp_bpe", "sp_plain"]:
        write_sentencepiece(name, texts)
    write_nfc()


if __name__ == "__main__":
    main()
