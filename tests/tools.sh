#!/usr/bin/env bash
# Gives tests the programs that a machine lacks, and leaves alone those that it has (Debian, root).
#
#   tests/tools.sh prometheus   a Prometheus and its promtool
#   tests/tools.sh chromium     a browser, in which pages are laid out
#
# Several may be named at once.
set -euo pipefail
. "$(dirname "$0")/packages.sh"

install() { # a package of Debian, unless all programs named after it are there
    local package=$1 program
    shift
    for program in "$@"; do command -v "$program" > /dev/null || break; done
    command -v "$program" > /dev/null && return
    [ "$(id -u)" = 0 ] || { echo "tools.sh: no $program, and only root can install one" >&2; exit 1; }
    need "$package"
}

[ $# -gt 0 ] || set -- help
for tool in "$@"; do
    case "$tool" in
        prometheus)
            had=$(command -v prometheus || true)
            install prometheus prometheus promtool
            # Its package starts a server of its own, which tests neither need nor want on its port.
            [ -n "$had" ] || service prometheus stop > /dev/null 2>&1 || true
            ;;
        chromium) install chromium chromium ;;
        *) sed -n '2,7p' "$0" >&2; exit 2 ;;
    esac
done
