"""The source never runs code from a file, and never gives user input to a shell."""

import ast
from pathlib import Path

import pytest

from tests.test_layering import source_files

ROOT = Path(__file__).parents[1]

# Dotted names as they are written; a call or an import of them is an error.
FORBIDDEN = {
    "eval", "exec", "compile", "__import__",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.unsafe_load_all",
    "pickle.load", "pickle.loads", "pickle.Unpickler",
    "torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.utils.model_zoo.load_url",
    "shutil.unpack_archive", "np.fromregex", "runpy.run_path", "code.interact",
}  # fmt: skip
FORBIDDEN_MODULES = {"dill", "joblib", "cloudpickle", "marshal", "shelve", "tarfile", "_pickle", "cPickle"}
FORBIDDEN_METHODS = {"extract", "extractall"}
# Calls that need a keyword with that very constant.
NEEDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
NEEDED_NAMES = {"get_state_dict": ("weights_only", True)}  # torchvision's, which fetches a file
PROCESSES = {"run", "Popen", "call", "check_call", "check_output"}


def dangers(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, what) of each place."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else None
            for alias in node.names:
                name = alias.name if module is None else f"{module}.{alias.name}"
                if name.split(".")[0] in FORBIDDEN_MODULES or name in FORBIDDEN or name in NEEDED:
                    found.append((node.lineno, f"import of {name}"))
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.split(".")[-1]
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in FORBIDDEN or (isinstance(node.func, ast.Attribute) and last in FORBIDDEN_METHODS):
            found.append((node.lineno, f"{name}()"))
        if rule := NEEDED.get(name) or (NEEDED_NAMES.get(last) if isinstance(node.func, ast.Attribute) else None):
            value = keywords.get(rule[0])
            if not isinstance(value, ast.Constant) or value.value is not rule[1]:
                found.append((node.lineno, f"{name}() without {rule[0]}={rule[1]}"))
        if last in PROCESSES and "shell" in keywords:
            found.append((node.lineno, f"{name}(shell=...)"))
        if last in PROCESSES and name.startswith("subprocess.") and node.args:
            if isinstance(node.args[0], (ast.JoinedStr, ast.BinOp)) or (
                isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
            ):
                found.append((node.lineno, f"{name}() of a string"))
    return found


def test_the_source_has_none():
    files = source_files(ROOT) + sorted((ROOT / "benchmarks").rglob("*.py"))
    assert len(files) > 50
    found = {
        f"{file.relative_to(ROOT)}:{line}": what
        for file in files
        for line, what in dangers(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "weights.get_state_dict(progress=False)",
        "torch.hub.load_state_dict_from_url(url)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "import pickle\npickle.loads(data)",
        "from pickle import Unpickler",
        "import joblib",
        "from dill import x",
        "import tarfile",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "from yaml import unsafe_load",
        "eval(text)",
        "def f():\n    exec(text)",
        "__import__(name)",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "Popen(words, shell=flag)",
        "subprocess.run(f'ls {path}')",
        "subprocess.check_output('ls ' + path)",
        "archive.extractall(folder)",
        "zipfile.ZipFile(path).extract(name)",
    ],
)
def test_each_is_found(text):
    assert dangers(ast.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "torch.load(path, map_location='cpu', weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "network.eval()",
        "re.compile(text)",
        "network.compile()",
        "subprocess.run([sys.executable, path], check=True)",
        "pickle.UnpicklingError",
        "archive.testzip()",
    ],
)
def test_what_does_no_harm_passes(text):
    assert dangers(ast.parse(text)) == []
