"""Fixtures for every test: the real parts of `tests/stack.py`, started only when a test asks for one."""

pytest_plugins = ["tests.stack"]
