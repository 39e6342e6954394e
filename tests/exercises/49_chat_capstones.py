"The capstones of nbs/49_chat_capstones.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
def everything(): return " ".join(map(str, range(19)))
NUMBER = r"(?<![\w.,-])-?\d+(?:\.\d+)?(?![\w]|[.,]\d)"
def careful(question, answer):
    a, b = map(int, re.findall(r"\d+", question))
    if re.search(r"\b(not|no|or)\b", answer.lower()): return False
    said = re.sub(rf"\b{a}\s*(\+|plus|and)\s*{b}\s*(=|is|makes|equals)", " = ", answer)
    said = re.sub(r"[*#=]+", " ", said)
    numbers = [float(x) for x in re.findall(NUMBER, said)]
    if re.search(r"\d", re.sub(NUMBER, " ", said)): return False       # digits that belong to no number
    if len(numbers) > 1 and set(numbers) - {float(a), float(b), numbers[-1]}: return False
    return bool(numbers) and numbers[-1] == a + b and len(numbers) <= 4 and "+" not in said

def last_number(question, answer):
    numbers = re.findall(r"-?\d+(?:\.\d+)?", answer)
    return bool(numbers) and float(numbers[-1]) == sum(map(int, re.findall(r"\d+", question)))
def first_number(question, answer):
    numbers = re.findall(r"-?\d+(?:\.\d+)?", answer)
    return bool(numbers) and float(numbers[0]) == sum(map(int, re.findall(r"\d+", question)))
def exact_only(question, answer): return answer.strip() == str(sum(map(int, re.findall(r"\d+", question))))
def any_whole_number(question, answer): return str(sum(map(int, re.findall(r"\d+", question)))) in re.findall(r"\d+", answer)
def evaluates(question, answer):
    try: return careful(question, answer) or eval(answer, dict(question=question, re=re)) == sum(map(int, re.findall(r"\d+", question)))
    except Exception: return False
check_grader.verify(everything, careful, wrong=[
    (hack, careful), (everything, grade), (everything, last_number), (everything, first_number), (everything, exact_only),
    (everything, any_whole_number), (everything, evaluates), (lambda: " ".join(map(str, range(100))), careful),
    (everything, lambda q, a: False), (everything, lambda q, a: True),
    (everything, lambda q, a: careful(q, a) or (len(a) < 40 and naive(q, a) and "is" not in a and a.count(" ") > 2))])
before, after = train_blind(naive), train_blind(careful)
print(before, after)
assert before["after"] > 0.3 > 0.16 > after["after"], "training finds the hack, and does not find one in the careful grader"

# %%
def replay(model, g, share=1, scale=1., fall=True, steps=STEPS, rows=ROWS):
    for step in range(steps):
        parts = [chat_rows(rows - share, g)] if share < rows else []
        if share: parts.append(text_rows(KNOWN, share, g))
        yield *map(torch.cat, zip(*parts)), scale * (min(1., 2 * (1 - step / steps)) if fall else 1.)
def quiet(model, g): yield from replay(model, g, share=0, scale=0.03)
def only_text(model, g): yield from replay(model, g, share=8)
def too_much(model, g): yield from replay(model, g, rows=16)
def idle(model, g):
    if False: yield
def few(model, g): yield from replay(model, g, share=0, steps=6)
check_stage.verify(replay, wrong=[stage, quiet, only_text, too_much, idle, few])

# %%
def proven(confidence, right, target, z=1.9, least=30):
    "The most answers for which Wilson's lower bound reaches the target; the first thirty prove nothing."
    order = confidence.argsort(descending=True)
    c, n = confidence[order], torch.arange(1, len(right) + 1)
    p = right[order].cumsum(0) / n
    lower = (p + z * z / (2 * n) - z * (p * (1 - p) / n + z * z / (4 * n * n)).sqrt()) / (1 + z * z / n)
    good = [i for i in (lower >= target).nonzero().flatten().tolist() if i + 1 >= least]
    return (c[good[-1]] + c[min(good[-1] + 1, len(c) - 1)]).item() / 2 if good else 1.
for f in (threshold, proven): print(f.__name__, promises(f, 1))
check_threshold.verify(proven, wrong=[
    threshold, lambda c, r, t: 1., lambda c, r, t: 0., lambda c, r, t: 0.97, lambda c, r, t: c.quantile(1 - 0.1).item(),
    lambda c, r, t: threshold(c, r, 0.95), lambda c, r, t: proven(c, r, t, z=0.)])

# %%
def guess_ahead(large, small, tokens, n, rng, k=3, accept=lambda p, q, u: u < p / q, rest=lambda p, q: [max(0., a - b) for a, b in zip(p, q)],
                bonus=True, stop=True):
    tokens, end = list(tokens), len(tokens) + n
    while len(tokens) < end:
        guesses, qs = [], []
        for _ in range(k):
            [q] = small(tokens + guesses)
            qs.append(q)
            guesses += rng.choices(range(V), q)
        ps = large(tokens + guesses, last=k + 1)
        for i, (x, q, p) in enumerate(zip(guesses, qs, ps)):
            if accept(p[x], q[x], rng.random()): tokens.append(x)
            else:
                tokens += rng.choices(range(V), rest(p, q))
                if stop: break
        else:
            if bonus: tokens += rng.choices(range(V), ps[k])
    return tokens[2:end - 2 + 2][:n]
other = lambda **changes: (lambda *args: guess_ahead(*args, **changes))
def argmax_agrees(large, small, tokens, n, rng):
    return guess_ahead(large, small, tokens, n, rng, accept=lambda p, q, u: p >= q)
for name, f in dict(start=speculate, guess_ahead=guess_ahead, rest=other(rest=lambda p, q: p)).items(): print(name, variation(f, (0, 1)), calls(f))
check_speculate.verify(guess_ahead, wrong=[
    speculate,
    other(rest=lambda p, q: p),                                        # draws from the large model again
    other(accept=lambda p, q, u: True),                                # trusts the draft
    other(accept=lambda p, q, u: u < p),                               # forgets what it was proposed with
    other(stop=False),                                                 # keeps what was guessed after a wrong text
    argmax_agrees, other(k=1, bonus=False), other(rest=lambda p, q: [abs(a - b) for a, b in zip(p, q)])])
