"""Layers against RecBole's, dropout against its definition."""

import pytest
import torch
from recbole.model.layers import TransformerEncoder as RecBoleEncoder

from common.dropout import dropout
from common.errors import UserError
from stage2_sequence_preference_learning.layers import LayerSizes, LoRA, MixDecoder, TransformerEncoder
from stage2_sequence_preference_learning.settings import check_heads

SIZES = LayerSizes(d=8, heads=2, inner=12, hidden_dropout=0.5, attn_dropout=0.5, activation="gelu", eps=1e-12)


def causal(rows, length):
    return torch.ones(length, length, dtype=torch.bool).tril().expand(rows, 1, length, length)


def test_encoder_equals_recboles_on_the_same_weights():
    torch.manual_seed(0)
    theirs = RecBoleEncoder(2, 2, 8, 12, 0.5, 0.5, "gelu", 1e-12).eval()
    ours = TransformerEncoder(2, SIZES).eval()
    ours.load_state_dict(theirs.state_dict())  # the names are the same
    x, allowed = torch.randn(3, 5, 8), causal(3, 5)
    expected = theirs(x, torch.where(allowed, 0.0, -10000.0))[-1]
    assert torch.allclose(ours(x, allowed), expected, atol=1e-6)


def test_written_out_attention_equals_the_kernel():
    torch.manual_seed(0)
    sizes = LayerSizes(8, 2, 12, 0.0, 1e-7, "gelu", 1e-12)  # a rate that drops nothing takes the training path
    encoder, x = TransformerEncoder(1, sizes), torch.randn(3, 5, 8)
    training = encoder.train()(x, causal(3, 5))
    assert torch.allclose(training, encoder.eval()(x, causal(3, 5)), atol=1e-6)


def test_lora_starts_as_the_identity_and_adds_b_a_x():
    lora, x = LoRA(8, 2), torch.randn(3, 8)
    lora.reset(0.02)
    assert torch.equal(lora(x), x)
    torch.nn.init.normal_(lora.lora_B.weight)
    expected = torch.stack([row + lora.lora_B.weight @ (lora.lora_A.weight @ row) for row in x])
    assert torch.allclose(lora(x), expected, atol=1e-6)


@pytest.mark.parametrize("stack", [True, False])
def test_mix_decoder_s9(stack):
    torch.manual_seed(0)
    decoder = MixDecoder(2, SIZES, stack_layers=stack).eval()
    query, context, allowed = torch.randn(1, 4, 8), torch.randn(1, 4, 8), causal(1, 4)
    first, second = decoder.layers
    expected = second(first(query, context, allowed) if stack else query, context, allowed)
    assert torch.equal(decoder(query, context, allowed), expected)


def test_width_must_be_a_multiple_of_heads():
    with pytest.raises(UserError, match="hidden_size=8 is not a multiple of n_heads=3"):
        check_heads(3, hidden_size=8)


@pytest.mark.parametrize("p", [0.5, 0.1, 0.25, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_that_share_scales_the_rest_and_its_gradient_alike(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(400, 501, dtype=dtype, requires_grad=True)
    y = dropout(x, p, training=True)
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.005)
    assert y[kept].float().mean().item() == pytest.approx(1 / (1 - p), rel=0.01)
    for axis in (0, 1):  # no row and no column is favoured
        shares = kept.float().mean(dim=axis)
        assert (shares - (1 - p)).abs().max() < 6 * (p * (1 - p) / kept.shape[axis]) ** 0.5
    y.float().sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_dropout_is_nothing_without_training_or_rate():
    x = torch.randn(3)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x


def test_dropout_follows_the_seed_and_draws_anew():
    x = torch.ones(64)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5, True), dropout(x, 0.5, True)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x, 0.5, True))
    assert not torch.equal(first, second)
