"The recipe of the record: one list, compared with nanochat's own files, with the flags, the presets, and a run."
import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from nanochat_course.base_train import BaseTrainConfig, base_plan, optimizer_settings, optional_parts
from nanochat_course.common import CourseError
from nanochat_course.gpt import GPT, GPTConfig
from nanochat_course.optim import ADAM_BY_ROLE, MuonAdamW, param_groups
from nanochat_course.recipe import ELSEWHERE, GROUPS, RECIPE, RECORD, recipe_table
from nanochat_course.speedrun import PRESETS, stage_config

ROOT = Path(__file__).resolve().parent.parent
THEIRS = json.loads((ROOT / "tests" / "golden" / "nanochat_settings.json").read_text())    # read from nanochat's files at 92d63d4


@pytest.mark.parametrize("setting", RECIPE, ids=lambda s: s.flag)
def test_each_row_has_nanochats_value_and_a_flag(setting):
    theirs = THEIRS[setting.name]
    assert (setting.theirs is True and theirs) if isinstance(theirs, dict) else setting.theirs == theirs
    assert setting.flag in {f.name for f in fields(BaseTrainConfig)}
    assert type(setting.ours) is type(getattr(BaseTrainConfig(), setting.flag)), "the flag would be parsed as another type"
    assert setting.ours == setting.theirs or setting.why, "where we differ, the table says why"


def test_nothing_that_differs_is_left_without_a_reason():
    assert all(s.why for s in ELSEWHERE if s.ours != s.theirs)
    theirs = {s.name for s in RECIPE + ELSEWHERE} | {"source", "adam"}
    size_or_habit = {"aspect_ratio", "head_dim", "target_param_data_ratio", "total_batch_size", "eval_every", "eval_tokens", "core_metric_every",
                     "core_metric_max_per_task", "sample_every", "save_every", "momentum_start"}
    inside = {"ve_gate_channels", "smear_gate_channels", "value_gate_top", "resid_init", "x0_init", "backout_init"}    # in the model, tested below
    assert set(THEIRS) - theirs == size_or_habit | inside


def test_constants_inside_the_model_are_nanochats():
    from nanochat_course import gpt
    model = GPT(GPTConfig(sequence_len=8, vocab_size=64, n_layer=3, n_head=2, n_kv_head=2, n_embd=32, **optional_parts(BaseTrainConfig(**RECORD)))).init_weights()
    assert (gpt.VALUE_GATE, gpt.SMEAR_GATE) == (THEIRS["ve_gate_channels"], THEIRS["smear_gate_channels"])
    for name, (start, fall) in (("resid_lambdas", THEIRS["resid_init"]), ("x0_lambdas", THEIRS["x0_init"])):
        assert getattr(model, name)[[0, -1]].tolist() == pytest.approx([start, start - fall])
    assert model.backout_lambda.item() == pytest.approx(THEIRS["backout_init"])
    with torch.no_grad(): top = model.transformer.h[0].attn.value_gate(1e6 * model.transformer.h[0].attn.ve_gate.weight[:1, None])
    assert top[..., 0, :].item() == pytest.approx(THEIRS["value_gate_top"])


def test_adams_settings_are_nanochats():
    names = dict(lm_head_params="unembedding", embedding_params="embedding", value_embeds_params="value_embedding", resid_params="residual", x0_params="x0")
    for theirs, role in names.items():
        *betas, decay = THEIRS["adam"][theirs]
        assert ADAM_BY_ROLE[role] == dict(betas=tuple(betas), weight_decay=decay), role
    assert THEIRS["adam"]["smear_params"] == [0.8, 0.95, 0.0] and "smear" not in ADAM_BY_ROLE, "the default of param_groups"


@pytest.mark.parametrize("name", ["gpu", "8xh100"])
def test_presets_for_gpus_follow_the_recipe(name):
    flags = PRESETS[name]["base_train"]
    assert {k: flags[k] for k in RECORD} == RECORD
    config = stage_config("base_train", flags)
    p = base_plan(config, 32768, 8)
    model = GPTConfig(**p.model_config())
    assert model.value_embeds and model.residual_scalars and model.smear and model.backout and model.qk_scale == 1.2 and model.windows[0] == 512
    assert p.schedule()(p.num_iterations - 1)["momentum"] < 0.901 and p.grad_clip == 0
    muon = optimizer_settings(config)
    assert muon == dict(beta2=0.9, cautious=True, equilibrate=True, renormalize=True, adam_by_role=ADAM_BY_ROLE)


@pytest.mark.parametrize("name", ["tiny", "laptop"])
def test_the_laptop_keeps_the_plain_model(name):
    config = stage_config("base_train", PRESETS[name]["base_train"])
    assert set(optional_parts(config)) <= {"c_fc_init"}, "nothing that is computed: only where the weights start"
    assert optimizer_settings(config) == dict(beta2=None, cautious=False, equilibrate=False, renormalize=False, adam_by_role=None)


def test_groups_cover_the_recipe_once():
    flags = [flag for group in GROUPS.values() for flag in group]
    default = BaseTrainConfig()
    assert len(flags) == len(set(flags)) and set(flags) <= set(RECORD)
    assert {f for f in RECORD if RECORD[f] != getattr(default, f)} - set(flags) <= {"momentum_warmup", "warmup_steps"}, "what differs from the plain run is measured"


def test_table_and_its_chapter():
    table = recipe_table()
    for s in RECIPE: assert f"| {s.what} |" in table and f"`--{s.flag.replace('_', '-')}`" in table
    cells = json.loads((ROOT / "nbs" / "32_base_train.ipynb").read_text())["cells"]
    shown = [o for c in cells if "recipe_table()" in "".join(c["source"]) and c["cell_type"] == "code" for o in c["outputs"]]
    assert any("".join(o["data"].get("text/markdown", "")).strip() == table.strip() for o in shown), "the chapter shows an old table: build it again"


def test_bad_flags_are_one_line():
    for flags, text in ((dict(muon_beta2=1.), "muon_beta2"), (dict(muon_beta2=-.5), "muon_beta2")):
        with pytest.raises(CourseError, match=text): optimizer_settings(BaseTrainConfig(**flags))


def test_a_model_trained_with_the_recipe_learns():
    config = BaseTrainConfig(**RECORD | dict(momentum_warmup=10, warmup_steps=2), depth=2, max_seq_len=32, total_batch_size=256, num_iterations=40)
    p = base_plan(config, 64)
    torch.manual_seed(0)
    model = GPT(GPTConfig(**p.model_config())).init_weights()
    opt = MuonAdamW(param_groups(model, **p.learning_rates(), **optimizer_settings(config)))
    from nanochat_course.train import set_schedule
    x = torch.randint(64, (8, 33))
    losses = []
    for step in range(40):
        loss = model(x[:, :-1], x[:, 1:])
        loss.backward()
        set_schedule(opt, p.schedule()(step))
        opt.step(); opt.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    moved = {n: p.detach() for n, p in model.named_parameters()}
    assert moved["smear_lambda"].item() != 0 and moved["backout_lambda"].item() != pytest.approx(0.2, abs=1e-4)
    assert (moved["x0_lambdas"] - torch.tensor([0.2, 0.05])).abs().max() > 1e-3
