#!/usr/bin/env bash
# Tests what was trained and prints the table:   bash run_test.sh [MODEL DATASET [key=value …]]
# Without arguments: SICSRec on ml-100k. All keys: bash run_test.sh --help
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-$([ -x "$here/.venv/bin/python" ] && echo "$here/.venv/bin/python" || echo python3)}
if ! "$PYTHON" -c "import sys; from importlib.util import find_spec; sys.exit(not find_spec('omegaconf'))" 2>/dev/null; then
    echo "error: $PYTHON lacks the packages; run 'make environment', or set PYTHON=FILE" >&2
    exit 1
fi
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m reproduce.test "$@"
