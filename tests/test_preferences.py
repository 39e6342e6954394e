"Preferences: scores and models against closed forms, gradients against formulas, a reward model and DPO that learn."
import copy, math, random

import pytest, torch

from nanochat_course.common import CourseError
from nanochat_course.engine import Engine
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.preferences import (Pair, RewardModel, answer_batch, answer_logprobs, collect_pairs, dpo_loss, pair_logprobs,
                                         pair_scores, preference_loss)
from nanochat_course.tokenizer import train_bpe

tok = train_bpe(["yes no maybe 12 34 " * 20], 290, num_processes=1)
END = tok.special("<|assistant_end|>")


def small(seed=0, std=.2, **kw):
    torch.manual_seed(seed)
    size = dict(sequence_len=32, vocab_size=tok.vocab_size, n_layer=2, n_head=2, n_kv_head=2, n_embd=32)
    model = GPT(GPTConfig(**{**size, **kw})).init_weights()
    for p in model.parameters(): torch.nn.init.normal_(p, std=std)
    return model


def minimise(start, loss):
    x = start.clone().requires_grad_(True)
    opt = torch.optim.LBFGS([x], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe")
    def closure():
        opt.zero_grad()
        value = loss(x)
        value.backward()
        return value
    opt.step(closure)
    return x.detach()


def test_scores_are_those_of_the_classical_algorithm():
    "Zermelo's fixed point, which Bradley and Terry's model is fitted by since 1929, gives the same scores."
    wins = torch.tensor([[0., 35., 20., 8.], [65., 0., 28., 14.], [80., 72., 0., 31.], [92., 86., 69., 0.]], dtype=torch.float64)
    i, j = torch.nonzero(~torch.eye(4, dtype=bool), as_tuple=True)
    found = minimise(torch.zeros(4, dtype=torch.float64), lambda r: (wins[i, j] * preference_loss(r[i], r[j])).sum())
    strength, n = torch.ones(4, dtype=torch.float64), wins + wins.T
    for _ in range(2000):
        strength = torch.tensor([wins[a].sum() / sum(n[a, b] / (strength[a] + strength[b]) for b in range(4) if b != a) for a in range(4)])
        strength = strength / strength.sum()
    want = strength.log()
    assert torch.allclose(found - found.mean(), want - want.mean(), atol=1e-5)
    assert preference_loss(torch.tensor([1000.]), torch.tensor([-1000.])).item() == 0            # no overflow on either side
    assert preference_loss(torch.tensor([-1000.]), torch.tensor([1000.])).item() == 2000


def test_dpo_loss_and_gradient_are_the_formula():
    g = torch.Generator().manual_seed(0)
    x = [(-5 * torch.rand(7, generator=g, dtype=torch.float64)).requires_grad_(True) for _ in range(4)]
    for beta in (.1, 1., 3.):
        loss = dpo_loss(*x, beta)
        margins = [beta * ((c - rc) - (r - rr)) for c, r, rc, rr in zip(*(t.tolist() for t in x))]
        assert torch.allclose(loss, torch.tensor([math.log1p(math.exp(-m)) for m in margins], dtype=torch.float64))
        weight = torch.tensor([beta / (1 + math.exp(m)) for m in margins], dtype=torch.float64)
        got = torch.autograd.grad(loss.sum(), x)
        for a, sign in zip(got, (-1, 1, 1, -1)): assert torch.allclose(a, sign * weight)
    assert dpo_loss(x[0], x[1], x[0], x[1]).tolist() == pytest.approx([math.log(2)] * 7)
    assert torch.autograd.gradcheck(lambda *a: dpo_loss(*a, .7), x)


@pytest.mark.parametrize("beta", [.2, .5, 2.])
def test_dpo_ends_at_the_tilted_reference(beta):
    "With every pair as often as Bradley and Terry say, the optimum is ref * exp(r / beta) / Z, which needs no training at all."
    g = torch.Generator().manual_seed(1)
    ref = torch.randn(6, generator=g, dtype=torch.float64).log_softmax(0)
    r = torch.randn(6, generator=g, dtype=torch.float64)
    i, j = torch.nonzero(~torch.eye(6, dtype=bool), as_tuple=True)
    often = 1 / (1 + (r[j] - r[i]).exp())
    def loss(theta):
        logp = theta.log_softmax(0)
        return (often * dpo_loss(logp[i], logp[j], ref[i], ref[j], beta)).sum()
    assert torch.allclose(minimise(ref, loss).log_softmax(0), (ref + r / beta).log_softmax(0), atol=1e-5)
    other = minimise(ref, lambda t: (often * dpo_loss(t.log_softmax(0)[i], t.log_softmax(0)[j], ref[i], ref[j], 2 * beta)).sum())
    assert not torch.allclose(other.log_softmax(0), (ref + r / beta).log_softmax(0), atol=1e-2)


def test_answers_as_rows_and_their_log_probabilities():
    "Against the softmax of each token in turn, on prompts and answers of different lengths."
    model = small()
    prompts, answers = [[5, 6, 7], [8], [9, 10]], [[11, END], [12, 13, 14, END], [END]]
    ids, targets, last = answer_batch(prompts, answers, pad=3)
    assert ids.tolist() == [[5, 6, 7, 11, END], [8, 12, 13, 14, END], [9, 10, END, 3, 3]] and last.tolist() == [4, 4, 2]
    assert targets.tolist() == [[-1, -1, 11, END, -1], [12, 13, 14, END, -1], [-1, END, -1, -1, -1]]
    with torch.no_grad():
        want = []
        for p, a in zip(prompts, answers):
            logp = model(torch.tensor([p + a])).log_softmax(-1)[0]
            want.append(sum(float(logp[len(p) + k - 1, t]) for k, t in enumerate(a)))
        got = answer_logprobs(model, prompts, answers, pad=3)
        assert torch.allclose(got, torch.tensor(want), atol=1e-4)
        pairs = [Pair(prompts[0], answers[0], answers[1]), Pair(prompts[1], answers[1], answers[2])]
        chosen, rejected = pair_logprobs(model, pairs, pad=3)
        assert torch.allclose(chosen, got[:2], atol=1e-4) and torch.allclose(rejected[0], answer_logprobs(model, [prompts[0]], [answers[1]], 3)[0], atol=1e-4)


@pytest.mark.parametrize("shape", [dict(), dict(smear=True, value_embeds=True, residual_scalars=True, backout=True)], ids=["plain", "record"])
def test_a_reward_model_reads_as_its_model_does(shape):
    "With a row of the head as its score, the score is that token's logit; padding and neighbours change nothing."
    model = small(**shape)
    reward = RewardModel(model)
    assert reward(torch.tensor([[1, 2, 3]]), torch.tensor([2])).item() == 0               # before training it has no opinion
    with torch.no_grad():
        reward.score.copy_(model.lm_head.weight[7])
        ids, _, last = answer_batch([[5, 6, 7], [8]], [[11, END], [12]], pad=3)
        for row, n, got in zip(ids, last.tolist(), reward(ids, last)):
            logit = model(row[None, :n + 1])[0, -1, 7] / model.config.softcap
            assert abs(model.config.softcap * torch.atanh(logit) - got) < 1e-3
    assert reward.body is not model and all(p.requires_grad for p in reward.parameters())


def pairs_of(n, seed=0, digits=8):
    "One answer ends in a 1, the other does not; somebody likes ones."
    rng, found = random.Random(seed), []
    for _ in range(n):
        prompt = [5, 40 + rng.randrange(digits)]
        found.append(Pair(prompt, [40 + rng.randrange(digits), 61, END], [40 + rng.randrange(digits), 62, END]))
    return found


def test_both_ways_learn_what_is_liked():
    "On held-out pairs the reward model orders all, and DPO raises what is liked; with the labels exchanged, the opposite."
    start, held = small(std=.1), pairs_of(64, seed=1)
    for sign in (1, -1):
        reward, model = RewardModel(start), copy.deepcopy(start)
        before = pair_logprobs(start, held, 3)
        for fit, loss in ((reward, lambda p: preference_loss(*pair_scores(reward, p, 3)[::sign])),
                          (model, lambda p: dpo_loss(*pair_logprobs(model, p, 3)[::sign], *[x.detach() for x in pair_logprobs(start, p, 3)][::sign]))):
            opt = torch.optim.AdamW(fit.parameters(), lr=3e-3)
            for step in range(15):
                opt.zero_grad()
                loss(pairs_of(16, seed=10 + step)).mean().backward()
                opt.step()
        with torch.no_grad():
            a, b = pair_scores(reward, held, 3)
            c, d = pair_logprobs(model, held, 3)
        assert ((a - b) * sign > 0).float().mean() > .95
        assert (((c - before[0]) - (d - before[1])) * sign > 0).float().mean() > .95


def test_pairs_come_from_the_model_in_the_order_that_was_said():
    engine = Engine(small(), tok)
    asked = [dict(messages=[dict(role="user", content=w), dict(role="assistant", content="")]) for w in ("yes", "no")]
    shorter = lambda conversation, a, b, rng: len(a) < len(b)
    pairs = collect_pairs(engine, asked, shorter, 6, 5, seed=3)
    said = lambda ids: len(tok.decode([t for t in ids if t not in tok.special_ids.values()]))
    assert len(pairs) > 8 and all(said(p.chosen) <= said(p.rejected) and p.chosen != p.rejected for p in pairs)
    assert {tuple(p.prompt) for p in pairs} == {tuple(tok.render_for_completion(c)) for c in asked}
    assert pairs == collect_pairs(engine, asked, shorter, 6, 5, seed=3) != collect_pairs(engine, asked, shorter, 6, 5, seed=4)


def test_nothing_to_compare_is_said_in_one_line():
    for call in (lambda: pair_scores(RewardModel(small()), [], 3), lambda: pair_logprobs(small(), [], 3)):
        with pytest.raises(CourseError, match="no pairs"): call()
    with pytest.raises(CourseError, match="beta"): dpo_loss(*[torch.zeros(2)] * 4, beta=0.)
