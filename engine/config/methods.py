"""Which distillation methods a run takes, with which settings: `--method a+b` and explicit flags."""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from engine.config.identify import checkpoint_stem
from engine.config.networks import DistillationConfig
from engine.config.schema import DistillConfig, OptimConfig
from losses import METHODS, build_combined
from losses.base import Distiller, InnerShapes, Shape, warmup_setting
from losses.combined import Combined
from losses.methods.cirkdv2 import CIRKDV2Config
from losses.modules.partners import check_groups
from utils.flags import Leaf, add_section_flags, read_section
from utils.settings import Settings, section, setting

# Weights that differ where the student is a SegFormer.
SEGFORMER_WEIGHTS = {"cwd_fea_weight": 5.0, "cwd_logit_weight": 0.3}


def other_methods() -> dict[str, type[Distiller]]:
    """Methods of `train_kd.py`; CIRKDV2, whose flags have other published weights, has a program for itself."""
    return {name: method for name, method in METHODS.items() if name != "cirkdv2"}


def method_names() -> list[str]:
    """Methods that `--method` takes; the adversarial term comes with others or by its weight."""
    return [name for name in other_methods() if name != "adversarial"]


@dataclass(frozen=True)
class MethodChoice(Settings):
    """What all methods share."""

    method: str | None = setting(
        None, f"sets the methods' weights: {', '.join(method_names())}", options={"metavar": "M[+M...]"}
    )
    distill_warmup_iters: int = warmup_setting()


@dataclass(frozen=True)
class Methods:
    """The chosen methods and the settings of all; a section of a config.

    Attributes:
        choice: what was asked for.
        configs: method -> its settings; those that were not chosen have weights of 0.
    """

    choice: MethodChoice
    configs: dict[str, Any]

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        """`--method`, and a flag for every setting of every method, whose default follows from the methods chosen."""
        add_section_flags(parser.add_argument_group("methods"), MethodChoice)
        seen: set[str] = set()
        for name, method in other_methods().items():
            group = parser.add_argument_group(f"method {name}", "weights are 0 where --method does not name it")
            add_section_flags(group, method.Config, skip=seen)
            seen |= {f.name for f in fields(method.Config)}

    @classmethod
    def declared(cls) -> list[Field]:
        """The fields of all settings, each name once."""
        every = [*fields(MethodChoice), *(f for method in other_methods().values() for f in fields(method.Config))]
        return list({f.name: f for f in reversed(every)}.values())[::-1]

    @classmethod
    def overridden(cls, given: Mapping[str, Any]) -> set[str]:
        """The weights, where the flags name the methods or the student, which set them."""
        return {f.name for f in cls.declared() if is_weight(f)} if {"method", "student_model"} & given.keys() else set()

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Methods":
        """The settings of what was given: explicit ones win over what `--method` sets, without it only they count.

        Raises:
            ValueError: an unknown method, a setting that cannot be computed with, or nothing that has weight.
        """
        choice = read_section(MethodChoice, given)
        chosen = _chosen(choice.method)
        adversarial = given.get("adv_weight")
        if isinstance(adversarial, (int, float)) and adversarial > 0:
            chosen.add("adversarial")  # brings the discriminator's own weight
        student = given.get("student_model", DistillationConfig.student_model).lower()
        configs = {}
        for name, method in other_methods().items():
            weights = {f.name: f.default if name in chosen else 0.0 for f in fields(method.Config) if is_weight(f)}
            if student == "segformer" and name in chosen:
                weights |= {key: value for key, value in SEGFORMER_WEIGHTS.items() if key in weights}
            configs[name] = read_section(method.Config, weights | dict(given))
        methods = cls(choice, configs)
        if not methods.active:
            raise ValueError(
                f"nothing to distil by: got --method {choice.method} and no weight above 0; expected --method with one "
                f"or more of {', '.join(method_names())} joined by +, or a weight such as --lambda-kd 1"
            )
        return methods

    def leaves(self) -> Iterator[Leaf]:
        """Every setting once; a weight that an older record does not hold was 0 then."""
        seen = set()
        for part in (self.choice, *self.configs.values()):
            for f in fields(part):
                if f.name not in seen:
                    seen.add(f.name)
                    default = 0.0 if is_weight(f) else f.default
                    yield Leaf(f.name, f.metadata, getattr(part, f.name), default)

    @property
    def active(self) -> dict[str, Any]:
        """Method -> its settings, for each that has weight."""
        return {name: config for name, config in self.configs.items() if _has_weight(name, config)}

    def build(
        self, student_shape: Shape, teacher_shape: Shape, num_classes: int, inner_shapes: InnerShapes
    ) -> Combined:
        """The losses; see `losses.build_combined`."""
        warmup = self.choice.distill_warmup_iters
        return build_combined(self.active, student_shape, teacher_shape, num_classes, warmup, inner_shapes)


@dataclass(frozen=True)
class KDConfig(DistillConfig):
    """A run of `train_kd.py`."""

    methods: Methods = section("methods")

    def __post_init__(self) -> None:
        super().__post_init__()
        if "cirkd" in self.methods.active:
            check_partners_fit(self.methods.configs["cirkd"], self.optim)

    @property
    def distilled(self) -> tuple[dict[str, Any], int]:
        return self.methods.active, self.methods.choice.distill_warmup_iters

    @property
    def run_name(self) -> str:
        """Default name of the run's folder: two methods must not share one, though checkpoints are called alike."""
        method = (self.methods.choice.method or "weights").replace("+", "_")
        student = self.networks
        return f"{method}_{checkpoint_stem(student.student_model, student.student_backbone, self.data.dataset)}"


@dataclass(frozen=True)
class CIRKDV2RunConfig(DistillConfig):
    """A run of `train_cirkdv2.py`."""

    cirkdv2: CIRKDV2Config = section("CIRKDV2")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_partners_fit(self.cirkdv2, self.optim)

    @property
    def distilled(self) -> tuple[dict[str, Any], int]:
        return {"cirkdv2": self.cirkdv2}, self.cirkdv2.distill_warmup_iters


def check_partners_fit(config: Any, optim: OptimConfig) -> None:
    """Refuses groups of partners that the batch does not divide into."""
    check_groups(config.minibatch_partners, optim.batch_size, optim.accumulation_steps)


def is_weight(f: Field) -> bool:
    return f.name.endswith("_weight")


def _has_weight(name: str, config: Any) -> bool:
    if name == "adversarial":
        return config.adv_weight > 0  # a discriminator that teaches nothing is not trained
    return any(getattr(config, f.name) > 0 for f in fields(config) if is_weight(f))


def _chosen(text: str | None) -> set[str]:
    """The methods that `--method` names, with what they were published beside."""
    names = [] if text is None else text.split("+")
    if "cirkdv2" in names:
        raise ValueError(f"--method {text}: CIRKDV2 is trained by train_cirkdv2.py, whose flags hold its weights")
    unknown = sorted(set(names) - set(method_names()))
    if unknown:
        raise ValueError(
            f"--method {text}: there is no {', '.join(map(repr, unknown))}; expected one or more of "
            f"{', '.join(method_names())}, joined by +"
        )
    chosen = set(names)
    if any(other_methods()[name].includes_kd for name in names):
        chosen.add("kd")
    if any(other_methods()[name].includes_adversarial for name in names):
        chosen.add("adversarial")
    return chosen
