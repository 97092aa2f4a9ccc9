#!/usr/bin/env bash
# Runs tests/engines on a real SLURM and a real Ray, on this machine alone. Installs Debian packages; needs root.
# The daemons listen on loopback or in a network namespace, and end with the tests. Takes about ten minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -qy slurm-wlm slurmdbd munge mariadb-server iproute2
uv sync --extra slurm --extra ray
uv run --extra slurm --extra ray pytest -n 0 -v tests/engines "$@"
