"""Names and texts keep to plain English and the field's terms: the words listed here stay out of product and docs."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from tests.test_layering import ROOT, source_files

# private words, of which readers do not know what they mean here -> the field's
WORDS = {
    "told": "inferred, logged",
    "judge": "update, check",
    "judged": "checked",
    "verdict": "result",
    "rewind": "masked update",
    "rival": "method",
    "rivals": "OTHER_METHODS",
    "drown": "dominate",
    "drowns": "dominates",
    "drowning": "DOMINATING",
    "multiply-adds": "MACs",
    "prepared copy": "decoded cache",
    "prepared copies": "decoded caches",
    "bare network": "weights only",
    "goes with what": "compatible combinations",
    "goes on all the same": "continues",
    "names that tell": "file names of this form",
    "cannot be had": "is not available",
    "on purpose": "intentionally, or nothing",
    "in its place": "instead",
    "what saving takes": "the space of a save",
    "the file tells": "inferred from the file name",
    "the file says": "inferred from the file name",
    "over occurring classes": "over the classes that occur",
}
PATTERN = re.compile(r"(?<![a-z-])(" + "|".join(map(re.escape, WORDS)) + r")(?![a-z-])", re.IGNORECASE)


def texts(file: Path) -> list[tuple[int, str]]:
    """(line, text) of every string, comment and name that a Python file defines; of other files, every line."""
    content = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return list(enumerate(content.splitlines(), 1))
    tokens = tokenize.generate_tokens(io.StringIO(content).readline)
    found = [(token.start[0], token.string) for token in tokens if token.type in (tokenize.STRING, tokenize.COMMENT)]
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.append((node.lineno, node.name))
        elif isinstance(node, ast.arg):
            found.append((node.lineno, node.arg))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.append((node.lineno, node.id))
    return [(line, text.replace("_", " ")) for line, text in found]


def private_words(file: Path) -> list[str]:
    """One line for each place in the file that uses a listed word."""
    return [
        f"{file}:{line}: {match.group(0)!r} is not used here: {WORDS[match.group(0).lower()]}"
        for line, text in texts(file)
        for match in PATTERN.finditer(re.sub(r"\s+", " ", text))
    ]


def test_the_product_and_its_docs_use_no_private_words():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "scripts").rglob("*.sh")]
    pages += [*(ROOT / "comparison").glob("*.j2"), *(ROOT / "examples").glob("*.py")]
    files = [file for file in (*source_files(ROOT), *pages) if file.name != "CHANGELOG.md"]  # which names what went
    assert len(files) > 100
    assert [line for file in files for line in private_words(file)] == []


@pytest.mark.parametrize(
    "text",
    [
        "def judge(): ...\n",
        "told = 1\n",
        "def f(verdict): ...\n",
        'raise ValueError("python -m models lists what goes\\n with what".replace("\\n", ""))\n# goes with what\n',
        '"""A prepared\n    copy."""\n',
        "x = 1  # 3 G multiply-adds\n",
    ],
)
def test_each_kind_of_place_is_found(text, tmp_path):
    (tmp_path / "a.py").write_text(text)
    assert private_words(tmp_path / "a.py")
    (tmp_path / "b.py").write_text("fold, untold = 1, 'a judgement of rivalry'  # retold\n")
    assert private_words(tmp_path / "b.py") == []
