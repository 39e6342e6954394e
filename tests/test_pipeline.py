"All stages on any number of processes, with their own command lines, at the smallest size there is; and once compiled."
import json, os, re, shutil, socket, sys, time
from pathlib import Path
import forked
import pytest
from nanochat_course.common import read_log
from nanochat_course.corpus import write_shard

pytestmark = pytest.mark.timeout(1800)                      # 14 processes start here; beside busy programs that takes its time
SMALL = "--device cpu --dtype float32"
ONE = "--model-tag one"
CHAT = f"{SMALL} {ONE} --total-batch-size 1536 --save-every 0 --eval-items 8 --documents 4 --corpus data/text --mixture identity:0.15,sums:0.02,wordproblems:0.002"
BASE = f"base_train {SMALL} --corpus data/text --depth 1 --max-seq-len 128 --num-iterations 2 --device-batch-size 1 --eval-tokens 1024 --eval-every 0"
STAGES = [f"base_eval {SMALL} {ONE} --corpus data/text --split-tokens 1024 --device-batch-size 1 --max-per-task 3 --max-tokens 4",
          f"mid_train {CHAT}",
          f"chat_sft {CHAT} --device-batch-size 1",
          f"chat_rl {SMALL} {ONE} --num-iterations 2 --examples-per-step 24 --num-samples 2 --max-new-tokens 4 --eval-items 9 --eval-samples 2",
          f"chat_eval {SMALL} {ONE} --corpus data/text --max-items 5 --max-new-tokens 4 --eval-tokens 1024 --tasks identity,sums",
          f"transcript {SMALL} {ONE} --max-tokens 2"]


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets: s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets: s.close()
    return ports


def in_ranks(folder, ranks, stages, **env):
    "Run stages on `ranks` processes; their output. Two are started by torchrun, other numbers are forks, which costs less."
    words = [str(Path(__file__).parent / "run_stages.py"), json.dumps(stages), json.dumps(free_ports(len(stages)))]
    env = {**os.environ, "NANOCHAT_COURSE_DIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent), **env}
    if ranks != 2: return fork_ranks(folder, ranks, words, env)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *words]
    done = forked.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1500)
    told = "\n".join(line for line in done.stderr.splitlines() if "frame #" not in line)         # without the C++ traces
    assert done.returncode == 0, done.stdout[-2000:] + told[-9000:]
    assert done.stdout.count("came to the end") == ranks
    return done.stdout + done.stderr


def fork_ranks(folder, ranks, words, env):
    "The processes that torchrun would start, with the variables that it would set."
    logs, started = [folder / f"rank_{r}.log" for r in range(ranks)], []
    for r, log in enumerate(logs):
        world = dict(env, RANK=str(r), LOCAL_RANK=str(r), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1")
        with open(log, "w") as f: started.append(forked.Popen([sys.executable, *words], cwd=folder, env=world, stdout=f, stderr=f))
    try:
        while any(p.poll() is None for p in started) and not any(p.poll() for p in started): time.sleep(.02)
    finally:
        for p in started: p.kill()
    out = "\n".join(log.read_text() for log in logs)
    assert not any(p.wait() for p in started) and out.count("came to the end") == ranks, out[-9000:]
    return out


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    "A corpus, a tokenizer and a base model, made by one process."
    from pydoc_data.topics import topics
    folder = tmp_path_factory.mktemp("start")
    texts = [t[i:i + 600] for t in topics.values() for i in range(0, len(t), 600)][:400]
    for shard, part in enumerate((texts[:300], texts[300:])): write_shard(folder / "data" / "text" / f"shard_0000{shard}.parquet", part, 8)
    in_ranks(folder, 1, ["tok_train --corpus data/text --vocab-size 512 --max-chars 100000", f"{BASE} {ONE} --total-batch-size 1024"])
    return folder


def run_all(start, folder, ranks, stages, **env):
    shutil.copytree(start, folder)
    out = in_ranks(folder, ranks, stages, **env)
    report = {f.stem: json.loads(f.read_text()) for f in (folder / "report").glob("*.json")}
    losses = {stage: [l["loss"] for l in read_log(folder / "report" / f"{stage}.jsonl") if "loss" in l] for stage in ("mid_train", "chat_sft")}
    return out, report, losses


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory): return run_all(start, tmp_path_factory.mktemp("alone") / "1", 1, STAGES)


def agrees(report, losses, alone):
    "The chat stages make the same steps on any number of processes; CORE asks the same questions."
    for stage, want in alone[2].items():
        assert len(want) >= 4 and losses[stage] == pytest.approx(want, rel=2e-3), stage
        for k in ("assistant_loss", "identity", "num_iterations", "conversations", "cut", "left_out"):
            assert report[stage]["metrics"][k] == pytest.approx(alone[1][stage]["metrics"][k], rel=2e-3), (stage, k)
    assert report["base_eval"]["metrics"]["mini_core"] == pytest.approx(alone[1]["base_eval"]["metrics"]["mini_core"])


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_all_stages(start, alone, tmp_path, ranks):
    out, report, losses = run_all(start, tmp_path / "many", ranks, [f"{BASE} --model-tag many --total-batch-size {128 * ranks * 2}", *STAGES])
    assert set(report) >= {"base_train", "base_eval", "mid_train", "chat_sft", "chat_rl", "chat_eval_base", "chat_eval_mid", "chat_eval_sft", "chat_eval_rl", "transcript"}
    assert all(report[stage]["world_size"] == ranks for stage in ("base_train", "mid_train", "chat_sft", "chat_rl", "chat_eval_rl"))
    assert "nan" not in json.dumps([report, losses]).lower().replace("nanochat", "").replace("nano", "")
    agrees(report, losses, alone)


def test_compiled(start, alone, tmp_path):
    "Two processes and torch.compile: the same losses, and one graph for all batches of a stage, empty rows or not."
    out, report, losses = run_all(start, tmp_path / "compiled", 2, [STAGES[0], *(f"{stage} --compile on" for stage in STAGES[1:3])], TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    agrees(report, losses, alone)
    graphs = [int(n) for n in re.findall(r"compiled graphs after (?:mid_train|chat_sft): (\d+)", out)]
    assert graphs == [1, 2]
