"""Every term of the methods without banks, and its gradients, against the formula in plain float64."""

import pytest
import torch

from losses.methods.nfd import normalized_error
from tests.losses import plain
from tests.losses.distillers import STUDENT, TEACHER, assert_same, build, make_batch, make_output
from utils.types import Step

STEP = Step(7, 1)


def attention_maps(features):
    """For every image the flat list of mean squared channels, divided by its length."""
    energies = [torch.stack([(pixel**2).mean() for pixel in image.flatten(1).T]) for image in features]
    return torch.stack([energy / (energy**2).sum().sqrt() for energy in energies])


def at(module, student, teacher, target):
    return {"at": ((attention_maps(student.features) - attention_maps(teacher.features)) ** 2).mean()}


def fitnet(module, student, teacher, target):
    assert module.adapter.bias is None
    return {"fitnet": ((plain.conv1x1(module.adapter.weight, student.features) - teacher.features) ** 2).mean()}


def skd(module, student, teacher, target):
    def pooled(maps):
        h, w = maps.shape[2:]
        rows = [[maps[:, :, y : y + 2, x : x + 2].amax(dim=(2, 3)) for x in range(0, w, 2)] for y in range(0, h, 2)]
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    rows = (plain.pixels(pooled(output.features)) for output in (student, teacher))
    return {"skd": sum(((s @ s.T - t @ t.T) ** 2).mean() for s, t in zip(*rows, strict=True)) / len(target)}


def prototype_cosines(image, labels):
    """(C, h, w), (h, w) -> position -> cosine with its class's prototype; 1 where it is ignored."""
    rows, flat = image.flatten(1).T, labels.flatten().tolist()
    result = []
    for row, label in zip(rows, flat, strict=True):
        same = [other for other, its in zip(rows, flat, strict=True) if its == label]
        prototype = row if label == 255 else sum(same) / (len(same) + 1e-6)
        result.append((row @ prototype) / (row.norm() * prototype.norm()))
    return torch.stack(result)


def ifvd(module, student, teacher, target):
    triples = zip(student.features, teacher.features, plain.nearest(target, teacher.features.shape[2:]), strict=True)
    differences = [prototype_cosines(s, labels) - prototype_cosines(t, labels) for s, t, labels in triples]
    return {"ifv": (torch.stack(differences) ** 2).mean()}


def cwd(module, student, teacher, target):
    def channel_kl(maps_s, maps_t):
        rows = (maps.flatten(2).flatten(0, 1) / t for maps in (maps_s, maps_t))
        return t**2 * plain.kl_rows(*rows).mean()

    t, features = module.config.cwd_temperature, student.features
    factor = TEACHER / features.shape[1] if module.config.cwd_scaling == "published" else 1.0
    if features.shape[1] != TEACHER:
        features = plain.conv1x1(module.adapter.weight, features)
    assert (module.adapter is None) == (features is student.features)
    return {
        "cwd_fea": factor * channel_kl(features, teacher.features),
        "cwd_logit": channel_kl(student.logits, teacher.logits),
    }


def residuals(stages):
    attention = [plain.unit((stage**2).mean(dim=1).flatten(1)) for stage in stages]
    return torch.stack([plain.unit(attention[m] - attention[n]) for m in range(len(stages)) for n in range(m)])


def class_grams(logits):
    h, w = logits.shape[2:]
    cells = [logits[:, :, y : y + 2, x : x + 2].mean(dim=(2, 3)) for y in range(0, h, 2) for x in range(0, w, 2)]
    maps = (torch.stack(cells, -1) / 4).softmax(-1)
    return torch.stack([image @ image.T for image in maps])


def dsd(module, student, teacher, target):
    outputs = [(o.aux_logits, o.features, o.logits) for o in (student, teacher)]
    first = 1 if any(stages[0] is None for stages in outputs) else 0
    psd = (residuals(outputs[0][first:]) - residuals(outputs[1][first:])) ** 2
    return {"psd": psd.mean(), "csd": ((class_grams(student.logits) - class_grams(teacher.logits)) ** 2).mean()}


def pearson(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


def correlation_loss(student, teacher):
    """1 - mean correlation of classes at a position + 1 - mean correlation of positions of a class."""
    rows = [logits.permute(0, 2, 3, 1).flatten(0, 2).softmax(1) for logits in (student, teacher)]  # (positions, Y)
    inter = [pearson(s, t) for s, t in zip(*rows, strict=True)]
    intra = [pearson(s, t) for s, t in zip(rows[0].T, rows[1].T, strict=True)]
    return (1 - sum(inter) / len(inter)) + (1 - sum(intra) / len(intra))


def dist(module, student, teacher, target):
    loss = correlation_loss(student.logits, teacher.logits)
    if student.aux_logits is not None and teacher.aux_logits is not None:
        loss = loss + 0.4 * correlation_loss(student.aux_logits, teacher.aux_logits)
    return {"dist": loss}


def dkd(module, student, teacher, target):
    config = module.config
    labels = plain.nearest(target, teacher.logits.shape[2:])
    total, places = 0, (labels != 255).nonzero().tolist()
    assert 0 < len(places) < labels.numel()
    for b, y, x in places:
        label = int(labels[b, y, x])
        s, t = ((o.logits[b, :, y, x] / config.dkd_temperature).softmax(0) for o in (student, teacher))
        others = [c for c in range(len(s)) if c != label]
        binary = t[label] * (t[label] / s[label]).log() + (1 - t[label]) * ((1 - t[label]) / (1 - s[label])).log()
        s_others, t_others = s[others] / s[others].sum(), t[others] / t[others].sum()
        among = (t_others * (t_others / s_others).log()).sum()
        total = total + config.dkd_temperature**2 * (config.dkd_alpha * binary + config.dkd_beta * among)
    return {"dkd": total / len(places)}


def mgd(module, student, teacher, target):
    generated = plain.reconstruction(module.reconstruction, student.features, teacher.features, STEP)
    return {"mgd": ((generated - teacher.features) ** 2).sum() / len(target)}


def af_dcd(module, student, teacher, target):
    generated = plain.reconstruction(module.reconstruction, student.features, teacher.features, STEP)
    return {
        "afdcd_feature": ((generated - teacher.features) ** 2).sum() / len(target),
        "afdcd_contrast": plain.patch_contrast(generated, teacher.features, module.config.afdcd_temperature),
    }


def nfd(module, student, teacher, target):
    def error(name, project):
        projected = plain.batch_norm(plain.conv1x1(project[0].weight, getattr(student, name)), project[1])
        maps = [maps.transpose(0, 1).flatten(1) for maps in (projected, getattr(teacher, name))]  # (C, positions)
        if module.config.nfd_norm == "position":
            s, t = (plain.unit(rows.T) for rows in maps)
            return sum(2 - 2 * (a @ b) for a, b in zip(s, t, strict=True)) / len(s)
        s, t = ((rows - rows.mean(1, keepdim=True)) / rows.std(1, correction=0, keepdim=True) for rows in maps)
        return ((s - t) ** 2).mean()

    names = ["features"] + ["last_stage"] * module.config.nfd_stages
    assert list(module.projections) == names
    return {"nfd": sum(error(name, module.projections[name]) for name in names)}


def attnfd(module, student, teacher, target):
    def learned(x, block):
        first, last = (block.mlp[i].weight[:, :, 0, 0] for i in (0, 2))
        pooled = x.flatten(2).mean(2), x.flatten(2).amax(2)
        scale = sum((rows @ first.T).clamp(min=0) @ last.T for rows in pooled).sigmoid()
        x = x * scale[:, :, None, None]
        two = torch.stack([x.amax(1), x.mean(1)], 1)
        h, w = x.shape[2:]
        padded = torch.zeros(len(x), 2, h + 6, w + 6, dtype=x.dtype)
        padded[:, :, 3:-3, 3:-3] = two
        kernel = block.spatial[0].weight[0]
        rows = [[(padded[:, :, i : i + 7, j : j + 7] * kernel).sum((1, 2, 3)) for j in range(w)] for i in range(h)]
        gate = torch.stack([torch.stack(row, -1) for row in rows], -2)[:, None]
        return x * plain.batch_norm(gate, block.spatial[1]).sigmoid()

    def given(x):
        x = x * (x.flatten(2).mean(2) + x.flatten(2).amax(2)).sigmoid()[:, :, None, None]
        return x * (x.amax(1, keepdim=True) + x.mean(1, keepdim=True)).sigmoid()

    total = 0
    assert set(module.levels) == {"last_stage", "inner", "features"}
    for name, (project, block) in module.levels.items():
        s = learned(plain.batch_norm(plain.conv1x1(project[0].weight, getattr(student, name)), project[1]), block)
        for a, b in zip(s, given(getattr(teacher, name)), strict=True):
            total = total + 2 * ((a / a.norm() - b / b.norm()) ** 2).sum() / len(s)
    return {"attnfd": total}


FORMULAS = {
    "nfd": (nfd, {"nfd_weight": 3.0}),
    "nfd channel": (nfd, {"nfd_norm": "channel"}),
    "nfd stages": (nfd, {"nfd_stages": True}),
    "attnfd": (attnfd, {"attnfd_weight": 0.5}),
    "at": (at, {"at_weight": 10.0}),
    "fitnet": (fitnet, {"fitnet_weight": 2.0}),
    "skd": (skd, {"skd_weight": 3.0}),
    "ifvd": (ifvd, {"ifv_weight": 3.0}),
    "cwd": (cwd, {"cwd_fea_weight": 2.0, "cwd_logit_weight": 0.5, "cwd_temperature": 3.0}),
    "cwd published": (cwd, {"cwd_scaling": "published"}),
    "dsd": (dsd, {"psd_weight": 2.0, "csd_weight": 3e4}),
    "dist": (dist, {"dist_weight": 3.0}),
    "dkd": (dkd, {"dkd_weight": 2.0}),
    "dkd binary": (dkd, {"dkd_alpha": 0.5, "dkd_beta": 0.0, "dkd_temperature": 3.0}),
    "dkd others": (dkd, {"dkd_alpha": 0.0, "dkd_beta": 4.0, "dkd_temperature": 2.0}),
    "mgd": (mgd, {"mgd_weight": 0.5, "mgd_mask_ratio": 0.6, "seed": 2}),
    "af_dcd": (af_dcd, {"afdcd_feature_weight": 0.5, "afdcd_contrast_weight": 3.0, "afdcd_temperature": 0.7}),
}
CASES = {  # student's channels, size of the student's and of the teacher's maps, who has no auxiliary logits
    "same size": (STUDENT, (5, 7), (5, 7), ""),
    "enlarged": (STUDENT, (4, 6), (7, 9), ""),
    "reduced, no aux of the student": (STUDENT, (8, 10), (5, 5), "student"),
    "same channels, no aux of the teacher": (TEACHER, (5, 7), (5, 7), "teacher"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FORMULAS)
def test_terms_and_gradients_equal_the_formula(name, case):
    channels, size_s, size_t, without = CASES[case]
    formula, options = FORMULAS[name]
    student, teacher, target = make_batch(2, size_s, size_t, channels=(channels, TEACHER))
    given = {"student": student, "teacher": teacher}
    if without:
        given[without] = given[without]._replace(aux_logits=None)
    module = build(name.split()[0], (student, teacher, target), **options)
    got = module(given["student"], given["teacher"], target, STEP)
    resized = type(student)(*(maps if maps is None else plain.resize(maps, size_t) for maps in given["student"]))
    expected = formula(module, resized, given["teacher"], target)
    assert list(got) == [f"loss_{term}" for term in expected]
    rtol = 1e-6 if name[:2] == "di" or name[:3] == "dkd" else 1e-7  # 1e-8 is added to norms; a mean's factor is float32
    for term, value in expected.items():
        weighted = getattr(module.config, f"{term}_weight") * value
        assert_same(got[f"loss_{term}"], weighted, [*student, *module.parameters()], rtol)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("size_t", [(5, 7), (4, 9)])
def test_kd(standardize, size_t):
    def rows(maps):
        rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
        if standardize:
            rows = torch.stack([(row - row.mean()) / (row.std() + 1e-7) for row in rows])
        return rows / 3

    student, teacher, target = batch = make_batch(2, (5, 7), size_t)
    (got,) = build("kd", batch, kd_weight=2.0, kd_temperature=3.0, kd_standardize=standardize)(*batch).values()
    divergence = plain.kl_rows(rows(student.logits), rows(plain.resize(teacher.logits, (5, 7)))).mean()
    assert_same(got, 2 * 9 * divergence, student)


def test_logits_that_are_all_equal_are_standardized_to_0():
    student, teacher, target = batch = make_batch(2)
    student = student._replace(logits=torch.ones_like(student.logits).requires_grad_())
    (loss,) = build("kd", batch, kd_standardize=True)(student, teacher, target).values()
    assert loss > 0 and torch.autograd.grad(loss, student.logits)[0].isfinite().all()


def test_normalized_error_of_independent_maps_is_2():
    student, teacher = (torch.randn(4, 256, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(2))
    for norm in ("position", "channel"):
        assert normalized_error(student, 3 * teacher, norm) == pytest.approx(2, rel=0.02)
        assert normalized_error(student, 3 * student, norm) == pytest.approx(0, abs=1e-5)


def test_dsd_resizes_all_stages_to_the_teachers_features():
    student, teacher, target = batch = make_batch(2, (4, 5), (6, 7))
    teacher = teacher._replace(logits=teacher.logits[:, :, :3, :4], aux_logits=teacher.aux_logits[:, :, :2])
    loss = build("dsd", batch)(student, teacher, target)["loss_psd"]
    stages = [[plain.resize(m, (6, 7)) for m in (o.aux_logits, o.features, o.logits)] for o in (student, teacher)]
    assert_same(loss, 1000 * ((residuals(stages[0]) - residuals(stages[1])) ** 2).mean(), student)


def test_dist_ignores_auxiliary_logits_at_factor_0():
    student, teacher = make_output(3, (4, 5)), make_output(3, (4, 5), seed=1)
    without = build("dist")(student._replace(aux_logits=None), teacher, None)["loss_dist"]
    torch.testing.assert_close(build("dist", dist_aux_factor=0.0)(student, teacher, None)["loss_dist"], without)
    assert not torch.equal(build("dist")(student, teacher, None)["loss_dist"], without)
