"Several stages one after another in the same processes, each with its own command line and a world of its own; started by torchrun in test_pipeline."
import json, os, runpy, sys

import torch
from nanochat_course import optim

optim.fast_dtype = lambda device: torch.float32                 # bfloat16 in Muon makes large differences of roundings, on processors that have it
lines, ports = map(json.loads, sys.argv[1:])
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"            # torchrun's own meeting point serves one world only
for line, port in zip(lines, ports):
    stage, *flags = line.split()
    os.environ["MASTER_PORT"] = str(port)
    sys.argv = [stage, *flags]
    sys.modules.pop(f"nanochat_course.{stage}", None)           # an earlier stage may have imported it
    runpy.run_module(f"nanochat_course.{stage}", run_name="__main__", alter_sys=True)
    if "torch._dynamo.utils" in sys.modules and os.environ["RANK"] == "0":
        print(f"compiled graphs after {stage}: {sys.modules['torch._dynamo.utils'].counters['stats']['unique_graphs']}", flush=True)
print(f"rank {os.environ['RANK']} came to the end", flush=True)
