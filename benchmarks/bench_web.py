"""The chat server: tokens a second for 1, 4 and 16 streaming clients, many clients for minutes, killed and slow ones among them, and the
time to the first token in a long conversation.

    python benchmarks/bench_web.py                          throughput with the best chat model under NANOCHAT_COURSE_DIR
    python benchmarks/bench_web.py --soak 5 --clients 64    five minutes of 64 streaming clients; counts errors, watches memory
    python benchmarks/bench_web.py --soak 5 --resume        goes on where a soak was stopped, until five minutes are full
    python benchmarks/bench_web.py --turns 8                a conversation of eight turns, with and without a memory of what was read

Each writes its part of benchmarks/results/web.json, the soak every ten seconds. The conversation is held by a server in this process, over
loopback, each way in turn, for --rounds rounds; the figures are medians. Without a chat model an untrained one of the laptop's
size is made in a temporary folder. A soak that is resumed has a new server: growth of memory is looked for in each server by itself.
"""
import argparse, asyncio, datetime, json, os, random, re, statistics, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))
from nanochat_course.chat_cli import find_model
from nanochat_course.common import CourseError, base_dir, machine, read_json, write_json

RESULT = Path(__file__).parent / "results" / "web.json"
TALK = ["Who are you?", "What is 17 + 25?", "Spell strawberry.", "What does len do?", "My name is Anna. What is my name?",
        "How many r are in strawberry?", "Anna has 12 apples and buys 30 more. How many apples does she have?", "Thank you. Tell me a joke."]
QUESTIONS = ["Who are you?", "What is 17 + 25?", "Spell strawberry.", "What does len do?", "How many r are in strawberry?",
             "Anna has 12 apples and buys 30 more. How many apples does she have?"]


def untrained():
    "A folder with a model of the laptop's size that has learned nothing."
    import torch
    from nanochat_course.checkpoint import checkpoint_dir, save_checkpoint
    from nanochat_course.common import Runtime
    from nanochat_course.gpt import GPT, GPTConfig
    from nanochat_course.tokenizer import train_bpe
    os.environ["NANOCHAT_COURSE_DIR"] = tempfile.mkdtemp()
    tok = train_bpe([" ".join(QUESTIONS) * 5], 400, num_processes=1)
    tok.save(base_dir() / "tokenizer")
    model = GPT(GPTConfig(sequence_len=512, vocab_size=tok.vocab_size, n_layer=4, n_head=2, n_kv_head=2, n_embd=256)).init_weights()
    save_checkpoint(checkpoint_dir("chatrl", "untrained"), 0, model, meta={}, rt=Runtime(torch.device("cpu"), torch.float32))


def start(*flags):
    "The server as its users start it: process, port."
    command = [sys.executable, "-m", "nanochat_course.chat_web", "--port", "0", *flags]
    p = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    port = int(re.search(r":(\d+) ", p.stdout.readline())[1])
    while True:
        try: return p, port, json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models"))["data"][0]
        except OSError: time.sleep(.1)


async def stream(port, body, leave_after=None, delay=0.):
    "One streaming request: dict of status, first (seconds to the first token), tokens, done."
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    out = dict(status=0, first=None, tokens=0, done=False)
    try:
        data = json.dumps(dict(body, stream=True, trace=1)).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        out["status"] = int((await reader.readline()).split()[1])
        while line := await reader.readline():
            if b'"trace":[{' in line:
                out["first"] = out["first"] or time.perf_counter() - begin
                out["tokens"] += line.count(b'"forced":')
            out["done"] |= b"[DONE]" in line
            out["error"] = out.get("error") or (b'"error":' in line and out["status"] == 200)
            if leave_after and out["tokens"] >= leave_after: break
            if delay: await asyncio.sleep(delay)
    finally: writer.close()
    return out


def throughput(port, counts, seconds):
    "Total tokens a second and the median time to the first token for each number of clients."
    async def client(until, results, rng):
        while time.perf_counter() < until: results.append(await stream(port, dict(messages=[dict(role="user", content=rng.choice(QUESTIONS))], temperature=1.2, max_tokens=60)))

    async def run(n):
        results, begin = [], time.perf_counter()
        await asyncio.gather(*(client(begin + seconds, results, random.Random(i)) for i in range(n)))
        took = time.perf_counter() - begin
        return dict(clients=n, tokens_per_second=sum(r["tokens"] for r in results) / took, answers=len(results), first_token=statistics.median(r["first"] for r in results))
    asyncio.run(run(2))
    return [asyncio.run(run(n)) for n in counts]


async def patient(i, port, until, counts):
    "Client i asks again and again: a quarter of them leave in mid-answer, a quarter read slowly."
    rng, leaves, slow = random.Random(i), i % 4 == 1, i % 4 == 2
    while time.perf_counter() < until:
        body = dict(messages=[dict(role="user", content=rng.choice(QUESTIONS) + " " * rng.randrange(3))],
                    temperature=rng.choice([0, .7, 1.5]), max_tokens=rng.randrange(10, 150))
        try: r = await stream(port, body, rng.randrange(1, 12) if leaves else None, .05 if slow else 0.)
        except OSError: r = dict(status=0, tokens=0, done=False)
        counts["tokens"] += r["tokens"]
        counts[kind(r, leaves)] += 1
        if r["status"] == 429: await asyncio.sleep(.5)


def kind(r, leaves):
    "What became of a request."
    if leaves and not r["done"] and r["tokens"]: return "left"
    if r["status"] == 429: return "busy"
    return "answers" if r["done"] and not r.get("error") else "errors"


def growth(memory):
    "MiB by which a server has grown: the last third of its life against the first, its first ten seconds left out."
    rss = [m for second, m in memory if second >= 10]
    third = len(rss) // 3
    return statistics.mean(rss[-third:]) - statistics.mean(rss[:third]) if third else None


def soak(process, port, clients, minutes, before, save):
    "Streaming clients for minutes; `before` is what earlier runs left, `save` stores what there is so far."
    server, begin = psutil.Process(process.pid), time.perf_counter()
    until, servers = begin + 60 * (minutes - before.get("minutes", 0)), before.get("servers", [])
    counts = {name: before.get(name, 0) for name in ("answers", "left", "busy", "errors", "tokens")}
    memory = []                                                                # (second, MiB)

    def so_far():
        seconds = time.perf_counter() - begin
        this = dict(seconds=round(seconds, 1), memory_mib=memory, growth_mib=growth(memory))
        return dict(counts, clients=clients, minutes=round(before.get("minutes", 0) + seconds / 60, 3), servers=servers + [this])

    async def watch():
        while (now := time.perf_counter()) < until:
            memory.append((round(now - begin, 1), round(server.memory_info().rss / 2**20, 1)))
            if len(memory) % 5 == 0: save(so_far())
            await asyncio.sleep(2)

    async def run(): await asyncio.gather(watch(), *(patient(i, port, until, counts) for i in range(clients)))
    asyncio.run(run())
    time.sleep(2)
    health = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/health"))
    return dict(so_far(), running_afterwards=health["running"], waiting_afterwards=health["waiting"])


def ask(url, messages, max_tokens):
    "One streamed answer: seconds to its first token, its text, and the tokens of the prompt."
    body = dict(messages=messages, temperature=0, max_tokens=max_tokens, stream=True, trace=0, stream_options=dict(include_usage=True))
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    begin, first, text, usage = time.perf_counter(), None, "", None
    with urllib.request.urlopen(request) as response:
        for line in response:
            if not line.startswith(b"data: {"): continue
            if b'"trace":[{' in line: first = first or time.perf_counter() - begin
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            for choice in event["choices"]: text += choice["delta"].get("content") or ""
    return first, text, usage["prompt_tokens"]


def hold(engine, served, turns, max_tokens):
    "A conversation with a fresh server: (milliseconds to the first token, tokens of the prompt) for each turn, and what is remembered."
    from nanochat_course.chat_web import serving
    messages, out = [], []
    with serving(engine, served) as (url, server):
        ask(url, [dict(role="user", content="?")], 2)                          # the first request casts the weights
        for i in range(turns):
            messages.append(dict(role="user", content=TALK[i % len(TALK)]))
            first, text, prompt = ask(url, messages, max_tokens)
            messages.append(dict(role="assistant", content=text or "."))
            out.append((1000 * first, prompt))
        kept = server.worker.engine.prefixes
    return out, dict(bytes=kept.nbytes, most=kept.most, tokens_saved=kept.saved) if kept else None


def conversation(turns, rounds, max_tokens=40):
    "Time to the first token by turn, with an engine that remembers and one that reads everything again."
    import torch
    from nanochat_course.chat_web import Served
    from nanochat_course.checkpoint import load_model
    from nanochat_course.common import Runtime
    from nanochat_course.engine import Engine
    stage, folder = find_model()
    model, tokenizer, _ = load_model(folder, Runtime(torch.device("cpu"), torch.float32))
    served = Served(folder.name, tokenizer, model.config.sequence_len, dict(stage=stage, parameters=model.num_params()["total"]))
    found, kept = {0: [], 16: []}, None
    for _ in range(rounds):
        for keep in found:
            talk, remembered = hold(Engine(model, tokenizer, keep=keep), served, turns, max_tokens)
            found[keep].append(talk)
            kept = remembered or kept
    def median(keep, turn): return statistics.median(talk[turn][0] for talk in found[keep])
    rows = [dict(turn=i + 1, prompt_tokens=found[0][0][i][1], first_token_ms=median(0, i), first_token_ms_remembered=median(16, i))
            for i in range(turns)]
    return dict(rounds=rounds, threads=torch.get_num_threads(), remembered=kept, turns=rows), served


def transcript(port):
    "Answers with all their probabilities, for the chapter's figures."
    out = []
    for question in QUESTIONS:
        body = dict(messages=[dict(role="user", content=question)], temperature=.6, seed=1, trace=4)
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        choice = json.load(urllib.request.urlopen(request))["choices"][0]
        def short(e): return dict(token=e["token"], logprob=round(e["logprob"], 4))
        out.append(dict(question=question, text=choice["message"]["content"], tokens=[dict(short(e), kind=e["kind"], forced=e["forced"],
                        top=[short(t) for t in e["top_logprobs"]]) for e in choice["trace"]]))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--soak", type=float, default=0, help="minutes")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=12, help="per number of clients")
    parser.add_argument("--turns", type=int, default=0, help="of one conversation")
    parser.add_argument("--rounds", type=int, default=7, help="of that conversation, each way")
    parser.add_argument("--resume", action="store_true", help="go on with a soak that was stopped")
    a = parser.parse_args()
    try: find_model()
    except CourseError: untrained()
    about = dict(date=str(datetime.date.today()), machine=machine(), load=os.getloadavg()[0],
                 command="python benchmarks/bench_web.py " + " ".join(sys.argv[1:]))
    old = read_json(RESULT) if RESULT.exists() else {}
    def store(**parts):
        old.update({name: dict(about=about, result=part) for name, part in parts.items()})
        write_json(RESULT, old)
    if a.turns:
        found, served = conversation(a.turns, a.rounds)
        about["model"] = dict(name=served.name, **served.about)
        print(json.dumps(found, indent=1))
        return store(turns=found)
    p, port, model = start("--slots", "16", "--queue", "64")
    about["model"] = dict(name=model["id"], stage=model["stage"], parameters=model["parameters"])
    try:
        if a.soak:
            before = old.get("soak", {}).get("result", {}) if a.resume else {}
            found = soak(p, port, a.clients, a.soak, before, lambda part: store(soak=part))
            print(json.dumps(dict(found, servers=[s["growth_mib"] for s in found["servers"]]), indent=1))
            store(soak=found)
        else:
            found = dict(throughput=throughput(port, (1, 4, 16), a.seconds), answers=transcript(port))
            print(json.dumps(found["throughput"], indent=1))
            store(**found)
    finally:
        p.terminate()
        p.wait()


if __name__ == "__main__": main()
