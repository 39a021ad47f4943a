"""The second attempt of real-time tests that a late host failed."""

from tests.integration.conftest import pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]
