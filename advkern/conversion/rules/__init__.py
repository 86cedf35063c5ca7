"""One file a source of convertible modules; each is found by its list ``RULES``."""
