# The command line and the service. For a CPU: docker build -t mimicmotion .
# For NVIDIA GPUs: docker build --build-arg DEVICE=cuda -t mimicmotion:cuda .
ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
ARG DEVICE=cpu
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE constraints.txt ./
COPY src src
RUN python -m venv /opt/mimicmotion
# Torch has a separate index for CPU builds; onnxruntime-gpu overwrites the files of onnxruntime.
RUN pip="/opt/mimicmotion/bin/python -m pip --disable-pip-version-check"; \
    case "$DEVICE" in \
      cpu) export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu; \
        $pip install --no-cache-dir -c constraints.txt '.[serve]' ;; \
      cuda) $pip install --no-cache-dir -c constraints.txt '.[serve,gpu]' && $pip uninstall -y onnxruntime && \
        $pip install --no-cache-dir --no-deps --force-reinstall onnxruntime-gpu ;; \
      *) echo "DEVICE=$DEVICE: must be cpu or cuda" && exit 1 ;; \
    esac

FROM python:${PYTHON}
COPY --from=build /opt/mimicmotion /opt/mimicmotion
RUN useradd --create-home --uid 10001 mimicmotion && install -d -o mimicmotion /data
ENV PATH=/opt/mimicmotion/bin:$PATH MIMICMOTION_CACHE=/data/cache PYTHONUNBUFFERED=1
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# /v1/health needs no token. Containers that run another command are reported as unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v1/health', timeout=4)"]
ENTRYPOINT ["mimicmotion"]
CMD ["serve", "--host", "0.0.0.0", "--data", "/data/serve"]
