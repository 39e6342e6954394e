"""The chat server under load: tokens a second for 1, 4 and 16 streaming clients, and many clients for minutes, killed and slow ones among them.

    python benchmarks/bench_web.py                          throughput with the best chat model under NANOCHAT_COURSE_DIR
    python benchmarks/bench_web.py --soak 5 --clients 64    five minutes of 64 streaming clients; counts errors, watches memory

Both write their part of benchmarks/results/web.json; without a chat model an untrained one of the laptop's size is made in a temporary folder.
"""
import argparse, asyncio, datetime, json, os, random, re, statistics, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))
from nanochat_course.chat_cli import find_model
from nanochat_course.common import CourseError, base_dir, machine, read_json, write_json

RESULT = Path(__file__).parent / "results" / "web.json"
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


def soak(process, port, clients, minutes):
    "Streaming clients for minutes: a quarter leaves in mid-answer, a quarter reads slowly."
    server, counts, memory = psutil.Process(process.pid), dict(answers=0, left=0, busy=0, errors=0, tokens=0), []

    async def client(i, until):
        rng = random.Random(i)
        while time.perf_counter() < until:
            body = dict(messages=[dict(role="user", content=rng.choice(QUESTIONS) + " " * rng.randrange(3))], temperature=rng.choice([0, .7, 1.5]), max_tokens=rng.randrange(10, 150))
            try: r = await stream(port, body, rng.randrange(1, 12) if i % 4 == 1 else None, .05 if i % 4 == 2 else 0.)
            except OSError: r = dict(status=0, tokens=0, done=False)
            counts["tokens"] += r["tokens"]
            leaver = i % 4 == 1 and not r["done"] and r["tokens"]
            counts["left" if leaver else "busy" if r["status"] == 429 else "answers" if r["done"] and not r.get("error") else "errors"] += 1
            if r["status"] == 429: await asyncio.sleep(.5)

    async def watch(until):
        while time.perf_counter() < until:
            memory.append(server.memory_info().rss / 2**20)
            await asyncio.sleep(5)

    async def run():
        until = time.perf_counter() + 60 * minutes
        await asyncio.gather(watch(until), *(client(i, until) for i in range(clients)))
    asyncio.run(run())
    time.sleep(2)
    health = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/health"))
    third = len(memory) // 3
    return dict(counts, clients=clients, minutes=minutes, memory_first_third_mib=statistics.mean(memory[third // 2:third + 1]), memory_last_third_mib=statistics.mean(memory[-third - 1:]),
                memory_mib=[round(m, 1) for m in memory], running_afterwards=health["running"], waiting_afterwards=health["waiting"])


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
    a = parser.parse_args()
    try: find_model()
    except CourseError: untrained()
    p, port, model = start("--slots", "16", "--queue", "64")
    try:
        new = dict(soak=soak(p, port, a.clients, a.soak)) if a.soak else dict(throughput=throughput(port, (1, 4, 16), a.seconds), answers=transcript(port))
    finally:
        p.terminate()
        p.wait()
    for part in new.values(): print(json.dumps({k: v for k, v in part.items() if k != "memory_mib"} if isinstance(part, dict) else part[:3], indent=1))
    old = read_json(RESULT) if RESULT.exists() else {}
    about = dict(date=str(datetime.date.today()), machine=machine(), load=os.getloadavg()[0], command="python benchmarks/bench_web.py " + " ".join(sys.argv[1:]),
                 model=dict(name=model["id"], stage=model["stage"], parameters=model["parameters"]))
    write_json(RESULT, dict(old, **{name: dict(about=about, result=part) for name, part in new.items()}))


if __name__ == "__main__": main()
