"""The OpenAPI document of the read API, and what the server needs to start."""

import subprocess
import sys

NEEDED_BY_RUNNERS = ("numpy", "onnx", "onnxruntime", "pandas", "pgpq", "pyarrow", "sqlalchemy")


def test_the_document_names_every_route_with_an_example(api):
    """Each route under /v1 is in the document with an example of its answer, its faults and the key it wants."""
    document = api.get("/openapi.json").json()
    paths = {path: item for path, item in document["paths"].items() if path.startswith("/v1")}
    assert {
        "/v1/jobs": ["get"],
        "/v1/jobs/{job}": ["get"],
        "/v1/jobs/{job}/runs": ["get"],
        "/v1/jobs/{job}/predictions": ["get"],
        "/v1/jobs/{job}/predictions:batchGet": ["post"],
        "/v1/jobs/{job}/predictions/{key}": ["get"],
        "/v1/jobs/{job}/predictions/{key}/history": ["get"],
    } == {path: list(item) for path, item in paths.items()}
    for item in paths.values():
        for operation in item.values():
            answers = operation["responses"]
            assert answers["200"]["content"]["application/json"]["example"]
            assert {"401", "404", "422", "503"} <= set(answers)
            assert operation["security"]
    forms = paths["/v1/jobs/{job}/predictions"]["get"]["responses"]["200"]["content"]
    assert {"text/csv", "application/x-ndjson", "application/vnd.apache.arrow.stream"} < set(forms)


def test_no_page_loads_scripts_from_elsewhere(api):
    """The framework's pages would have a reader's browser call other people's servers; there are none."""
    assert [404, 404] == [api.get(path).status_code for path in ("/docs", "/redoc")]


def test_the_application_starts_without_what_runners_need():
    """Importing the application imports none of the libraries that only runners have."""
    code = f"import sys, api.app; print([name for name in {NEEDED_BY_RUNNERS} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "[]\n" == done.stdout
