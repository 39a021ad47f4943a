# The image of a node. `fragmesh image` builds it and gives it its context:
#
#   node/               the package of the fragmesh that is installed
#   fragmesh.dist-info/ its version
#   torch.txt           torch and torchvision, of the same release
#   requirements.txt    all other libraries of a node, of the same releases
#   wheels/             wheels that are taken before any index is asked; may be empty
#
# Nothing is installed when a container starts, and it may run with a read-only root file system.

ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS libraries
RUN python3 -m venv /opt/venv
COPY wheels /wheels
COPY torch.txt requirements.txt /
# Releases are pinned with all that they need, so pip resolves nothing. pip compiles what it installs: nodes that had to
# compile it at each start would be ready twice as late. Headers and tests of libraries are of no use to a node.
ARG TORCH_OPTIONS=""
ARG PIP_OPTIONS=""
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --find-links /wheels ${TORCH_OPTIONS} ${PIP_OPTIONS} -r /torch.txt \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --find-links /wheels ${PIP_OPTIONS} -r /requirements.txt \
    && site=$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
    && cd "$site" \
    && rm -rf torch/include torch/test \
    && find torch/bin -mindepth 1 ! -name torch_shm_manager -delete \
    && find . -depth -type d -name tests -exec rm -rf {} + \
    && rm -rf pip pip-*.dist-info /opt/venv/bin/pip*
# A library that misses what was left out fails here and not in a run.
RUN /opt/venv/bin/python -B -c 'import grpc_health, grpc_reflection, PIL.Image, pydantic, sklearn.datasets, torch; \
    sklearn.datasets.load_digits(); torch.nn.Linear(1, 1)(torch.zeros(1)).backward()'

FROM libraries AS code
COPY node /opt/fragmesh/node
COPY fragmesh.dist-info /opt/fragmesh/fragmesh.dist-info
# Never compared with the source: the file system is read-only, and layers may change times.
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/fragmesh

FROM ${BASE_IMAGE}
COPY --from=libraries /opt/venv /opt/venv
COPY --from=code /opt/fragmesh /opt/fragmesh
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/fragmesh PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp USER=node
USER 65532:65532
WORKDIR /tmp
CMD ["python", "-P", "-m", "node", "--help"]
