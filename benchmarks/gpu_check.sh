#!/usr/bin/env bash
# Check this project on a GPU, in at most eight minutes and without network:   bash benchmarks/gpu_check.sh
set -e
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-.venv/bin/python}"
command -v "$python" > /dev/null || python=python3
exec "$python" -m benchmarks.gpu_check "$@"
