#!/usr/bin/env bash
# Gives tests a Docker engine and a base image of nodes on a machine that has none.
#
#   tests/engine.sh start   where no engine answers, install one (Debian, root) and start it
#   tests/engine.sh base    print the base image: Python's own, or where no registry can be reached one made of Debian
#   tests/engine.sh stop    end the engine that `start` started, and no other
set -euo pipefail
. "$(dirname "$0")/packages.sh"

PYTHON_IMAGE=python:3.11-slim-bookworm
MADE_IMAGE=fragmesh-base
PID_FILE=/run/fragmesh-test-engine.pid
LOG=/var/log/fragmesh-test-engine.log

answers() { docker info > /dev/null 2>&1; }

start() {
    answers && return
    [ "$(id -u)" = 0 ] || { echo "engine.sh: no Docker engine answers, and only root can start one" >&2; exit 1; }
    command -v dockerd > /dev/null && command -v docker > /dev/null || need docker.io iptables
    answers && return # its package may have started it
    setsid dockerd > "$LOG" 2>&1 < /dev/null &
    echo $! > "$PID_FILE"
    for _ in $(seq 600); do
        answers && return
        kill -0 "$(cat "$PID_FILE")" 2> /dev/null || break
        sleep 0.2
    done
    tail -5 "$LOG" >&2
    echo "engine.sh: dockerd does not answer; its log: $LOG" >&2
    exit 1
}

base() {
    if docker image inspect "$PYTHON_IMAGE" > /dev/null 2>&1 || docker pull -q "$PYTHON_IMAGE" > /dev/null 2>&1; then
        echo "$PYTHON_IMAGE"
        return
    fi
    if ! docker image inspect "$MADE_IMAGE" > /dev/null 2>&1; then
        need mmdebstrap
        # The machine's certificates, which may hold those of a proxy that pip has to trust.
        mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates,iproute2 \
            --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' \
            --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
            --customize-hook='copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs' bookworm - |
            docker import -c 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin' - "$MADE_IMAGE" \
                > /dev/null
    fi
    echo "$MADE_IMAGE"
}

stop() {
    [ -f "$PID_FILE" ] || return 0
    pid=$(cat "$PID_FILE")
    if grep -q dockerd "/proc/$pid/cmdline" 2> /dev/null; then # else it ended, and its number may be another's
        kill "$pid"
        while kill -0 "$pid" 2> /dev/null; do sleep 0.2; done
    fi
    rm -f "$PID_FILE"
}

case "${1:-}" in
    start | base | stop) "$1" ;;
    *) sed -n '2,6p' "$0" >&2; exit 2 ;;
esac
