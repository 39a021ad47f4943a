# Sourced by scripts that give tests what a machine lacks.

need() { # packages of Debian, of which one is missing
    dpkg -s "$@" > /dev/null 2>&1 && return
    apt-get update -qq > /dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > /dev/null
}
