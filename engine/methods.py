"""Which distillation methods a run takes, with which settings: `--method a+b` and explicit flags."""

import argparse
import types
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, get_args, get_type_hints

from engine.args import Parser, require
from engine.loss_settings import check_setting, flag_of, partners
from engine.released import checkpoint_stem
from losses import METHODS
from losses.partners import check_groups

# Methods of `train_kd.py`; CIRKDV2, whose flags carry other published weights, has an entry point of its own.
RIVALS = {name: method for name, method in METHODS.items() if name != "cirkdv2"}
# Weights that differ where the student is a SegFormer.
SEGFORMER_WEIGHTS = {"cwd_fea_weight": 5.0, "cwd_logit_weight": 0.3}
# Chosen for all methods together, so not by a flag of each.
SHARED_FIELDS = frozenset({"seed"})


def add_method_args(parser: Parser) -> None:
    """`--method`, and a flag for every setting of every method, whose default follows from the methods chosen."""
    group = parser.add_argument_group("methods")
    group.add_argument("--method", metavar="M[+M...]", help=f"sets the methods' weights: {', '.join(selectable())}")
    group.add_argument("--distill-warmup-iters", type=int, default=0, help="linear rise of all distillation weights")
    seen: set[str] = set()
    for name, method in RIVALS.items():
        hints = get_type_hints(method.Config)
        for field in fields(method.Config):
            if field.name in seen | SHARED_FIELDS:
                continue
            seen.add(field.name)
            kind, choices = _kind(hints[field.name])
            text = f"{name}: {field.default} when chosen, else 0" if is_weight(field) else f"{name}: {field.default}"
            group.add_argument(
                flag_of(field.name),
                type=kind,
                choices=choices,
                dest=field.name,
                default=argparse.SUPPRESS,
                metavar="X" if choices is None else None,
                help=text,
            )


def selectable() -> list[str]:
    """Methods that `--method` takes; the adversarial term comes with others or by its weight."""
    return [name for name in RIVALS if name != "adversarial"]


def resolve_methods(args: argparse.Namespace) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Fills in every setting of the methods, and says which are to be built.

    Explicit flags win over what `--method` sets; without `--method` only they count.

    Args:
        args: with the flags of `add_method_args`, `student_model`, `batch_size` and `accumulation_steps`.

    Returns:
        The arguments with all settings resolved, and method -> its config for each method that has weight.

    Raises:
        ValueError: an unknown method, a setting that cannot be computed with, or nothing that has weight.
    """
    chosen = _chosen(args.method)
    if getattr(args, "adv_weight", 0) > 0:
        chosen.add("adversarial")  # brings the discriminator's own weight
    settings: dict[str, Any] = {}
    configs: dict[str, Any] = {}
    for name, method in RIVALS.items():
        values = {}
        for field in fields(method.Config):
            if hasattr(args, field.name):  # the flag was given, or the field is shared
                values[field.name] = getattr(args, field.name)
            else:
                values[field.name] = _default(field, name in chosen, args.student_model)
            check_setting(field.name, values[field.name])
        settings |= values
        weights = [values[field.name] for field in fields(method.Config) if is_weight(field)]
        if name == "adversarial":
            weights = [values["adv_weight"]]  # a discriminator that teaches nothing is not trained
        if any(weight > 0 for weight in weights):
            configs[name] = method.Config(**values)
    if "cirkd" in configs:
        check_groups(configs["cirkd"].minibatch_partners, args.batch_size, args.accumulation_steps)
    require(args.distill_warmup_iters >= 0, "distill_warmup_iters", args.distill_warmup_iters, "at least 0")
    if not configs:
        raise ValueError(
            f"nothing to distil by: got --method {args.method} and no weight above 0; expected --method with one or "
            f"more of {', '.join(selectable())} joined by +, or a weight such as --lambda-kd 1"
        )
    return argparse.Namespace(**vars(args) | settings), configs


def run_name(args: argparse.Namespace) -> str:
    """Default name of the run's folder: two methods must not share one, though their checkpoints are called alike."""
    method = (args.method or "weights").replace("+", "_")
    return f"{method}_{checkpoint_stem(args.student_model, args.student_backbone, args.dataset)}"


def _chosen(text: str | None) -> set[str]:
    """The methods that `--method` names, with what they were published beside."""
    names = [] if text is None else text.split("+")
    if "cirkdv2" in names:
        raise ValueError(f"--method {text}: CIRKDV2 is trained by train_cirkdv2.py, whose flags hold its weights")
    unknown = sorted(set(names) - set(selectable()))
    if unknown:
        raise ValueError(
            f"--method {text}: there is no {', '.join(map(repr, unknown))}; expected one or more of "
            f"{', '.join(selectable())}, joined by +"
        )
    chosen = set(names)
    if any(RIVALS[name].includes_kd for name in names):
        chosen.add("kd")
    if any(RIVALS[name].includes_adversarial for name in names):
        chosen.add("adversarial")
    return chosen


def _default(field: Field, chosen: bool, student_model: str) -> Any:
    if not is_weight(field):
        return field.default
    if not chosen:
        return 0.0
    return SEGFORMER_WEIGHTS.get(field.name, field.default) if student_model.lower() == "segformer" else field.default


def is_weight(field: Field) -> bool:
    return field.name.endswith("_weight")


def _kind(hint: Any) -> tuple[Callable[[str], Any], tuple[str, ...] | None]:
    """How a flag's text becomes a value, and the words it may be."""
    if isinstance(hint, types.UnionType):
        return partners, None
    if hint in (float, int, str):
        return hint, None
    return str, get_args(hint)  # Literal
