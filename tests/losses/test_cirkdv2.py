"""CIRKDV2: every term and its gradients against the formula in plain float64, and the banks over several steps."""

import pytest
import torch

from losses import build_distiller
from losses.modules.partners import choose_partners
from losses.random_streams import Stream, rng_key
from tests.losses import plain
from tests.losses.distillers import SIZES, STUDENT, TEACHER, assert_same
from utils.types import SegOutput, Step

TERMS = "kd fitnet minibatch_pixel memory_pixel memory_region minibatch_channel memory_channel channel_kd".split()
CLASSES = 4


def only(*terms, **options):
    """Options with the weights of all other terms at 0 and small banks that hold all that the tests write."""
    sizes = {"pixel_memory_size": 500, "region_memory_size": 40, "channel_memory_size": 200}
    keys = {"pixel_contrast_size": 2000, "region_contrast_size": 200, "channel_contrast_size": 300}
    weights = {f"{term}_weight": 0.0 for term in TERMS if term not in terms}
    return {"bank_dtype": "float32"} | sizes | keys | weights | options


def make(options, batch=3, size_s=(5, 7), size_t=(5, 7), seed=0):
    """A distiller in float64 and a batch whose classes have at most 16 positions per image at the teacher's size."""
    torch.manual_seed(seed)
    distiller = build_distiller("cirkdv2", (STUDENT, *size_s), (TEACHER, *size_t), CLASSES, options).double()
    return distiller, *make_batch(batch, size_s, size_t, seed)


def make_batch(batch=3, size_s=(5, 7), size_t=(5, 7), seed=0):
    generator = torch.Generator().manual_seed(seed + 100)

    def maps(count, size):
        return torch.randn(batch, count, *size, dtype=torch.float64, generator=generator)

    student = SegOutput(maps(CLASSES, size_s).requires_grad_(), maps(STUDENT, size_s).requires_grad_())
    teacher = SegOutput(maps(CLASSES, size_t), maps(TEACHER, size_t))
    positions = size_t[0] * size_t[1]
    small = torch.full((batch, positions), 255)
    for n in range(batch):
        order = torch.randperm(positions, generator=generator)
        for y in range(CLASSES - 1):  # the last class never occurs
            count = min(3 + 4 * y + n, 16, positions // CLASSES)
            small[n, order[y * positions // CLASSES :][:count]] = y
    target = small.view(batch, *size_t).repeat_interleave(4, 1).repeat_interleave(4, 2)
    return student, teacher, target


def check(distiller, loss, expected, student, rtol=1e-6):
    """Equal values, and gradients for the student and all convolutions; the formulas leave out the norms' weights."""
    assert expected.abs() > 1e-6
    assert_same(loss, expected, [student.features, *(p for p in distiller.parameters() if p.dim() == 4)], rtol)


def refined(distiller, student, teacher):
    """The student's features as the relation terms see them, by the formulas."""
    maps = student.features if distiller.context is None else plain.context(distiller.context, student.features)
    size = tuple(teacher.features.shape[2:])
    return maps if maps.shape[2:] == size else plain.resize(maps, size)


@pytest.mark.parametrize(("size_s", "size_t"), SIZES)
@pytest.mark.parametrize("context", [True, False])
def test_fitnet(size_s, size_t, context):
    distiller, student, teacher, target = make(only("fitnet", fitnet_weight=10.0, context=context), 3, size_s, size_t)
    loss = distiller(student, teacher, target)["loss_fitnet"]
    adapted = plain.conv1x1(distiller.adapter.weight, refined(distiller, student, teacher))
    check(distiller, loss, 10 * ((adapted - teacher.features) ** 2).mean(), student)


@pytest.mark.parametrize("partners", [None, 2, "local:1"])
@pytest.mark.parametrize(("size_s", "size_t"), SIZES)
def test_minibatch_pixel(size_s, size_t, partners):
    options = only("minibatch_pixel", minibatch_partners=partners, contrast_temperature=0.2, seed=5)
    distiller, student, teacher, target = make(options, 3, size_s, size_t)
    step = Step(iteration=7)
    chosen = choose_partners(3, partners, *rng_key(5, step, Stream.PARTNERS))
    pairs = [(i, j) for i in range(3) for j in chosen[i]]
    assert len(pairs) == {None: 9, 2: 6, "local:1": 3}[partners]
    assert partners != "local:1" or pairs == [(0, 0), (1, 1), (2, 2)]
    rows_s, rows_t = plain.pixels(refined(distiller, student, teacher)), plain.pixels(teacher.features)
    loss = distiller(student, teacher, target, step)["loss_minibatch_pixel"]
    check(distiller, loss, plain.minibatch(rows_s, rows_t, pairs, 0.2), student)


def test_minibatch_pixel_of_large_maps_is_pooled(monkeypatch):
    monkeypatch.setattr("losses.methods.cirkdv2.LARGE_MAP", 30)
    distiller, student, teacher, target = make(only("minibatch_pixel", minibatch_partners=None))
    assert distiller.context is None  # off by default where features are large
    pairs = [(i, j) for i in range(3) for j in range(3)]
    rows = [plain.pixels(plain.pool(maps)) for maps in (student.features, teacher.features)]
    loss = distiller(student, teacher, target)["loss_minibatch_pixel"]
    check(distiller, loss, plain.minibatch(*rows, pairs, 0.1), student)
    forced = make(only("minibatch_pixel", context=True))[0]
    assert forced.context.pool_keys


@pytest.mark.parametrize(("size_s", "size_t"), SIZES)
def test_memory_pixel_and_region(size_s, size_t):
    """Two steps: the keys are all labelled pixels (regions) of both batches."""
    options = only("memory_pixel", "memory_region", contrast_temperature=0.2, contrast_kd_temperature=1.5)
    distiller, student, teacher, target = make(options, 3, size_s, size_t)
    pixel_keys, region_keys = [], []
    for iteration in range(2):
        student, teacher, target = make_batch(3, size_s, size_t, seed=iteration)
        losses = distiller(student, teacher, target, Step(iteration))
        rows_t, labels = plain.pixels(teacher.features), plain.nearest(target, size_t).flatten(1)
        for rows, label in zip(rows_t, labels, strict=True):
            pixel_keys.append(rows[label != 255])
            region_keys += [plain.unit(rows[label == y].mean(0))[None] for y in range(CLASSES) if (label == y).any()]
        projected = plain.pixels(plain.projector(distiller.pixel_projector, refined(distiller, student, teacher)))
        valid = labels.flatten() != 255
        anchors_s, anchors_t = torch.cat(projected)[valid], torch.cat(rows_t)[valid]
        for name, keys in (("pixel", torch.cat(pixel_keys)), ("region", torch.cat(region_keys))):
            rows = plain.relation(anchors_s, anchors_t, keys, keys, 0.2 * 1.5)
            check(distiller, losses[f"loss_memory_{name}"], 0.1 * 1.5**2 * rows.mean(), student, rtol=1e-5)
    assert distiller.pixel_memory.pixel_bank.queue_count.sum() == len(torch.cat(pixel_keys))


@pytest.mark.parametrize("partners", [None, 2, "local:1"])
@pytest.mark.parametrize(("size_s", "size_t"), SIZES)
def test_minibatch_channel(size_s, size_t, partners):
    options = only("minibatch_channel", minibatch_partners=partners)
    distiller, student, teacher, target = make(options, 3, size_s, size_t)
    chosen = choose_partners(3, partners, *rng_key(0, Step(), Stream.PARTNERS))
    pairs = [(i, j) for i in range(3) for j in chosen[i]]
    maps = plain.projector(distiller.channel_projector, plain.pool(refined(distiller, student, teacher)))
    expected = plain.minibatch(plain.channels(maps), plain.channels(plain.pool(teacher.features)), pairs, 0.1)
    check(distiller, distiller(student, teacher, target)["loss_minibatch_channel"], expected, student)


@pytest.mark.parametrize("size", [(5, 7), (13, 17)])
def test_memory_channel_and_channel_kd(size):
    options = only("memory_channel", "channel_kd", contrast_kd_temperature=1.5)
    distiller, *_ = make(options, 3, size, size)
    keys = []
    for iteration in range(2):
        student, teacher, target = make_batch(3, size, size, seed=iteration)
        losses = distiller(student, teacher, target, Step(iteration))
        maps = plain.projector(distiller.channel_projector, plain.pool(refined(distiller, student, teacher)))
        rows_s = torch.cat(plain.channels(maps))
        rows_t = torch.cat(plain.channels(plain.pool(teacher.features)))
        keys.append(rows_t)  # 27 rows, fewer than are chosen: all
        everything = torch.cat(keys)
        expected = 0.1 * 1.5**2 * plain.relation(rows_s, rows_t, everything, everything, 0.15).mean()
        check(distiller, losses["loss_memory_channel"], expected, student)
        check(distiller, losses["loss_channel_kd"], 100 * ((rows_s - rows_t) ** 2).mean(), student)


def test_channel_bank_takes_maps_of_another_size():
    distiller, *_ = make(only("memory_channel"), 3, (9, 13), (9, 13))
    student, teacher, target = make_batch(3, (14, 6), (14, 6))
    loss = distiller(student, teacher, target)["loss_memory_channel"]
    maps = plain.projector(distiller.channel_projector, plain.pool(refined(distiller, student, teacher)))
    rows_s = torch.cat(plain.channels(plain.resize(maps, (3, 4))))
    rows_t = torch.cat(plain.channels(plain.resize(plain.pool(teacher.features), (3, 4))))
    check(distiller, loss, 0.1 * plain.relation(rows_s, rows_t, rows_t, rows_t, 0.1).mean(), student)


def test_all_ignored_batch_writes_no_pixel():
    distiller, student, teacher, target = make(only("memory_pixel", "memory_region"))
    distiller(student, teacher, target)
    before = {name: buffer.clone() for name, buffer in distiller.pixel_memory.named_buffers()}
    distiller(student, teacher, torch.full_like(target, 255), Step(1))
    for name, buffer in distiller.pixel_memory.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_empty_bank_gives_zero_connected_to_the_graph():
    distiller, student, teacher, target = make(only("memory_pixel", "memory_channel"))
    distiller.eval()  # banks are written in training mode only
    losses = distiller(student, teacher, target)
    total = sum(losses.values())
    total.backward()
    assert total.item() == 0 and all(p.grad is not None for p in distiller.parameters())


def test_memory_mean_over_micro_batches_is_the_mean_over_the_step():
    options = only("memory_pixel", context=False)
    distiller, student, teacher, target = make(options, 4)
    distiller(student, teacher, target)  # fills the bank
    distiller.eval()
    target[:2, :10] = 255
    whole = distiller(student, teacher, target)["loss_memory_pixel"]
    total = 0
    for i in range(2):
        parts = [SegOutput(*(x[2 * i : 2 * i + 2] for x in output[:2])) for output in (student, teacher)]
        step = Step(0, i, 2, target.to(torch.uint8))
        total = total + distiller(*parts, target[2 * i : 2 * i + 2], step)["loss_memory_pixel"] / 2
    torch.testing.assert_close(total, whole, rtol=1e-6, atol=0)


def test_selections_depend_on_the_step_and_repeat():
    options = only("memory_pixel", "memory_region", "memory_channel", "minibatch_pixel", pixel_contrast_size=4)
    options |= {"minibatch_partners": 1, "channel_contrast_size": 3}
    figures = []
    for iteration, micro_batch in ((0, 0), (0, 0), (1, 0), (0, 1)):
        distiller, student, teacher, target = make(options)
        losses = distiller(student, teacher, target, Step(iteration, micro_batch))
        figures.append([loss.item() for loss in losses.values()])
    assert figures[0] == figures[1]
    assert figures[0] != figures[2] != figures[3] != figures[0]


def test_only_what_the_terms_need_is_built():
    distiller = make(only("memory_region"))[0]
    assert {name for name, _ in distiller.named_children()} == {"context", "pixel_projector", "pixel_memory"}
    assert distiller.pixel_memory.pixel_bank is None
    assert make(only("channel_kd", context=False))[0].channel_memory is None
    assert len(list(make(only("minibatch_pixel", context=False))[0].parameters())) == 0


def test_warm_up_raises_all_weights_linearly():
    distiller, student, teacher, target = make(only("kd", "fitnet", distill_warmup_iters=4))
    losses = [distiller(student, teacher, target, Step(iteration)) for iteration in range(6)]
    for name in ("loss_kd", "loss_fitnet"):
        ratios = [(terms[name] / losses[-1][name]).item() for terms in losses]
        assert ratios == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_published_sizes_of_the_banks():
    distiller = build_distiller("cirkdv2", (8, 8, 8), (8, 8, 8), 19, {"pixel_memory_size": 30})
    memory = distiller.pixel_memory
    assert (memory.pixel_keys_per_class, memory.region_keys_per_class) == (4096 // 19 + 1, 1024 // 19 + 1)
    assert distiller.channel_memory.bank.queue.shape == (10001, 4)
    assert memory.pixel_bank.queue.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kd_weight": float("nan")}, "--lambda-kd"),
        ({"distill_warmup_iters": -1}, "--distill-warmup-iters"),
        ({"lambda_kd": 1}, "lambda_kd"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        build_distiller("cirkdv2", (8, 4, 4), (8, 4, 4), 3, options)


def test_registry_names_what_exists():
    with pytest.raises(ValueError, match="cirkdv2"):
        build_distiller("nonsense", (8, 4, 4), (8, 4, 4), 3)
    with pytest.raises(ValueError, match="student_shape"):
        build_distiller("cirkdv2", (8, 4), (8, 4, 4), 3)
