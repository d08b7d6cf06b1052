"""The documentation agrees with the code: tables of flags, links, anchors, flags that it names."""

import argparse
import ast
import functools
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from comparison.spec import add_spec_args
from dataset.convert.config import ConvertConfig
from engine.config.evaluation import EvalConfig, PredictConfig, VisualizeConfig
from engine.config.legacy_flags import LEGACY_EVALUATION_FLAGS
from engine.config.methods import CIRKDV2RunConfig, KDConfig
from engine.config.schema import BaselineConfig
from scripts.flags_table import BLOCKS, PAGES, Table, update
from utils.cli import Parser
from utils.flags import add_flags, add_section_flags
from utils.settings import setting

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README_WORDS = 900
PROGRAMS = {
    "train_baseline.py": BaselineConfig,
    "train_cirkdv2.py": CIRKDV2RunConfig,
    "train_kd.py": KDConfig,
    "eval.py": EvalConfig,
    "predict.py": PredictConfig,
    "visualize_embeddings.py": VisualizeConfig,
}
# Of torchrun, pytest and bash scripts, whose parsers are not ours.
FOREIGN_FLAGS = {"--nproc-per-node", "--signals-to-handle", "--logdir", "--randomly-seed", "--fresh"}
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*\b(?!-)")


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *$", FENCE.sub("", text), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = 0
        while (anchor := name if count == 0 else f"{name}-{count}") in found:
            count += 1
        found.add(anchor)
    return found


def broken_links(page: Path) -> list[str]:
    """Relative links of a page whose file or anchor does not exist."""
    found = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists():
            found.append(f"{page.name}: {target}: no such file")
        elif anchor and (file.suffix != ".md" or anchor not in anchors(file.read_text(encoding="utf-8"))):
            found.append(f"{page.name}: {target}: no such heading")
    return found


@functools.cache
def parser_actions(program: str) -> list[argparse.Action]:
    """What argparse makes of the settings of a program."""
    parser = argparse.ArgumentParser(add_help=False)
    add_flags(parser, PROGRAMS[program])
    return parser._actions


@functools.cache
def parser_flags(program: str) -> set[str]:
    """The flags that a program takes, legacy ones apart."""
    options = {option for action in parser_actions(program) for option in action.option_strings}
    return {option for option in options if option.startswith("--")} | {"--config", "--help"}


@functools.cache
def declared_flags() -> set[str]:
    """The flags of all programs: those of configs, and what any source file gives to `add_argument`."""
    found = set().union(*(parser_flags(program) for program in PROGRAMS), LEGACY_EVALUATION_FLAGS)
    for folder in ("dataset", "models", "benchmarks", "scripts"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                    found |= {word for word in map(_text, node.args) if word.startswith("--")}
    compare = ast.parse((ROOT / "compare.py").read_text(encoding="utf-8"))
    found |= {word for word in map(_text, ast.walk(compare)) if word.startswith("--")}
    parser = Parser("")
    add_spec_args(parser)
    add_section_flags(parser, ConvertConfig)
    return found | {*parser._option_string_actions}


def _text(node: ast.AST) -> str:
    """The text of a literal, or ""."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def code(text: str) -> str:
    """The code spans and blocks of a page."""
    blocks = FENCE.findall(text)
    return "\n".join([*blocks, *re.findall(r"`([^`]+)`", FENCE.sub("", text))])


def unknown_flags(text: str, known: set[str]) -> list[str]:
    """Flags in the code of a page that are not known."""
    found = {word for word in FLAG.findall(code(text)) if word not in known}
    return sorted(word for word in found if word not in FOREIGN_FLAGS)


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(program, its flags) of every command line of one of `PROGRAMS` in the code blocks of a page."""
    found = []
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.partition(" #")[0]) if line.startswith(("python ", "torchrun ")) else []
            program = next((word for word in words if word in PROGRAMS), None)
            if program is not None:
                rest = words[words.index(program) + 1 :]
                found.append((program, [word.partition("=")[0] for word in rest if word.startswith("--")]))
    return found


def wrong_commands(text: str) -> list[str]:
    """Flags of command lines that their program does not take."""
    return [
        f"{program} {flag}"
        for program, words in commands(text)
        for flag in words
        if flag not in parser_flags(program) | LEGACY_EVALUATION_FLAGS.keys()
    ]


# --- the committed pages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_tables_of_flags_are_up_to_date(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert update(text) == text, f"{name} is out of date: python scripts/flags_table.py"


@dataclass(frozen=True)
class Example:
    required: Path = setting(help="a folder")
    steps: int = setting(7, "count", resume="free", aliases=("-n",))
    seed: int = setting(0, flag=False)


def test_a_table_has_a_row_for_each_setting_with_a_flag():
    title, _, head, _, *rows = str(Table("numbers", Example)).splitlines()
    assert title == "**Numbers**" and head == "| flag | values | default | meaning |"
    assert rows == [
        "| `--required` | path | required | a folder |",
        "| `--steps`, `-n` ° | whole number | `7` | count |",
    ]


def test_every_flag_stands_in_a_table():
    pages = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in PAGES)
    assert all(f"<!-- flags: {name} -->" in pages for name in BLOCKS)
    flags = {
        action.option_strings[0]
        for program in PROGRAMS
        for action in parser_actions(program)
        if action.help != argparse.SUPPRESS
    }
    assert len(flags) > 100 and not [flag for flag in flags if f"| `{flag}`" not in pages]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_flags_exist(page):
    text = page.read_text(encoding="utf-8")
    assert unknown_flags(text, declared_flags()) == []
    assert wrong_commands(text) == []


def test_commands_are_found():
    text = "".join(page.read_text(encoding="utf-8") for page in DOCUMENTS)
    assert {program for program, _ in commands(text)} == set(PROGRAMS)


def test_readme_is_short_and_leads_to_every_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= README_WORDS
    pages = {target.partition("#")[0] for target in LINK.findall(text)}
    assert {f"docs/{page.name}" for page in DOCUMENTS if page.parent.name == "docs"} <= pages


def test_published_figures_are_those_of_the_recipes():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8").splitlines()
    columns = {"citys": 2, "ade20k": 3, "voc": 4, "coco_stuff_164k": 5}
    recipes = json.loads((ROOT / "tests/data/recipes.json").read_text(encoding="utf-8"))
    for recipe in recipes["students"]:
        alone, distilled = (f"{recipe[f'reported_miou_{kind}']:.2f}" for kind in ("baseline", "cirkdv2"))
        row = next(line for line in results if f"/train_cirkdv2/{recipe['script']})" in line)
        assert f"| {alone} | {distilled} |" in row and recipe["released_checkpoint"] in row
        short = next(line for line in readme if line.startswith(f"| {row.split('|')[1].strip()} |"))
        assert short.split("|")[columns[recipe["dataset"]]].strip() == f"{alone} → {distilled}"
    assert sum(line.count("→") for line in readme) == len(recipes["students"]) + 1  # and the words above the table
    for teacher in recipes["teachers"]:
        assert any(f"| {teacher['reported_miou']:.2f} | |" in line and teacher["released_checkpoint"] in line
                   for line in results)  # fmt: skip


def test_citation():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert all(content[key] for key in ("cff-version", "message", "title", "authors"))
    for entry in [content["preferred-citation"], *content.get("references", [])]:
        assert all(entry[key] for key in ("type", "title", "authors")), entry
        assert all({"family-names", "name"} & set(author) for author in entry["authors"]), entry


def test_workflow_runs_the_tests():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    assert "bash scripts/test.sh" in [step.get("run") for step in job["steps"]] and job["timeout-minutes"]
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML 1.1 reads the key "on" as true
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(form.read_text(encoding="utf-8"))


# --- the checks find what is wrong ------------------------------------------------------------------------------------


def test_anchors_are_those_of_github():
    text = "# Two  words\n## `--flag` of x.py: a/b\n## Two  words\n```\n# no heading\n```\n### [Linked](x.md) é_1\n"
    assert anchors(text) == {"two--words", "--flag-of-xpy-ab", "two--words-1", "linked-é_1"}


@pytest.mark.parametrize(
    "link, problem",
    [
        ("[a](no.md)", "no such file"),
        ("[a](other.md#no)", "no such heading"),
        ("[a](#no)", "no such heading"),
        ("![a](no.png)", "no such file"),
        ("[`a`](folder/no)", "no such file"),
        ("[a](other.md#heading)", None),
        ("[a](#own)", None),
        ("[![a](other.md)](https://example.org)", None),
        ("```\n[a](no.md)\n```", None),
    ],
)
def test_broken_links_are_found(tmp_path, link, problem):
    (tmp_path / "other.md").write_text("# Heading\n")
    page = tmp_path / "page.md"
    page.write_text(f"# Own\n\n{link}\n")
    found = broken_links(page)
    assert (found == []) if problem is None else (len(found) == 1 and problem in found[0])


def test_unknown_flags_are_found():
    known = {"--lr", "--amp"}
    text = "`--lr 1` and `--no-such-flag` --prose\n```bash\npython eval.py --other --amp bf16\n```\n[--x](#--heading)"
    assert unknown_flags(text, known) == ["--no-such-flag", "--other"]
    assert "--lr" in declared_flags() and "--no-such-flag" not in declared_flags()


def test_flags_of_another_program_are_found():
    lines = "python eval.py --pretrained x \\\n    --lambda-kd 1   # --comment\n"
    lines += "torchrun --nproc-per-node=2 eval.py --lr=1\n"
    assert wrong_commands(f"```bash\n{lines}```") == ["eval.py --lambda-kd", "eval.py --lr"]


def test_a_changed_table_is_found():
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    assert update(text.replace("| `--lr` |", "| `--rate` |")) == text
    made = update("a\n<!-- flags: protocol -->\nold\n<!-- end -->\nb")
    assert made.startswith("a\n<!-- flags: protocol -->\n\n| flag |") and "old" not in made
    with pytest.raises(ValueError, match="expected one of training"):
        update("<!-- flags: no -->\n<!-- end -->")
    with pytest.raises(ValueError, match="1 tables of flags begin and 0 end"):
        update("<!-- flags: training -->\n")
