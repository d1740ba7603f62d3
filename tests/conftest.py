"""Shared test settings: one seed for every test, few threads, as many workers as there is room."""

import os

# Threads that wait must not keep a core busy that another worker could use. Read by what loads
# OpenMP: torch here, and in the workers and other processes that are started.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import emulated
import pytest
import torch

WORKER_BYTES = 2 << 30  # a worker grows to 1.3 GB; compilers and other processes run beside it
MOST_WORKERS = 8  # each imports everything and collects all tests before it runs its share


def cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# pytest-xdist says how many workers there are in each of them.
torch.set_num_threads(
    max(1, min(2, cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))))
)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's: for -n auto
def pytest_xdist_auto_num_workers():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores(), memory // WORKER_BYTES, MOST_WORKERS))


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory):
    """Workers share compiled kernels: their temporary folders are in one of the whole run."""
    folder = tmp_path_factory.getbasetemp()
    emulated.FOLDER = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def one_thread():
    """For many small operations: threads that wait for each other cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def fashion_mnist():
    """The real protocol; without its files a skip, in continuous integration a failure."""
    from hashfast.data import load

    try:
        return load("fashion-mnist")
    except FileNotFoundError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
def poisoned():
    """New tensors start as NaN (or the largest integer), so that an unwritten output fails."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
