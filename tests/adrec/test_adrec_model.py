"""ADRec's mathematics against plain formulas: encoders, loss, queues, momentum, switches."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, Dict, List
from unittest import mock

import numpy as np
import pytest
import torch
from adrec_helpers import plain_items, plain_sequence, tiny_adrec
from hypothesis import given, settings
from hypothesis import strategies as st
from no_waiting import GPU, step_without_waiting
from torch.nn import functional as F

from adrec.additions import Adapter, refined_logq
from adrec.data import Batch, Split
from adrec.encoders import SequenceEncoder
from adrec.losses import angular_margin_infonce
from adrec.model import ADRec, Queue
from adrec.ragged import Ragged
from adrec.settings import ADRecSettings
from common.compute import Processes, pick_compute

CPU = pick_compute("cpu", "fp32")


def unweighted(terms: Dict[str, torch.Tensor], model: ADRec) -> Dict[str, float]:
    """The terms without the paper's weights."""
    return {name: term.item() / vars(model.settings)[f"weight_{name}"] for name, term in terms.items()}


def move_keys_apart(model: ADRec) -> None:
    """Other keys than queries, which stay where they are, so that they can be computed again."""
    for parameter in model.key.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    model.settings.momentum = 1.0


# --- the loss ---


def test_angular_margin_loss_by_hand() -> None:
    """Three vectors in the plane: the positive at 60°, negatives at 90° and 180°; s = 2, m = 30°."""
    query, positive = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, math.sqrt(3) / 2]])
    negatives = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    found = angular_margin_infonce((query * positive).sum(1), query @ negatives.T, 2.0, math.pi / 6)
    # cos(60° + 30°) = 0, cos 90° = 0, cos 180° = -1
    by_hand = -math.log(math.exp(0) / (math.exp(0) + math.exp(0) + math.exp(-2)))
    assert found.item() == pytest.approx(by_hand, abs=1e-6)


def test_without_margin_it_is_infonce_and_what_is_left_out_does_not_count() -> None:
    torch.manual_seed(0)
    positive, negatives = torch.rand(4) - 0.5, torch.rand(4, 7) - 0.5
    left_out = torch.rand(4, 7) > 0.5
    found = angular_margin_infonce(positive, negatives.masked_fill(left_out, -torch.inf), 5.0, 0.0)
    for i in range(4):
        kept = negatives[i][~left_out[i]]
        terms = torch.cat([positive[i : i + 1], kept]).double() * 5
        assert found[i].item() == pytest.approx(-(terms[0] - terms.exp().sum().log()).item(), abs=1e-5)


@pytest.mark.parametrize("cosine", [-1.0, 1.0])
def test_gradient_is_finite_where_vectors_are_parallel(cosine: float) -> None:
    positive = torch.tensor([cosine], requires_grad=True)
    angular_margin_infonce(positive, torch.zeros(1, 2), 18.0, 0.1).sum().backward()
    assert torch.isfinite(positive.grad).all()


# --- the queue ---


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 9), batches=st.lists(st.integers(1, 14), min_size=1, max_size=6))
def test_queue_is_first_in_first_out_for_ragged_batches_and_beyond_its_size(size: int, batches: List[int]) -> None:
    queue = Queue(size, 2)
    expected = [(*row, -1) for row in queue.vectors.tolist()]
    number = 0
    oldest_first = list(range(size))  # places, the oldest first
    for count in batches:
        keys = torch.arange(number, number + count).float()[:, None].repeat(1, 2)
        queue.push(keys, torch.arange(number, number + count))
        for key in range(number, number + count):
            place = oldest_first.pop(0)
            expected[place] = (float(key), float(key), key)
            oldest_first.append(place)
        number += count
    assert [(*v, i) for v, i in zip(queue.vectors.tolist(), queue.items.tolist())] == expected


def test_a_fresh_queue_holds_unit_vectors_of_no_item() -> None:
    queue = Queue(20, 8)
    assert torch.allclose(queue.vectors.norm(dim=1), torch.ones(20))
    assert (queue.items == -1).all()


# --- the encoders ---


def sequence_encoder(d: int, **values: Any) -> SequenceEncoder:
    return SequenceEncoder(d, ADRecSettings(**{"n_layers": 1, "n_heads": 2, "inner_size": 16, **values})).eval()


def test_released_initialisation() -> None:
    """A7: U(−1/√d, 1/√d) for every weight, LayerNorm's too; plain: LayerNorm is 1 and 0."""
    d = 64
    released, plain = (sequence_encoder(d, inner_size=128, plain_init=p) for p in (False, True))
    for parameter in released.parameters():
        assert parameter.abs().max() <= d**-0.5 and parameter.std() > 0.8 * d**-0.5 / math.sqrt(3)
    norm = plain.layers[0].attention_norm
    assert (norm.weight == 1).all() and (norm.bias == 0).all()
    assert plain.layers[0].dense_1.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(("act", "function"), [("gelu", torch.nn.functional.gelu), ("relu", torch.relu)])
def test_activation_of_the_sequence_encoder_a10(act: str, function: Any) -> None:
    encoder = sequence_encoder(8, sequence_act=act, add_mean=False)
    items, layout = torch.randn(1, 8), Ragged.of(np.array([1]))
    layer = encoder.layers[0]
    normed = layer.attention_norm(items)
    x = items + layer.out(layer.value(normed))  # a single item attends to itself
    expected = x + layer.dense_2(function(layer.dense_1(layer.feed_forward_norm(x))))
    assert torch.allclose(encoder(items, layout), expected, atol=1e-6)


def test_positions_from_the_end_make_the_order_matter() -> None:
    torch.manual_seed(0)
    items = torch.randn(4, 8)
    swapped = items[[1, 0, 2, 3]]
    layout = Ragged.of(np.array([4]))
    without, with_positions = (sequence_encoder(8, positions=p, max_seq_length=5) for p in (False, True))
    for parameter in (*without.parameters(), *with_positions.parameters()):
        parameter.data.normal_()  # with initial weights, attention hardly tells one item from another
    assert torch.allclose(without(items, layout), without(swapped, layout), atol=1e-6)
    assert not torch.allclose(with_positions(items, layout), with_positions(swapped, layout), atol=1e-6)


def test_history_map_and_mean_of_the_sequence_encoder() -> None:
    """A fresh map is the identity; without layers, the vector is the last item's image, with or without the mean."""
    torch.manual_seed(0)
    items, layout = torch.randn(3, 8), Ragged.of(np.array([3]))
    plain, mapped, alone = (
        sequence_encoder(8, n_layers=0, history_map=m, add_mean=a)
        for m, a in ((False, True), (True, True), (True, False))
    )
    assert torch.allclose(plain(items, layout)[0], (items[2] + items.mean(dim=0)) / 2)
    assert torch.allclose(mapped(items, layout), plain(items, layout))
    for encoder in (mapped, alone):
        encoder.history_map.weight.data.normal_()
    image = alone.history_map(items)
    assert torch.allclose(alone(items, layout)[0], image[2], atol=1e-6)
    image = mapped.history_map(items)
    assert torch.allclose(mapped(items, layout)[0], (image[2] + image.mean(dim=0)) / 2, atol=1e-6)


# --- one step ---


def plain_terms(model: ADRec, batch: Batch, own_keys_are_negatives: bool) -> Dict[str, float]:
    """The four terms by their formula, in double, from the model's own vectors; dropout off."""
    s = model.settings
    vectors = {}
    for side in ("query", "key"):
        sequences, items = getattr(model, side)(batch)
        vectors[side] = [sequences.double(), items[batch.targets].double()]
    queries, keys = dict(zip(("seq", "item"), vectors["query"])), dict(zip(("seq", "item"), vectors["key"]))
    queues = {"seq": model.sequence_queue, "item": model.item_queue}
    terms = {}
    for a in ("seq", "item"):
        for b in ("seq", "item"):
            negatives = queues[b].vectors.double()
            if own_keys_are_negatives and a == b:
                negatives = torch.cat([keys[b], negatives[len(keys[b]) :]])  # a fresh queue: they took its first places
            values = []
            for query, key in zip(queries[a], keys[b]):
                theta = torch.arccos((query @ key).clamp(-1, 1))
                top = torch.exp(s.scale * torch.cos(theta + s.margin))
                values.append(-torch.log(top / (top + torch.exp(s.scale * (negatives @ query)).sum())))
            terms[f"{a}_{b}"] = torch.stack(values).mean().item()
    return terms


@pytest.mark.parametrize("first", [True, False])
def test_order_of_the_momentum_update_a11(tmp_path: Path, first: bool) -> None:
    """The keys of a step are those of the key encoders after, or released before, they move."""
    tiny = tiny_adrec(tmp_path, momentum_first=first, momentum=0.5)
    model, batch = tiny.model, tiny.first_batch()
    move_keys_apart(model)
    expected = copy.deepcopy(model)
    if first:
        expected.momentum_update()
    keys = expected.key(batch)[0]
    model(batch)
    assert torch.allclose(model.sequence_queue.vectors[: len(keys)], keys, atol=1e-6)
    expected = expected if first else (expected.momentum_update(), expected)[1]
    for moved, wanted in zip(model.key.parameters(), expected.key.parameters()):
        assert torch.allclose(moved, wanted, atol=1e-7)


@pytest.mark.parametrize("dropout", [True, False])
def test_dropout_of_the_key_encoders_a12(tmp_path: Path, dropout: bool) -> None:
    tiny = tiny_adrec(tmp_path, key_dropout=dropout)
    model, batch = tiny.model.train(), tiny.first_batch()
    model.query.text.p = model.key.text.p = 0.5
    assert model.query.training and model.key.training == dropout
    for side, differs in ((model.query, True), (model.key, dropout)):
        first, second = side(batch)[1], side(batch)[1]
        assert torch.equal(first, second) != differs
    assert not model.eval().key.training


def test_decay_of_the_learning_rate_a9() -> None:
    rates = {}
    for variant in ("paper", "released"):
        settings = ADRecSettings(variant=variant, learning_rate=1.0, lr_step=4, lr_gamma=0.2)
        rates[variant] = [settings.learning_rate_at(epoch) for epoch in range(8)]
    assert rates["paper"] == pytest.approx([1.0] * 4 + [0.2] * 4)
    assert rates["released"] == pytest.approx([1.0] * 3 + [0.2] * 4 + [0.04])


@pytest.mark.parametrize("enqueue_last", [True, False])
def test_terms_weights_and_queue_order(tmp_path: Path, enqueue_last: bool) -> None:
    """A6: by default a positive is never among the negatives; released, it is in the two unsupervised terms."""
    tiny = tiny_adrec(tmp_path, enqueue_last=enqueue_last)
    model, batch = tiny.model, tiny.first_batch()
    move_keys_apart(model)
    expected = plain_terms(model, batch, own_keys_are_negatives=not enqueue_last)
    terms = model(batch)
    assert list(terms) == ["seq_item", "item_seq", "seq_seq", "item_item"]
    for (name, term), weight in zip(terms.items(), (0.3, 0.3, 0.2, 0.2)):
        assert term.item() == pytest.approx(weight * expected[name], abs=1e-4), name
    with torch.no_grad():
        sequence_keys, item_keys = model.key(batch)
    assert torch.allclose(model.sequence_queue.vectors[:6], sequence_keys)
    assert torch.allclose(model.item_queue.vectors[:6], item_keys[batch.targets])
    assert model.item_queue.items[:6].tolist() == batch.items[batch.targets].tolist()


@pytest.mark.parametrize("mask_same_item", [False, True])
@pytest.mark.parametrize("correction", ["none", "once_per_item", "logq"])
def test_which_keys_are_negatives_and_their_weights(tmp_path: Path, correction: str, mask_same_item: bool) -> None:
    """e^{s cos} of each of an item's n keys counts for 1/n, with logq for 1 / (n Q')."""
    tiny = tiny_adrec(tmp_path, mask_same_item=mask_same_item, queue_correction=correction)
    model, batch = tiny.model, tiny.first_batch()
    s, ids, targets = model.settings, batch.target_items, tiny.loader.rows.targets
    s.momentum = 1.0
    for queue in (model.item_queue, model.sequence_queue):
        queue.push(F.normalize(torch.randn(6, 16), dim=1), ids.flip(0))
    with torch.no_grad():
        sequences, _ = model.query(batch)
        keys = dict(zip(("seq", "item"), model.key(batch)))
    keys["item"] = keys["item"][batch.targets]
    expected = {}
    for kind, queue in (("item", model.item_queue), ("seq", model.sequence_queue)):
        vectors, items = queue.vectors.clone(), queue.items.clone()
        values = []
        for i in range(6):
            theta = torch.arccos((sequences[i].double() @ keys[kind][i].double()).clamp(-1, 1))
            kept = items != ids[i] if mask_same_item or correction == "logq" else torch.ones(30, dtype=torch.bool)
            if correction == "logq":
                kept &= items >= 0
            logits = s.scale * (vectors[kept].double() @ sequences[i].double())
            if correction == "once_per_item" and kind == "item":
                logits -= torch.stack([(items == item).sum().log() for item in items[kept]])
            if correction == "logq":
                rows = [(targets == item.item()).sum() if kind == "item" else 1 for item in items[kept]]
                others = (targets != ids[i].item()).sum()
                logits -= torch.log(kept.sum() * torch.tensor(np.array(rows) / others))
            top = s.scale * torch.cos(theta + s.margin)
            values.append(torch.cat([top[None], logits]).logsumexp(0) - top)
        expected[f"seq_{kind}"] = torch.stack(values).mean().item()
    found = unweighted(model(batch), model)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-4)


def test_refined_logq_has_the_gradient_of_the_papers_formula() -> None:
    """L = sg(1 − P̂) · [−s⁺ + log Σ e^{s⁻ − log Q'}], with P̂ = e^{s⁺} / (e^{s⁺} + mean e^{s⁻ − log Q'})."""
    torch.manual_seed(0)
    scale, margin = 6.0, 0.2
    shares = torch.rand(5, dtype=torch.double).softmax(dim=0)
    items, targets = torch.tensor([0, 1, 1, 2, 3, 4, 4, -1, 2, -1]), torch.tensor([1, 4, 0])
    positive = (torch.rand(3, dtype=torch.double) - 0.5).requires_grad_()
    cosines = (torch.rand(3, 10, dtype=torch.double) - 0.5).requires_grad_()
    corrected = refined_logq(cosines, items, targets, shares, shares[items], scale)
    found = torch.autograd.grad(angular_margin_infonce(positive, corrected, scale, margin).sum(), (positive, cosines))
    losses = []
    for row, target in enumerate(targets):
        negative = (items != target) & (items >= 0)
        shifted = scale * cosines[row, negative] - (shares[items[negative]] / (1 - shares[target])).log()
        top = scale * torch.cos(torch.arccos(positive[row]) + margin)
        wrong = 1 - (top.exp() / (top.exp() + shifted.exp().mean())).detach()
        losses.append(wrong * (shifted.logsumexp(0) - top))
    torch.testing.assert_close(found, torch.autograd.grad(sum(losses), (positive, cosines)))  # type: ignore[arg-type]


def test_refined_logq_of_a_uniform_queue_adds_one_constant() -> None:
    cosines, items, targets = torch.rand(2, 3, 8), torch.arange(8) % 4, torch.tensor([0, 2, 3])
    uniform = torch.full((4,), 0.25)
    found = refined_logq(cosines, items, targets, uniform, uniform[items], 5.0)
    masked = cosines.masked_fill(items == targets[:, None], -torch.inf)
    torch.testing.assert_close(found, masked + (math.log(3) - math.log(6)) / 5)  # 3 other items, 6 negatives
    fresh = refined_logq(cosines, torch.full((8,), -1), targets, uniform, uniform[items], 5.0)
    assert angular_margin_infonce(torch.rand(3), fresh[0], 5.0, 0.1).tolist() == [0.0] * 3


@pytest.mark.parametrize("left", [["items"], ["sequences"], []])
def test_terms_without_their_queue_have_the_batch_as_negatives(tmp_path: Path, left: List[str]) -> None:
    tiny = tiny_adrec(tmp_path, queues=left)
    model, batch = tiny.model, tiny.first_batch()
    s, ids = model.settings, batch.target_items
    move_keys_apart(model)
    expected = plain_terms(model, batch, own_keys_are_negatives=False)
    with torch.no_grad():
        (sequences, items), (sequence_keys, item_keys) = model.query(batch), model.key(batch)
    queries = {"seq": sequences.double(), "item": items[batch.targets].double()}
    keys = {"item": item_keys[batch.targets].double(), "seq": sequence_keys.double()}
    for kind in [kind for kind, queue in (("item", "items"), ("seq", "sequences")) if queue not in left]:
        for name, query in queries.items():
            cosines = query @ keys[kind].T
            values = []
            for i in range(len(batch)):
                top = torch.exp(s.scale * torch.cos(torch.arccos(cosines[i, i].clamp(-1, 1)) + s.margin))
                values.append(-torch.log(top / (top + torch.exp(s.scale * cosines[i, ids != ids[i]]).sum())))
            expected[f"{name}_{kind}"] = torch.stack(values).mean().item()
    assert unweighted(model(batch), model) == pytest.approx(expected, abs=1e-4)


def test_momentum_update_to_the_bit(tmp_path: Path) -> None:
    model = tiny_adrec(tmp_path).model
    for parameter in model.query.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    before = copy.deepcopy(model.key)
    model.momentum_update()
    m = model.settings.momentum
    for key, query, old in zip(model.key.parameters(), model.query.parameters(), before.parameters()):
        assert torch.equal(key, (old * m).add(query.detach(), alpha=1 - m))


def test_gradient_reaches_all_of_the_query_side_and_nothing_of_the_key_side(tmp_path: Path) -> None:
    tiny = tiny_adrec(tmp_path, dropout=0.1)
    model = tiny.model.train()
    sum(model(tiny.first_batch()).values()).backward()
    assert not [n for n, p in model.key.named_parameters() if p.grad is not None or p.requires_grad]
    unreached = [n for n, p in model.query.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a softmax does not see a constant that is added to all keys
    assert [n for n in unreached if not n.endswith("key.bias")] == []


def test_offsets_are_added_to_known_items_and_reached_by_their_gradient_alone(tmp_path: Path) -> None:
    tiny = tiny_adrec(tmp_path, item_offsets=True)
    model, tokens = tiny.model, tiny.tokens
    assert model.query.offsets is not None
    weight = model.query.offsets.weight
    texts = plain_items(model, "query", tokens, released=False)
    torch.testing.assert_close(model.query.encode_items(tokens, CPU), texts, rtol=1e-4, atol=1e-5)  # they start at 0
    torch.nn.init.normal_(weight)
    torch.testing.assert_close(model.query.encode_items(tokens, CPU), texts + weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.query.encode_items(tokens, CPU, new=True), texts, rtol=1e-4, atol=1e-5)
    batch = tiny.first_batch()
    sequences, items = model.query(batch)
    torch.testing.assert_close(items, F.normalize((texts + weight)[batch.items], dim=1), rtol=1e-4, atol=1e-5)
    history = batch.history[batch.layout.segments == 0]
    expected = F.normalize(plain_sequence(model, "query", (texts + weight)[batch.items][history]), dim=0)
    torch.testing.assert_close(sequences[0], expected, rtol=1e-4, atol=1e-5)
    sum(model(batch).values()).backward()
    assert weight.grad is not None
    assert set(weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()) == set(batch.items.tolist())


@pytest.mark.parametrize("values", [{}, {"adapter": True, "item_offsets": True}, {"train_text": False}])
def test_ranks_do_not_depend_on_how_much_is_computed_at_once(tmp_path: Path, values: Dict[str, Any]) -> None:
    tiny = tiny_adrec(tmp_path, **values)
    model, split = tiny.model, Split(tiny.loader.rows, tiny.tokens)
    model.compute_constants(tiny.tokens, CPU)
    if model.query.offsets is not None:
        torch.nn.init.normal_(model.query.offsets.weight)
    fixed = None if model.query.fixed is None else model.query.fixed.clone()
    whole, expected = model.query.encode_items(tiny.tokens, CPU), model.rank(split, CPU, Processes())
    with mock.patch("common.ranking.SCORES_AT_ONCE", 50), mock.patch("adrec.model.ITEMS_AT_ONCE", 4):
        items = model.query.encode_items(tiny.tokens, CPU)
        sizes = [len(targets) for _, _, targets in model.query.scored(split.rows, items)]
        ranks = model.rank(split, CPU, Processes())
    assert set(sizes[:-1]) == {50 // 15} and sum(sizes) == len(ranks)
    torch.testing.assert_close(items, whole)
    assert ranks.tolist() == expected.tolist() and (fixed is None or torch.equal(fixed, model.query.fixed))


def test_offsets_are_dropped_for_whole_items(tmp_path: Path) -> None:
    model = tiny_adrec(tmp_path, item_offsets=True, offset_dropout=0.4).model
    offsets = model.query.offsets
    assert offsets is not None
    torch.nn.init.ones_(offsets.weight)
    rows = offsets(torch.zeros(4000, dtype=torch.long))
    assert torch.equal(rows, rows[:, :1].expand_as(rows)) and set(rows[:, 0].tolist()) == {0.0, rows.max().item()}
    assert rows.max().item() == pytest.approx(1 / 0.6) and rows.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(offsets.eval()(torch.arange(15)), torch.ones(15, 16))


def test_offsets_in_the_directions_of_least_variance_leave_the_others_to_the_text(tmp_path: Path) -> None:
    tiny = tiny_adrec(tmp_path, train_text=False, adapter=True, item_offsets=True, offset_directions=3)
    model = tiny.model
    model.compute_constants(tiny.tokens, CPU)
    query, offsets = model.query, model.query.offsets
    assert offsets is not None and query.fixed is not None and offsets.weight.shape == (15, 3)
    torch.nn.init.normal_(offsets.weight)
    moved = query.encode_items(tiny.tokens, CPU) - query.encode_items(tiny.tokens, CPU, new=True)
    centred = (query.fixed - query.fixed.mean(dim=0)).double()
    top = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, 8:]  # the same as of Ledoit and Wolf
    assert torch.equal(model.key.offsets.directions, offsets.directions)
    torch.testing.assert_close(moved @ offsets.directions.T, offsets.weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved.double() @ top, torch.zeros(15, 8).double(), rtol=0, atol=1e-4)


def test_adapter_whitens_and_does_not_blow_up_what_a_small_catalogue_did_not_show() -> None:
    torch.manual_seed(0)
    mix = torch.linalg.qr(torch.randn(32, 32)).Q * torch.logspace(0, -0.7, 32)[:, None]
    items = torch.randn(20_000, 32) @ mix + 3
    adapter = Adapter(32)
    adapter.fit(items)
    out = adapter(items)
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(32), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.T @ out / len(out), torch.eye(32) / 32, atol=3e-3, rtol=0)
    mean, whitening = adapter.mean.clone(), adapter.whitening.clone()
    with mock.patch("adrec.additions.WHITENED_BY", 7_000):  # every third
        adapter.fit(items)
    assert torch.equal(adapter.mean, mean) and not torch.equal(adapter.whitening, whitening)
    torch.testing.assert_close(adapter.whitening, whitening, atol=0.2, rtol=0.1)
    adapter.fit(items[:20])  # fewer than directions
    known, new = (adapter(some).norm(dim=1).mean() for some in (items[:20], items[20:]))
    assert new < 2.5 * known
    adapter.fit(torch.ones(3, 32))
    assert adapter(items).isfinite().all()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"momentum_first": False, "enqueue_last": False, "mean_over_real": False},
        {"queue_correction": "logq"},
        {"queue_correction": "once_per_item", "queues": ["items"]},
        {"train_text": False, "adapter": True, "item_offsets": True, "positions": True, "history_map": True},
        {"frozen_text_layers": 1, "plm_layer": 2},
    ],
)
def test_a_gpu_does_not_wait_in_a_step(values: Dict[str, Any], tmp_path: Path) -> None:
    tiny = tiny_adrec(tmp_path, **values)
    tiny.model.compute_constants(tiny.tokens, CPU)
    for side in (tiny.model.query, tiny.model.key):
        side.fixed = side.fixed.to(GPU) if side.fixed is not None else None
        side.text.remembered = side.text.remembered.to(GPU)
    step_without_waiting(tiny.model, tiny.first_batch())
