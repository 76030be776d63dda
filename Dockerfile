# One image for `trainyard web`, `trainyard worker` and `trainyard migrate`. The PyTorch wheels carry CUDA; the host
# needs the NVIDIA driver and container toolkit for GPUs.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/trainyard

# For `compile: inductor`, which builds C++ on a CPU and a launcher in C on a GPU.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*

# The dependencies first, in a layer that a change of our code keeps.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir app ml worker trainyard \
 && touch app/__init__.py ml/__init__.py worker/__init__.py trainyard/__init__.py \
 && pip install -e . -c constraints.txt

COPY app app
COPY ml ml
COPY worker worker
COPY trainyard trainyard
COPY migrations migrations
COPY templates templates
COPY static static

RUN useradd --create-home --uid 1000 trainyard && install -d -o trainyard -g trainyard -m 700 /data
USER trainyard
VOLUME /data
ENV TRAINYARD_DATA_DIR=/data TRAINYARD_HOST=0.0.0.0 TRAINYARD_PORT=8000
EXPOSE 8000

HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-c", "import os, urllib.request as web; web.urlopen('http://127.0.0.1:' + os.environ['TRAINYARD_PORT'] + '/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["trainyard", "web"]
