# Two stages: what builds never ships. The image holds Python, one virtual environment, and nothing else of ours.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# The environment gets no pip of its own: the builder's writes into it, and the image stays without an installer.
RUN python -m venv --without-pip /opt/overspill

# Dependencies before sources, so that a change of code does not install them again. Every file is checked
# against its hash in the lock, and only wheels are taken: nothing runs a foreign build script. image.txt is run.txt
# with the extras `grpc`, `jwt` and `otel`: the image serves its gRPC port, reads tokens, and spans can leave it.
COPY .ci/lock/image.txt .ci/lock/dev.txt ./lock/
RUN python -m pip --python /opt/overspill/bin/python install --only-binary :all: --require-hashes -r lock/image.txt

# The build tool comes from the lock as well; left to itself pip would fetch the newest one, unchecked.
RUN sed -n '/^setuptools==/,/[^\\]$/p' lock/dev.txt > lock/build.txt \
 && python -m pip install --only-binary :all: --no-deps --require-hashes -r lock/build.txt

COPY pyproject.toml README.md ./
COPY gateway ./gateway
COPY backends ./backends
COPY policies ./policies
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /build/wheels . \
 && python -m pip --python /opt/overspill/bin/python install --no-deps --no-index /build/wheels/*.whl \
 && /opt/overspill/bin/python -m compileall -q /opt/overspill/lib

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="overspill" \
      org.opencontainers.image.description="One URL in front of an always-on Triton fleet and rented serverless GPUs"

# Bytecode is in the image already; a read-only root file system is fine.
ENV PATH=/opt/overspill/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OVERSPILL_HEALTH_URL=http://127.0.0.1:8002/livez
COPY --from=builder /opt/overspill /opt/overspill

# A number, so that Kubernetes can tell that it is not root (runAsNonRoot) without reading /etc/passwd.
USER 65532:65532
WORKDIR /tmp

# HTTP, gRPC, admin: Triton's trio.
EXPOSE 8000 8001 8002

# Alive, not ready: a gateway whose fleet is down must not be restarted for it. No proxy from the environment.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(os.environ['OVERSPILL_HEALTH_URL'], timeout=2)"]

# SIGTERM drains: what is in flight is finished, up to the file's drain_timeout. Give the container that long to stop.
STOPSIGNAL SIGTERM
ENTRYPOINT ["overspill"]
CMD ["serve", "-c", "/etc/overspill/overspill.yaml"]
