"""What the interactive pictures read: weights of the laptop's model for the browser, and numbers that it really gave.

    python tools/site/play_data.py          # tools/site/play/data/*.js, from the run in NANOCHAT_COURSE_DIR

The weights (5 MB for the laptop's model) are no part of the repository: tools/site/build.py writes them beside the pages where a run exists.
"""
import argparse, json
from pathlib import Path

import torch

from nanochat_course.attention import rms_norm, rotary, rotary_tables
from nanochat_course.checkpoint import checkpoint_dir, latest_step, load_model
from nanochat_course.common import CourseError, runtime
from nanochat_course.engine import Decoder
from nanochat_course.tokenizer import SPLIT_PATTERN

DATA = Path(__file__).resolve().parent / "play" / "data"
STAGES = ("chatrl", "chatsft", "mid")                      # the best model that can chat comes first
PROMPTS = ("Return the", "If the file does not", "The cat sat on the")
SENTENCE = "The cat sat on the mat because the cat was tired."


def quantise(
    weight:torch.Tensor,   # (n, m)
)->tuple:                  # int8 (n, m), and a float32 scale for each row (n,)
    "Each row by its own largest number: weight is about scale x whole number."
    scale = weight.abs().amax(1).clamp(min=1e-12) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


def dequantised(model):
    "Put in place of each matrix what the browser computes with."
    for p in model.parameters():
        if p.ndim == 2:
            whole, scale = quantise(p.detach())
            p.data = whole.float() * scale[:, None]
    return model


def export_model(
    model,           # of the plain architecture
    tokenizer,       # its own
    folder,          # gets weights.bin and model.json
    note:str="",     # where the weights come from, shown on the page
):
    "Write a model as the page reads it: for each matrix the scales of its rows, then its rows as whole numbers."
    if not Decoder.fits(model): raise CourseError("the page computes the plain architecture only, and this model has more parts")
    if tokenizer.pattern != SPLIT_PATTERN: raise CourseError("the page knows the course's own split pattern only, and this tokenizer has another")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, at = [], 0
    with open(folder / "weights.bin", "wb") as f:
        for name, weight in model.state_dict().items():
            whole, scale = quantise(weight.detach().float().cpu())
            data = scale.numpy().astype("<f4").tobytes() + whole.numpy().tobytes()
            data += b"\0" * (-len(data) % 4)
            tensors.append(dict(name=name, shape=list(weight.shape), at=at))
            at += f.write(data)
    c = model.config
    config = {k: getattr(c, k) for k in ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "rotary_base", "softcap")}
    description = dict(config=config | dict(windows=list(c.windows)), tensors=tensors, bytes=at, note=note,
                       merges=[list(map(int, pair)) for pair in tokenizer.merges], byte_order=list(tokenizer.byte_order), specials=tokenizer.special_ids)
    (folder / "model.json").write_text(json.dumps(description))


def find_model(rt, tag="laptop"):
    "The chat model of the newest stage that a run has left, its tokenizer and a note; None where there is no run."
    for stage in STAGES:
        folder = checkpoint_dir(stage, tag)
        if latest_step(folder) is not None:
            model, tokenizer, _ = load_model(folder, rt)
            return model, tokenizer, f"{tag}, after {stage}"


def model_for_the_page(
    folder,          # of the site
)->str:              # what was done, in one line
    "Write the weights beside the pages, where a run has left a model."
    try:
        with runtime("cpu", "float32") as rt:
            found = find_model(rt)
            if found is None: return "talk.html: no trained model here (make speedrun PRESET=laptop makes one, in about ten minutes)"
            export_model(*found[:2], Path(folder) / "model", found[2])
    except CourseError as e: return f"talk.html: no model: {e}"
    return f"talk.html: with the model {found[2]}, {(Path(folder) / 'model' / 'weights.bin').stat().st_size / 1e6:.1f} MB"


def save(name, value):
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / f"{name}.js").write_text(f"play.data.{name} = {json.dumps(value, ensure_ascii=False, separators=(',', ':'))};\n")


@torch.no_grad()
def sampling_data(model, tokenizer, shown=60):
    "Logits after three beginnings, and the text of their likeliest tokens."
    prompts, names = [], {}
    for text in PROMPTS:
        ids = torch.tensor([tokenizer.encode(text, prepend="<|bos|>")])
        logits = model(ids)[0, -1].double()
        for i in logits.topk(shown).indices.tolist(): names[i] = tokenizer.decode([i])
        prompts.append(dict(text=text, logits=[round(v, 3) for v in logits.tolist()]))
    return dict(prompts=prompts, tokens=names)


@torch.no_grad()
def queries_and_keys(
    model,           # of the plain architecture
    ids:list,        # one row of T tokens
)->list:             # per layer (queries, keys), each (T, heads, D), before positions and norm
    "What every head asks and offers."
    taken, D = {}, model.config.head_dim
    def remember(layer):
        def hook(module, args):
            x = args[0][0]
            taken[layer] = [c(x).view(len(ids), -1, D) for c in (module.c_q, module.c_k)]
        return hook
    hooks = [block.attn.register_forward_pre_hook(remember(i)) for i, block in enumerate(model.transformer.h)]
    model(torch.tensor([ids]))
    for hook in hooks: hook.remove()
    return [taken[i] for i in range(len(taken))]


def looks(
    q:torch.Tensor,  # (T, D) of one head
    k:torch.Tensor,  # (T, D)
    base:float,      # of the rotation
)->torch.Tensor:     # (T, T) attention weights
    "Where one head looks."
    T, D = q.shape
    tables = rotary_tables(T, D, base)
    q, k = (rms_norm(rotary(x[None, :, None], *tables))[0, :, 0] for x in (q, k))
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    return (q @ k.T / D**.5).masked_fill(future, -torch.inf).softmax(-1)


def chosen_heads(
    layers:list,     # from `queries_and_keys`
    base:float,      # of the rotation
)->list:             # (layer, head), each another one
    "The head that looks most at the token before, at the few before that, at the token itself, and at the start."
    T = len(layers[0][0])
    offset = (torch.arange(T)[:, None] - torch.arange(T)).float()
    start = (torch.arange(T) == 0).float().expand(T, T)
    kinds = [(offset == 1).float(), ((offset >= 2) & (offset <= 4)).float(), (offset == 0).float(), start]
    weights = {(l, h): looks(q[:, h], k[:, h], base) for l, (q, k) in enumerate(layers) for h in range(q.shape[1])}
    chosen = []
    for kind in kinds:
        share = {place: (w * kind)[5:].sum(1).mean().item() for place, w in weights.items() if place not in chosen}
        chosen.append(max(share, key=share.get))
    return chosen


@torch.no_grad()
def attention_data(model, tokenizer):
    "Queries and keys of four heads for one sentence, before positions and norm."
    if model.config.n_head != model.config.n_kv_head: raise CourseError("the picture of attention knows heads with keys of their own only")
    ids = tokenizer.encode(SENTENCE, prepend="<|bos|>")
    layers = queries_and_keys(model, ids)
    rows = lambda x: [[round(v, 3) for v in row] for row in x.tolist()]
    heads = [dict(layer=l, head=h, q=rows(layers[l][0][:, h]), k=rows(layers[l][1][:, h])) for l, h in chosen_heads(layers, model.config.rotary_base)]
    return dict(tokens=[tokenizer.decode([i]) for i in ids], heads=heads)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-tag", default="laptop")
    tag = parser.parse_args().model_tag
    with runtime("cpu", "float32") as rt:
        model, tokenizer, _ = load_model(checkpoint_dir("base", tag), rt)
        save("sampling", sampling_data(model, tokenizer))
        save("attention", attention_data(model, tokenizer))


if __name__ == "__main__": main()
