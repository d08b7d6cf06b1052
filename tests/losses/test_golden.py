"""Terms and gradients of the methods against the stored values of `golden`."""

import pytest

from losses import METHODS
from losses.methods.dsd import class_similarity_loss, stage_difference_loss
from losses.methods.skd import structural_loss
from tests.losses import golden
from utils.types import SegOutput

CIRKD = {"memory_pixel_weight": 0.0, "memory_region_weight": 0.0, "minibatch_partners": None}
CASES = {
    "CriterionAT": ("at", {"at_weight": 1.0}),
    "CriterionFitNet": ("fitnet", {"fitnet_weight": 1.0}),
    "CriterionStructuralKD": ("skd", {"skd_weight": 1.0}),
    "CriterionIFV": ("ifvd", {"ifv_weight": 1.0}),
    "CriterionCWD_fea": ("cwd", {"cwd_fea_weight": 1.0, "cwd_logit_weight": 0.0, "cwd_scaling": "published"}),
    "CriterionMiniBatchCrossImagePair": ("cirkd", CIRKD),
    "CriterionCWD_logit": ("cwd", {"cwd_fea_weight": 0.0, "cwd_logit_weight": 1.0}),
    "CriterionKD_T1": ("kd", {}),
    "CriterionKD_T4": ("kd", {"kd_temperature": 4.0}),
}
LOGITS = {"CriterionCWD_logit", "CriterionKD_T1", "CriterionKD_T4"}


def stored_case(case: str, name: str):
    method, weights = CASES[case]
    maps, teacher = golden.tensor(name, grad=True), golden.tensor("logit_t" if name == "logit_s" else "ft512")
    config = METHODS[method].Config(**weights)
    distiller = METHODS[method](maps.shape[1:], teacher.shape[1:], 19, config)
    inputs = {name: maps}
    if getattr(distiller, "adapter", None) is not None:
        golden.fill_parameters(distiller, {"adapter.weight": "conv.weight"})
        inputs["conv.weight"] = distiller.adapter.weight
    (loss,) = distiller(SegOutput(maps, maps), SegOutput(teacher, teacher), golden.tensor("labels")).values()
    return loss, inputs


@pytest.mark.parametrize("name", ["fs128", "fs512"])
@pytest.mark.parametrize("case", [case for case in CASES if case not in LOGITS])
def test_terms_of_the_features(case, name):
    loss, inputs = stored_case(case, name)
    golden.check(f"{case}_{name}", [loss], inputs)


@pytest.mark.parametrize("case", LOGITS)
def test_terms_of_the_logits(case):
    loss, inputs = stored_case(case, "logit_s")
    golden.check(case, [loss], inputs)


def test_skd_of_odd_sizes():
    features = golden.tensor("fs_odd", grad=True)
    loss = structural_loss(features, golden.tensor("ft_odd"))
    golden.check("CriterionStructuralKD_odd", [loss], {"fs_odd": features})


@pytest.mark.parametrize(
    ("case", "stages"), [("DSD_aux", ["aux", "f", "logit"]), ("DSD_segformer", ["f", "logit"])]
)  # fmt: skip
def test_dsd(case, stages):
    student = {"aux": "aux_s", "f": "fs128", "logit": "logit_s"}
    teacher = {"aux": "aux_t", "f": "ft512", "logit": "logit_t"}
    inputs = {student[stage]: golden.tensor(student[stage], grad=True) for stage in stages}
    targets = [golden.tensor(teacher[stage]) for stage in stages]
    psd = stage_difference_loss(list(inputs.values()), targets)
    golden.check(case, [psd, class_similarity_loss(inputs["logit_s"], targets[-1])], inputs)
