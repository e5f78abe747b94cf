#!/usr/bin/env bash
# Runs the end-to-end tests against a built binary:
#   tests/run_e2e.sh [pytest arguments]     (from anywhere)
# HOSTLER_BINARY      the binary; default build/release/hostler
# HOSTLER_E2E_VENV    where the Python packages go; default beside the binary
# HOSTLER_SHARED      references; default ../shared beside the repository
# HOSTLER_TIME_SCALE  multiplies every time limit (sanitizer builds)
# HOSTLER_LLAMA_SERVER  a llama-server to stand before; default: one on PATH
# HOSTLER_INSTALL_PEER  1: else install llama-cpp-python from PyPI (compiles for long)
# Exit code 77: skipped, because the packages could not be had.
set -euo pipefail
tests=$(cd "$(dirname "$0")" && pwd)
export HOSTLER_BINARY=${HOSTLER_BINARY:-$tests/../build/release/hostler}
[[ -x $HOSTLER_BINARY ]] || { echo "$HOSTLER_BINARY is not built" >&2; exit 1; }
. "$tests/venv.sh" "$(dirname "$HOSTLER_BINARY")/e2e-venv"

timeout=$(awk "BEGIN { print 120 * ${HOSTLER_TIME_SCALE:-1} }")
args=("$@")
[[ ${args[*]:-} == *.py* ]] || args+=("$tests/e2e")
cd "$tests/e2e"
exec "$venv/bin/python" -B -m pytest -q -rs --tb=short -p no:cacheprovider --timeout "$timeout" "${args[@]}"
