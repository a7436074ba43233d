"""What `python -m backends.workers` puts together: complete, runnable with nothing else, not written over."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from backends.base import backends
from backends.envelope import from_result, ping_call, to_event
from backends.instances import take_boot
from backends.workers import cog_predictor, kit, kserve_v2
from backends.workers.__main__ import ENTRY_POINTS, HERE, KSERVE, Platform, files, main, put
from gateway.app import registries
from tests.support.source import parsed

MODEL = """
from kserve_v2 import Model, Tensor, TensorSpec, serve

class Double(Model):
    name = "double"
    inputs = outputs = (TensorSpec("x", "FP32", (-1,)),)

    def infer(self, inputs):
        values = inputs["x"].values()
        return {"x": Tensor.of("FP32", inputs["x"].shape, [2 * value for value in values])}

app = serve(Double())
"""
EVERY = sorted(Platform)


def test_every_entry_point_belongs_to_a_platform_and_every_platform_has_a_page() -> None:
    shipped = {path.name for path in HERE.glob("*.py")} - {
        "__init__.py",
        "__main__.py",
        "kit.py",
        "kserve_v2.py",
    }
    assert {name for entry in ENTRY_POINTS.values() for name in entry} == shipped
    for platform in EVERY:
        assert {Path("README.md"), Path("kit.py")} <= files(platform, kserve=False).keys()


@pytest.mark.parametrize("platform", EVERY)
def test_nothing_but_the_standard_library_is_imported_where_a_platforms_package_is_missing(
    platform: Platform, tmp_path: Path
) -> None:
    put(platform, tmp_path, kserve=True)
    (tmp_path / "mymodel.py").write_text(MODEL)
    modules = sorted(path.stem for path in tmp_path.glob("*.py"))
    code = f"import sys, {', '.join(modules)}; print(sorted(n for n in sys.modules if 'site-packages' in str("
    code += "getattr(sys.modules[n], '__file__', ''))))"
    own = {"OVERSPILL_APP": "mymodel:app", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env=own, capture_output=True, check=False
    )
    assert (done.stdout, done.returncode) == (b"[]\n", 0), done.stderr.decode()


def test_a_model_in_python_is_served_as_triton_would(tmp_path: Path) -> None:
    put(Platform.LAMBDA, tmp_path, kserve=True)
    (tmp_path / "mymodel.py").write_text(MODEL)
    body = '{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2.5]}]}'
    code = f"""
import base64, lambda_handler
event = {{"requestContext": {{"http": {{"method": "POST"}}}}, "rawPath": "/v2/models/double/infer", "body": {body!r}}}
result = lambda_handler.handler(event, None)
print(result["statusCode"], base64.b64decode(result["body"]).decode())
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env={"OVERSPILL_APP": "mymodel:app"},
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    status, _, text = done.stdout.partition(" ")
    (output,) = json.loads(text)["outputs"]
    assert (status, output) == ("200", {"name": "x", "datatype": "FP32", "shape": [2], "data": [2.0, 5.0]})


def test_what_it_stands_on_is_standard_library_only() -> None:
    """What `--kserve` copies needs nothing that it does not copy."""
    root = HERE.parent.parent
    ours = {name.removesuffix(".py").replace("/", ".") for name in KSERVE}
    for name in KSERVE:
        for node in ast.walk(parsed((root / name).read_text())):
            found = [node.module] if isinstance(node, ast.ImportFrom) else []
            found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in found:
                assert module is not None
                full = {f"{module}.{alias.name}" for alias in node.names}  # type: ignore[attr-defined]
                top = module.split(".")[0]
                assert top in sys.stdlib_module_names or module in ours or full <= ours, f"{name}: {module}"


@pytest.mark.parametrize("platform", EVERY)
def test_the_deploy_examples_name_files_that_are_there(platform: Platform) -> None:
    found = files(platform, kserve=False)
    names = {path.name for path in found}
    for path, content in found.items():
        text = content.decode()
        if path.suffix in (".yml", ".yaml"):
            assert yaml.safe_load(text)
        if path.suffix == ".json":
            assert json.loads(text)
        if path.suffix != ".py":
            for name in re.findall(r"\b(\w+)\.py\b", text):
                assert f"{name}.py" in names, f"{path} names {name}.py"
            for module in re.findall(r"(?<![.\w])(\w+)[.:](?:handler|service)\b", text):
                assert f"{module}.py" in names, f"{path} names {module}"


@pytest.mark.parametrize("platform", EVERY)
def test_the_sections_of_the_examples_are_of_backends_that_there_are(platform: Platform) -> None:
    registries()
    page = files(platform, kserve=False)[Path("README.md")].decode()
    for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        for section in yaml.safe_load(text)["backends"].values():
            options = backends.get(section["type"]).Options
            assert options.model_validate(section).type == section["type"]


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    arguments = ["sagemaker", str(tmp_path)]
    runner, app = CliRunner(), typer.Typer()
    app.command()(main)
    assert "wrote" in runner.invoke(app, arguments).output
    (tmp_path / "Dockerfile").write_text("FROM mine\n")
    (tmp_path / "server.py").unlink()
    again = runner.invoke(app, arguments)
    assert again.exit_code == 0
    assert again.output.splitlines() == [
        f"wrote {tmp_path / 'server.py'}", f"kept  {tmp_path / 'Dockerfile'}, which is another",
    ]  # fmt: skip
    assert (tmp_path / "Dockerfile").read_text() == "FROM mine\n"


class Streams(kserve_v2.Model):
    name = "counts"
    inputs = (kserve_v2.TensorSpec("n", "INT32", (1,)),)
    outputs = (kserve_v2.TensorSpec("i", "INT32", (1,)),)
    decoupled = True

    def infer(self, inputs: object) -> dict[str, kserve_v2.Tensor]:
        raise NotImplementedError

    def stream(self, inputs: object):  # type: ignore[no-untyped-def]
        for i in range(3):
            yield {"i": kserve_v2.Tensor.of("INT32", (1,), [i])}


def test_answers_of_generate_stream_come_one_by_one() -> None:
    app = kserve_v2.serve(Streams())
    status, _, body = app("POST", "/v2/models/counts/generate_stream", "", {}, b'{"n": 3}')
    assert not isinstance(body, bytes)
    events = list(body)
    assert (status, len(events)) == (200, 3)
    assert all(event.startswith(b"data: {") for event in events)


def test_a_predictor_answers_pings_and_says_what_is_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_APP", f"{__name__}:never")
    predictor = cog_predictor.Predictor()
    predictor.setup()
    status, headers, body = from_result(
        json.loads(predictor.predict(json.dumps(to_event(ping_call("r"), b""))))
    )
    assert (status, body) == (204, b"")
    rest, boot = take_boot(headers)
    assert boot is not None
    assert (rest, boot.id) == ([], predictor.worker.boot.id)
    with pytest.raises(ValueError, match="not an HTTP event"):
        predictor.predict("{}")


def never(*_: object) -> kit.Response:
    raise AssertionError
