"""The real run's graphs, traced on fake tensors: shapes, dtypes, layouts and devices as a GPU would see them, and nothing is computed.

PyTorch's own rules for its kernels are asked (`_scaled_mm`'s layouts, flex attention's blocks). What needs no backward pass is traced on fake CUDA
tensors. The engine of the backward pass wants a real GPU, so that is traced on fake CPU tensors, by the backends and under the rules of CUDA.
"""
import ctypes, shutil, subprocess, tempfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode

from nanochat_course import nanogpt as ng
from nanochat_course.attention import flex_document_attention
from nanochat_course.base_train import base_plan
from nanochat_course.common import Runtime
from nanochat_course.gpt import GPT, GPTConfig, head_loss, head_part
from nanochat_course.optim import compiled_direction, muon_direction_
from nanochat_course.precision import compile_model, convert_to_fp8, fp8_product, without_fp8
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


def fake(config, device=CUDA):
    "A model whose parameters are fake."
    with torch.device("meta"): model = GPT(config, dtype=torch.bfloat16)
    for module in model.modules():
        for kept in (module._parameters, module._buffers):
            for name, t in [(n, t) for n, t in kept.items() if t is not None]:
                new = torch.empty(t.shape, dtype=t.dtype, device=device)
                kept[name] = torch.nn.Parameter(new) if kept is module._parameters else new
    return model


def real_model(device, depth=2):
    "The preset of the real run with fewer layers, a window in the first."
    flags = replace(stage_config("base_train", PRESETS["8xh100"]["base_train"]), depth=depth, aspect_ratio=1024 // depth, head_dim=128, max_seq_len=1024)
    config = GPTConfig(**base_plan(flags, 32768, 8).model_config())
    assert config.windows == (256, -1) and config.value_embeds and config.smear
    return flags, fake(config, device)


def tokens(rows, T, device=CUDA): return torch.empty(rows, T, dtype=torch.int64, device=device)


def compiled(model, graphs):
    "The model as one graph; what its forward and backward passes call, as inductor would get them, goes into `graphs`."
    def keep(which):
        def compiler(graph, inputs):
            graphs[which] = Counter(str(n.target) for n in graph.graph.nodes if n.op == "call_function")
            return make_boxed_func(graph)
        return compiler
    return torch.compile(model, backend=aot_autograd(fw_compiler=keep("forward"), bw_compiler=keep("backward"), inference_compiler=keep("forward"),
                                               partition_fn=min_cut_rematerialization_partition),
                         fullgraph=True, dynamic=False)


def count(graph, name): return sum(n for target, n in graph.items() if name in target)


@pytest.fixture
def rules_of_cuda(monkeypatch):
    "What PyTorch checks for CUDA tensors, checked for others too."
    from torch import _meta_registrations
    from torch.nn.attention import flex_attention
    monkeypatch.setattr(_meta_registrations, "device_hint", lambda t: "cuda")
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *args: None)


def test_the_real_presets_training_step_is_one_graph(rules_of_cuda):
    "Forward, loss and backward, FP8 in layers and head, a window by flex attention: as many kernels of each kind as there must be."
    cpu = torch.device("cpu")
    flags, model = real_model(cpu)
    names = convert_to_fp8(model, H100, head=flags.fp8_head)
    assert len(names) == 6 * 2 + 1 and names[-1] == "lm_head"
    for block, backend in zip(model.transformer.h, ("flex", "full")): block.attn.backend = backend
    graphs = {}
    loss = compiled(model, graphs)(tokens(1, 1024, cpu), tokens(1, 1024, cpu))
    assert (loss.dtype, loss.shape) == (torch.float32, ())
    loss.backward()
    assert all((p.grad.dtype, p.grad.shape) == (torch.float32, p.shape) for p in model.parameters())
    assert sum(count(graph, "_scaled_mm") for graph in graphs.values()) == 3 * (6 * 2 + 1024 // 64), "of layers, and of the head's chunks"
    assert count(graphs["forward"], "flex_attention") == count(graphs["backward"], "flex_attention_backward") == 1


def test_the_evaluations_graph_on_cuda():
    "The window chooses flex attention by itself; nothing is in 8 bits."
    flags, model = real_model(CUDA)
    convert_to_fp8(model, H100, head=flags.fp8_head)
    graphs = {}
    call = compiled(model.eval(), graphs)
    with torch.no_grad(), without_fp8(model): losses = call(tokens(2, 1024), tokens(2, 1024), loss_reduction="none")
    assert (losses.device, losses.dtype, losses.shape) == (CUDA, torch.float32, (2, 1024))
    assert count(graphs["forward"], "flex_attention") == 1 and not count(graphs["forward"], "_scaled_mm")


@pytest.mark.parametrize("chunk", [0, 48])
def test_the_heads_products_are_laid_out_as_the_hardware_wants(chunk):
    "All three of them, in chunks that divide the tokens and in others; `_scaled_mm` refuses any other layout and odd sizes."
    products = fp8_product, partial(fp8_product, kind=torch.float8_e5m2)
    x, w = (torch.empty(*shape, device=CUDA, dtype=dtype, requires_grad=True) for shape, dtype in (((4, 32, 1024), torch.bfloat16), ((32768, 1024), torch.float32)))
    loss = head_loss(x, w, tokens(4, 32), 15., chunk=chunk, part=partial(head_part, products=products))
    assert (loss.device, loss.dtype) == (CUDA, torch.float32)
    with pytest.raises(RuntimeError, match="divisible by 16"): head_loss(x, w, tokens(4, 32), 15., chunk=40, part=partial(head_part, products=products))


@pytest.mark.parametrize("shape", [(3, 1024, 1024), (3, 256, 1024), (2, 8, 12)])
def test_muons_direction_is_one_graph_on_cuda(shape):
    "With the record's settings; momentum and decay are numbers on the CPU beside matrices on the GPU."
    K, m, n = shape
    call = torch.compile(muon_direction_, backend=aot_autograd(fw_compiler=lambda graph, inputs: make_boxed_func(graph)), fullgraph=True, dynamic=False)
    G, M, S = (torch.empty(s, device=CUDA) for s in (shape, shape, (K, m, 1) if m >= n else (K, 1, n)))
    number = lambda x: torch.empty((), device="cpu")
    with torch.no_grad(): out = call(G, M, S, number(.95), number(.9), dtype=torch.bfloat16, equilibrate=True, renormalize=True)
    assert (out.device, out.dtype, out.shape) == (CUDA, torch.float32, shape)


@torch._dynamo.config.patch(recompile_limit=8)
def test_muon_takes_more_than_eight_shapes():
    "Three sizes of a model in one process: one graph for each shape of matrices."
    compiled_direction.cache_clear()
    compiled_direction()                                                              # makes room
    call = torch.compile(muon_direction_, backend="eager", fullgraph=True, dynamic=False)
    for n in range(2, 12):
        G, M = torch.empty(1, n, 4, device=CUDA), torch.empty(1, n, 4, device=CUDA)
        with torch.no_grad(): call(G, M, momentum=torch.empty(()), triples=((1., 0., 0.),), dtype=torch.bfloat16)


@torch._dynamo.config.patch(recompile_limit=8)
def test_windows_that_grow_stay_compiled():
    "Training and evaluation at six windows are twelve graphs; at torch's own limit of eight the rest would run uncompiled."
    graphs = []
    def backend(graph, inputs): return graphs.append(graph) or graph.forward
    model = fake(GPTConfig(sequence_len=64, vocab_size=64, n_layer=1, n_head=1, n_kv_head=1, n_embd=32), torch.device("cpu"))
    compile_model(model, Runtime(torch.device("cpu"), torch.bfloat16), "on")          # sets the limit
    call, ids = torch.compile(model, backend=backend, dynamic=False), tokens(1, 64, "cpu")
    for window in range(4, 10):
        model.transformer.h[0].attn.window = window
        for training in (True, False):
            model.train(training)
            with torch.set_grad_enabled(training): call(ids, ids)
    assert len(graphs) == 12


def row_model(device):
    "The rung of the long rows, smaller, each document by itself."
    r = ng.resized(ng.recipe("long-rows"), 3, 128, 512)
    model = fake(replace(ng.model_config(r, 320), n_head=2, n_kv_head=2), device)
    ng.mask_documents(model, 0)
    return model


def test_documents_by_themselves_are_one_graph_on_cuda():
    graphs = {}
    with torch.no_grad(): loss = compiled(row_model(CUDA), graphs)(tokens(2, 512), tokens(2, 512))
    assert loss.device == CUDA and count(graphs["forward"], "flex_attention") == 3


def test_the_layers_share_one_list_of_blocks(monkeypatch, rules_of_cuda):
    "Each layer asks for the blocks that hold two tokens of one document; compiled, they are found once for all."
    cpu = torch.device("cpu")
    monkeypatch.setattr(ng, "document_attention", flex_document_attention)                     # what CUDA tensors get
    graphs = {}
    compiled(row_model(cpu), graphs)(tokens(2, 512, cpu), tokens(2, 512, cpu)).backward()
    assert count(graphs["forward"], "flex_attention") == count(graphs["backward"], "flex_attention_backward") == 3
    assert count(graphs["forward"], "cumsum") == 1
