"nanochat's training step on random tokens, run from its checkout: python upstream.py DEPTH ROWS FP8. Calls its public functions as its training script does."
import json, sys, time

import torch
from nanochat.flash_attention import HAS_FA3
from nanochat.gpt import GPT, GPTConfig

depth, rows, fp8, T, V = *map(int, sys.argv[1:4]), 2048, 32768
with torch.device("meta"): model = GPT(GPTConfig(sequence_len=T, vocab_size=V, n_layer=depth, n_head=depth // 2, n_kv_head=depth // 2, n_embd=depth * 64))
model.to_empty(device="cuda")
model.init_weights()
if fp8:
    from nanochat.fp8 import Float8LinearConfig, convert_to_float8_training
    large = lambda m, name: isinstance(m, torch.nn.Linear) and min(m.in_features, m.out_features) >= 128 and not (m.in_features % 16 or m.out_features % 16)
    convert_to_float8_training(model, config=Float8LinearConfig.from_recipe_name("tensorwise"), module_filter_fn=large)
compiled, optimizer, seconds, losses = torch.compile(model, dynamic=False), model.setup_optimizer(), [], []
ids = torch.randint(V, (rows, T + 1), device="cuda")
for _ in range(15):
    torch.cuda.synchronize()
    began = time.perf_counter()
    loss = compiled(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    loss.backward()
    optimizer.step()
    model.zero_grad(set_to_none=True)
    losses.append(loss.item())
    torch.cuda.synchronize()
    seconds.append(time.perf_counter() - began)
middle = sorted(seconds[-10:])[5]
print(json.dumps(dict(tokens_per_second=rows * T / middle, peak_bytes=torch.cuda.max_memory_allocated(), flash_attention_3=bool(HAS_FA3), losses=losses)))
