import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from losses.modules.context import GraphContext
from tests.losses import plain
from tests.losses.distillers import assert_same


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(("channels", "size"), [(8, (5, 7)), (1, (3, 2))])
def test_value_and_gradients_equal_the_formula(pooled, channels, size):
    torch.manual_seed(0)
    module = GraphContext(channels, pool_keys=pooled).double()
    x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    expected = plain.context(module, x, pooled)
    got = module(x)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    weights = torch.randn_like(got)
    assert_same(
        (got * weights).sum(), (expected * weights).sum(), [x, *(p for p in module.parameters() if p.dim() == 4)]
    )


@pytest.mark.parametrize("half", [False, True])
def test_attention_never_forms_the_whole_matrix(half):
    """Only the flash kernel is allowed, which refuses what it cannot take."""
    x = torch.randn(1, 16, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.autocast("cpu", torch.bfloat16, enabled=half):
        GraphContext(16)(x).float().sum().backward()
    assert torch.isfinite(x.grad).all()
