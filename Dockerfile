# syntax=docker/dockerfile:1
# One image, three commands:   docker run IMAGE run | schedule | serve
# With a model baked in:       docker build --build-arg MODEL=models/churn.onnx --build-arg MODEL_SHA256=… .
#                              then, in the job file:  model: file:/models/churn.onnx
# The digest is checked by the build, kept in the image's label, and checked again each time the model is loaded.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY api api
COPY batchpred batchpred
COPY jobs jobs
COPY migrations migrations
COPY storage storage
RUN python -m venv /opt/batchpred \
 && /opt/batchpred/bin/pip install --no-cache-dir --constraint constraints.txt '.[api,cpu,notify]'

FROM python:${PYTHON}-slim AS runtime
RUN useradd --uid 10001 --user-group --home-dir /var/lib/batchpred --create-home batchpred
COPY --from=build /opt/batchpred /opt/batchpred
# The default, LICENSE, keeps the step valid where no model is baked in: COPY must find something.
ARG MODEL=LICENSE
ARG MODEL_SHA256=
LABEL org.batchpred.model="${MODEL}" org.batchpred.model.sha256="${MODEL_SHA256}"
COPY ${MODEL} /models/
WORKDIR /models
RUN sha256sum -- * > SHA256SUMS \
 && if [ -n "${MODEL_SHA256}" ]; then grep -q "^${MODEL_SHA256} " SHA256SUMS; fi
ENV PATH=/opt/batchpred/bin:$PATH \
    BATCHPRED_HOME=/var/lib/batchpred \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /project
ENTRYPOINT ["batchpred"]
CMD ["--help"]
