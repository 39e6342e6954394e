"Reinforcement learning: the gradient is the exact one, rollouts can be repeated, and the stage goes on where it was killed."
import itertools, json, math, os, random, re, shutil, signal, subprocess, sys, time, zlib
from dataclasses import replace
from functools import partial
import forked, pytest, torch
from nanochat_course.base_train import make_optimizer
from nanochat_course.chat_rl import (ALGORITHMS, Algorithm, ChatRLConfig, Rollout, RolloutLoader, chat_rl, evaluate_pass, group_advantages,
                                     kl_estimate, pass_at_k, policy_gradient_loss, rl_optimizer, roll_out, rollout_batch, rollouts_html,
                                     token_logprobs)
from nanochat_course.checkpoint import all_steps, checkpoint_dir, latest_step, load_checkpoint, load_model, save_checkpoint
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
    return forked.Popen([sys.executable, "-c", COMMAND, *FLAGS.split()], text=True, stdout=subprocess.DEVNULL,
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


# the family: every gradient against an enumeration of all groups of all answers, in double precision

KINDS = ["none", "mean", "others", "standardised"]


class Table(torch.nn.Module):
    "A policy over three tokens that is a table: 2 ends an answer, at most two tokens. Called like a model of the course."
    def __init__(self, seed=0):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))  # row: what came before

    def forward(self, inputs, targets, loss_reduction="none"):
        logp = self.theta.log_softmax(1)[inputs]                                        # (B, T, 3)
        return -logp.gather(2, targets.clamp(min=0)[..., None])[..., 0] * (targets >= 0)


ANSWERS = [(2,), (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]                        # all there are; their lengths differ
REWARDS = torch.tensor([.5, 1., 0., 0., 1., .25, 0.], dtype=torch.float64)
LIMIT, START = 2, 2                                                                    # longest answer; the prompt is one token


def as_batch(group):
    inputs = torch.tensor([[START, ANSWERS[i][0]] for i in group])
    targets = torch.tensor([[*ANSWERS[i], -1][:2] for i in group])
    return inputs, targets


def chances(model):
    "The probability of every answer, by multiplication."
    p = model.theta.softmax(1)
    return torch.stack([p[START, a[0]] * (p[a[0], a[1]] if len(a) > 1 else 1.) for a in ANSWERS])


def through_the_loader(algorithm, group, advantages):
    "Weights per answer as the loader makes them."
    loader = object.__new__(RolloutLoader)
    loader.rows, loader.algorithm, loader.max_tokens = 0, algorithm, LIMIT
    rollouts = [Rollout("q", "", [START, *ANSWERS[i]], [0] + [1] * len(ANSWERS[i]), 0., a) for i, a in zip(group, advantages.tolist())]
    weight = loader.passes(rollouts)[0][1]
    return torch.tensor(weight, dtype=torch.float64) if weight != 1. else torch.ones(len(group), dtype=torch.float64)


def expected(model, algorithm, n=2, old=None, reference=None):
    "Minus the mean gradient of the loss over all groups of n answers of `old`, the model that sampled."
    total, p = 0., chances(old or model).detach()
    for group in itertools.product(range(len(ANSWERS)), repeat=n):
        inputs, targets = as_batch(group)
        advantages = group_advantages(REWARDS[list(group)][None], algorithm.advantage)[0]
        more = dict(scale=through_the_loader(algorithm, group, advantages))
        if old is not None: more["old"] = token_logprobs(old, inputs, targets)
        if algorithm.kl: more["reference"] = token_logprobs(reference, inputs, targets)
        loss = policy_gradient_loss(model, inputs, (targets, advantages * more["scale"], more), algorithm)
        total = total - p[list(group)].prod() * torch.autograd.grad(loss, model.theta)[0]
    return total


def by_definition(model, name, n=2, old=None, reference=None, beta=0.):
    "The same number from the papers' formulas, with plain loops over groups, answers and tokens, and finite logic of its own."
    theta = model.theta
    logs = theta.log_softmax(1)
    old_logs = (old or model).theta.detach().log_softmax(1)
    p, objective = chances(old or model).detach(), 0.
    for group in itertools.product(range(len(ANSWERS)), repeat=n):
        r = [float(REWARDS[i]) for i in group]
        mean = sum(r) / n
        deviation = (sum((x - mean)**2 for x in r) / (n - 1))**.5
        total, tokens = 0., sum(len(ANSWERS[i]) for i in group)
        for j, i in enumerate(group):
            A = {"reinforce_no_baseline": r[j], "reinforce": r[j] - mean, "ppo": r[j] - mean, "dr_grpo": r[j] - mean,
                 "rloo": r[j] - sum(r[:j] + r[j+1:]) / (n - 1)}.get(name, (r[j] - mean) / (deviation + 1e-6))
            share = {"grpo": 1 / (n * len(ANSWERS[i])), "dr_grpo": 1 / (n * LIMIT)}.get(name, 1 / tokens)
            before = START
            for token in ANSWERS[i]:
                now, then = logs[before, token], old_logs[before, token]
                if name in ("ppo", "grpo", "dr_grpo", "dapo"):
                    rho, up = (now - then).exp(), 1.28 if name == "dapo" else 1.2
                    gain = rho * A
                    if A > 0 and rho > up: gain = torch.tensor(up * A, dtype=torch.float64)           # held above
                    if A < 0 and rho < .8: gain = torch.tensor(.8 * A, dtype=torch.float64)           # held below
                else: gain = now * A
                if beta:
                    x = reference.theta.detach().log_softmax(1)[before, token] - now
                    gain = gain - beta * (x.exp() - x - 1)
                total, before = total + share * gain, token
        objective = objective + p[list(group)].prod() * total
    return torch.autograd.grad(objective, theta)[0]


def true_gradient(model): return torch.autograd.grad((chances(model) * REWARDS).sum(), model.theta)[0]


def close(a, b): return torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_gradient_of_every_algorithm_is_its_definition(name):
    "On samples of the model itself, and on samples of an older one: then ratios are away from 1, and some are clipped."
    model, old, reference = Table(0), Table(0), Table(5)
    algorithm = ALGORITHMS[name]
    assert close(expected(model, algorithm, reference=reference), by_definition(model, name, reference=reference, beta=algorithm.kl))
    if not algorithm.clip: return
    with torch.no_grad(): old.theta += 0.3 * torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    ratios = (model.theta.log_softmax(1) - old.theta.log_softmax(1)).exp()
    assert ratios.max() > 1.28 and ratios.min() < .8 and ((ratios > 1.2) & (ratios < 1.28)).any(), "the limits are felt, DAPO's apart from PPO's"
    got = expected(model, algorithm, old=old, reference=reference)
    assert close(got, by_definition(model, name, old=old, reference=reference, beta=algorithm.kl))
    loose = replace(algorithm, clip=(math.inf, math.inf))
    assert not close(got, expected(model, loose, old=old, reference=reference)), "the clip does something here"


@pytest.mark.parametrize("kind, share", [("none", 1.), ("mean", .5), ("others", 1.)])
def test_which_estimates_are_the_gradient_of_the_mean_reward(kind, share):
    "With a constant divisor: exactly, and the group's mean short by 1/n. Divided by tokens or by length no estimate is, when lengths differ."
    model = Table(0)
    want = true_gradient(model)
    assert close(expected(model, Algorithm(kind, "limit")) * LIMIT, share * want)
    for divide_by in ("tokens", "answer"):
        got = expected(model, Algorithm(kind, divide_by))
        cosine = (got * want).sum() / got.norm() / want.norm()
        assert .8 < cosine < 1 - 1e-6, divide_by


def test_the_gradient_of_each_penalty():
    "For a single token: k2's is that of KL(policy || reference), k3's that of KL(reference || policy), k1 has none."
    theta = torch.randn(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    q = torch.randn(5, generator=torch.Generator().manual_seed(4), dtype=torch.float64).softmax(0)
    p = theta.softmax(0)
    grad = lambda x: torch.autograd.grad(x, theta, retain_graph=True)[0]
    mean = {k: (p.detach() * kl_estimate(p.log(), q.log(), k)).sum() for k in ("k1", "k2", "k3")}
    kl = (p * (p / q).log()).sum()
    assert close(grad(mean["k1"]), torch.zeros(5, dtype=torch.float64))
    assert close(grad(mean["k2"]), grad(kl)) and close(grad(mean["k3"]), grad((q * (q / p).log()).sum()))
    assert not close(grad(mean["k3"]), grad(kl))
    assert mean["k1"].item() == pytest.approx(kl.item()) == mean["k3"].item() and abs(mean["k2"].item() - kl.item()) > 1e-3
    assert (kl_estimate(p.log(), q.log(), "k3") >= 0).all()
    with pytest.raises(CourseError, match="k1, k2 or k3"): kl_estimate(p, q, "k4")


def test_advantages_of_each_kind():
    r = torch.tensor([[1., 0., 0., 1.], [0., 0., 0., 1.]])
    assert torch.equal(group_advantages(r, "none"), r)
    assert torch.allclose(group_advantages(r, "others")[1], torch.tensor([-1/3, -1/3, -1/3, 1.]))
    assert torch.allclose(group_advantages(r, "standardised").std(1), torch.ones(2), atol=1e-4)
    assert group_advantages(torch.ones(1, 3), "standardised").abs().max() == 0
    with pytest.raises(CourseError, match="2 samples"): group_advantages(torch.ones(2, 1), "others")
    with pytest.raises(CourseError, match="use none, mean"): group_advantages(r, "median")


def test_the_default_trains_as_it_always_did(world):
    "The stage's weights, bit for bit, from a loop that knows only REINFORCE with the group's mean."
    want_model, tok, _ = load_model(checkpoint_dir("chatsft", "tiny"), CPU, 40)
    chat_rl(SMALL)
    engine, task = Engine(want_model, tok), Sums("train")
    optimizer = rl_optimizer(SMALL, want_model, 4, CPU)
    questions = RolloutLoader(engine, task, CPU, 4)
    def batches(state):
        for b in itertools.count():
            answers = engine.generate_batch([tok.render_for_completion(task[i]) for i in questions.items(b)], 8, 4, 1., 0, seed=b)
            rewards = torch.tensor([float(task.grade(task[questions.items(b)[k // 8]], a.parts)) for k, a in enumerate(answers)]).view(4, 8)
            T = max(len(a.prompt + a.tokens) for a in answers) - 1
            inputs, targets = torch.full((32, T), tok.bos), torch.full((32, T), -1)
            for k, a in enumerate(answers):
                ids = torch.tensor(a.prompt + a.tokens)
                inputs[k, :len(ids) - 1] = ids[:-1]
                targets[k, len(a.prompt) - 1:len(ids) - 1] = ids[len(a.prompt):]
            yield inputs, (targets, (rewards - rewards.mean(1, keepdim=True)).flatten()), dict(batch=b + 1)
    def loss(model, inputs, targets):
        ids, advantages = targets
        logp = -model(inputs, ids, loss_reduction="none").view_as(ids)
        return -(logp * advantages[:, None]).sum() / (ids >= 0).sum()
    train(want_model, optimizer, batches, LoopConfig(4, prefetch=False), CPU, schedule=lambda step: dict(lr=1 - step / 4), loss_fn=loss)
    got = load_checkpoint(checkpoint_dir("chatrl", "tiny")).model_state
    assert all(torch.equal(got[k], v) for k, v in want_model.state_dict().items() if k in got)
    start = load_checkpoint(checkpoint_dir("chatsft", "tiny")).model_state
    assert any(not torch.equal(start[k], got[k]) for k in got), "something was learned at all"


@pytest.mark.parametrize("name", [n for n in ALGORITHMS if n != "reinforce"])
def test_the_stage_with_each_algorithm(world, name):
    assert chat_rl(replace(SMALL, algorithm=name, num_iterations=2, save_every=0))["tag"] == "tiny"


def make_loader(taught, algorithm, task=None, **kw):
    _, tok, model = taught
    kw = dict(dict(examples=2, num_samples=6, max_tokens=5, seed=3), **kw)
    return RolloutLoader(Engine(model, tok), task or Whims("train", largest=9), CPU, algorithm=algorithm,
                         reference=model if algorithm.kl else None, **kw)


@pytest.mark.parametrize("divide_by", ["tokens", "answer", "limit"])
@pytest.mark.parametrize("kl", [0., .5])
def test_every_divisor_in_passes_is_that_of_the_whole(taught, divide_by, kl):
    _, tok, model = taught
    torch.manual_seed(1)
    other = GPT(model.config).init_weights()
    algorithm = Algorithm("mean", divide_by, clip=(.2, .2), kl=kl)
    found = []
    for rows, n in ((0, 1), (5, 3)):
        loader = make_loader(taught, algorithm, rows=rows)
        loader.reference = other if kl else None
        model.zero_grad()
        for inputs, targets, _ in take(loader, n): (policy_gradient_loss(model, inputs, targets, algorithm) / n).backward()
        found.append(model.lm_head.weight.grad.clone())
        model.zero_grad()
    assert found[0].abs().max() > 0 and torch.allclose(*found, rtol=1e-3, atol=1e-6)


def test_answers_used_twice_keep_their_old_probabilities(taught):
    "Also across a stop between the two steps, after which the weights are others."
    _, tok, model = taught
    algorithm, log = replace(ALGORITHMS["ppo"], updates=3), []
    loader = make_loader(taught, algorithm, on_batch=lambda step, groups: log.append(step))
    batches = take(loader, 7)
    same = lambda a, b: torch.equal(a[0], b[0]) and torch.equal(a[1][0], b[1][0]) and torch.equal(a[1][1], b[1][1]) and torch.equal(a[1][2]["old"], b[1][2]["old"])
    assert same(batches[0], batches[1]) and same(batches[0], batches[2]) and not torch.equal(batches[0][0], batches[3][0])
    assert log == [0, 3, 6]
    for _, (targets, _, more), _ in batches[:1]:
        assert torch.allclose(more["old"], token_logprobs(model, batches[0][0], targets), atol=1e-6)
    weight = model.lm_head.weight.detach().clone()
    try:
        with torch.no_grad(): model.lm_head.weight.mul_(1.5)
        state = json.loads(json.dumps(batches[0][2]))                       # as a checkpoint keeps it
        again = take(loader, 2, state)
        assert same(again[0], batches[1]) and same(again[1], batches[2])
        assert not torch.allclose(again[0][1][2]["old"], token_logprobs(model, again[0][0], again[0][1][0]), atol=1e-3)
    finally:
        with torch.no_grad(): model.lm_head.weight.copy_(weight)
    assert [s for _, _, s in batches][2] == dict(batch=1, step=3)
    assert take(loader, 1, [batches[0][2], None])[0][2]["batch"] == 1       # another number of ranks: the next questions


def test_dynamic_sampling_asks_until_there_is_a_signal(taught):
    "Groups without a signal are replaced; where there is none at all it gives up, and the batch has its size."
    class Rarely(SumsTask):
        def grade(self, conversation, completion): return zlib.crc32(repr((conversation["messages"][0], completion)).encode()) % 12 == 0
    class Never(SumsTask):
        def grade(self, conversation, completion): return False
    signal = lambda group: len({r.reward for r in group}) > 1
    loader = make_loader(taught, ALGORITHMS["dapo"], Rarely("train", largest=9), examples=4, num_samples=4)
    groups, seen, after = loader.draw(0)
    plain = loader.ask(0)
    assert sum(map(signal, plain)) < 4 < len(seen) == 4 * after, "this seed has groups without a signal"
    assert len(groups) == 4 and sum(map(signal, groups)) == min(4, sum(map(signal, seen))) > sum(map(signal, plain))
    loader = make_loader(taught, ALGORITHMS["dapo"], Never("train", largest=9))
    groups, seen, after = loader.draw(5)
    assert len(groups) == 2 and len(seen) == 8 and after == 9
    inputs, (targets, advantages, *_), state = take(loader, 1)[0]
    assert advantages.abs().max() == 0 and state == dict(batch=4, step=1)


@pytest.mark.parametrize("change, text", [(dict(algorithm="grop"), "use one of reinforce"), (dict(updates=2), "no ratio"),
                                          (dict(algorithm="rloo", num_samples=1), "2 or more")])
def test_an_algorithm_that_cannot_be(world, change, text):
    with pytest.raises(CourseError, match=text): chat_rl(replace(SMALL, **change))


def test_the_viewer_escapes_and_colours(taught):
    _, tok, _ = taught
    good = Rollout("<b>1 + 1?</b>", "", [5, *tok.encode("<script>")], [0] + [1] * len(tok.encode("<script>")), 1., .75)
    bad = Rollout("<b>1 + 1?</b>", "", [5, *tok.encode("no")], [0] + [1] * len(tok.encode("no")), 0., -.25)
    page = rollouts_html([[bad, good]], tok)
    assert "<script" not in page and "&lt;b&gt;1 + 1?" in page and "<b>1" not in page
    assert page.index("+0.75") < page.index("-0.25")                        # the best first
    assert "rgba(42,168,118,0.60)" in page and "rgba(208,82,76,0.20)" in page
    tool = Rollout("q", "", [5, 6, 7], [0, 1, 0], 0., -1.)
    assert rollouts_html([[tool] * 9], tok).count("<div>") == 4


def test_the_viewer_shows_what_a_tool_wrote_and_not_the_question(taught):
    _, tok, _ = taught
    question, call, result, end = (tok.encode(text) for text in ("7 + 8?", "7+8=", "15", "."))
    mask = [0] * len(question) + [1] * len(call) + [0] * len(result) + [1] * len(end)
    page = rollouts_html([[Rollout("q", "", question + call + result + end, mask, 1., .5)]], tok)
    cells = re.findall(r'<code (class="given"|style="([^"]*)"[^>]*)>(.*?)</code>', page)
    assert "".join(text for _, _, text in cells) == "7+8=15."
    assert [kind == 'class="given"' for kind, _, _ in cells] == [False] * len(call) + [True] * len(result) + [False] * len(end)
    assert len({style for kind, style, _ in cells if style}) == 1, "one advantage, one colour"
