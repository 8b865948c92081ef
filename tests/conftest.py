"""Fixtures for every test: the real parts of `tests/stack.py`, started only when a test asks for one.

Property tests have no clock: what they find must not depend on how busy the machine is. The first example of a fresh
clone also pays for the tables that Hypothesis makes of Unicode.
"""

from hypothesis import HealthCheck, settings

from services.online.light import light

with light():  # whichever test comes first: what Feast does to a process at its import is undone once
    import feast  # noqa: F401

pytest_plugins = ["tests.stack"]

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
