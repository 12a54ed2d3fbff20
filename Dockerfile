# One image for every process of the Procfile.
FROM python:3.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /app

# The dependencies change less often than the code: a layer of their own.
COPY requirements.lock ./
RUN pip install --no-compile --require-hashes -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY pynomaly_tasks pynomaly_tasks
COPY workers workers
COPY config/kafka_topics.yaml config/kafka_topics.yaml
# Compiled here, as the process may not write there; templates that are no valid Python are left alone.
RUN pip install --no-compile --no-deps --no-build-isolation . \
    && (python -m compileall -q -q -j 0 "$(python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')" || true) \
    && useradd --system --home-dir /var/lib/pynomaly pynomaly \
    && install -d -o pynomaly -g pynomaly /var/lib/pynomaly

# Celery looks for `-A workers.x` in the working directory first: leave only the installed package.
WORKDIR /var/lib/pynomaly
USER pynomaly
ENV PYNOMALY_DATA__DIRECTORY=/var/lib/pynomaly PYNOMALY_LOG__FORMAT=json
