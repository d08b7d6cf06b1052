"""Rules that can be checked: who imports whom, and how long a file may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRY_POINTS = {"train_baseline", "train_cirkdv2", "train_kd", "eval", "predict", "compare", "visualize_embeddings"}
FLOORS = {"utils": 0, "models": 1, "losses": 1, "dataset": 1, "engine": 2, "comparison": 3}
ENGINE_FLOORS = {"config": 0, "run": 0, "evaluation": 1, "training": 1, "setup": 2}  # siblings do not import each other
FLOORS |= dict.fromkeys(ENTRY_POINTS, 4)
OUTSIDE = {"tests", "benchmarks", "examples", "scripts"}  # may import every floor, and none of them may import these
TORCH_MODULES = {"torch", "torch.backends", "torch.version"}  # whose attribute `cuda` moves nothing
MAX_LINES, MAX_ENTRY_LINES = 300, 120
NAMESPACE_FREE = {"models", "losses", "dataset", "engine", "comparison"}  # they take configs and plain values


def source_files(root: Path) -> list[Path]:
    """Python files of all floors, tests and benchmarks apart."""
    packages = [file for name in FLOORS if name not in ENTRY_POINTS for file in (root / name).rglob("*.py")]
    return sorted(packages + [file for file in root.glob("*.py") if file.stem in ENTRY_POINTS])


def imported_modules(tree: ast.Module, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere in a file; `package` holds the file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            found += [(node.lineno, ".".join([*base, alias.name])) for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"importlib.import_module", "import_module"}:
            if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                found.append((node.lineno, node.args[0].value))
    return found


def broken_rules(root: Path) -> list[str]:
    """One line for each place below `root` that breaks a rule."""
    found = []
    for file in source_files(root):
        place = file.relative_to(root)
        floor = place.parts[0].removesuffix(".py")
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        limit = MAX_ENTRY_LINES if floor in ENTRY_POINTS else MAX_LINES
        if (length := len(text.splitlines())) > limit:
            found.append(f"{place}: {length} lines, at most {limit}")
        for line, module in imported_modules(tree, place.parts[:-1]):
            other = module.split(".")[0]
            if module.endswith(".*"):
                found.append(f"{place}:{line}: star import of {module[:-2]}")
            if other in FLOORS and other != floor and FLOORS[other] >= FLOORS[floor]:
                found.append(f"{place}:{line}: {floor} imports {other}, which is not below it")
            if floor == other == "engine":
                own, theirs = place.parts[1], (module.split(".") + [""])[1]
                if own not in ENGINE_FLOORS or theirs not in ENGINE_FLOORS:
                    found.append(f"{place}:{line}: engine's modules are in {', '.join(ENGINE_FLOORS)}")
                elif own != theirs and ENGINE_FLOORS[theirs] >= ENGINE_FLOORS[own]:
                    found.append(f"{place}:{line}: engine.{own} imports engine.{theirs}, which is not below it")
            if other in OUTSIDE:
                found.append(f"{place}:{line}: {floor} imports {other}")
            if f"{module}.".startswith("torch.distributed.") and place.as_posix() != "utils/distributed.py":
                found.append(f"{place}:{line}: torch.distributed outside utils/distributed.py")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and floor in NAMESPACE_FREE and node.name != "parse_args":
                found += [
                    f"{place}:{node.lineno}: {node.name} takes or returns an argparse Namespace"
                    for hint in (*(a.annotation for a in _arguments(node)), node.returns)
                    if hint is not None and "Namespace" in ast.unparse(hint)
                ]
            if not isinstance(node, ast.Attribute):
                continue
            if node.attr == "cuda" and ast.unparse(node.value) not in TORCH_MODULES:
                found.append(f"{place}:{node.lineno}: .cuda(), which ties the code to one device")
            if ast.unparse(node).startswith("torch.distributed") and place.as_posix() != "utils/distributed.py":
                found.append(f"{place}:{node.lineno}: torch.distributed outside utils/distributed.py")
    return found


def _arguments(function: ast.FunctionDef) -> list[ast.arg]:
    given = function.args
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]


def test_the_repository_keeps_the_rules():
    assert len(source_files(ROOT)) > 5
    assert broken_rules(ROOT) == []


def test_benchmarks_are_as_short():
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    assert len(files) > 5
    assert not [file.name for file in files if len(file.read_text(encoding="utf-8").splitlines()) > MAX_LINES]


GOOD = {
    "utils/__init__.py": "",
    "utils/distributed.py": "import torch.distributed as dist\nprint(torch.distributed.get_rank(), dist)\n",
    "utils/other.py": "from utils.distributed import x\nfrom . import distributed\nimport json, dataset_of_another\n",
    "models/heads/psp.py": "import torch\nfrom ..base import y\nprint(torch.backends.cuda, torch.cuda)\n",
    "models/base.py": "y = 1\n" * 300,
    "losses/kd.py": "import losses.base\nfrom utils import other\n",
    "engine/setup/a.py": "from engine.training import b\nfrom engine.setup import c\nimport engine.run.d\n",
    "engine/train.py": "from torch.nn.parallel import DistributedDataParallel\nimport models, losses.kd, dataset.x\n",
    "eval.py": "from engine import train\nimport models\n",
    "tests/test_x.py": "import torch.distributed\nfrom models import *\n",
    "benchmarks/b.py": "from engine import train\n",
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_a_good_tree_passes(tmp_path):
    write(tmp_path, GOOD)
    assert broken_rules(tmp_path) == []


@pytest.mark.parametrize(
    "name, text, rule",
    [
        ("utils/bad.py", "def f():\n    from models import build_model\n", "utils imports models"),
        ("utils/bad.py", "import engine.training.loop\n", "utils imports engine"),
        ("models/bad.py", "from losses.methods.kd import KD\n", "models imports losses"),
        ("losses/bad.py", "import dataset as d\n", "losses imports dataset"),
        ("dataset/sub/bad.py", "from ... import models\n", "dataset imports models"),
        ("dataset/bad.py", "import importlib\nimportlib.import_module('engine.train')\n", "dataset imports engine"),
        ("models/bad.py", "from eval import main\n", "models imports eval"),
        ("engine/run/bad.py", "from engine.config import x\n", "engine.run imports engine.config"),
        ("engine/training/bad.py", "from engine.setup.fit import x\n", "engine.training imports engine.setup"),
        ("engine/training/bad.py", "import engine.evaluation.x\n", "engine.training imports engine.evaluation"),
        ("engine/config/bad.py", "from engine import run\n", "engine.config imports engine.run"),
        ("engine/bad.py", "from engine.run import x\n", "engine's modules are in config, run"),
        ("engine/bad.py", "import train_baseline\n", "engine imports train_baseline"),
        ("engine/bad.py", "from comparison import jobs\n", "engine imports comparison"),
        ("predict.py", "from eval import main\n", "predict imports eval"),
        ("models/bad.py", "from utils.types import *\n", "star import of utils.types"),
        ("losses/bad.py", "x.cuda()\n", ".cuda()"),
        ("losses/bad.py", "import torch\ntorch.zeros(1).cuda()\n", ".cuda()"),
        ("engine/bad.py", "from tests.helpers import x\n", "engine imports tests"),
        ("losses/bad.py", "f = model[0].cuda\n", ".cuda()"),
        ("losses/bad.py", "import torch.distributed\n", "torch.distributed outside"),
        ("engine/bad.py", "from torch import distributed as dist\n", "torch.distributed outside"),
        ("engine/bad.py", "from torch.distributed.nn import functional\n", "torch.distributed outside"),
        ("losses/bad.py", "import torch\ntorch.distributed.barrier()\n", "torch.distributed outside"),
        ("engine/bad.py", "def f(args: argparse.Namespace): ...\n", "f takes or returns an argparse Namespace"),
        ("losses/bad.py", "def f(*, a: 'Namespace | None' = None): ...\n", "f takes or returns an argparse Namespace"),
        ("models/bad.py", "x = 1\n" * 301, "301 lines, at most 300"),
        ("compare.py", "x = 1\n" * 121, "121 lines, at most 120"),
    ],
)
def test_each_broken_rule_is_found(tmp_path, name, text, rule):
    write(tmp_path, GOOD | {name: text})
    found = broken_rules(tmp_path)
    assert found and all(name in line and rule in line for line in found), found
