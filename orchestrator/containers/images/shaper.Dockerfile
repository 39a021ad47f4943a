# The image of the helper that shapes the links of nodes: iproute2, and nsenter to get to a node's network namespace.
# It is the only container of a run with a capability. `fragmesh image` builds it.

ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN if command -v tc && command -v ip && command -v nsenter; then exit; fi; \
    if command -v apk; then apk add --no-cache iproute2 util-linux-misc; \
    else apt-get update && apt-get install -y --no-install-recommends iproute2 util-linux \
        && rm -rf /var/lib/apt/lists/*; fi
# It waits to be told what to do.
CMD ["sleep", "infinity"]
