"""``compound_scaling`` and the tutorial's estimate: widths, depths, parameters and FLOPs of the paper's networks."""

import contextlib
import io

import pytest
import torch
import tutorial
from torch import nn

import advkern.nn
from advkern.nn import EfficientNet, compound_scaling, efficientnet_configs

# torchvision's documented counts of parameters; the paper's table 2: FLOPs (rounded there), pixels a side, dropout
PAPER = {
    "b0": (5_288_548, 0.39e9, 224, 0.2),
    "b1": (7_794_184, 0.70e9, 240, 0.2),
    "b2": (9_109_994, 1.0e9, 260, 0.3),
    "b3": (12_233_232, 1.8e9, 300, 0.3),
    "b4": (19_341_616, 4.2e9, 380, 0.4),
    "b5": (30_389_784, 9.9e9, 456, 0.4),
    "b6": (43_040_704, 19e9, 528, 0.5),
    "b7": (66_347_960, 37e9, 600, 0.5),
}


def test_cells_of_the_tutorial_print_the_same_with_ours():
    """Cells 8 and 9: the blocks, and the table of scaling, with its own functions and with ours."""
    cells = tutorial.cells()
    tutorial.namespace()  # chooses a backend of matplotlib that needs no screen
    definitions, table = cells[9].split("print(", 1)
    printed = []
    for space in ({}, vars(advkern.nn).copy()):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            if not space:
                for code in (cells[0], cells[8], definitions):
                    exec(code, space)
            exec("print(" + table, space)
        printed.append(out.getvalue())
    assert "B7: Width=2.0x" in printed[0].rpartition("Compound Scaling")[2]
    assert printed[0].rpartition("Compound Scaling")[2] == printed[1].rpartition("Compound Scaling")[2]


def test_configs_and_estimate_are_the_tutorials():
    space = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(tutorial.cells()[9], space)
    assert efficientnet_configs == space["efficientnet_configs"]
    for scale in [*efficientnet_configs.values(), (0.3, 2, 1.234)]:
        assert advkern.nn.calculate_scaled_params(*scale) == space["calculate_scaled_params"](*scale)


@pytest.mark.parametrize("variant", PAPER)
def test_networks_are_the_papers(variant):
    parameters, flops, resolution, dropout = PAPER[variant]
    found = compound_scaling(variant)
    assert found["params"] == parameters
    assert found["flops"] == pytest.approx(flops, rel=0.05)
    assert found["resolution"] == resolution
    assert (found["width"], found["depth"]) == efficientnet_configs[variant.upper()][:2]
    with torch.device("meta"):
        model = getattr(advkern.nn, f"efficientnet_{variant}")()
    assert model.classifier[0].p == dropout
    assert model.resolution == resolution
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_scaling_is_told_in_multiples_of_b0():
    found = compound_scaling("B7")
    assert found["relative_params"] == pytest.approx(12.5, abs=0.1)
    assert found["relative_flops"] == pytest.approx(97.8, abs=0.1)
    found["params"] = 0
    assert compound_scaling("b7")["params"] == 66_347_960


def test_flops_are_the_multiply_adds_of_every_layer():
    """Beside a count by hooks, which knows convolutions and linear maps by their formula."""
    model = EfficientNet("b0").to("meta").eval()
    counted = 0

    def count(module, inputs, output):
        nonlocal counted
        counted += module.weight.numel() * (output.shape[2] * output.shape[3] if output.dim() == 4 else 1)

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    model(torch.empty(1, 3, 224, 224, device="meta"))
    assert compound_scaling("b0")["flops"] == counted


def test_unknown_variant_is_named():
    with pytest.raises(ValueError, match=r"variant: .*got 'L2'"):
        compound_scaling("L2")
