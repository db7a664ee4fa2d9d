"""Other toolkits in tests: what is not installed skips, and the user's own environments serve."""

import importlib.util

import pytest

from influbench.foreign import environments

USERS = environments.cache_dir() / "foreign"  # read before the tests get a cache of their own
needs_dattri = pytest.mark.skipif(
    importlib.util.find_spec("dattri_llm") is None, reason="the extra 'dattri' is not installed"
)


def needs(name):
    """Skips where the toolkit of this name has no environment."""
    wanted = environments.TOOLKITS[name]
    return pytest.mark.skipif(
        not environments.installed(wanted), reason=f"no environment: {wanted.install_command}"
    )


def linked(cache):
    """Lets the tests' cache have the user's environments, which take minutes to make."""
    link = cache / "foreign"
    if USERS.is_dir() and not link.exists():
        link.symlink_to(USERS)
