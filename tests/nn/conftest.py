"""What the tests of every module start from."""

import pytest
import tutorial


@pytest.fixture
def theirs():
    """The tutorial's classes by name."""
    return tutorial.namespace()
