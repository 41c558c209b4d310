# airtune from this repository, with the versions that its tests run with.
#   docker build -t airtune .
#   docker run --rm -v "$PWD":/work airtune run --set rounds=5 --out runs/001
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY examples ./examples
COPY experiments ./experiments
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /tmp/wheels
# EXTRAS, e.g. --build-arg EXTRAS=[deploy,tensorboard]; INDEX for builds of torch without CUDA.
ARG EXTRAS=""
ARG INDEX=""
RUN pip install --no-cache-dir ${INDEX:+--extra-index-url "$INDEX"} \
      -c /tmp/constraints.txt "$(ls /tmp/wheels/airtune-*.whl)${EXTRAS}" \
    && rm -r /tmp/wheels /tmp/constraints.txt \
    && useradd --create-home airtune \
    && mkdir /work && chown airtune /work
USER airtune
WORKDIR /work
ENTRYPOINT ["airtune"]
CMD ["--help"]
