"Checkpoints: exact, atomic, checksummed, independent of the number of processes."
import json, os, resource, signal, subprocess, sys, textwrap, threading, time
from contextlib import contextmanager
from dataclasses import replace
import forked, pytest, random, torch
from nanochat_course import checkpoint as C
from nanochat_course.common import CourseError, Runtime, base_dir, seed_everything
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.optim import MuonAdamW, param_groups
from nanochat_course.tokenizer import train_bpe

RT = Runtime(torch.device("cpu"), torch.float32)
TINY = GPTConfig(sequence_len=16, vocab_size=300, n_layer=2, n_head=2, n_kv_head=2, n_embd=32)


def make(config=TINY, seed=0):
    seed_everything(seed)
    model = GPT(config).init_weights()
    return model, MuonAdamW(param_groups(model))


def steps(model, optimizer, n):
    for _ in range(n):
        x = torch.randint(0, 300, (2, 17))
        model(x[:, :-1], x[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def trained(tmp_path):
    model, optimizer = make()
    steps(model, optimizer, 2)
    for step in (1, 2): C.save_checkpoint(tmp_path / "run", step, model, optimizer, meta=dict(note="ä", numbers=[1, 2.5]), rt=RT)
    return tmp_path / "run", model, optimizer


def test_round_trip_continues_bit_for_bit(trained):
    run, model, optimizer = trained
    rng = random.random()                                # moves Python's generator on; the checkpoint has the state before
    steps(model, optimizer, 3)
    again, opt = make(seed=5)
    ckpt = C.load_checkpoint(run)
    C.restore(ckpt, again, opt, RT)
    assert random.random() == rng
    steps(again, opt, 3)
    assert same(model, again)
    assert ckpt.step == 2 and ckpt.meta["note"] == "ä" and ckpt.meta["numbers"] == [1, 2.5]


@pytest.mark.parametrize("cls", [torch.optim.AdamW, torch.optim.SGD])
def test_torch_optimizers_are_stored_by_name(tmp_path, cls):
    def fresh(seed):
        seed_everything(seed)
        m = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
        return m, (cls(m.parameters(), lr=.1, momentum=.9) if cls is torch.optim.SGD else cls(m.parameters(), lr=.1))
    def go(m, o, n):
        for _ in range(n):
            o.zero_grad(); m(torch.randn(3, 4)).square().sum().backward(); o.step()
    m, o = fresh(0)
    go(m, o, 3)
    assert any(k.startswith("0.weight/") for k in C.optimizer_tensors(o, m))
    C.save_checkpoint(tmp_path, 3, m, o, meta={}, rt=RT)
    go(m, o, 3)
    m2, o2 = fresh(1)
    C.restore(C.load_checkpoint(tmp_path), m2, o2, RT)
    go(m2, o2, 3)
    assert same(m, m2)


def test_keep_last_and_latest(trained):
    run, model, optimizer = trained
    for step in (3, 4, 5): C.save_checkpoint(run, step, model, optimizer, meta={}, rt=RT)
    assert C.all_steps(run) == [4, 5] and C.latest_step(run) == 5
    C.save_checkpoint(run, 6, model, meta={}, rt=RT, keep_last=0)
    assert C.all_steps(run) == [4, 5, 6]
    assert C.load_checkpoint(run, 6).optimizer_state == {}
    assert C.latest_step(run / "nowhere") is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "meta.json", "SHA256SUMS"])
@pytest.mark.parametrize("how", ["flip first", "flip middle", "truncate", "empty", "gone", "a folder"])
def test_damage_is_named_and_passed_over(trained, name, how, capsys):
    run, model, optimizer = trained
    path = run / "step_000002" / name
    data = bytearray(path.read_bytes())
    if how == "flip first": data[0] ^= 0x20 if name != "SHA256SUMS" else 0x01
    elif how == "flip middle": data[len(data) // 2] ^= 0x01
    else: data = data[:len(data) // 2] if how == "truncate" else b""
    path.unlink()
    if how == "a folder": path.mkdir()
    elif how != "gone": path.write_bytes(data)
    with pytest.raises(CourseError) as e: C.load_checkpoint(run, 2)
    assert "step_000002" in str(e.value) and "\n" not in str(e.value)
    if name != "SHA256SUMS": assert name in str(e.value)
    with pytest.raises(CourseError, match="step_000002"): C.load_checkpoint(run)      # the newest is not passed over in silence
    assert C.load_latest(run, RT).step == 1
    assert "step_000002" in capsys.readouterr().out


def test_every_checkpoint_damaged(trained):
    run, *_ = trained
    for p in run.glob("*/model.safetensors"): p.write_bytes(p.read_bytes()[:-5])
    with pytest.raises(CourseError, match="every checkpoint"): C.load_latest(run, RT)
    assert C.load_latest(run / "nowhere", RT) is None
    with pytest.raises(CourseError, match="no checkpoint"): C.load_checkpoint(run / "nowhere")
    with pytest.raises(CourseError, match="checkpoints there: 1, 2"): C.load_checkpoint(run, 77)


@pytest.mark.parametrize("line", ["{0}  meta.json", "{0}  meta.json\n{0}  ../step_000001/meta.json", "{0}  meta.json\n{0}  pipe", ""])
def test_a_list_that_vouches_for_too_little(trained, line):
    "A SHA256SUMS without the weights would let any weights pass; a pipe named in it would be waited for."
    run, *_ = trained
    folder = run / "step_000002"
    os.mkfifo(folder / "pipe")
    (folder / "SHA256SUMS").write_text(line.format(C.sha256(folder / "meta.json")) + "\n" if line else "")
    with pytest.raises(CourseError, match="SHA256SUMS"): C.verify(folder)


def sealed(folder): # right checksums for whatever lies there now
    (folder / "SHA256SUMS").write_text("".join(f"{C.sha256(folder / n)}  {n}\n" for n in ("model.safetensors", "optimizer.safetensors", "rng.safetensors", "meta.json")))


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"\xff" * 16, b"\x02\0\0\0\0\0\0\0{}x", b"\x02\0\0\0\0\0\0\0[]"], ids=repr)
def test_no_tensors_behind_right_checksums(trained, data):
    run, *_ = trained
    (run / "step_000002" / "model.safetensors").write_bytes(data)
    sealed(run / "step_000002")
    with pytest.raises(CourseError) as e: C.restore(C.load_checkpoint(run), *make(), RT)
    assert "step_000002" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("name,change", [("optimizer", lambda d: {"x": torch.zeros(1)}), ("rng", lambda d: {"0/torch": torch.zeros(3)}),
    ("rng", lambda d: dict(d, **{"0/python": torch.tensor([3, 1])})), ("model", lambda d: {k: v.int() for k, v in d.items()}), ("model", lambda d: {}),
    ("optimizer", lambda d: {k: v.reshape(-1)[:1] for k, v in d.items()})])
def test_tensors_of_another_run_behind_right_checksums(trained, name, change):
    from safetensors.torch import load_file, save_file
    run, *_ = trained
    path = run / "step_000002" / f"{name}.safetensors"
    save_file(change(load_file(path)), path)
    sealed(run / "step_000002")
    with pytest.raises(CourseError) as e: C.restore(C.load_checkpoint(run), *make(), RT)
    assert "step_000002" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("meta", [{}, [], None, {"model_config": 3}, {"model_config": {}}, {"model_config": {"n_layer": 10**9}}, {"model_config": {"n_embd": 10**9 * 4}},
    {"model_config": {"n_layer": "2"}}, {"model_config": {"n_head": 2.5}}, {"model_config": {"n_head": 0}}, {"model_config": {"window_pattern": ["L"]}}, {"model_config": {"colour": 1}}], ids=str)
def test_models_that_cannot_be_built(trained, meta):
    run, *_ = trained
    path = run / "step_000002" / "meta.json"
    old = json.loads(path.read_text())
    if isinstance(meta, dict) and isinstance(meta.get("model_config"), dict) and meta["model_config"]: meta = dict(old, model_config=dict(old["model_config"], **meta["model_config"]))
    path.write_text(json.dumps(meta))
    sealed(run / "step_000002")
    with pytest.raises(CourseError) as e: C.load_model(run, RT)
    assert "\n" not in str(e.value)


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8, bias=False)
        self.head.weight = self.embed.weight


def test_tied_weights(tmp_path):
    "One tensor under two names is stored under both, and is one tensor again afterwards."
    seed_everything(0)
    model, again = Tied(), Tied()
    C.save_checkpoint(tmp_path, 1, model, torch.optim.AdamW(model.parameters()), meta={}, rt=RT)
    C.restore(C.load_checkpoint(tmp_path), again)
    assert same(model, again) and again.head.weight is again.embed.weight


@pytest.mark.parametrize("tag", ["", ".", "..", "a/b", "../../escape", "/abs", "a b", "t*", "a\nb", "\\", "-"])
def test_names_that_are_no_names(tag):
    with pytest.raises(CourseError, match="no name for a model"): C.checkpoint_dir("base", tag)


def test_names_that_are(): assert [C.checkpoint_dir("base", t).name for t in ("d12", "my-run_2.1", ".x", "größe")] == ["d12", "my-run_2.1", ".x", "größe"]


@contextmanager
def small_files(limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [0, 3000, 100_000, 190_000])
def test_disk_full_leaves_older_files_alone(trained, limit):
    run, model, optimizer = trained
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with small_files(limit), pytest.raises(CourseError, match="free some space"):
        C.save_checkpoint(run, 3, model, optimizer, meta={}, rt=RT)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert C.load_latest(run, RT).step == 2


def test_unwritable_folder_is_a_course_error(trained, tmp_path):
    _, model, optimizer = trained
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CourseError, match="could not write"): C.save_checkpoint(tmp_path / "file", 3, model, meta={}, rt=RT)


def test_another_architecture_names_the_fields(trained):
    run, *_ = trained
    other, opt = make(replace(TINY, n_layer=3, n_embd=64))
    with pytest.raises(CourseError) as e: C.restore(C.load_checkpoint(run), other, opt)
    assert "n_layer 2 there, 3 here" in str(e.value) and "n_embd 32 there, 64 here" in str(e.value) and "vocab" not in str(e.value)
    with pytest.raises(CourseError, match="does not fit"): C.restore(C.load_checkpoint(run), torch.nn.Linear(2, 2))


def test_load_model_with_its_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    tok = train_bpe(["The cat sat on the mat. " * 20] * 3, 270)
    tok.save(base_dir() / "tokenizer")
    model, optimizer = make(replace(TINY, vocab_size=270))
    steps_dir = C.checkpoint_dir("base", "d2")
    assert steps_dir == tmp_path / "base_checkpoints" / "d2"
    C.save_checkpoint(steps_dir, 7, model, meta=dict(run=1), rt=RT)
    state = torch.get_rng_state()
    loaded, tok2, meta = C.load_model(steps_dir, RT)
    assert torch.equal(torch.get_rng_state(), state), "loading must not draw from the caller's generator"
    x = torch.tensor([tok2.encode("The cat sat on the mat.", prepend=tok2.bos)[:16]])
    assert same(model, loaded) and torch.equal(model(x), loaded(x)) and meta["step"] == 7 and not loaded.training
    older = json.loads((steps_dir / "step_000007" / "meta.json").read_text())
    for younger in ("unet", "smear", "qk_scale"): del older["model_config"][younger]        # written before the model had these fields
    (steps_dir / "step_000007" / "meta.json").write_text(json.dumps(older))
    sealed(steps_dir / "step_000007")
    assert torch.equal(model(x), C.load_model(steps_dir, RT)[0](x))
    train_bpe(["the mat sat on a cat " * 20] * 3, 270).save(base_dir() / "tokenizer")
    with pytest.raises(CourseError, match="another tokenizer"): C.load_model(steps_dir, RT)
    with pytest.raises(CourseError, match="no checkpoint"): C.load_model(C.checkpoint_dir("mid", "d2"), RT)
    with pytest.raises(CourseError, match="unknown stage"): C.checkpoint_dir("bse", "d2")


def test_nothing_is_pickled(trained):
    run, *_ = trained
    for p in (run / "step_000002").iterdir():
        if p.suffix == ".safetensors": json.loads(p.read_bytes()[8:8 + int.from_bytes(p.read_bytes()[:8], "little")])
        else: p.read_text(encoding="utf-8")
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=run / "step_000002", capture_output=True).returncode == 0


KILLED = """
    import sys, torch
    from pathlib import Path
    from nanochat_course import checkpoint as C
    from nanochat_course.common import Runtime
    model = torch.nn.Linear(600, 600)
    print("go", flush=True)
    for step in range(1, 10_000):
        torch.nn.init.constant_(model.weight, step)
        C.save_checkpoint(sys.argv[1], step, model, meta=dict(step=step), rt=Runtime(torch.device("cpu"), torch.float32))
"""


def test_kill_in_mid_write(tmp_path):
    "Killed at any moment, the newest checkpoint is whole; rubbish is swept away by the next save."
    killed_in_write = 0
    for i in range(6):
        p = forked.Popen([sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], stdout=subprocess.PIPE, env=dict(os.environ, OMP_NUM_THREADS="1"))
        p.stdout.readline()
        before = C.latest_step(tmp_path)
        while C.latest_step(tmp_path) == before: time.sleep(.01)             # at work, on a busy machine too
        time.sleep(0.1 + 0.037 * i)
        p.send_signal(signal.SIGKILL)
        p.wait()
        killed_in_write += any(tmp_path.glob(".step_*"))
        ckpt = C.load_checkpoint(tmp_path)               # checks every sum
        assert ckpt.model_state["weight"].eq(ckpt.step).all() and ckpt.meta["step"] == ckpt.step
    C.save_checkpoint(tmp_path, 99_999, torch.nn.Linear(2, 2), meta={}, rt=RT)
    assert not list(tmp_path.glob(".step_*"))
    assert killed_in_write, "no kill hit a write: the test saw nothing"


WORLD = """
    import os, sys, torch, random
    from nanochat_course import checkpoint as C
    from nanochat_course.common import runtime, seed_everything
    from nanochat_course.gpt import GPT, GPTConfig
    from nanochat_course.optim import param_groups
    from nanochat_course.zero2 import make_optimizer
    with runtime(device="cpu", dtype="float32") as rt:
        assert [bytes(b) for b in C.gather_bytes(b"x" * rt.rank, rt)] == [b"x" * r for r in range(rt.world_size)]
        seed_everything(0)
        model = GPT(GPTConfig(sequence_len=16, vocab_size=300, n_layer=2, n_head=2, n_kv_head=2, n_embd=32, value_embeds=True, residual_scalars=True)).init_weights()
        optimizer = make_optimizer(param_groups(model, beta2=0.9), rt)
        seed_everything(rt.rank)
        for _ in range(2):
            x = torch.randint(0, 300, (2, 17))
            model(x[:, :-1], x[:, 1:]).backward()
            optimizer.step()
            optimizer.zero_grad()
        C.save_checkpoint(sys.argv[1], 1, model, optimizer, meta={}, rt=rt)
        want = torch.rand(1), random.random()
        whole = optimizer.state_tensors()                                # collected from all ranks: the oracle
        seed_everything(77)
        ckpt = C.load_latest(sys.argv[1], rt)
        C.restore(ckpt, model, optimizer, rt=rt)
        assert (torch.rand(1), random.random()) == want
        if rt.is_main:
            assert whole.keys() == ckpt.optimizer_state.keys(), whole.keys() ^ ckpt.optimizer_state.keys()
            assert all(torch.equal(t, ckpt.optimizer_state[k]) for k, t in whole.items())
            assert all(torch.equal(t, ckpt.model_state[k]) for k, t in model.state_dict().items())
        again = optimizer.state_tensors()
        assert all(torch.equal(t, again[k]) for k, t in whole.items())
        rt.barrier()
        for broken in sys.argv[2:]:              # a file where the folder should be; a folder that rank 1 cannot write into
            try: C.save_checkpoint(broken, 2, model, meta={}, rt=rt); print("no error")
            except C.CourseError as e: print(f"rank {rt.rank} heard of it", flush=True)
            C.write_tensors = lambda path, tensors: open("/dev/full" if rt.rank == 1 else os.devnull, "w").write("x" * 10**5)
"""


def torchrun(script, *args, n=2):
    ports = dict(os.environ, OMP_NUM_THREADS="1")
    return forked.run([sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}", script, *args],
                          capture_output=True, text=True, timeout=280, env=ports)


def test_every_rank_writes_its_part_and_hears_of_errors(tmp_path):
    "Three processes write, each its part; all together are what the collectives would have gathered, and one process reads it."
    script = tmp_path / "world.py"
    script.write_text(textwrap.dedent(WORLD))
    (tmp_path / "file").write_text("")
    r = torchrun(str(script), str(tmp_path / "run"), str(tmp_path / "file"), str(tmp_path / "disk"), n=3)
    assert r.returncode == 0, r.stdout[-2000:] + r.stderr[-4000:]
    assert all(r.stdout.count(f"rank {i} heard of it") == 2 for i in range(3)), r.stdout
    assert not any((tmp_path / "disk").iterdir()), "half a checkpoint was left"
    folder = tmp_path / "run" / "step_000001"
    files = {f"{stem}-{i:05d}-of-00003.safetensors" for stem in ("model", "optimizer", "rng") for i in (1, 2, 3)} | {"meta.json", "SHA256SUMS"}
    assert {p.name for p in folder.iterdir()} == files
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True).returncode == 0
    sizes = [(folder / f"model-{i:05d}-of-00003.safetensors").stat().st_size for i in (1, 2, 3)]
    assert max(sizes) < 1.2 * min(sizes), sizes
    ckpt = C.load_checkpoint(tmp_path / "run")
    assert {k.split("/")[0] for k in ckpt.rng} == {"0", "1", "2"} and ckpt.meta["world_size"] == 3
    model, _ = make(replace(TINY, value_embeds=True, residual_scalars=True), seed=3)
    C.restore(ckpt, model, MuonAdamW(param_groups(model, beta2=0.9)))                 # one process takes it all
    (folder / "optimizer-00002-of-00003.safetensors").unlink()
    with pytest.raises(CourseError, match="optimizer-00002-of-00003.safetensors is missing"): C.load_checkpoint(tmp_path / "run")
    sums = (folder / "SHA256SUMS").read_text()
    (folder / "SHA256SUMS").write_text("".join(line for line in sums.splitlines(True) if "optimizer-00002" not in line))
    with pytest.raises(CourseError, match="SHA256SUMS is damaged"): C.load_checkpoint(tmp_path / "run")


# written beside the training

def test_our_writer_and_the_librarys_reader(tmp_path):
    from safetensors.torch import load_file
    seed_everything(0)
    dtypes = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
    tensors = {f"{d}{s}": (torch.randn(s) * 50).to(d) for d in dtypes for s in ((), (3,), (5, 7), (0, 4))} | {"b": torch.tensor([True, False, True])}
    digest = C.write_tensors(tmp_path / "x", tensors)
    again = load_file(tmp_path / "x")
    assert digest == C.sha256(tmp_path / "x") and again.keys() == tensors.keys()
    for k, t in tensors.items(): assert again[k].dtype == t.dtype and again[k].shape == t.shape and torch.equal(again[k], t), k
    big = {"w": torch.randn(5, 2**20)}                                    # more than one piece
    assert C.write_tensors(tmp_path / "x", big) == C.sha256(tmp_path / "x") and torch.equal(load_file(tmp_path / "x")["w"], big["w"])


def test_what_is_written_is_what_was_there_at_the_beginning(trained, monkeypatch):
    run, model, optimizer = trained
    go, write = threading.Event(), C.write_tensors
    monkeypatch.setattr(C, "write_tensors", lambda *args: go.wait(30) and write(*args))
    writer = C.CheckpointWriter(run, RT)
    for step in (3, 4):                                                   # the second time the memory of the first is used again
        before = {k: v.clone() for k, v in (model.state_dict() | C.optimizer_tensors(optimizer, model)).items()}
        go.clear()
        writer.begin(step, model, optimizer, meta={})
        writer.copied.wait()
        steps(model, optimizer, 2)
        assert C.latest_step(run) == step - 1, "a checkpoint shows before it is whole"
        go.set()
        writer.finish()
        ckpt = C.load_checkpoint(run)
        saved = ckpt.model_state | ckpt.optimizer_state
        assert ckpt.step == step and saved.keys() == before.keys() and all(torch.equal(saved[k], v) for k, v in before.items())
    assert C.all_steps(run) == [3, 4]


KILLED_INSIDE = """
    import os, signal, sys, torch
    from nanochat_course import checkpoint as C
    from nanochat_course.common import Runtime
    model, writer = torch.nn.Linear(600, 600), C.CheckpointWriter(sys.argv[1], Runtime(torch.device("cpu"), torch.float32))
    writer.begin(1, model, meta={})
    writer.finish()
    write = C.write_tensors
    def killed(path, tensors):
        if path.name == C.RNG: os.kill(os.getpid(), signal.SIGKILL)      # the weights are written, the rest is not
        return write(path, tensors)
    C.write_tensors = killed
    writer.begin(2, model, meta={})
    writer.finish()
"""


def test_killed_while_a_thread_writes(tmp_path):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED_INSIDE), str(tmp_path)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert any(tmp_path.glob(".step_000002*/model.safetensors")) and C.latest_step(tmp_path) == 1
    assert C.load_latest(tmp_path, RT).step == 1


def test_a_full_disk_in_the_background(trained):
    run, model, optimizer = trained
    writer = C.CheckpointWriter(run, RT)
    with small_files(3000):
        writer.begin(3, model, optimizer, meta={})
        writer.thread.join()
    assert writer.failed
    with pytest.raises(CourseError, match="could not write .*step_000003 .*free some space"): writer.finish()
    assert C.all_steps(run) == [1, 2] and not list(run.glob(".step*"))
    writer.begin(4, model, optimizer, meta={})                            # and it can be used again
    writer.finish()
    assert C.load_latest(run, RT).step == 4


def test_who_does_not_train_never_touches_the_optimizers_file(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path))
    train_bpe(["The cat sat on the mat. " * 20] * 3, 270).save(base_dir() / "tokenizer")
    model, optimizer = make(replace(TINY, vocab_size=270))
    path = C.save_checkpoint(tmp_path / "run", 1, model, optimizer, meta={}, rt=RT)
    (path / C.OPTIMIZER).write_bytes(b"no tensors")
    loaded, *_ = C.load_model(tmp_path / "run", RT)
    assert same(model, loaded)
    with pytest.raises(CourseError, match="optimizer.safetensors is damaged"): C.load_checkpoint(tmp_path / "run")
    with pytest.raises(CourseError, match="optimizer.safetensors holds no tensors"): len(C.load_checkpoint(tmp_path / "run", check=False).optimizer_state)
