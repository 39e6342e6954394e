"The real run's graphs, traced on fake CUDA tensors: shapes, dtypes, layouts and devices as a GPU would see them, and nothing is computed. No GPU is needed; PyTorch's own rules for each kernel (`_scaled_mm`'s layouts, flex attention's blocks) are asked."
import ctypes, shutil, subprocess, tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode

from nanochat_course import nanogpt as ng
from nanochat_course.base_train import base_plan, optimizer_settings
from nanochat_course.common import Runtime
from nanochat_course.gpt import GPT, GPTConfig, head_loss
from nanochat_course.optim import MuonAdamW, adamw_update_, muon_direction_, param_groups
from nanochat_course.precision import convert_to_fp8, fp8_product, head_to_fp8, without_fp8
from nanochat_course.speedrun import PRESETS, stage_config

CUDA = torch.device("cuda", 0)
H100 = Runtime(CUDA, torch.bfloat16)


GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
static c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> guard;
static c10::impl::DeviceGuardImplRegistrar registrar(c10::DeviceType::CUDA, &guard);
"""


@pytest.fixture(scope="module", autouse=True)
def guard():
    "A torch for CPUs lacks what switches between GPUs; without it even indexing a fake CUDA tensor fails. Here is one that does nothing."
    if torch.cuda.is_available(): return
    if not shutil.which("g++"): pytest.skip("no C++ compiler")
    home = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "guard.cpp").write_text(GUARD)
        subprocess.run(["g++", "-std=c++20", "-shared", "-fPIC", f"-I{home}/include", f"{folder}/guard.cpp", "-o", f"{folder}/guard.so",
                        f"-L{home}/lib", "-lc10"], check=True)
        ctypes.CDLL(f"{folder}/guard.so")


@pytest.fixture(autouse=True)
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    torch._dynamo.reset()
    with FakeTensorMode(allow_non_fake_inputs=True): yield
    torch._dynamo.reset()


def on_cuda(config, dtype=torch.bfloat16):
    with CUDA: return GPT(config, dtype=dtype).init_weights()


def compiled(model, graphs):
    "The model as one graph; its forward and backward graphs, as inductor would get them, go into `graphs`."
    def keep(which):
        def compiler(graph, inputs):
            graphs[which] = Counter(str(n.target) for n in graph.graph.nodes if n.op == "call_function")
            return graph
        return compiler
    return torch.compile(model, backend=aot_autograd(fw_compiler=keep("forward"), bw_compiler=keep("backward")), fullgraph=True, dynamic=False)


def ids(rows, T): return torch.zeros(rows, T, dtype=torch.int64, device=CUDA)


def count(graph, name): return sum(n for target, n in graph.items() if name in target)


def real_model(depth=4):
    "The preset of the real run, with fewer layers."
    flags = replace(stage_config("base_train", PRESETS["8xh100"]["base_train"]), depth=depth, aspect_ratio=1024 // depth, head_dim=128)
    return flags, on_cuda(GPTConfig(**base_plan(flags, 32768, 8).model_config()))


def test_the_real_presets_training_step_is_one_graph():
    "Forward, loss and backward with FP8 in layers and head, windows by flex attention: as many kernels of each kind as there must be."
    flags, model = real_model()
    names = convert_to_fp8(model, H100, head=flags.fp8_head)
    assert len(names) == 6 * 4 + 1 and names[-1] == "lm_head"
    graphs = {}
    loss = compiled(model, graphs)(ids(4, 2048), ids(4, 2048))
    assert (loss.device, loss.dtype, loss.shape) == (CUDA, torch.float32, ())
    loss.backward()
    assert all((p.grad.dtype, p.grad.device, p.grad.shape) == (torch.float32, CUDA, p.shape) for p in model.parameters())
    assert count(graphs["forward"], "_scaled_mm") == 6 * 4 + 3, "one chunk of 8,192 tokens, whose gradient is made at once"
    assert count(graphs["backward"], "_scaled_mm") == 2 * 6 * 4
    windows = model.config.windows.count(512)
    assert windows == 3 and count(graphs["forward"], "flex_attention") == count(graphs["backward"], "flex_attention_backward") == windows
    assert count(graphs["forward"], "scaled_dot_product") == count(graphs["backward"], "scaled_dot_product") == 1
