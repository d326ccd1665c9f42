"""Nothing that trains or predicts may bring in a library's model or a pretrained parameter.

Two looks: ``ast`` over the source of all that trains or predicts, following its imports within the project, and a fresh
interpreter that imports it and lists what came along.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
# Packages that offer ready models or their weights, and the parts of torch that download them.
BANNED = {
    *(
        "torchvision",
        "timm",
        "transformers",
        "huggingface_hub",
        "pretrainedmodels",
        "open_clip",
        "fastai",
        "tensorflow",
    ),
    *("keras", "torch.hub", "torch.utils.model_zoo"),
}
ROOMS = ("resnet", "models", "lab")
BANNED_NAMES = {"hub", "model_zoo", "from_pretrained", "load_state_dict_from_url"}
MODEL_CALL = re.compile(
    r"resne|vgg|vit|densenet|efficientnet|convnext|inception|mobilenet|swin|alexnet|regnet|model|\bbuild\b",
    re.IGNORECASE,
)
WEIGHT_FILE_ADDRESS = re.compile(r"^(https?|hf|s3)://.*\.(pth?|safetensors|bin|ckpt|onnx)$|IMAGENET\d", re.IGNORECASE)


def banned(module: str) -> bool:
    """Whether the dotted name is a banned module or lies within one."""
    return any(module == name or module.startswith(f"{name}.") for name in BANNED)


def offences(tree: ast.AST) -> list[str]:
    """What in a syntax tree brings in a library model or pretrained parameters: ``line: what``, in order of line."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if banned(alias.name)]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                if banned(f"{node.module}.{alias.name}") or alias.name in BANNED_NAMES:
                    found.append((node.lineno, f"{node.module}.{alias.name}"))
        elif isinstance(node, ast.Attribute) and node.attr in BANNED_NAMES:
            found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # Also what import_module, __import__ and getattr are given; a text that mentions torchvision is no offence.
            if banned(node.value) or WEIGHT_FILE_ADDRESS.search(node.value):
                found.append((node.lineno, repr(node.value)))
        elif isinstance(node, ast.arg | ast.keyword) and node.arg == "pretrained":
            found.append((node.lineno, "pretrained="))
        elif isinstance(node, ast.Call) and MODEL_CALL.search(ast.unparse(node.func)):
            found += [
                (node.lineno, f"weights= in {ast.unparse(node.func)}()") for k in node.keywords if k.arg == "weights"
            ]
    return [f"{line}: {what}" for line, what in sorted(found)]


def imported_files(tree: ast.AST, path: Path, root: Path) -> set[Path]:
    """The files under ``root`` that the module at ``path`` imports, wherever in its code it does."""
    names: set[tuple[str, ...]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(root).parts[: -node.level] if node.level else ()
            module = (*package, *(node.module or "").split(".")) if node.module else package
            names |= {module} | {(*module, alias.name) for alias in node.names}
    # ``import a.b.c`` runs a/__init__.py, a/b/__init__.py and a/b/c.py (or its __init__.py).
    prefixes = {name[:length] for name in names for length in range(1, len(name) + 1)}
    candidates = {root.joinpath(*prefix) for prefix in prefixes}
    files = {base.with_name(f"{base.name}.py") for base in candidates} | {base / "__init__.py" for base in candidates}
    return {file for file in files if file.is_file()}


def walk(root: Path) -> dict[Path, list[str]]:
    """Files that train or predict, with their offences: the scripts at the top, the rooms and what they import."""
    waiting = {*root.glob("*.py"), *(path for room in ROOMS for path in root.glob(f"{room}/**/*.py"))}
    seen: dict[Path, list[str]] = {}
    while waiting:
        path = waiting.pop()
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        seen[path] = offences(tree)
        waiting |= imported_files(tree, path, root) - seen.keys()
    return seen


def test_the_project_brings_in_no_library_model() -> None:
    seen = walk(PROJECT)
    assert {
        PROJECT / "resnet" / "resnet.py",
        PROJECT / "models" / "catalog.py",
        PROJECT / "lab" / "__init__.py",
    } <= seen.keys()
    assert {str(path.relative_to(PROJECT)): found for path, found in seen.items() if found} == {}


@pytest.mark.parametrize("room", ["resnet", "models"])
def test_the_networks_import_torch_only(room: str) -> None:
    """A room of networks needs torch, itself and the standard library."""
    allowed = {"torch", room, *sys.stdlib_module_names}
    for path in (PROJECT / room).glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] in allowed, path


@pytest.mark.parametrize(
    "code",
    [
        "import torchvision",
        "import torchvision.models as tv",
        "from torchvision.models import resnet18",
        "from torchvision import transforms",
        "def late():\n    import timm",
        "try:\n    import transformers\nexcept ImportError:\n    pass",
        "import torch.hub",
        "from torch import hub",
        "from torch.utils import model_zoo as zoo",
        "from torch.hub import load_state_dict_from_url as get",
        "import torch as t\nt.hub.load('pytorch/vision', 'resnet18')",
        "import torch\ntorch.utils.model_zoo.load_url(address)",
        "from huggingface_hub import hf_hub_download",
        "import importlib\nimportlib.import_module('torchvision.models')",
        "__import__('timm')",
        "model = build('resnet18', pretrained=True)",
        "def resnet18(pretrained=False): ...",
        "def resnet18(*, pretrained): ...",
        "model = resnet50(weights='DEFAULT')",
        "model = nets.ResNet(weights=w)",
        "model = MODELS[name](2, weights=w)",
        "model = make(name, 'IMAGENET1K_V2')",
        "model = AnyNet.from_pretrained('x')",
        "address = 'https://download.pytorch.org/models/resnet18-f37072fd.pth'",
    ],
)
def test_the_walk_catches_an_offender(code: str, tmp_path: Path) -> None:
    """Planted in a script, in a package and two imports away from a script, each is found there and nowhere else."""
    for place in ("train.py", "resnet/stem.py", "lab/deep/er.py", "tools/far.py"):
        root = tmp_path / place.replace("/", "_")
        for name, text in {
            "train.py": "def main():\n    from helpers import near\n",
            "helpers/__init__.py": "",
            "helpers/near.py": "from tools import far\n",
            "tools/far.py": "import json\n",
            place: code,
        }.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        guilty = {str(path.relative_to(root)) for path, found in walk(root).items() if found}
        assert guilty == {place}


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
def test_the_walk_leaves_honest_code_alone(code: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(code, encoding="utf-8")
    assert walk(tmp_path) == {tmp_path / "train.py": []}


def test_the_walk_follows_relative_imports(tmp_path: Path) -> None:
    for name, text in {
        "lab/__init__.py": "",
        "train.py": "import pack.inner.one\n",
        "pack/__init__.py": "",
        "pack/inner/__init__.py": "from . import two\n",
        "pack/inner/one.py": "",
        "pack/inner/two.py": "from ..three import thing\n",
        "pack/three.py": "import timm\n",
        "alone/never.py": "import timm\n",
        "models/deep/er.py": "import timm\n",
        "lab/room/in_it.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    seen = {path.relative_to(tmp_path).as_posix(): found for path, found in walk(tmp_path).items()}
    assert seen.pop("pack/three.py") == seen.pop("models/deep/er.py") == ["1: timm"]
    assert seen.keys() == {
        *("lab/__init__.py", "lab/room/in_it.py", "train.py", "pack/__init__.py"),
        *("pack/inner/__init__.py", "pack/inner/one.py", "pack/inner/two.py"),
    }
    assert not any(seen.values())


LISTING = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
culprits = {}
for name in sys.argv[2:]:
    importlib.import_module(name)
    for package in ("torchvision", "timm", "gradio", "plotly", "captum"):
        if package in sys.modules:
            culprits.setdefault(package, name)
print(json.dumps(culprits))
"""


def came_along(root: Path, modules: list[str]) -> dict[str, str]:
    """Import the modules in a fresh interpreter; the libraries that came along, and the module that did it."""
    command = [sys.executable, "-c", LISTING, str(root), *modules]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    culprits: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return culprits


def test_at_run_time_no_model_library_comes_along() -> None:
    """Not even through another library: one that imports torchvision by itself would show here. Nor does the demo, imported
    first, need the libraries of its page for the table."""
    paths = [path for room in ROOMS for path in PROJECT.glob(f"{room}/**/*.py")] + [*PROJECT.glob("*.py")]
    names = {".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    assert {"resnet.resnet", "lab.errors", "train"} <= names
    culprits = came_along(PROJECT, ["demo", *sorted(names)])
    assert culprits.keys() & {"torchvision", "timm"} == set() and "demo" not in culprits.values(), culprits


def test_the_look_at_run_time_catches_an_offender(tmp_path: Path) -> None:
    (tmp_path / "honest.py").write_text("import json\n", encoding="utf-8")
    (tmp_path / "timm.py").write_text("", encoding="utf-8")  # stands in for the real one, which need not be installed
    (tmp_path / "hidden.py").write_text("import timm\n", encoding="utf-8")
    assert came_along(tmp_path, ["honest", "hidden"]) == {"timm": "hidden"}
