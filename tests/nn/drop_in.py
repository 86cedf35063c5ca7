"""What is asked of a class that takes another's place, and the inputs and gradients by which the two are compared."""

import copy

import torch


def images(*shape, dtype=torch.float64):
    """Images, or anything else of that shape, with a gradient."""
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def gradients(module, x, out):
    """The gradients of a fixed function of the output, in x and in every parameter."""
    factor = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return torch.autograd.grad((out * factor).sum(), [x, *module.parameters()])


def randomize(module):
    """Weights, averages and variances that leave nothing at a neutral value."""
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if "running_var" in name else value.normal_(0, 0.4)
    return module


def assert_same_start(theirs, ours, *args, **kwargs):
    """One seed gives both classes the same keys, in one order, with the same values."""
    states = []
    for kind in (theirs, ours):
        torch.manual_seed(3)
        states.append(kind(*args, **kwargs).state_dict())
    assert list(states[0]) == list(states[1])
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value), key


def assert_same_signature(theirs, ours):
    """Both classes take the same arguments, with the same defaults."""
    signatures = []
    for kind in (theirs, ours):
        code = kind.__init__.__code__
        signatures.append((code.co_varnames[1 : code.co_argcount], kind.__init__.__defaults__))
    assert signatures[0] == signatures[1]


def assert_compiled_matches(model, x, backend):
    """Outputs and gradients are those of a copy that is not compiled."""
    torch._dynamo.reset()
    right = copy.deepcopy(model)
    expected = right(x)
    actual = torch.compile(model, fullgraph=True, backend=backend)(x)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients(model, x, actual), gradients(right, x, expected), atol=2e-3, rtol=2e-3)
