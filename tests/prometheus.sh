#!/usr/bin/env bash
# Gives tests a Prometheus and its promtool on a machine that has none.
#
#   tests/prometheus.sh install   where one of them is missing, install both (Debian, root)
set -euo pipefail
. "$(dirname "$0")/packages.sh"

install() {
    command -v prometheus > /dev/null && command -v promtool > /dev/null && return
    [ "$(id -u)" = 0 ] || { echo "prometheus.sh: no Prometheus, and only root can install one" >&2; exit 1; }
    need prometheus
    # Its package starts a server of its own, which tests neither need nor want on its port.
    service prometheus stop > /dev/null 2>&1 || true
}

case "${1:-}" in
    install) "$1" ;;
    *) sed -n '2,4p' "$0" >&2; exit 2 ;;
esac
