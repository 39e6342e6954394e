"""The course's sentence from bytes to a reward, in values that the course's own functions give.

    python tools/site/sentence_data.py      # tools/site/play/data/sentence.js, in a second

Vocabulary, seeds and sizes are those of chapters 10, 11 and 12, and so are the numbers.
"""
import math

import torch
import torch.nn.functional as F

from nanochat_course.attention import rms_norm, rotary, rotary_tables
from nanochat_course.chat_rl import group_advantages, policy_gradient_loss
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.newton_schulz import polar_express
from nanochat_course.tokenizer import Tokenizer, train_bpe
from play_data import save

SENTENCE = "The cat sat on the mat."
BEGINNING = "The cat sat on the"                           # what the conversation asks, and what samples go on from
SHOWN = (0, 30, 60, 90)                                    # steps of training after which the page looks
SOON = 18                                                  # steps after which the model is asked: it is not sure yet


def rounded(value, digits=3):
    "Nested lists of numbers that can be read."
    if isinstance(value, torch.Tensor): value = value.tolist()
    return [rounded(v, digits) for v in value] if isinstance(value, list) else round(value, digits)


def name(tokenizer, i):
    "A token as text; bytes that are none as their numbers."
    text = tokenizer.decode([i])
    return text if text.isprintable() and "\ufffd" not in text else "".join(f"\\x{b:02x}" for b in tokenizer.decode_bytes([i]))


def likeliest(tokenizer, p, n=4):
    "The n likeliest tokens of one distribution (V,)."
    return [dict(token=name(tokenizer, i), p=round(p[i].item(), 4)) for i in p.topk(n).indices.tolist()]


def merges(tokenizer):
    "The sentence after each merge: what the merge made, and the pieces."
    out = []
    for k in range(len(tokenizer.merges) + 1):
        part = Tokenizer(tokenizer.merges[:k])
        out.append(dict(made=tokenizer.decode([255 + k]) if k else "", pieces=[part.decode([i]) for i in part.encode(SENTENCE)]))
    return out


def one_look(tokenizer, ids):
    "Chapter 11's rows before and after one head, and its weights; chapter 12's guess from each row."
    g = torch.Generator().manual_seed(11)
    E, Wq, Wk, Wv, Wo = (torch.randn(n, 8, generator=g) / 8**0.5 for n in (tokenizer.vocab_size, 8, 8, 8, 8))
    x = rms_norm(E[ids])                                                   # (T, 8)
    tables = rotary_tables(len(ids), 8)
    q, k = (rms_norm(rotary((x @ W)[None, :, None], *tables))[0, :, 0] for W in (Wq, Wk))
    future = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    weights = (q @ k.T / math.sqrt(8)).masked_fill(future, -math.inf).softmax(-1)
    after = x + weights @ (x @ Wv) @ Wo
    W1, head = (torch.randn(8, n, generator=g) / 8**0.5 for n in (32, tokenizer.vocab_size))
    W2 = torch.randn(32, 8, generator=g) / 32**0.5
    stream = after + F.relu(rms_norm(after) @ W1).square() @ W2
    p = (15 * torch.tanh(rms_norm(stream) @ head / 15)).softmax(-1)        # (T, V)
    guess = [dict(best=likeliest(tokenizer, row), true=round(row[i].item(), 4)) for row, i in zip(p, ids[1:])]
    return dict(before=rounded(x, 2), weights=rounded(weights), after=rounded(after, 2), guess=guess)


def reader_of(vocab_size):
    "Chapter 12's GPT of one block, and its optimizer."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reader = GPT(GPTConfig(sequence_len=8, vocab_size=vocab_size, n_layer=1, n_head=1, n_kv_head=1, n_embd=8)).init_weights()
    return reader, torch.optim.AdamW(reader.parameters(), lr=0.03)


def step(reader, optimizer, ids):
    "One step of training on the sentence; the gradient of the query matrix before it is taken."
    reader(ids[None, :-1], ids[None, 1:]).backward()
    gradient = reader.transformer.h[0].attn.c_q.weight.grad.clone()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return gradient


@torch.no_grad()
def given(reader, ids):
    "The probability of the true next token at each place."
    return reader(ids[None, :-1])[0].softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]


def muon_step(gradient):
    "What Newton-Schulz makes of a gradient's singular values."
    after = polar_express(gradient, dtype=torch.float32)
    values = lambda M: [float(f"{v:.3g}") for v in torch.linalg.svdvals(M.double()).tolist()]
    return dict(before=values(gradient), after=values(after))


@torch.no_grad()
def write(reader, tokenizer, ids):
    "From the first token on, always the likeliest next one."
    said, out = ids[:1].tolist(), []
    while len(said) < len(ids):
        p = reader(torch.tensor([said]))[0, -1].softmax(-1)
        said.append(p.argmax().item())
        out.append(dict(token=tokenizer.decode(said[-1:]), best=likeliest(tokenizer, p, 3)))
    return out


def conversation(tokenizer):
    "The sentence as a question and its answer, as fine-tuning sees it."
    ids, mask = tokenizer.render_conversation(dict(messages=[
        dict(role="user", content=BEGINNING), dict(role="assistant", content=SENTENCE.removeprefix(BEGINNING))]))
    return [dict(token=tokenizer.decode([i]), id=i, learned=m) for i, m in zip(ids, mask)]


def reward(reader, tokenizer, n=8):
    "Samples of the next two tokens, graded; what they teach; and the probability of the right answer before and after one step."
    prompt, right = torch.tensor(tokenizer.encode(BEGINNING)), tokenizer.encode(SENTENCE.removeprefix(BEGINNING))
    g, rows = torch.Generator().manual_seed(3), prompt.repeat(n, 1)
    for _ in right:
        with torch.no_grad(): p = reader(rows)[:, -1].softmax(-1)
        rows = torch.cat([rows, torch.multinomial(p, 1, generator=g)], 1)
    answers = rows[:, len(prompt):]                                        # (n, 2)
    rewards = torch.tensor([[float(a.tolist() == right) for a in answers]])
    advantages = group_advantages(rewards)[0]
    targets = torch.cat([torch.full((n, len(prompt) - 1), -1), answers], 1)
    def chance():
        with torch.no_grad(): return given(reader, torch.tensor([*prompt.tolist(), *right]))[-len(right):].prod().item()
    before = chance()
    policy_gradient_loss(reader, rows[:, :-1], (targets, advantages)).backward()
    with torch.no_grad():
        for p in reader.parameters(): p -= 0.3 * p.grad
    samples = [dict(text="".join(name(tokenizer, i) for i in a.tolist()), reward=r, advantage=round(v, 3)) for a, r, v in zip(answers, rewards[0].tolist(), advantages.tolist())]
    return dict(samples=samples, before=round(before, 4), after=round(chance(), 4))


def sentence_data():
    "All stations; a few kilobytes of JSON."
    tokenizer = train_bpe([SENTENCE], 300)
    ids = torch.tensor(tokenizer.encode(SENTENCE))
    out = dict(text=SENTENCE, bytes=list(SENTENCE.encode()), merges=merges(tokenizer), ids=ids.tolist(), tokens=[tokenizer.decode([i]) for i in ids.tolist()],
               vocabulary=tokenizer.vocab_size, **one_look(tokenizer, ids.tolist()), conversation=conversation(tokenizer))
    reader, optimizer = reader_of(tokenizer.vocab_size)
    trained = []
    for t in range(SHOWN[-1] + 1):
        if t in SHOWN: trained.append(dict(step=t, p=rounded(given(reader, ids), 4)))
        if t == SOON: out["reward"] = dict(step=t, **reward(copy_of(reader), tokenizer))
        gradient = step(reader, optimizer, ids)
        if t == SHOWN[1]: out["muon"] = muon_step(gradient)
    return out | dict(trained=trained, written=write(reader, tokenizer, ids))


def copy_of(reader):
    "The same model with weights of its own."
    copy = GPT(reader.config)
    copy.load_state_dict(reader.state_dict())
    return copy


if __name__ == "__main__": save("sentence", sentence_data())
