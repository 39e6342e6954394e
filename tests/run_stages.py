"Several stages one after another in one world of processes, each with its own command line; started by torchrun in test_pipeline."
import json, os, runpy, sys

for number, line in enumerate(json.loads(sys.argv[1])):
    stage, *flags = line.split()
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(number)          # a world of its own for each stage, as if torchrun had started it
    sys.argv = [stage, *flags]
    runpy.run_module(f"nanochat_course.{stage}", run_name="__main__", alter_sys=True)
    if "torch._dynamo.utils" in sys.modules and os.environ["RANK"] == "0":
        print(f"compiled graphs after {stage}: {sys.modules['torch._dynamo.utils'].counters['stats']['unique_graphs']}", flush=True)
print(f"rank {os.environ['RANK']} came to the end", flush=True)
