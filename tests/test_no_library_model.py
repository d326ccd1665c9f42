"""No code that trains or predicts uses a library's model or pretrained parameters.

One test reads the source of this code and of everything in the project that it imports. Another imports it in a fresh interpreter
and checks which libraries have been loaded.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
ROOMS = ("resnet", "models", "lab")
# Packages of ready models or weights, and the parts of torch that download weights.
LIBRARIES = r"torchvision|timm|transformers|huggingface_hub|pretrainedmodels|open_clip|fastai|tensorflow|keras"
LIBRARIES += r"|torch\.hub|torch\.utils\.model_zoo"
MODELS = r"resne|vgg|vit|densenet|efficientnet|convnext|inception|mobilenet|swin|alexnet|regnet|model|\bbuild\b"
OFFENCES = (
    re.compile(rf"({LIBRARIES})(\.\w+)*"),
    re.compile(r".*\.(hub|model_zoo|from_pretrained|load_state_dict_from_url)"),
    re.compile(r"pretrained="),
    re.compile(rf".*({MODELS}).*\(weights=\)", re.IGNORECASE),
    re.compile(r"(https?|hf|s3)://.*\.(pth?|safetensors|bin|ckpt|onnx)|.*IMAGENET\d.*", re.IGNORECASE),
)


def offences(tree: ast.AST) -> list[str]:
    """The uses of a library's model or pretrained parameters in a syntax tree."""
    names: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                names += [alias.name for alias in node.names]
            case ast.ImportFrom(level=0):
                names += [f"{node.module}.{alias.name}" for alias in node.names]
            case ast.Attribute():
                names.append(ast.unparse(node))
            case ast.Constant(value=str(text)):  # such as the argument of import_module
                names.append(text)
            case ast.arg(arg=name) | ast.keyword(arg=name):
                names.append(f"{name}=")
            case ast.Call():
                names += [f"{ast.unparse(node.func)}({keyword.arg}=)" for keyword in node.keywords]
    return [name for name in names if any(offence.fullmatch(name) for offence in OFFENCES)]


def imported_names(tree: ast.AST, package: tuple[str, ...]) -> set[tuple[str, ...]]:
    """The dotted names that a module of ``package`` imports, also within functions."""
    names: set[tuple[str, ...]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            names |= {(*module, alias.name) for alias in node.names}
    return names


def imported_files(tree: ast.AST, path: Path, root: Path) -> set[Path]:
    """The files under ``root`` that the module at ``path`` imports."""
    names = imported_names(tree, path.relative_to(root).parts[:-1])
    # ``import a.b.c`` runs a/__init__.py, a/b/__init__.py and a/b/c.py (or its __init__.py).
    prefixes = {root.joinpath(*name[:length]) for name in names for length in range(1, len(name) + 1)}
    candidates = {file for prefix in prefixes for file in (prefix.with_suffix(".py"), prefix / "__init__.py")}
    return {file for file in candidates if file.is_file()}


def walk(root: Path) -> dict[Path, list[str]]:
    """The offences of each file that trains or predicts: the commands, the packages ``ROOMS``, and all that these import."""
    waiting = {*root.glob("*.py"), *(path for room in ROOMS for path in root.glob(f"{room}/**/*.py"))}
    found: dict[Path, list[str]] = {}
    while waiting:
        path = waiting.pop()
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        found[path] = offences(tree)
        waiting |= imported_files(tree, path, root) - found.keys()
    return found


def test_the_project_brings_in_no_library_model() -> None:
    found = walk(PROJECT)
    files = ("train.py", "resnet/resnet.py", "models/catalog.py", "lab/__init__.py")
    assert found.keys() >= {PROJECT / file for file in files}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize("room", ["resnet", "models"])
def test_the_networks_import_torch_only(room: str) -> None:
    allowed = {"torch", room, *sys.stdlib_module_names}
    for path in (PROJECT / room).glob("**/*.py"):
        names = imported_names(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(PROJECT).parts[:-1])
        assert {name[0] for name in names} <= allowed, path


@pytest.mark.parametrize(
    "code",
    [
        "import torchvision",
        "from torchvision.models import resnet18",
        "def late():\n    import timm",
        "try:\n    import transformers\nexcept ImportError:\n    pass",
        "import torch.hub",
        "from torch import hub",
        "from torch.utils import model_zoo as zoo",
        "from torch.hub import load_state_dict_from_url as get",
        "import torch as t\nt.hub.load('pytorch/vision', 'resnet18')",
        "from huggingface_hub import hf_hub_download",
        "import importlib\nimportlib.import_module('torchvision.models')",
        "__import__('timm')",
        "model = build('resnet18', pretrained=True)",
        "def resnet18(pretrained=False): ...",
        "model = resnet50(weights='DEFAULT')",
        "model = MODELS[name](2, weights=w)",
        "model = make(name, 'IMAGENET1K_V2')",
        "model = AnyNet.from_pretrained('x')",
        "address = 'https://download.pytorch.org/models/resnet18-f37072fd.pth'",
    ],
)
def test_an_offence_is_found(code: str) -> None:
    assert offences(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        '"""Weights interchange with torchvision\'s; see timm and torch.hub."""',
        "import torch\nfrom torch import nn, optim\nfrom torch.utils.data import DataLoader",
        "import torchmetrics",
        "loss = cross_entropy(logits, labels, weight=class_weights)",
        "mean = numpy.average(accuracy, weights=counts)",
        "sampler = WeightedRandomSampler(weights=w, num_samples=5)",
        "model.load_state_dict(torch.load(path, weights_only=True), strict=True)",
        "address = 'https://arxiv.org/abs/1512.03385'",
    ],
)
def test_other_code_is_no_offence(code: str) -> None:
    assert not offences(ast.parse(code))


def test_imports_are_followed(tmp_path: Path) -> None:
    """From scripts and packages, within functions, and relative ones."""
    for name, text in {
        "train.py": "def main():\n    import pack.inner.one\n",
        "pack/__init__.py": "",
        "pack/inner/__init__.py": "from . import two\n",
        "pack/inner/one.py": "",
        "pack/inner/two.py": "from ..three import thing\n",
        "pack/three.py": "import timm\n",
        "alone/never.py": "import timm\n",
        "lab/__init__.py": "",
        "lab/room/more.py": "from tools import far\n",
        "tools/far.py": "import timm\n",
        "models/deep/er.py": "import timm\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = {path.relative_to(tmp_path).as_posix(): names for path, names in walk(tmp_path).items()}
    assert {path for path, names in found.items() if names} == {"pack/three.py", "tools/far.py", "models/deep/er.py"}
    packages = {"pack/__init__.py", "pack/inner/__init__.py", "pack/inner/one.py", "pack/inner/two.py"}
    assert found.keys() >= packages and "alone/never.py" not in found


def loaded(root: Path, *modules: str) -> set[str]:
    """All modules that a fresh interpreter has loaded after importing these."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_at_run_time_no_model_library_comes_along() -> None:
    """A library of ours could import torchvision; the source does not show that."""
    paths = [path for room in ROOMS for path in PROJECT.glob(f"{room}/**/*.py")] + [*PROJECT.glob("*.py")]
    names = {".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    found = loaded(PROJECT, *sorted(names))
    assert found >= {"resnet.resnet", "lab.errors", "train"} and not found & {"torchvision", "timm"}


def test_the_demos_table_needs_no_library_of_its_page() -> None:
    assert not loaded(PROJECT, "demo") & {"gradio", "plotly", "captum"}


def test_a_library_that_is_loaded_indirectly_is_found(tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("", encoding="utf-8")  # in place of the real one, which need not be installed
    (tmp_path / "hidden.py").write_text("import timm\n", encoding="utf-8")
    assert "timm" in loaded(tmp_path, "hidden")
