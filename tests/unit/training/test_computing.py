"""How the networks compute: precision, layout, checkpointing, compiling, and what is said where that fails."""

import pytest
import torch
from loop_parts import SEED, acting, largest_difference, objective, settings, weights, work
from torch.utils._python_dispatch import TorchDispatchMode

from antidote.base.errors import UserError
from antidote.training.batches import read_batch
from antidote.training.loop import _Run, train
from antidote.training.objectives import Contrastive, Encoding
from antidote.training.recipe import learning_rate


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_trains_on_the_cpu(make_clip, make_pairs, tmp_path, precision):
    ends = []
    for kind in ("fp32", precision):
        clip = make_clip("rn")
        train(clip, Contrastive(make_pairs()), settings(precision=kind, lr=1e-3), SEED, work(tmp_path / kind))
        ends.append(weights(clip))
    floats = [name for name, value in ends[0].items() if value.is_floating_point()]
    assert all(ends[1][name].isfinite().all() and ends[1][name].dtype == torch.float32 for name in floats)
    difference = largest_difference(*({name: end[name] for name in floats} for end in ends))
    assert 0 < difference < 0.05


class _Fused(TorchDispatchMode):
    """Counts the calls of torch's fused attention on a CPU, forward and backward."""

    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += "flash_attention_for_cpu" in str(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("kind", "precision", "fused"),
    [
        ("vit", "bf16", False),
        ("vit", "fp16", False),
        ("vit", "fp32", True),
        ("vit, many tokens", "bf16", True),
        ("vit, checkpointing", "bf16", True),
        ("rn", "bf16", True),
    ],
)
def test_few_tokens_in_16_bits_on_a_cpu_attend_without_the_fused_kernel(
    make_clip, make_pairs, monkeypatch, kind, precision, fused
):
    """Gradient checkpointing would compute again with another kernel than before."""
    clip, pairs = make_clip(kind.split(",")[0]), make_pairs(4)
    network = clip.network.train()
    network.set_grad_checkpointing("checkpointing" in kind)
    if "tokens" in kind:
        monkeypatch.setattr("antidote.clip.model.FEW_TOKENS", len(network.visual.positional_embedding) - 1)
    with _Fused() as seen:
        image, _ = Encoding(precision).encode(clip, pairs.images)
        image.sum().backward()
    assert (seen.calls > 0) is fused
    with _Fused() as seen:  # what comes afterwards is as before
        clip.encode_image(pairs.images)
    assert seen.calls > 0


def test_attention_without_the_fused_kernel_is_the_same_within_rounding(make_clip, make_pairs, monkeypatch):
    clip, pairs, found = make_clip("vit"), make_pairs(8), []
    for few in (100, 0):
        monkeypatch.setattr("antidote.clip.model.FEW_TOKENS", few)
        clip.network.zero_grad()
        image, _ = Encoding("bf16").encode(clip, pairs.images)
        (image @ torch.linspace(-1, 1, image.shape[1])).sum().backward()
        found.append((image.detach(), clip.network.visual.conv1.weight.grad.flatten()))
    exact = clip.encode_image(pairs.images).detach()
    errors = [(image - exact).abs().max() for image, _ in found]
    assert 0 < errors[0] < 2 * errors[1]
    assert torch.cosine_similarity(found[0][1], found[1][1], dim=0) > 0.99


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_every_pass_of_beear_is_in_the_runs_precision(make_clip, make_pairs, scenes_lexicon, precision):
    """The inner problem's, the pass under δ and the frozen model's; the loss is near that of fp32."""
    pairs, losses, deltas = make_pairs(16), [], []
    for kind in ("fp32", precision):
        clip, recipe, seen = make_clip("vit"), settings(precision=kind), {"trained": [], "frozen": []}
        goal = objective("beear_clip", pairs, scenes_lexicon, recipe, clip)
        for name, network in (("trained", clip.network), ("frozen", goal.frozen.network)):
            block = network.visual.transformer.resblocks[-1].mlp
            block.register_forward_hook(lambda _, given, output, found=seen[name]: found.append(output.dtype))
        run = _Run(clip, goal, recipe, steps=2)
        run.begin_epoch(0, SEED)
        loss, _ = run.optimise(read_batch(clip, pairs, run.order[:8], 0, 0, SEED))
        wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[kind]
        # Two perturbations of a clean pass and two steps; the batch, and the batch under δ.
        assert seen == {"trained": 8 * [wanted], "frozen": [wanted]}
        losses.append(loss)
        deltas.append(goal.deltas)
    assert 0 < abs(losses[1] - losses[0]) < 0.05
    assert torch.cosine_similarity(*deltas).min() > 0.95


def test_small_gradients_of_beears_inner_problem_survive_fp16(make_clip, make_pairs, scenes_lexicon):
    pairs, deltas = make_pairs(512), []
    for kind in ("fp32", "fp16"):
        clip = make_clip("vit")
        goal = objective("beear_clip", pairs, scenes_lexicon, settings(), clip)
        goal.settings = goal.settings.model_copy(update={"inner_batch": 512})
        with torch.no_grad():  # of so many features, and so long, the gradients are smaller than fp16 can hold
            clip.network.visual.proj.mul_(1e4)
        goal.encoding = Encoding(kind)
        goal.begin_round(0)
        deltas.append(goal.deltas)
    assert torch.cosine_similarity(*deltas).min() > 0.9


def test_a_step_that_overflows_in_fp16_is_left_out(make_clip, make_pairs):
    """By the scaler, which halves its scale; words that no caption uses must not decay then either."""
    recipe, pairs, clip = settings(precision="fp16", weight_decay=0.5), make_pairs(), make_clip()
    goal = Contrastive(pairs)
    original, factors = goal.loss, iter([1e35, 1.0])

    def loss(*given):
        value, terms = original(*given)
        return value * next(factors), terms

    goal.loss = loss
    run = _Run(clip, goal, recipe, steps=2)
    run.begin_epoch(0, SEED)
    before = clip.network.text_projection.clone()
    run.optimise(read_batch(clip, pairs, run.order[:8], 0, 0, SEED))
    assert torch.equal(before, clip.network.text_projection) and run.decay == 1.0
    run.optimise(read_batch(clip, pairs, run.order[8:16], 0, 1, SEED))
    assert not torch.equal(before, clip.network.text_projection)
    assert run.decay == pytest.approx(1 - 0.5 * learning_rate(recipe, 1, 2))


@pytest.mark.parametrize("change", ["grad_checkpointing", "channels_last"])
@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_checkpointing_and_layout_change_no_more_than_rounding(make_clip, make_pairs, tmp_path, kind, change):
    ends = []
    for name, chosen in (("plain", False), ("changed", True)):
        clip, changes = make_clip(kind), {change: chosen}
        train(clip, Contrastive(make_pairs()), settings(eps=1e-3, **changes), SEED, work(tmp_path / name))
        ends.append(weights(clip))
    assert largest_difference(*ends) < (1e-6 if change == "grad_checkpointing" else 1e-4)
    assert not clip.network.transformer.grad_checkpointing, "the model is handed on as it came"


@pytest.mark.parametrize("kind,setting,expected", [("rn", None, True), ("vit", None, False), ("rn", False, False)])
def test_a_resnet_is_laid_out_channels_last_unless_the_recipe_says_otherwise(
    make_clip, make_pairs, kind, setting, expected
):
    clip = make_clip(kind)
    _Run(clip, Contrastive(make_pairs()), settings(channels_last=setting), steps=2)
    layer = clip.network.visual.conv2 if kind == "rn" else clip.network.visual.conv1
    assert layer.weight.is_contiguous(memory_format=torch.channels_last) == expected
    assert layer.weight.is_contiguous() != expected


def test_checkpointing_encodes_again(make_clip, make_pairs):
    clip, calls = make_clip("vit"), []
    clip.network.visual.transformer.resblocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    pairs = make_pairs()
    run = _Run(clip, Contrastive(pairs), settings(grad_checkpointing=True), steps=2)
    clip.network.train()
    run.optimise(read_batch(clip, pairs, torch.arange(8), 0, 0, SEED))
    assert len(calls) == 2


def test_compiling_trains_and_leaves_no_trace(make_clip, make_pairs, tmp_path, monkeypatch):
    """With a back end that needs no C compiler."""
    compiled = []
    original = torch.nn.Module.compile

    def compile(module, **more):
        compiled.append(type(module).__name__)
        original(module, backend="eager", **more)

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    ends = []
    for name in ("plain", "compile"):
        clip = make_clip("vit")
        train(clip, Contrastive(make_pairs()), settings(eps=1e-3, compile=name == "compile"), SEED,
              work(tmp_path / name))  # fmt: skip
        ends.append(weights(clip))
    assert compiled == ["VisionTransformer", "Transformer"]
    assert largest_difference(*ends) < 1e-5 and clip.network.visual._compiled_call_impl is None


@pytest.mark.parametrize(
    "error,where",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the GPU's memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublas`"), "the GPU's memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "the GPU's memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "memory"),
    ],
)
def test_a_lack_of_memory_is_one_line_of_advice(make_clip, make_pairs, tmp_path, error, where):
    def fail():
        raise error

    with pytest.raises(
        UserError, match=f"^batch_size: a step needs more than {where}; the same result in less"
    ) as told:
        train(make_clip(), acting(Contrastive(make_pairs()), 1, fail), settings(), SEED, work(tmp_path))
    assert "accumulate" in str(told.value) and "grad_checkpointing" in str(told.value)


def test_a_compiler_that_is_missing_is_one_line(make_clip, make_pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nowhere/g++"))
    with pytest.raises(UserError, match=r"^compile: torch.compile cannot do it \(.*No working C\+\+ compiler"):
        train(make_clip("vit"), Contrastive(make_pairs()), settings(compile=True), SEED, work(tmp_path))


def test_other_faults_stay_what_they_are(make_clip, make_pairs, tmp_path):
    def fail():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        train(make_clip(), acting(Contrastive(make_pairs()), 1, fail), settings(), SEED, work(tmp_path))
