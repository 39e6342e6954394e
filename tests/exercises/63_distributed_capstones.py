"The capstones of nbs/63_distributed_capstones.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
class Sharded:
    average, gather, keep_flat, all_reduce, decay = True, True, False, False, 0.1
    def __init__(self, params, comm, lr):
        self.params, self.comm = params, comm
        self.per = -(-sum(p.numel() for p in params) // comm.world_size)
        self.mine = nn.Parameter(self.part(self.flat(params)).clone())
        self.optimizer = torch.optim.AdamW([self.mine], lr=lr, weight_decay=self.decay)
    def flat(self, tensors):
        flat = torch.cat([t.detach().flatten() for t in tensors])
        return F.pad(flat, (0, self.per * self.comm.world_size - len(flat)))
    def part(self, flat): return flat[self.comm.rank * self.per:][:self.per]
    def step(self):
        grads = self.flat([p.grad for p in self.params])
        self.mine.grad = self.part(self.comm.all_reduce(grads)).clone() if self.all_reduce else self.comm.reduce_scatter(grads)
        if self.average: self.mine.grad /= self.comm.world_size
        self.optimizer.step()
        whole = self.comm.all_gather(self.mine.detach())
        if self.keep_flat: self.whole = torch.cat([whole, grads])
        if not self.gather: return
        at = 0
        for p in self.params:
            p.data.copy_(whole[at:at + p.numel()].view(p.shape))
            at += p.numel()

class ByParameter(Sharded):                                            # each step gathers parameter by parameter: padding is sent again and again
    def step(self):
        super().step()
        for p in self.params: self.comm.all_gather(p.detach().flatten())
class Alone:                                                           # nobody averages: the ranks drift apart
    def __init__(self, params, comm, lr): self.optimizer = torch.optim.AdamW(params, lr=lr, weight_decay=0.1)
    def step(self): self.optimizer.step()
variant = lambda **changes: type("Variant", (Sharded,), changes)
check_zero.verify(Sharded, wrong=[
    Zero1, Alone, variant(average=False, decay=0.), variant(gather=False), variant(keep_flat=True), variant(all_reduce=True), ByParameter])
assert "keeps" in check_zero.mistake(Zero1) and "sends" in check_zero.mistake(variant(all_reduce=True))
print(zero_run(Sharded, 4))

# %%
class Mirror(torch.autograd.Function):
    "Sums over ranks forward, or backward, or both."
    @staticmethod
    def forward(ctx, x, comm, forward, backward):
        ctx.comm, ctx.sums = comm, backward
        return comm.all_reduce(x) if forward else x.view_as(x)
    @staticmethod
    def backward(ctx, grad): return (ctx.comm.all_reduce(grad) if ctx.sums else grad), None, None, None

class Cut:
    entry, leave = (False, True), (True, False)
    def __init__(self, w1, w2, comm):
        per = w1.shape[1] // comm.world_size
        mine = slice(comm.rank * per, (comm.rank + 1) * per)
        self.comm, self.w1, self.w2 = comm, nn.Parameter(w1[:, mine].clone()), nn.Parameter(w2[mine].clone())
    def __call__(self, x):
        x = Mirror.apply(x, self.comm, *self.entry)
        return Mirror.apply(F.relu(x @ self.w1).square() @ self.w2, self.comm, *self.leave)
class GathersHidden(Cut):                                              # right, and sends what is four times as wide
    def __call__(self, x):
        y = super().__call__(x)
        self.comm.all_gather((x.detach() @ self.w1.detach()).flatten())
        return y
cut = lambda **changes: type("Variant", (Cut,), changes)
check_mlp.verify(Cut, wrong=[
    ParallelMLP, cut(entry=(False, False)), cut(leave=(True, True)), cut(leave=(False, False)), cut(leave=(False, True)), GathersHidden])
assert "gradient of x" in check_mlp.mistake(cut(entry=(False, False))) and "gradient of x" in check_mlp.mistake(cut(leave=(True, True)))

# %%
def together(w, batches, comm, lr, weigh=True, stop_alone=False):
    for step in range(10**6):
        X, y = batches[step] if step < len(batches) else (torch.zeros(0, 3, dtype=w.dtype), torch.zeros(0, dtype=w.dtype))
        if stop_alone and not len(X): return w
        scale = 1 if weigh else 1 / max(1, len(X))
        sums = comm.all_reduce(torch.cat([gradient(w, X, y) * scale, torch.tensor([len(X) * scale], dtype=w.dtype)]))
        if sums[-1] == 0: return w
        w = w - lr * sums[:-1] / sums[-1]
def drops_the_rest(w, batches, comm, lr):                              # everybody stops with the first that has run out
    shortest = int(-torch.tensor([float(x) for x in comm.all_gather(torch.tensor([-float(len(batches))]))]).max())
    return together(w, batches[:shortest], comm, lr)
check_fit.verify(together, wrong=[fit_together, drops_the_rest, lambda *a: together(*a, weigh=False), lambda *a: together(*a, stop_alone=True)])
message = check_fit.mistake(lambda *a: together(*a, stop_alone=True))
assert "wait for each other" in message, message
