import shutil

import pytest

from support import DENSE, MOE, SHARED, grpc_stub, serving


@pytest.fixture(scope="session")
def server():
    """Both sample models in one daemon, the experts in a quarter of their memory."""
    with serving(
        "--model",
        f"moe={MOE}",
        "--model",
        f"dense={DENSE}",
        "--threads",
        2,
        "--expert-memory",
        "13MiB",
    ) as running:
        yield running


@pytest.fixture(scope="session")
def client(server):
    import openai

    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture
def stub(server):
    with grpc_stub(server) as each:
        yield each


@pytest.fixture(scope="session")
def shared():
    """The folder of references."""
    if not (SHARED / "models/golden").is_dir():
        pytest.skip(f"{SHARED} is not there: nothing to compare with")
    return SHARED


@pytest.fixture
def dense_copy(tmp_path):
    """A copy of the dense model to damage."""
    return shutil.copytree(DENSE, tmp_path / "model")


def pytest_sessionfinish(session, exitstatus):
    """A run that skipped everything is a skipped one to ctest."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and not reporter.stats.get("passed") and reporter.stats.get("skipped"):
        session.exitstatus = 77
