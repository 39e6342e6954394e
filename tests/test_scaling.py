"The plan: laws, overrides, schedules, errors, memory and cost."
import math
import pytest, torch
from nanochat_course.common import CourseError
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.scaling import (REF_BATCH, Schedule, activation_bytes, batch_law, batch_plan, cost, lr_multiplier, memory_per_rank, mfu,
                                     muon_momentum, peak_flops, plan, power_of_two, weight_decay_multiplier)


RECORD = dict(value_embeds=True, residual_scalars=True, smear=True, backout=True, qk_scale=1.2, rotary_base=1e5, short_window=.25)


def meta(p):
    with torch.device("meta"): return GPT(GPTConfig(**p.model_config()))


@pytest.mark.parametrize("kwargs", [dict(depth=12), dict(depth=4, vocab_size=4096, sequence_len=512), dict(depth=12, n_kv_head=2, window_pattern="SSSL"),
                                    dict(depth=13, vocab_size=1001), dict(depth=1, vocab_size=300, sequence_len=64), dict(depth=12, parts=RECORD, window_pattern="SSSL"),
                                    dict(depth=5, vocab_size=1001, n_kv_head=1, parts=RECORD, window_pattern="SL", sequence_len=1000),
                                    dict(depth=3, vocab_size=300, parts=dict(smear=True)), dict(depth=3, vocab_size=300, parts=dict(backout=True, residual_scalars=True))])
def test_formulas_agree_with_the_model(kwargs):
    p = plan(**kwargs)
    model = meta(p)
    n = model.num_params()
    assert p.params["total"] == n["total"] and p.params.get("value_embedding", 0) == n.get("value_embedding", 0) and p.params["scaling"] == n["matrix"] + n["unembedding"]
    assert p.flops_per_token == model.flops_per_token()


def test_reference_has_the_reference_values():
    p = plan(12)
    assert (p.n_embd, p.n_head, p.total_batch_size) == (768, 6, 2**19)
    assert (p.embedding_lr, p.unembedding_lr, p.matrix_lr, p.weight_decay) == pytest.approx((0.3, 0.004, 0.02, 0.2))
    assert p.num_iterations == int(10.5 * 110_100_480 // 2**19) == 2205


def test_depth_24_by_hand():
    p = plan(24, target_param_data_ratio=8, world_size=8)
    assert p.n_embd == 1536 and p.total_batch_size == 2**20 and p.grad_accum_steps * p.device_batch_size * 2048 * 8 == 2**20
    assert p.matrix_lr == pytest.approx(0.02 * math.sqrt(2))
    assert p.embedding_lr == pytest.approx(0.3 * math.sqrt(2) / math.sqrt(2))
    d_ratio = 729_808_896 / 110_100_480                       # the ratio of tokens to parameters falls out
    assert p.weight_decay == pytest.approx(0.2 * math.sqrt(2) / d_ratio, rel=1e-6)


@pytest.mark.parametrize("depth", range(8, 33, 4))
def test_memory_of_the_weights_is_constant_in_epochs(depth):
    p = plan(depth)
    tokens = 10.5 * p.params["scaling"]
    ref = plan(12)
    value = lambda q, t: q.total_batch_size / (q.matrix_lr * q.weight_decay * t)
    assert value(p, tokens) == pytest.approx(value(ref, 10.5 * ref.params["scaling"]), rel=1e-6)


def test_batch_law():
    assert batch_law(1e9, 1e9) == REF_BATCH and batch_law(1e10, 1e9) / REF_BATCH == pytest.approx(10**0.383)
    assert [power_of_two(x) for x in (0.3, 1, 3, 5, 6, 700_000)] == [1, 1, 4, 4, 8, 2**19]


def nanochats(depth, ratio=12., total=None, wd=0.28, head_dim=128):
    "The arithmetic of nanochat's scripts/base_train.py, parts 1 to 4: total batch size, factor on the rates, weight decay."
    def params(d):
        width = -(-d * 64 // head_dim) * head_dim
        return d * 12 * width**2 + 32768 * width
    D, D_ref = int(ratio * params(depth)), ratio * params(12)
    total = total or 2**round(math.log2(2**19 * (D / D_ref)**0.383))
    return total, (total / 2**19)**0.5, wd * math.sqrt(total / 2**19) * (D_ref / D)


@pytest.mark.parametrize("depth", range(8, 33, 2))
@pytest.mark.parametrize("ratio", [8, 10.5, 12, 20])
@pytest.mark.parametrize("horizon", [dict(), dict(num_iterations=1000), dict(target_flops=1e19)])
def test_the_flags_mean_what_they_mean_to_nanochat(depth, ratio, horizon):
    p = plan(depth, head_dim=128, target_param_data_ratio=ratio, weight_decay=0.28, **horizon)
    total, rate, wd = nanochats(depth, ratio)
    assert (p.total_batch_size, p.matrix_lr / 0.02, p.weight_decay) == (total, pytest.approx(rate), pytest.approx(wd, rel=1e-6))


def test_a_given_batch_changes_the_decay_and_not_the_horizon():
    p = plan(24, total_batch_size=2**19, weight_decay=0.28, target_param_data_ratio=12, head_dim=128, num_iterations=1000)
    assert p.weight_decay == pytest.approx(nanochats(24, 12, 2**19)[2], rel=1e-6)


def test_small_runs():
    p = plan(4, vocab_size=4096, sequence_len=512, target_tokens=2.5e6)
    assert p.num_iterations >= 300 and p.total_batch_size == 8192 and p.matrix_lr == pytest.approx(0.02) and p.weight_decay == pytest.approx(0.2)
    assert "small run" in p.why["matrix_lr"] and "small run" in p.why["weight_decay"]
    assert plan(4, vocab_size=4096, sequence_len=512, target_tokens=2.5e6, lr_scale=0.3, weight_decay_scale=0.).learning_rates()["matrix_lr"] == pytest.approx(0.006)
    assert "small run" not in plan(12).table()


def test_everything_can_be_given():
    p = plan(12, num_iterations=7, total_batch_size=65536, device_batch_size=4, warmup_steps=3, warmdown_ratio=0.2, final_lr_frac=0.1, grad_clip=0., weight_decay=0.)
    assert (p.num_iterations, p.total_batch_size, p.device_batch_size, p.warmup_steps, p.weight_decay, p.grad_clip) == (7, 65536, 4, 3, 0., 0.)
    assert p.grad_accum_steps == 8 and p.tokens == 7 * 65536 and p.why["num_iterations"] == "given"
    assert plan(12, num_iterations=-1, total_batch_size=-1, device_batch_size=-1) == plan(12)             # -1 means computed
    assert plan(12, target_flops=1e17).flops == pytest.approx(1e17, rel=0.02)


def test_table_names_every_value_and_rule():
    p = plan(12)
    table = p.table()
    for name in ("n_embd", "num_iterations", "total_batch_size", "embedding_lr", "weight_decay", "warmup_steps", "FLOPs"): assert name in table
    assert "0.383" in table and "10.5 tokens" in table and "per layer" in table


@pytest.mark.parametrize("kwargs, text", [
    (dict(depth=0), "use 1 or more"), (dict(depth=-3), "use 1 or more"), (dict(depth=12, total_batch_size=300_000), "use 299,008"),
    (dict(depth=12, total_batch_size=65536, device_batch_size=32, world_size=8), "use 524,288"), (dict(depth=12, num_iterations=0), "num_iterations 0"),
    (dict(depth=12, device_batch_size=0), "device_batch_size 0"), (dict(depth=12, head_dim=7), "must be even"), (dict(depth=12, n_kv_head=4), "divisor of 6"),
    (dict(depth=12, target_param_data_ratio=0), "target_param_data_ratio"), (dict(depth=12, sequence_len=0), "sequence_len"), (dict(depth=12, vocab_size=0), "vocab_size"),
    (dict(depth=12, warmdown_ratio=1.5), "warmdown_ratio"), (dict(depth=12, lr_shape="stairs"), "unknown schedule"),
    (dict(depth=12, weight_decay_shape="stairs"), "use linear, cosine or constant"), (dict(depth=12, momentum_peak=1.), "momentum_peak 1")])
def test_bad_input_says_what_to_do(kwargs, text):
    with pytest.raises(CourseError, match=text) as e: plan(**kwargs)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8, 7])
@pytest.mark.parametrize("seq", [64, 512, 2048, 1000])
def test_a_computed_batch_is_always_shared_evenly(world, seq):
    for best in (1, 100, 5000, 2**19, 700_001):
        total, rows = batch_plan(best, seq, world)
        assert total % (rows * seq * world) == 0 and rows >= 1 and (rows == 1 or rows * seq <= 2**16)


def test_trapezoid():
    lr = [lr_multiplier(t, 100, 10, 0.4, 0.1) for t in range(101)]
    assert lr[0] == pytest.approx(0.1) and lr[9] == 1 and set(lr[10:61]) == {1.} and lr[100] == pytest.approx(0.1) and lr[80] == pytest.approx(0.55)
    assert all(a >= b for a, b in zip(lr[10:], lr[11:]))


@pytest.mark.parametrize("shape", ["trapezoid", "1-sqrt", "cosine", "linear", "inverse_sqrt", "constant"])
@pytest.mark.parametrize("n, warmup", [(1, 0), (1, 5), (10, 0), (10, 20), (200, 10)])
def test_schedules_stay_between_0_and_1(shape, n, warmup):
    values = [lr_multiplier(t, n, warmup, 0.5, 0., shape) for t in range(n + 1)]
    assert all(0 <= v <= 1 for v in values) and values[0] > 0
    if shape not in ("inverse_sqrt", "constant") and n > max(1, warmup): assert values[n] == pytest.approx(0, abs=1e-9)


def test_momentum_and_weight_decay():
    assert muon_momentum(0) == 0.85 and muon_momentum(150) == pytest.approx(0.9) and muon_momentum(300) == pytest.approx(0.95) == muon_momentum(5000)
    assert [weight_decay_multiplier(t, 10) for t in (0, 5, 10)] == [1, 0.5, 0]
    assert Schedule(100)(50) == dict(lr=1., momentum=muon_momentum(50), weight_decay=0.5)
    assert Schedule(100, momentum_end=None)(0)["momentum"] is None


def test_peaks_and_cost():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and peak_flops("NVIDIA H100 PCIe") == 756e12 and peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA H200") == 989e12 and peak_flops("NVIDIA GeForce RTX 4090") == 165.2e12 and peak_flops("Intel(R) Xeon(R)") is None and peak_flops("") is None
    assert mfu(1e9, 989e3 * 4, "H100", 8) == pytest.approx(0.5) and mfu(1e9, 1., "cpu") is None
    c = cost(4.330784131228946e19, utilisation=0.5)                                 # published: 10,949 s on eight H100s
    assert c["hours"] == pytest.approx(10949 / 3600, rel=0.01) and c["dollars"] == pytest.approx(3.04 * 24, rel=0.01)
    with pytest.raises(CourseError): cost(1., "abacus")


def test_memory_is_sharded_as_named():
    p = plan(12)
    n, m = p.params, lambda z: memory_per_rank(p, 8, zero=z)
    assert m(0)["parameters"] == m(2)["parameters"] == 4 * n["total"] and m(3)["parameters"] == n["total"] / 2
    assert m(1)["gradients"] == 4 * n["total"] and m(2)["gradients"] == n["total"] / 2
    assert m(0)["states"] == 4 * (2 * (n["embedding"] + n["unembedding"]) + n["matrix"]) == 8 * m(1)["states"]
    whole = memory_per_rank(p, 8, compiled=True)                   # all gradients come at the end of a compiled backward pass
    assert whole["gradients"] == 4 * n["total"] and whole["states"] == m(2)["states"] and memory_per_rank(p, 8, zero=3, compiled=True) == m(3)
    assert m(0)["total"] == sum(v for k, v in m(0).items() if k != "total")


@pytest.mark.parametrize("n_kv_head, parts", [(2, {}), (2, RECORD), (1, RECORD), (2, dict(residual_scalars=True)), (2, dict(smear=True)), (2, dict(value_embeds=True))])
def test_activations_as_measured(n_kv_head, parts, monkeypatch):
    "The formula holds where no attention weights are kept, as on GPUs; where a CPU keeps those of short rows, they are the difference."
    B, T, depth, width, heads = 8, 128, 3, 128, 2
    sizes = dict(sequence_len=T, vocab_size=256, n_layer=depth, n_head=heads, n_kv_head=n_kv_head, n_embd=width)
    model = GPT(GPTConfig(**sizes, **parts)).init_weights()
    own, x = {p.untyped_storage().data_ptr() for p in model.parameters()}, torch.randint(256, (B, T))
    def measured(kept_keys):
        monkeypatch.setattr("nanochat_course.attention.KEPT_KEYS", kept_keys)
        kept = {}
        def keep(t):
            s = t.untyped_storage()
            if s.data_ptr() not in own: kept[s.data_ptr()] = (s.nbytes(), t)
            return t
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t): model(x, x)
        return sum(n for n, _ in kept.values())
    want = activation_bytes(B * T, depth, width, n_kv_head / 2, compute_bytes=4, parts=parts)
    assert measured(0) == pytest.approx(want, rel=0.03)
    assert measured(512) - measured(0) == 4 * depth * B * heads * T * T
    if parts: assert want > activation_bytes(B * T, depth, width, n_kv_head / 2, compute_bytes=4)


def test_parts_count_in_memory_and_in_the_horizon():
    plain, p = plan(12), plan(12, parts=RECORD)
    tables = 6 * 32768 * 768
    assert p.params["value_embedding"] == tables and p.params["scalar"] == 24 + 25 + 1
    assert p.params["scaling"] - plain.params["scaling"] == 6 * 12 * 6, "tables are looked up: only their gates are matrices"
    more = {k: v - memory_per_rank(plain)[k] for k, v in memory_per_rank(p).items()}
    both = tables + 6 * 12 * 6 + 50
    assert more["parameters"] == 4 * both and more["states"] == 4 * (2 * both - 6 * 12 * 6) and more["activations"] > 0


def test_schedules_of_the_record():
    "nanochat's momentum and decay, from its rules written out."
    n, s = 5568, Schedule(5568, 40, 0.65, 0.05, momentum_warmup=400, momentum_end=0.97, momentum_final=0.9, weight_decay_shape="cosine")
    down = round(0.65 * n)
    for t in (0, 1, 39, 40, 399, 400, 1000, n - down, n - down + 1, 4000, n - 1):
        lr = (t + 1) / 40 if t < 40 else 1. if t <= n - down else (n - t) / down + (1 - (n - t) / down) * 0.05
        if t < 400: momentum = 0.85 + (0.97 - 0.85) * t / 400
        elif t >= n - down: momentum = 0.97 + (0.90 - 0.97) * (t - (n - down)) / down
        else: momentum = 0.97
        assert s(t) == pytest.approx(dict(lr=lr, momentum=momentum, weight_decay=0.5 * (1 + math.cos(math.pi * t / n)))), t


def test_a_short_run_never_jumps():
    "The rise of momentum may not be over when its fall begins."
    values = [Schedule(300, 10, 0.65, momentum_warmup=400, momentum_end=0.97, momentum_final=0.9)(t)["momentum"] for t in range(300)]
    assert max(abs(a - b) for a, b in zip(values, values[1:])) < 2e-3 and values[0] == 0.85 and values[-1] < 0.905


def test_the_plan_hands_its_schedule_on():
    p = plan(12, num_iterations=100, momentum_warmup=10, momentum_peak=0.97, momentum_final=0.9, weight_decay_shape="cosine")
    assert p.schedule()(20)["momentum"] == pytest.approx(0.97) and p.schedule()(99)["momentum"] < 0.91
    assert p.schedule()(50)["weight_decay"] == pytest.approx(0.5) and p.schedule()(25)["weight_decay"] == pytest.approx(0.853553, abs=1e-5)
    assert plan(12, parts=dict(smear=True)).model_config()["smear"] is True and "smear" in plan(12, parts=dict(smear=True)).table()


def test_the_plan_trains_a_model():
    from nanochat_course.optim import MuonAdamW, param_groups
    p = plan(1, vocab_size=256, sequence_len=16, total_batch_size=128, num_iterations=3)
    torch.manual_seed(0)
    model = GPT(GPTConfig(**p.model_config())).init_weights()
    opt = MuonAdamW(param_groups(model, **p.learning_rates()))
    x = torch.randint(256, (p.device_batch_size, 16))
    first = model(x, x).item()
    for step in range(p.num_iterations):
        for g in opt.param_groups: g["lr"] = g["initial_lr"] * p.schedule()(step)["lr"]
        model(x, x).backward(); opt.step(); opt.zero_grad()
    assert model(x, x).item() < first
