"""The house has shelves: a module imports only from its own shelf and those below, and the light ones pull in no torch."""

import ast
import builtins
import dis
import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "prm"
SHELVES = [
    {"config", "records", "files", "figures", "shards", "tracking", "steps"},
    {"aggregation", "losses", "metrics", "grading", "attention"},
    {"models", "sampling"},
    {"scoring", "data", "annotation"},
    {"training", "serving"},
    {"benchmarks", "simulation", "planning"},
    {"miniature"},
]
SHELF = {name: level for level, names in enumerate(SHELVES) for name in names}
HEAVY_HOMES = {
    "vllm": {"sampling/vllm_engine.py", "scoring/vllm_worker.py"},
    "math_verify": {"grading/answers.py"},
    "wandb": set(),
    "deepspeed": {"training/zero.py"},
    "httpx2": {"sampling/http_client.py"},
    "latex2mathml": {"benchmarks/page/mathml.py"},
}

MODULES = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name, not relatively"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names if node.module == "prm"}
    return names


def shelf_of(path: Path) -> int:
    top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert top in SHELF, f"prm/{top} stands on no shelf: add it to SHELVES"
    return SHELF[top]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_the_same_shelf_or_below(path):
    for name in imported_names(path):
        assert not name.startswith("scripts"), f"{path} imports {name}"
        if name.startswith("prm."):
            assert SHELF[name.split(".")[1]] <= shelf_of(path), f"{path.relative_to(PACKAGE)} imports {name} from a higher shelf"


def global_names(code: types.CodeType) -> set[str]:
    """Names that functions look up in their module."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    own = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return own.union(*map(global_names, inner))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_name_is_defined(path):
    """The linter cannot tell: jaxtyping's shapes are names to it."""
    module = importlib.import_module(".".join(("prm", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"))
    names = global_names(compile(path.read_text(), path, "exec"))
    assert names <= vars(module).keys() | vars(builtins).keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_dependencies_have_one_home(path):
    for name in imported_names(path):
        homes = HEAVY_HOMES.get(name.split(".")[0])
        assert homes is None or str(path.relative_to(PACKAGE)) in homes, f"{path.relative_to(PACKAGE)} imports {name}"


@pytest.mark.parametrize("module", ["prm.metrics", "prm.records", "prm.files", "prm.shards", "prm.steps", "prm.tracking"])
def test_light_modules_import_neither_torch_nor_transformers(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_gpu_runs_needs_neither_grading_nor_serving_nor_tables():
    """A machine that only scores, or measures speed, may lack what reads answers, serves, and stores tokens."""
    absent = ["math_verify", "vllm", "deepspeed", "datasets"]
    code = f"""
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name in {absent} else find_spec(name, *args)
sys.modules |= dict.fromkeys({absent})
import prm.benchmarks.speed.scoring, prm.benchmarks.speed.training
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
