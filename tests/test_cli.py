"""The command line: `info`, and how `demo` takes its options; what the demo does is in test_demo.py."""

import json
import subprocess
import sys

import pytest
import torch

import advkern
from advkern.cli import main
from advkern.demo import runner


def refused(capsys, *arguments):
    """Run a command that argparse must refuse; return its message."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_info_starts_a_bug_report(capsys):
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"version: {advkern.__version__}" in lines
    assert f"torch: {torch.__version__}" in lines
    assert f"  status: {advkern.backend.COMPILED.status}" in lines
    assert "  gcn_aggregate:" in lines
    assert "      torch: can run" in lines


def test_info_as_json_is_what_backend_tells(capsys):
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(advkern.backend.info()))


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"advkern {advkern.__version__}\n"


def test_a_command_is_needed(capsys):
    assert refused(capsys).endswith("the following arguments are required: command")


def test_unknown_model_is_refused_with_the_known_ones(capsys):
    message = refused(capsys, "demo", "--only", "perceptron")
    assert f"--only: expected one of {', '.join(runner.discover())}, got 'perceptron'" in message


@pytest.mark.parametrize("name", ["toaster", "cuda:99", "meta"])
def test_device_that_is_not_there_is_refused(capsys, name):
    message = refused(capsys, "demo", "--device", name)
    assert "--device: expected cpu" in message
    assert message.endswith(f"got '{name}'")


def test_output_that_is_a_file_is_refused_before_the_training(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run", None)  # must not be reached
    (tmp_path / "taken").touch()
    assert main(["demo", "--output", str(tmp_path / "taken")]) == 2
    assert capsys.readouterr().err.startswith("advkern: --output: ")


def test_interrupt_ends_cleanly(capsys, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    assert main(["demo", "--quick", "--output", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "advkern: interrupted\n"


def test_only_runs_what_it_names(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(runner, "collect", lambda only, device, *, quick: seen.append((only, device, quick)) or [])
    monkeypatch.setattr(runner, "run", lambda experiments, *, seeds: seen.append(seeds) or sys.exit(0))
    with pytest.raises(SystemExit):
        main(["demo", "--only", "gcn", "--device", "cpu", "--quick", "--output", str(tmp_path)])
    assert seen == [(["gcn"], torch.device("cpu"), True), 1]


def run_python(code, *arguments):
    command = [sys.executable, "-c", f"import sys; {code}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_missing_extra_is_one_line(tmp_path):
    code = "sys.modules['rich'] = None; from advkern.cli import main; sys.exit(main(sys.argv[1:]))"
    ran = run_python(code, "demo", "--output", str(tmp_path))
    assert ran.returncode == 1
    assert ran.stderr == "advkern: needs rich: pip install '.[demo]'\n"


def test_info_loads_nothing_that_only_the_demo_needs():
    code = "from advkern.cli import main; main(['info']); print(*sys.modules)"
    loaded = run_python(code).stdout.split()
    assert "advkern.cli" in loaded
    assert not {"matplotlib", "networkx", "rich", "sklearn", "advkern.demo"} & set(loaded)


def test_reader_that_has_seen_enough_is_no_error():
    """As ``advkern info | head -1`` does."""
    command = f"{sys.executable} -m advkern info | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""
