"""``import_peer``, with a stand-in for torchvision: its ops are declared where its import asks for them in vain."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from advkern.testing.peers import optional_peer

STAND_INS = {
    "its compiled part is loaded": "torch.library.define('torchvision::nms', '(Tensor dets) -> Tensor')",
    "it cannot be loaded": "torch._C._dispatch_has_kernel_for_dispatch_key('torchvision::nms', 'Meta')",
}


def imported(name, torchvision, folder):
    """The finished process that imported a library with that stand-in."""
    (folder / "torchvision.py").write_text(f"import torch\n{torchvision}\n")
    (folder / "timm.py").write_text("import torchvision\n")
    code = f"from advkern.testing.peers import import_peer; assert import_peer({name!r}).__name__ == {name!r}"
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["torchvision", "timm"])
@pytest.mark.parametrize("torchvision", STAND_INS.values(), ids=STAND_INS)
def test_torchvision_is_imported_whether_or_not_its_ops_load(name, torchvision, tmp_path):
    done = imported(name, torchvision, tmp_path)
    assert done.returncode == 0, done.stderr


def test_other_trouble_is_not_taken_for_that(tmp_path):
    done = imported("torchvision", "raise RuntimeError('some other trouble')", tmp_path)
    assert done.stderr.strip().endswith("RuntimeError: some other trouble")
    assert "During handling" not in done.stderr


def test_a_library_that_is_not_there_is_named(tmp_path):
    done = imported("timm", "import no_such_library", tmp_path)
    assert "ModuleNotFoundError: No module named 'no_such_library'" in done.stderr


def test_optional_peer_is_none_where_it_is_not_installed():
    assert optional_peer("no_such_library") is None
