"""The models against the plain implementation of benchmarks/plain.py, switch by switch; names; gradients."""

import numpy as np
import pytest
import torch
from no_waiting import step_without_waiting
from stage2_helpers import make_model, padded, separate_rows

from benchmarks.plain import PlainIDSeqEncoder, PlainSICSRec, causal_mask, last
from common.features import features_dir
from common.settings import as_dict
from stage2_sequence_preference_learning.data import load_splits
from stage2_sequence_preference_learning.models import MODELS
from stage2_sequence_preference_learning.packing import pack
from stage2_sequence_preference_learning.settings import SICSRecSettings

SWITCHES = ("train_ffw_lora", "stack_mix_layers", "mask_same_target", "rank_normalized")


def plain_of(model, settings):
    """The plain implementation with the model's weights."""
    if type(model).__name__ == "ID_SeqEncoder":
        plain = PlainIDSeqEncoder(settings, model.n_items)
    else:
        widths = {m: model.get_submodule(f"plm_{m}_embedding").weight.shape[1] for m in settings.modalities}
        plain = PlainSICSRec(settings, model.n_items, widths)
    plain.load_state_dict(model.state_dict())
    return plain.eval()


def assert_same_as_plain(model, settings, data):
    model.eval()
    batch, plain = separate_rows(data.train), plain_of(model, settings)
    _, items, lengths, targets = padded(data.train)
    expected = plain.terms(items, lengths, targets)
    found = model.loss_terms(batch)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-4, abs=1e-5), name
    scores = model.full_sort_scores(batch)
    assert torch.allclose(scores[:, 1:], plain.scores(items, lengths)[:, 1:], atol=1e-4)
    assert torch.isinf(scores[:, 0]).all()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("ID_SeqEncoder", {}),
        ("SICSRec", {}),
        ("SICSRec", {"variant": "released"}),
        *(("SICSRec", {switch: False}) for switch in SWITCHES),
        *(("SICSRec", {"modalities": [modality]}) for modality in ("text", "image")),
    ],
    ids=str,
)
def test_losses_and_scores_equal_plain(datasets_dir, name, values):
    model, settings, data = make_model(datasets_dir, name, **values)
    if name == "SICSRec":
        off = [switch for switch in SWITCHES if not getattr(settings, switch)]
        assert off == (list(SWITCHES) if "variant" in values else [key for key in values if key in SWITCHES])
        shown = {m for m in ("text", "image") if any(m in weight for weight in model.state_dict())}
        assert shown == set(settings.modalities)
    assert_same_as_plain(model, settings, data)


def test_content_encoder_equals_plain(datasets_dir):
    model, settings, data = make_model(datasets_dir, "Content_SeqEncoder", alpha=0.7)
    model.eval()
    plain = PlainSICSRec(SICSRecSettings(**as_dict(settings)), model.n_items, {"text": 12, "image": 10}).eval()
    assert not plain.load_state_dict(model.state_dict(), strict=False).unexpected_keys
    batch, (_, items, lengths, targets) = separate_rows(data.train), padded(data.train)
    position = plain.position_embedding(torch.arange(items.shape[1]))
    x = plain.content_LayerNorm(plain.content(items) + position)
    u = torch.nn.functional.normalize(last(plain.content_trm_decoder(x, causal_mask(items)), lengths), dim=-1)
    contents = plain.content(torch.arange(model.n_items))
    logits = u @ contents.T / settings.temperature
    same = (targets[:, None] == targets) & ~torch.eye(len(targets), dtype=torch.bool)
    in_batch = (u @ contents[targets].T / settings.temperature).masked_fill(same, -torch.inf)
    norms = sum(model.state_dict()[f"plm_{m}_embedding.weight"].norm() for m in ("text", "image"))
    expected = {
        "rec": torch.nn.functional.cross_entropy(logits, targets),
        "reg": settings.lamba * norms,
        "contrastive": 0.7 * torch.nn.functional.cross_entropy(in_batch, torch.arange(len(targets))),
    }
    found = model.loss_terms(batch)
    for name in expected:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-4), name
    assert torch.allclose(model.full_sort_scores(batch)[:, 1:], (u @ contents.T)[:, 1:], atol=1e-5)


def test_initial_weights_s16(datasets_dir):
    for name in ("SICSRec", "Content_SeqEncoder"):
        for normal in (True, False):
            settings = MODELS[name].schema(
                dataset="Tiny", datasets_dir=str(datasets_dir), normal_init=normal, hidden_size=64, n_layers=3
            )
            model = MODELS[name](settings, load_splits(settings))
            layers = model.content_trm_decoder.layer
            dense = [layer.feed_forward.dense_1 for layer in layers]
            # torch's default of a Linear is U(-1/sqrt(d), 1/sqrt(d)); layers are copies of the first
            assert dense[0].weight.std().item() == pytest.approx(0.02 if normal else 64**-0.5 / 3**0.5, rel=0.05)
            assert all(d.bias.any().item() != normal for d in dense)
            assert all(torch.equal(d.weight, dense[0].weight) != normal for d in dense[1:])
            if name == "SICSRec":
                assert not any(lora.any() for key, lora in model.state_dict().items() if key.endswith("lora_B.weight"))


def test_released_starts_positions_of_the_content_encoder_from_a_wide_normal_s16(datasets_dir):
    settings = MODELS["Content_SeqEncoder"].schema(dataset="Tiny", datasets_dir=str(datasets_dir), variant="released")
    model = MODELS["Content_SeqEncoder"](settings, load_splits(settings))
    assert model.position_embedding.weight.std().item() == pytest.approx(1.0, rel=0.05)


def test_item_dropout_is_a_rate_of_its_own_s18(datasets_dir):
    """With no other dropout, two draws of the loss differ by it alone, and only in the recommendation term."""
    for rate in (0.0, 0.5):
        none = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "item_dropout": rate}
        model, _, data = make_model(datasets_dir, "SICSRec", **none)
        batch = separate_rows(data.train)
        first, second = (model.train().loss_terms(batch) for _ in range(2))
        assert (first["rec"].item() == second["rec"].item()) == (rate == 0.0)
        assert first["contrastive"].item() == second["contrastive"].item()


@pytest.mark.parametrize("switch", ["stack_mix_layers", "mask_same_target", "rank_normalized"])
def test_each_switch_changes_something(datasets_dir, switch):
    """The comparison with the plain implementation would not notice a switch that both ignore."""
    results = []
    for value in (True, False):
        model, _, data = make_model(datasets_dir, "SICSRec", **{switch: value})
        batch = separate_rows(data.train)
        results.append((sum(model.eval().loss_terms(batch).values()).item(), model.full_sort_scores(batch)[:, 1:]))
    (loss_a, scores_a), (loss_b, scores_b) = results
    assert (loss_a != pytest.approx(loss_b, rel=1e-6)) or not torch.allclose(scores_a, scores_b)


@pytest.mark.parametrize("name", MODELS)
def test_causal_pass_equals_separate_prefixes(datasets_dir, name):
    """The loss and its gradients: every prefix by itself, and all prefixes of a user in one pass."""
    model, _, data = make_model(datasets_dir, name)
    model.eval()
    packed = pack(data.train, np.random.default_rng(0).permutation(len(data.train)))
    separate = separate_rows(data.train)
    assert len(packed.items) < len(separate.items)
    separate.sequences = padded(data.train)[0]  # the same rows are not negatives of each other
    all_terms, gradients = [], []
    for batch in (separate, packed):
        model.zero_grad()
        terms = model.loss_terms(batch)
        sum(terms.values()).backward()
        all_terms.append({name: term.item() for name, term in terms.items()})
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert all_terms[0] == pytest.approx(all_terms[1], rel=1e-5)
    for parameter, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][parameter], atol=1e-4), parameter


@pytest.mark.parametrize("name", ["Content_SeqEncoder", "SICSRec"])
@pytest.mark.parametrize("n_negatives", [1, 700])  # fewer and more draws than items
def test_frozen_features_and_sampled_items(datasets_dir, name, n_negatives):
    """The loss reads the vectors that ranking reads; the tables of features have no gradient and are no copy."""
    model, _, data = make_model(
        datasets_dir, name, train_features=False, loss="sampled_softmax", n_negatives=n_negatives
    )
    tables = {modality: model.get_submodule(f"plm_{modality}_embedding").weight for modality in data.features}
    assert all(table.data_ptr() == data.features[modality].data_ptr() for modality, table in tables.items())
    read = []
    loss = model.recommendation_loss

    def spy(preference, items, *others):
        rows = torch.randint(1, model.n_items, (5, 3))
        read.extend([(items(rows), model.candidates()[rows]), (items()[1:], model.candidates()[1:])])
        return loss(preference, items, *others)

    model.recommendation_loss = spy
    model.eval()
    terms = model.loss_terms(separate_rows(data.train))
    for found, expected in read:
        torch.testing.assert_close(found, expected)
    sum(terms.values()).backward()
    assert all(table.grad is None for table in tables.values())
    assert model.text_adapter.fc1.weight.grad.any()


def names_of(prefix, parts):
    return {f"{prefix}.{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def layer_names(prefix, attention):
    parts = [f"{attention}.{p}" for p in ("query", "key", "value", "dense", "LayerNorm")]
    parts += [f"feed_forward.{p}" for p in ("dense_1", "dense_2", "LayerNorm")]
    return set().union(*(names_of(f"{prefix}.{i}", parts) for i in range(2)))


@pytest.mark.parametrize("name", MODELS)
def test_items_computed_once_for_all_batches_score_alike(datasets_dir, name):
    model, _, data = make_model(datasets_dir, name)
    batch = separate_rows(data.valid)
    model.eval()
    apart = model.full_sort_scores(batch)
    with model.fixed_items():
        assert torch.allclose(model.full_sort_scores(batch), apart, atol=1e-6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert not torch.allclose(model.full_sort_scores(batch)[:, 1:], apart[:, 1:])  # nothing is kept afterwards


def test_state_dict_has_the_published_names(datasets_dir):
    model, _, _ = make_model(datasets_dir, "ID_SeqEncoder")
    of_id = {"item_embedding.weight", "position_embedding.weight", "LayerNorm.weight", "LayerNorm.bias"}
    of_id |= layer_names("trm_encoder.layer", "multi_head_attention")
    assert set(model.state_dict()) == of_id

    model, _, _ = make_model(datasets_dir, "SICSRec")
    maps = [f"{place}_lora_layer.lora_{letter}" for place in ("att", "ffw") for letter in "AB"]
    loras = {f"trm_encoder.layer.{i}.{lora}.weight" for i in (0, 1) for lora in maps}
    expected = of_id | loras | {f"plm_{m}_embedding.weight" for m in ("text", "image")}
    expected |= layer_names("content_trm_decoder.layer", "multi_head_attention")
    expected |= layer_names("id_content_trm_decoder.layers", "cross_attention")
    expected |= names_of("text_adapter", ("fc1", "fc2")) | names_of("image_adapter", ("fc1", "fc2"))
    for part in ("aggregation_layer", "content_LayerNorm", "query_LayerNorm", "value_LayerNorm"):
        expected |= {f"{part}.weight", f"{part}.bias"}
    assert set(model.state_dict()) == expected


def test_features_are_matched_by_item(datasets_dir):
    model, _, data = make_model(datasets_dir, "SICSRec")
    by_item = torch.load(features_dir(datasets_dir / "Tiny", "paper") / "Tiny_text_llm_stage1.pth", weights_only=True)
    model.fill_tables()
    for row, item in enumerate(data.item_of_row):
        expected = torch.zeros(by_item.shape[1]) if row == 0 else by_item[item]
        assert torch.equal(model.plm_text_embedding.weight[row], expected)
    assert data.item_of_row[1:].tolist() != sorted(data.item_of_row[1:])  # the order does differ


@pytest.mark.parametrize("loss", ["cross_entropy", "sampled_softmax_logq"])
@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_does_not_wait_in_a_step(datasets_dir, name, loss):
    model, _, data = make_model(datasets_dir, name, loss=loss)
    step_without_waiting(model, pack(data.train, np.arange(len(data.train))))
