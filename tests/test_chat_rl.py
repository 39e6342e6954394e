"Reinforcement learning: the gradient is the exact one, rollouts can be repeated, and the stage goes on where it was killed."
import itertools, json, os, random, shutil, signal, subprocess, sys, time, zlib
from dataclasses import replace
from functools import partial
import pytest, torch
from nanochat_course.base_train import make_optimizer
from nanochat_course.chat_rl import (ChatRLConfig, Rollout, RolloutLoader, chat_rl, evaluate_pass, group_advantages, pass_at_k,
                                     policy_gradient_loss, roll_out, rollout_batch)
from nanochat_course.checkpoint import all_steps, checkpoint_dir, latest_step, load_checkpoint, save_checkpoint
from nanochat_course.common import CourseError, Runtime, base_dir, load_result, read_log
from nanochat_course.engine import Engine
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.optim import param_groups
from nanochat_course.scaling import Schedule
from nanochat_course.tasks import TASKS, ConversationLoader, SumsTask, TaskMixture
from nanochat_course.tokenizer import train_bpe
from nanochat_course.train import LoopConfig, train

CPU = Runtime(torch.device("cpu"), torch.float32)
FLAGS = "--device cpu --dtype float32 --num-samples 8 --examples-per-step 4 --num-iterations 24 --max-new-tokens 4 --eval-items 6 --eval-samples 2 --save-every 3"
Sums = partial(SumsTask, largest=9, working=False)                # easy enough to be right now and then after some seconds
COMMAND = """import functools, nanochat_course.tasks as tasks
tasks.TASKS["sums"] = functools.partial(tasks.SumsTask, largest=9, working=False)
from nanochat_course.chat_rl import main
main()"""
SMALL = ChatRLConfig(device="cpu", dtype="float32", num_samples=8, examples_per_step=4, num_iterations=4, max_new_tokens=4, eval_items=6, eval_samples=2, save_every=2)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    "A tokenizer and a small model that has seen some sums: now and then it is right."
    task = Sums("train")
    tok = train_bpe([m["content"] for i in range(len(task)) for m in task[i]["messages"]], 300, num_processes=1)
    torch.manual_seed(0)
    model = GPT(GPTConfig(sequence_len=128, vocab_size=tok.vocab_size, n_layer=1, n_head=2, n_kv_head=2, n_embd=64)).init_weights()
    optimizer = make_optimizer(param_groups(model, embedding_lr=.1, unembedding_lr=.01, matrix_lr=.01), CPU)
    batches = lambda state: iter(ConversationLoader(tok, TaskMixture([(task, 20)]), 8, 64, CPU)(state))
    train(model, optimizer, batches, LoopConfig(40), CPU, schedule=Schedule(40, 0, 0.5, 0.), desc="sums")
    folder = tmp_path_factory.mktemp("taught")
    tok.save(folder / "tokenizer")
    before = os.environ["NANOCHAT_COURSE_DIR"]
    os.environ["NANOCHAT_COURSE_DIR"] = str(folder)
    save_checkpoint(checkpoint_dir("chatsft", "tiny"), 40, model, meta={}, rt=CPU)
    os.environ["NANOCHAT_COURSE_DIR"] = before
    return folder, tok, model


@pytest.fixture
def world(taught, tmp_path, monkeypatch):
    "A folder of its own with that model, as `chat_sft` would leave it."
    shutil.copytree(taught[0], tmp_path / "course")
    monkeypatch.setenv("NANOCHAT_COURSE_DIR", str(tmp_path / "course"))
    monkeypatch.setitem(TASKS, "sums", Sums)
    return tmp_path / "course"


def weights():
    c = load_checkpoint(checkpoint_dir("chatrl", "tiny"))
    return {**c.model_state, **{f"optimizer/{k}": v for k, v in c.optimizer_state.items()}}


# advantages and the loss

def test_advantages():
    r = torch.tensor([[1., 0., 0., 1.], [0., 0., 0., 1.], [1., 1., 1., 1.]])
    want = torch.tensor([[.5, -.5, -.5, .5], [-.25, -.25, -.25, .75], [0., 0., 0., 0.]])
    assert torch.equal(group_advantages(r), want)
    r = torch.rand(7, 5)
    assert torch.allclose(group_advantages(r).sum(1), torch.zeros(7), atol=1e-6)
    assert torch.allclose(group_advantages(r + torch.arange(7)[:, None]), group_advantages(r), atol=1e-5)      # a bonus for all changes nothing


def gradient_error(loss_fn, show_prompt=False):
    "Largest difference between the gradient of the loss, over all answers weighted with their probabilities, and that of the expected reward; and the gradient's size."
    torch.manual_seed(0)
    model = GPT(GPTConfig(sequence_len=8, vocab_size=3, n_layer=1, n_head=1, n_kv_head=1, n_embd=16)).init_weights()
    torch.nn.init.normal_(model.lm_head.weight, std=0.5)
    answers = torch.cartesian_prod(torch.arange(3), torch.arange(3))                                 # (9, 2): all there are
    inputs = torch.cat([torch.tensor([[0, 1]]).expand(9, 2), answers[:, :1]], 1)                     # (9, 3): a prompt of two tokens
    hidden = torch.cat([torch.full((9, 1), 1 if show_prompt else -1), answers], 1)                   # (9, 3)
    rewards = ((answers[:, 0] == 2) & (answers[:, 1] == 1)).float()
    logp = -model(inputs, torch.cat([torch.full((9, 1), -1), answers], 1), loss_reduction="none").view(9, 3).sum(1)
    params = [p for p in model.parameters() if p.requires_grad]
    assert logp.exp().sum().item() == pytest.approx(1, abs=1e-5)
    flat = lambda grads: torch.cat([g.flatten() for g in grads])
    exact = flat(torch.autograd.grad((logp.exp() * rewards).sum(), params, retain_graph=True))
    p, chosen = logp.exp().detach(), int((hidden >= 0).sum())
    got = flat(torch.autograd.grad(loss_fn(model, inputs, (hidden, chosen * p * (rewards - 0.3))), params))
    return (-got - exact).abs().max().item(), exact.abs().max().item()


def test_the_gradient_is_that_of_the_expected_reward():
    error, size = gradient_error(policy_gradient_loss)
    assert error < 1e-6 < 1e-3 < size


@pytest.mark.parametrize("name", ["sign", "mask", "sum instead of mean", "direction only"])
def test_a_broken_loss_is_seen(name):
    def direction_only(model, inputs, targets): return policy_gradient_loss(model, inputs, (targets[0], targets[1].sign()))
    broken = {"sign": lambda *a: -policy_gradient_loss(*a), "mask": policy_gradient_loss, "direction only": direction_only,
              "sum instead of mean": lambda m, x, t: policy_gradient_loss(m, x, t) * (t[0] >= 0).sum()}[name]
    error, size = gradient_error(broken, show_prompt=name == "mask")
    assert error > 0.05 * size


def test_nothing_to_learn_is_no_gradient(taught):
    _, tok, model = taught
    x = torch.randint(0, tok.vocab_size, (2, 6))
    loss = policy_gradient_loss(model, x, (x, torch.zeros(2)))
    assert loss.item() == 0 and all(g.abs().max() == 0 for g in torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))
    assert policy_gradient_loss(model, x, (torch.full_like(x, -1), torch.ones(2))).item() == 0                  # nothing chosen: no division by zero


# pass@k

def test_pass_at_k_against_all_subsets():
    for n in range(1, 8):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets)), (n, c, k)


@pytest.mark.parametrize("n, c, k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)])
def test_pass_at_k_refuses(n, c, k):
    with pytest.raises(ValueError, match="pass@"): pass_at_k(n, c, k)


def test_evaluate_pass(taught):
    _, tok, model = taught
    engine, task = Engine(model, tok), Sums("test")
    items = [0, 3, 4]
    right = [sum(r.reward for r in g) for g in roll_out(engine, task, items, 4, 4, seed=5)]
    got = evaluate_pass(engine, task, items, CPU, 4, (1, 2, 4), 4, seed=5)
    assert got == {f"pass@{k}": pytest.approx(sum(pass_at_k(4, int(c), k) for c in right) / 3) for k in (1, 2, 4)}
    assert evaluate_pass(engine, task, [], CPU, 4, (1,), 4) == {"pass@1": 0.}


# rollouts and their batches

def test_batch_hides_prompt_tool_and_padding():
    a = Rollout("q", "a", tokens=[9, 8, 7, 6, 5, 4], mask=[0, 0, 1, 0, 0, 1], reward=1., advantage=.5)       # 6 and 5 came from a tool
    b = Rollout("q", "b", tokens=[9, 3, 2], mask=[0, 0, 1], reward=0., advantage=-.5)
    inputs, (targets, advantages) = rollout_batch([a, b], pad=1)
    assert inputs.tolist() == [[9, 8, 7, 6, 5], [9, 3, 1, 1, 1]]
    assert targets.tolist() == [[-1, 7, -1, -1, 4], [-1, 2, -1, -1, -1]]
    assert advantages.tolist() == [.5, -.5]


def test_rollouts(taught):
    _, tok, model = taught
    engine, task = Engine(model, tok), Sums("train")
    groups = roll_out(engine, task, [2, 5], num_samples=6, max_tokens=4, seed=1)
    assert [len(g) for g in groups] == [6, 6]
    for i, group in zip([2, 5], groups):
        prompt = tok.render_for_completion(task[i])
        for r in group:
            assert r.question == task[i]["messages"][0]["content"] and r.tokens[:len(prompt)] == prompt and len(r.mask) == len(r.tokens)
            assert not any(r.mask[:len(prompt)]) and r.reward == float(task.grade(task[i], r.answer))
        assert torch.allclose(torch.tensor([r.advantage for r in group]), group_advantages(torch.tensor([[r.reward for r in group]]))[0])
    assert roll_out(engine, task, [2, 5], num_samples=6, max_tokens=4, seed=1) == groups
    assert roll_out(engine, task, [2, 5], num_samples=6, max_tokens=4, seed=2) != groups


def take(loader, n, state=None): return list(itertools.islice(loader(state), n))


def equal(a, b): return torch.equal(a[0], b[0]) and all(torch.equal(x, y) for x, y in zip(a[1], b[1])) and a[2] == b[2]


def test_loader_repeats_and_resumes(taught):
    _, tok, model = taught
    make = lambda seed=0: RolloutLoader(Engine(model, tok), Sums("train"), CPU, examples=2, num_samples=4, max_tokens=4, seed=seed)
    first = take(make(), 3)
    assert all(equal(a, b) for a, b in zip(first, take(make(), 3)))
    assert equal(first[2], take(make(), 1, first[1][2])[0])                       # from the state that came with the second
    assert not equal(first[0], take(make(1), 1)[0])


def gradients(model, loader, passes):
    "Of the head, as the loop adds them up: each pass's loss divided by the number of passes."
    model.zero_grad()
    for inputs, targets, state in take(loader, passes): (policy_gradient_loss(model, inputs, targets) / passes).backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found, state


class Whims(SumsTask):
    "Half of all answers are right, for no reason: every group has a signal."
    def grade(self, conversation, completion): return zlib.crc32(repr(completion).encode()) % 2 == 0


@pytest.mark.parametrize("rows", [8, 7, 3, 1, 100])
def test_passes_make_the_gradient_of_the_whole(taught, rows):
    "Also where the answers differ in length; a state after some of the passes still names this batch."
    _, tok, model = taught
    make = lambda rows: RolloutLoader(Engine(model, tok), Whims("train", largest=9), CPU, examples=2, num_samples=6, max_tokens=5, seed=3, rows=rows)
    whole, state = gradients(model, make(0), 1)
    passes = -(-12 // rows)
    got, last = gradients(model, make(rows), passes)
    assert last == state == dict(batch=1) and max(g.abs().max() for g in whole.values()) > 0
    for n in whole: assert torch.allclose(got[n], whole[n], rtol=1e-3, atol=1e-6), n
    assert [s["batch"] for _, _, s in take(make(rows), 2 * passes)] == [0] * (passes - 1) + [1] + [1] * (passes - 1) + [2]


def test_every_question_once_an_epoch_and_ranks_apart():
    task = SumsTask("train", largest=5)
    for world in (1, 2, 3):
        loaders = [RolloutLoader(None, task, replace(CPU, rank=r, world_size=world), examples=2) for r in range(world)]
        steps = len(task) // (2 * world)
        epoch = [i for b in range(steps) for l in loaders for i in l.items(b)]
        assert len(set(epoch)) == len(epoch) == steps * 2 * world                 # no question twice, on whatever rank
        assert loaders[0].items(0) != loaders[0].items(steps)                     # another order in the next epoch


def test_too_many_questions():
    with pytest.raises(CourseError, match="lower --examples-per-step"): RolloutLoader(None, SumsTask("test", largest=3), CPU, examples=1000)


# the stage

def test_the_stage(world):
    r = chat_rl(SMALL)
    assert latest_step(checkpoint_dir("chatrl", "tiny")) == 4 and r["tag"] == "tiny"
    assert {"sums pass@1", "sums pass@2", "sums pass@1 before", "sums pass@2 before"} <= set(r["metrics"])
    saved = load_result("chat_rl")
    assert saved["metrics"] == r["metrics"] and len(saved["samples"]) >= 6
    rewards = [l["reward"] for l in read_log(saved["log"]) if "reward" in l]
    assert len(rewards) == 4 and all(0 <= x <= 1 for x in rewards)
    assert load_checkpoint(checkpoint_dir("chatrl", "tiny")).meta["run"]["origin"]["stage"] == "chatsft"


def test_the_stage_in_passes(world):
    "Three answers at a time: the same rollouts, the same rewards, the same weights but for rounding."
    whole = chat_rl(SMALL)
    want, log = weights(), [l["reward"] for l in read_log(base_dir() / "report" / "chat_rl.jsonl") if "reward" in l]
    shutil.rmtree(base_dir() / "chatrl_checkpoints")
    passes = chat_rl(replace(SMALL, device_batch_size=3))
    assert [l["reward"] for l in read_log(base_dir() / "report" / "chat_rl.jsonl") if "reward" in l] == log
    assert all(torch.allclose(weights()[k], v, rtol=1e-2, atol=1e-3) for k, v in want.items() if not k.startswith("optimizer/"))
    assert passes["metrics"].keys() == whole["metrics"].keys()


def test_gsm8k_from_a_folder(world, tmp_path):
    "Published problems instead of sums, graded by their own grader; without the folder's files it says which are missing."
    (tmp_path / "gsm8k").mkdir()
    rows = [dict(question=f"{a} + {b}?", answer=f"{a}+{b}=<<{a}+{b}={a + b}>>{a + b}\n#### {a + b}") for a in range(5) for b in range(4)]
    for split in ("train", "test"): (tmp_path / "gsm8k" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = replace(SMALL, task="gsm8k", task_data=str(tmp_path), num_iterations=1)
    assert "gsm8k pass@1" in chat_rl(config)["metrics"]
    with pytest.raises(CourseError, match="gsm8k does not exist"): chat_rl(replace(config, task_data=str(tmp_path / "none")))


def stage(world):
    return subprocess.Popen([sys.executable, "-c", COMMAND, *FLAGS.split()], text=True, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, env=dict(os.environ, OMP_NUM_THREADS="1", NANOCHAT_COURSE_DIR=str(world)))


def test_killed_and_started_again_it_ends_the_same(world):
    process = stage(world)
    assert process.wait(300) == 0, process.stderr.read()
    want, log = weights(), read_log(base_dir() / "report" / "chat_rl.jsonl")
    assert any(l.get("reward", 0) > 0 for l in log), "no answer was ever right, so this test shows nothing"
    shutil.rmtree(base_dir() / "chatrl_checkpoints")
    seed = time.time_ns()
    rng = random.Random(seed)
    process, target, deadline = stage(world), rng.choice([3, 6, 9, 12]), time.time() + 300
    while max(all_steps(checkpoint_dir("chatrl", "tiny")), default=0) < target and time.time() < deadline and process.poll() is None: time.sleep(0.002)
    time.sleep(rng.random() * 0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = stage(world)
    assert again.wait(300) == 0, again.stderr.read()
    got = weights()
    assert got.keys() == want.keys() and all(torch.equal(got[k], want[k]) for k in want), f"other weights, seed {seed}"
    steps = lambda lines: [l["step"] for l in lines if "loss" in l]
    assert steps(read_log(base_dir() / "report" / "chat_rl.jsonl")) == steps(log) == list(range(24))


def test_what_is_missing_is_said_in_one_line(world):
    for kwargs, text in ((dict(examples_per_step=10**6), "lower --examples-per-step"), (dict(task="essay"), "essay"),
                         (dict(model_tag="d9"), "no chatsft checkpoint of model 'd9', there is tiny")):
        with pytest.raises(CourseError, match=text): chat_rl(replace(SMALL, **kwargs))
    shutil.rmtree(world / "chatsft_checkpoints")
    with pytest.raises(CourseError, match="run python -m nanochat_course.chat_sft first"): chat_rl(SMALL)
    process = stage(world)
    assert process.wait(120) == 2 and (error := process.stderr.read()).startswith("error: ") and error.count("\n") == 1


def test_another_number_of_ranks_asks_the_next_questions(monkeypatch):
    import nanochat_course.chat_rl as R
    from itertools import islice
    from types import SimpleNamespace
    monkeypatch.setattr(R, "roll_out", lambda engine, task, items, *a: [items])
    monkeypatch.setattr(R, "rollout_batch", lambda rollouts, bos, device: (rollouts, None))
    def asked(world, state, batches): # the questions of each batch over all ranks, and the states after the last
        ranks = [list(islice(R.RolloutLoader(SimpleNamespace(tokenizer=SimpleNamespace(bos=0)), range(40), replace(CPU, rank=r, world_size=world), 8 // world)(state), batches)) for r in range(world)]
        return [sorted(sum((r[b][0] for r in ranks), [])) for b in range(batches)], [r[-1][2] for r in ranks]
    whole, _ = asked(1, None, 9)
    first, states = asked(4, None, 3)
    assert first + asked(2, states, 6)[0] == whole and all(len(set(b)) == 8 for b in whole)
