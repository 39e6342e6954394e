"""Tokenizer: training time beside rustbpe's on the same text in the same run, encoding speed, compression by kind of text.

    python benchmarks/bench_tokenizer.py [--megabytes 20] [--repeats 3] [--only "Python sources"]

Text: Python sources of this installation, and web text if NANOCHAT_COURSE_TEST_DATA names the test data. Writes benchmarks/results/tokenizer.json.
"""
import argparse, inspect, json, os, random, statistics, sysconfig, textwrap, time
from pathlib import Path
from nanochat_course.common import machine, write_json
from nanochat_course.tokenizer import SPLIT_PATTERN, Tokenizer, count_words, count_words_parallel, learn_merges, train_bpe

DATA = Path(os.environ.get("NANOCHAT_COURSE_TEST_DATA") or "/nonexistent")
RIGHTS = {"Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
          "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах.", "Chinese": "人人生而自由，在尊严和权利上一律平等。",
          "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
          "Arabic": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق."}


def timed(f, *args, **kwargs):
    start = time.perf_counter()
    result = f(*args, **kwargs)
    return time.perf_counter() - start, result


def gather(megabytes):
    "Texts of about so many megabytes, by kind."
    kinds, room = {}, megabytes * 10**6
    sources = []
    for path in sorted(p for root in ("stdlib", "purelib") for p in Path(sysconfig.get_path(root)).rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        sources.append(text)
        if (room := room - len(text.encode())) < 0: break
    kinds["Python sources"] = sources
    if DATA.is_dir():
        web = [json.loads(line)["text"] for line in open(DATA / "openwebtext/openwebtext-1000.jsonl", encoding="utf-8")]
        more = [p for pattern in ("*/*.jsonl", "wikitext-2/*.txt", "mmlu/*/*.csv") for p in sorted(DATA.glob(pattern)) if "openwebtext" not in str(p)]
        kinds["web text"] = [p.read_text(encoding="utf-8", errors="replace") for p in more] + web
    return kinds


def training(texts, vocab_size, repeats):
    "Best time of each trainer, taken in turns, and the median of the ratios of neighbouring runs; the merges must agree."
    import rustbpe
    best, size = dict(ours=1e9, rustbpe=1e9, count=1e9, merge=1e9, count_one_process=1e9), sum(len(t.encode("utf-8", "replace")) for t in texts)
    ratios = []
    for _ in range(repeats):
        theirs = rustbpe.Tokenizer()
        t, _ = timed(theirs.train_from_iterator, iter(texts), vocab_size - 9, pattern=SPLIT_PATTERN)
        best["rustbpe"], before = min(best["rustbpe"], t), t
        t, tok = timed(train_bpe, texts, vocab_size)
        best["ours"] = min(best["ours"], t)
        ratios.append(t / before)
        t, words = timed(count_words_parallel, texts)
        best["count"] = min(best["count"], t)
        t, _ = timed(learn_merges, words, vocab_size - 265)
        best["merge"] = min(best["merge"], t)
    best["count_one_process"], _ = timed(count_words, texts)
    ranks = {bytes(t): i for t, i in theirs.get_mergeable_ranks()}
    return dict(vocab_size=vocab_size, bytes=size, same_merges=sorted(ranks, key=ranks.get) == tok.vocab, ratio=best["ours"] / best["rustbpe"], median_ratio=statistics.median(ratios),
                mb_per_second={k: size / 1e6 / best[k] for k in ("ours", "rustbpe")}, seconds=best), tok


def encoding(tok, texts, repeats):
    "Megabytes per second by number of threads."
    texts = [t[i:i + 5000] for t in texts[:400] for i in range(0, len(t), 5000)]
    size = sum(len(t.encode("utf-8", "replace")) for t in texts) / 1e6
    return {f"{n} threads": size / min(timed(tok.encode, texts, num_threads=n)[0] for _ in range(repeats)) for n in sorted({1, os.cpu_count()})}


def compression(toks, texts):
    "Bytes per token by kind of text."
    rng = random.Random(0)
    kinds = {"code": inspect.getsource(textwrap), "numbers": " ".join(str(rng.randrange(10**6)) for _ in range(2000)), **RIGHTS}
    for name, t in texts.items(): kinds[f"{name}, held out"] = "\n".join(t[-20:])[:200_000]
    return {kind: {name: len(s.encode("utf-8", "replace")) / len(t.encode(s)) for name, t in toks.items()} for kind, s in kinds.items()}


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--megabytes", type=float, default=20)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--only", default="", help="one kind of text, and no file is written")
    p.add_argument("--out", default=str(Path(__file__).parent / "results" / "tokenizer.json"))
    args = p.parse_args()
    kinds, result, toks = gather(args.megabytes), dict(machine=machine(), training={}, encoding_mb_per_second={}), {}
    for name, texts in kinds.items():
        if args.only not in ("", name): continue
        for vocab_size in (4096, 32768):
            row, toks[f"{name}, {vocab_size:,}"] = training(texts[:-20], vocab_size, args.repeats)
            result["training"][f"{name}, {vocab_size:,}"] = row
            s, speed = row["seconds"], row["mb_per_second"]
            print(f"{name}, {row['bytes'] / 1e6:.1f} MB, vocabulary {vocab_size:,}: "
                  f"ours {s['ours']:.2f} s ({speed['ours']:.1f} MB/s: counting {s['count']:.2f}, merging {s['merge']:.2f}), "
                  f"rustbpe {s['rustbpe']:.2f} s ({speed['rustbpe']:.1f} MB/s), ratio {row['ratio']:.2f} (median of pairs {row['median_ratio']:.2f}), same merges: {row['same_merges']}")
        tok = toks[f"{name}, 4,096"]
        result["encoding_mb_per_second"][name] = encoding(tok, texts, args.repeats)
        print(f"{name}: encoding " + ", ".join(f"{v:.1f} MB/s on {k}" for k, v in result["encoding_mb_per_second"][name].items()))
    if args.only: raise SystemExit
    gpt2 = DATA / "gpt2_tokenizer"
    if gpt2.is_dir(): toks["GPT-2, 50,257"] = Tokenizer.from_gpt2(gpt2 / "vocab.bpe", gpt2 / "encoder.json")
    result["compression_bytes_per_token"] = table = compression(toks, kinds)
    print("\n| bytes per token | " + " | ".join(toks) + " |\n|---|" + "---:|" * len(toks))
    for kind, row in table.items(): print(f"| {kind} | " + " | ".join(f"{v:.2f}" for v in row.values()) + " |")
    write_json(args.out, result)
