#!/usr/bin/env python3
"""Writes tokenizers.json: small tokenizers of many kinds, and what the
`tokenizers` package makes of some texts with each.

Needs: pip install tokenizers sentencepiece protobuf
"""

import json
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

CORPUS = [
    "the cat sat on the mat and the dog sat on the log",
    "don't they say that the dogs and cats won't sit there?",
    "there are 12 cats, 345 dogs; the others are not there!",
    "café naïve 日本 the mats, the logs",
] * 4

TEXTS = [
    "", " ", "the cat sat on the mat.", "  The  dogs\n\tsit there ", "don't they? no, they do not!",
    "Ça café cafe\u0301 \uff21\u0301 \ufb01x", "日本の cats", "cats😀😀dogs zq", "12 cats, 3456 dogs",
    "[CLS] the [MASK] sat [SEP]", "<s>the</s> <mask> cats <unk>", "▁the ▁▁cat", "t" * 30,
    "ca\u200bts\ufeff\x01\x7f", "hot\u3000dog\u00a0cat\r\n",
]


def word_piece(normalizer, pre_tokenizer, decoder, **options):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", **options))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer, pre_tokenizer, decoder
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(
        vocab_size=80, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    t.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return t


def bpe(normalizer, pre_tokenizer, decoder, **options):
    suffix = options.pop("end_of_word_suffix", None)
    t = Tokenizer(models.BPE(unk_token="<unk>", **options))
    if normalizer:
        t.normalizer = normalizer
    if pre_tokenizer:
        t.pre_tokenizer = pre_tokenizer
    t.decoder = decoder
    more = {"end_of_word_suffix": suffix} if suffix else {}
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=64, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False, **more))
    return t


def unigram():
    """A SentencePiece model with a map of a few rules."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "corpus.txt").write_text("\n".join(CORPUS))
        # Full-width A, the ligature fi, an accent, the kinds of white space.
        (path / "rules.tsv").write_text(
            "FF21\t41\nFB01\t66 69\n65 301\tE9\nA\t20\nD\t20\n9\t20\n3000\t20\nA0\t20\n200B\t\n1\t\n")
        sentencepiece.SentencePieceTrainer.train(
            input=str(path / "corpus.txt"), model_prefix=str(path / "m"), model_type="unigram",
            vocab_size=70, hard_vocab_limit=False, minloglevel=5,
            normalization_rule_tsv=str(path / "rules.tsv"))
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString((path / "m.model").read_bytes())
    t = Tokenizer(models.Unigram([(p.piece, round(p.score, 4)) for p in model.pieces], unk_id=0))
    t.add_special_tokens(["<unk>", "<s>", "</s>"])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    return t, normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)


def copy(t, **parts):
    t = Tokenizer.from_str(t.to_str())
    for name, part in parts.items():
        setattr(t, name, part)
    return t


def tokenizers():
    n, p, d = normalizers, pre_tokenizers, decoders
    yield "bert", word_piece(n.BertNormalizer(), p.BertPreTokenizer(), d.WordPiece())
    yield "wordpiece-nfkc", word_piece(
        n.Sequence([n.NFKC(), n.StripAccents(), n.Lowercase()]),
        p.Sequence([p.Whitespace(), p.Digits(individual_digits=True)]), d.WordPiece())

    t5, charsmap = unigram()
    spaces = n.Replace(Regex(" {2,}"), "▁")
    yield "t5", copy(
        t5, normalizer=n.Sequence([charsmap, n.Strip(left=False, right=True), spaces]),
        post_processor=processors.TemplateProcessing(single="$A </s>",
                                                     special_tokens=[("</s>", 2)]))
    xlmr = copy(t5, normalizer=n.Sequence([n.Nmt(), n.NFKD(), n.StripAccents(), charsmap]),
                pre_tokenizer=p.Sequence([p.WhitespaceSplit(), p.Metaspace()]),
                post_processor=processors.TemplateProcessing(
                    single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]))
    xlmr.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    yield "xlm-r", xlmr
    llama2 = bpe(n.Sequence([n.Prepend("▁"), n.Replace(" ", "▁")]), None, d.Sequence(
        [d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)]), fuse_unk=True)
    llama2.post_processor = processors.TemplateProcessing(single="<s> $A",
                                                          special_tokens=[("<s>", 1)])
    yield "llama-2", llama2
    t = bpe(None, p.Metaspace(prepend_scheme="first"), d.Metaspace(prepend_scheme="first"))
    t.add_tokens([AddedToken("dogs", single_word=True), AddedToken("3", rstrip=True)])
    yield "metaspace", t
    yield "bpe-suffix", bpe(n.Lowercase(), p.Whitespace(), d.BPEDecoder("</w>"),
                            end_of_word_suffix="</w>")
    yield "odd", bpe(None, p.Sequence([p.CharDelimiterSplit(" "), p.FixedLength(5)]), d.Sequence(
        [d.Strip("t", 1, 0), d.Replace(Regex("[ao]+"), "X")]))


def main():
    rows = []
    for name, t in tokenizers():
        cases = []
        for text in TEXTS:
            ids = t.encode(text).ids
            cases.append([text, ids, t.decode(ids, skip_special_tokens=True)])
        file = {part: value for part, value in json.loads(t.to_str()).items() if value}
        rows.append({"name": name, "file": file, "cases": cases})
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    out = Path(__file__).resolve().parent / "tokenizers.json"
    out.write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
