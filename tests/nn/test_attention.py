import logging
import sys
import types
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from gaekit.errors import GaekitError
from gaekit.nn.attention import (
    NOT_INSTALLED,
    Attention,
    AttentionProbe,
    attend,
    choose_backend,
    set_attention,
    use_backend,
)
from gaekit.nn.embed import RotaryPositions
from gaekit.nn.norm import RMSNorm

CPU = torch.device("cpu")
SIZES = {"device": CPU, "dtype": torch.float32, "heads": 2, "head_dim": 8, "tokens": 9}


def documented(query, key, value):
    """What xformers documents for (B, tokens, heads, head_dim): softmax(q k^T / sqrt(head_dim)) v."""
    assert query.dtype == key.dtype == value.dtype
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[3] ** 0.5
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value)


class FakeXformers:
    """Stands in for the package: counts the calls, behaves as `function`."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def memory_efficient_attention(self, *inputs):
        self.calls += 1
        return self.function(*inputs)


@pytest.fixture
def install(monkeypatch):
    def put(function):
        fake = FakeXformers(function)
        ops = types.ModuleType("xformers.ops")
        ops.memory_efficient_attention = fake.memory_efficient_attention
        monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
        monkeypatch.setitem(sys.modules, "xformers.ops", ops)
        return fake

    return put


@pytest.fixture
def absent(monkeypatch):
    class NotFound:
        def find_spec(self, name, path=None, target=None):
            if name == "xformers":
                raise ModuleNotFoundError("No module named 'xformers'", name="xformers")

    for name in ("xformers", "xformers.ops"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [NotFound(), *sys.meta_path])


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def outcome(module, x, **keywords):
    module.zero_grad()
    leaf = x.clone().requires_grad_()
    out = module(leaf, **keywords)
    out.square().sum().backward()
    return [out, leaf.grad, *(p.grad.clone() for p in module.parameters())]


@pytest.mark.parametrize("qk_norm", [None, RMSNorm, partial(RMSNorm, affine=False), nn.LayerNorm])
@pytest.mark.parametrize("backend", ["sdpa", "xformers"])
def test_outputs_and_gradients_agree_between_backends(backend, qk_norm, install):
    fake = install(documented)
    module, rope = Attention(16, 2, tokens=9, qk_norm=qk_norm), RotaryPositions(8, 3)
    use_backend(module, "math")
    reference = outcome(module, seeded(2, 9, 16), rope=rope)
    use_backend(module, backend)
    torch.testing.assert_close(outcome(module, seeded(2, 9, 16), rope=rope), reference, atol=1e-5, rtol=1e-5)
    assert fake.calls == (backend == "xformers")


@pytest.mark.parametrize("bias", [True, False])
def test_agrees_with_torch_multihead_attention(bias):
    theirs = nn.MultiheadAttention(16, 4, bias=bias, batch_first=True)
    ours = Attention(16, 4, tokens=6, bias=bias)
    ours.qkv.weight, ours.proj.weight = theirs.in_proj_weight, theirs.out_proj.weight
    if bias:
        nn.init.normal_(theirs.in_proj_bias)
        ours.qkv.bias, ours.proj.bias = theirs.in_proj_bias, theirs.out_proj.bias
    x = seeded(3, 6, 16)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0], atol=1e-6, rtol=1e-5)


def test_backend_sees_one_dtype_under_autocast(install):
    install(documented)
    module = Attention(16, 2, tokens=9, qk_norm=RMSNorm)
    use_backend(module, "xformers")
    with torch.autocast("cpu", torch.bfloat16):
        assert module(seeded(2, 9, 16), RotaryPositions(8, 3)).dtype == torch.bfloat16


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(GaekitError, match="3 heads cannot share a width of 16"):
        Attention(16, 3, tokens=4)


def test_auto_takes_xformers_where_it_works_and_tries_each_size_once(install):
    fake = install(documented)
    probe = AttentionProbe()
    assert choose_backend("auto", **SIZES, probe=probe).backend == "xformers"
    assert choose_backend("xformers", **SIZES, probe=probe).backend == "xformers"
    assert fake.calls == 1
    choose_backend("auto", **{**SIZES, "tokens": 16}, probe=probe)
    assert fake.calls == 2


def test_absent_xformers_is_a_reason_for_auto_and_an_error_by_name(absent):
    choice = choose_backend("auto", **SIZES)
    assert choice.backend == "sdpa"
    assert "2 heads of 8, 9 tokens, float32 on cpu: it is not installed" in str(choice)
    with pytest.raises(GaekitError, match=r"runtime.attention: xformers .* it is not installed") as caught:
        choose_backend("xformers", **SIZES)
    assert caught.value.exit_code == 2


def fails_forward(*inputs):
    raise NotImplementedError("No operator found for this:\n   built for another torch")


def fails_backward(query, key, value):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no kernel image is available")

    return Broken.apply(documented(query, key, value))


def forgets_the_scale(query, key, value):
    return documented(query * 2, key, value)


def wrong_gradient(query, key, value):
    out = documented(query, key, value)
    return out + (query - query.detach())


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (fails_forward, "NotImplementedError: No operator found for this: built for another torch"),
        (fails_backward, "RuntimeError: no kernel image is available"),
        (forgets_the_scale, "its forward pass is wrong"),
        (wrong_gradient, "its backward pass is wrong"),
    ],
)
def test_unusable_xformers_is_named_with_its_fault(function, reason, install):
    install(function)
    assert choose_backend("auto", **SIZES).backend == "sdpa"
    with pytest.raises(GaekitError) as caught:
        choose_backend("xformers", **SIZES)
    assert reason in str(caught.value)


def test_what_xformers_warns_and_logs_stays_off_the_terminal_and_is_told(install, capsys):
    def noisy(query, key, value):
        warnings.warn("deprecated", FutureWarning, stacklevel=1)
        logging.getLogger("xformers").warning("WARNING[XFORMERS]: built for PyTorch 1.0")
        raise RuntimeError("broken")

    install(noisy)
    assert "built for PyTorch 1.0; RuntimeError: broken" in choose_backend("auto", **SIZES).reason
    assert capsys.readouterr() == ("", "")


def test_probing_leaves_random_numbers_and_gradient_mode_alone(install):
    install(documented)
    before = torch.get_rng_state()
    with torch.no_grad():
        assert choose_backend("auto", **SIZES).backend == "xformers"
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("device", "failure", "unexpected"),
    [("cuda", "no kernel", True), ("cuda", NOT_INSTALLED, False), ("cpu", "no kernel", False), ("cuda", None, False)],
)
def test_sdpa_is_unexpected_where_an_xformers_on_cuda_fails(device, failure, unexpected, monkeypatch):
    monkeypatch.setattr("gaekit.nn.attention._try_xformers", lambda *sizes: failure)
    choice = choose_backend("auto", **{**SIZES, "device": torch.device(device)})
    assert choice.unexpected == unexpected
    assert not choose_backend("sdpa", **SIZES).unexpected


@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_what_is_asked_for_is_taken_without_probing(backend, install):
    fake = install(documented)
    assert choose_backend(backend, **SIZES).backend == backend
    assert fake.calls == 0


def test_a_network_gets_one_backend_that_works_at_all_its_sizes(install):
    def short_only(query, key, value):
        if query.shape[1] > 9:
            raise RuntimeError("too long")
        return documented(query, key, value)

    install(short_only)
    short, long = Attention(16, 2, tokens=9), Attention(16, 2, tokens=16)
    assert str(set_attention(nn.Sequential(short), "auto", CPU, AttentionProbe())).startswith("attention by xformers")
    choice = set_attention(nn.Sequential(short, long), "auto", CPU, AttentionProbe())
    assert (short.backend, long.backend) == ("sdpa", "sdpa")
    assert "too long" in choice.reason
    with pytest.raises(GaekitError, match=r"16 tokens.*too long"):
        set_attention(nn.Sequential(short, long), "xformers", CPU, AttentionProbe())


def test_a_network_without_attention_has_no_choice():
    assert set_attention(nn.Linear(2, 2), "xformers", CPU, AttentionProbe()) is None


def test_math_is_float64_attention_up_to_rounding():
    inputs = [seeded(3, 2, 5, 2, 4)[i] for i in range(3)]
    exact = documented(*(x.double() for x in inputs))
    torch.testing.assert_close(attend(*inputs, "math").double(), exact, atol=1e-6, rtol=1e-6)
