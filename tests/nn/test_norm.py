import torch
from torch.nn import functional as F

from gaekit.nn.norm import RMSNorm, rms_normalize


def test_agrees_with_torch_rms_norm_with_and_without_a_scale():
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    scaled = RMSNorm(16, eps=1e-3)
    torch.nn.init.normal_(scaled.weight)
    torch.testing.assert_close(scaled(x), F.rms_norm(x, (16,), scaled.weight, 1e-3))
    torch.testing.assert_close(RMSNorm(16, affine=False)(x), F.rms_norm(x, (16,), None, 1e-6))


def test_only_the_affine_norm_has_a_parameter():
    assert [name for name, _ in RMSNorm(4).named_parameters()] == ["weight"]
    assert not list(RMSNorm(4, affine=False).parameters())


def test_normalises_over_the_dimension_asked_for():
    x = 7 * torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    length = rms_normalize(x, dim=1).square().sum(1).sqrt()
    torch.testing.assert_close(length, torch.full_like(length, 8**0.5))


def test_statistics_are_float32_where_the_input_is_narrow():
    # 300^2 is beyond float16, and a sum of 4096 equal squares stalls in bfloat16.
    for dtype in (torch.float16, torch.bfloat16):
        out = RMSNorm(4096)(torch.full((1, 4096), 300.0, dtype=dtype))
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), torch.ones(1, 4096), atol=4e-3, rtol=0)
