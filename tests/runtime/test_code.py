import rlstep
from rlstep.runtime.code import code_digest

CODE = {
    "__init__.py": "",
    "stages/__init__.py": "",
    "stages/prepare.py": "from rlstep.tasks import get\n",
    "stages/prm.py": "def prm():\n    from rlstep.verifiers.training import fit\n",
    "tasks/__init__.py": "from rlstep.core.deep.curves import mean\n",
    "verifiers/__init__.py": "",
    "verifiers/training.py": "import rlstep.core.losses\n",
    "core/deep/curves.py": "import json\n",
    "core/losses.py": "",
    "policy/trainer.py": "from rlstep.verifiers import training\n",
}


def test_a_modules_code_is_what_it_imports(tmp_path, monkeypatch):
    for name, text in CODE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(rlstep, "__file__", str(tmp_path / "__init__.py"))
    modules = {name: f"rlstep.stages.{name}" for name in ("prepare", "prm")}

    def changed_by(path: str) -> list[str]:
        before = {name: code_digest(module) for name, module in modules.items()}
        (tmp_path / path).write_text(CODE[path] + "x = 2\n")
        return [name for name, module in modules.items() if code_digest(module) != before[name]]

    assert changed_by("policy/trainer.py") == []
    assert changed_by("stages/prm.py") == ["prm"]
    assert changed_by("verifiers/training.py") == ["prm"]
    assert changed_by("core/losses.py") == ["prm"]
    assert changed_by("tasks/__init__.py") == ["prepare"]
    assert changed_by("core/deep/curves.py") == ["prepare"]
    assert changed_by("stages/__init__.py") == ["prepare", "prm"]
