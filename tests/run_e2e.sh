#!/usr/bin/env bash
# Runs the end-to-end tests against a built binary:
#   tests/run_e2e.sh [pytest arguments]     (from anywhere)
# HOSTLER_BINARY      the binary; default build/release/hostler
# HOSTLER_E2E_VENV    where the Python packages go; default beside the binary
# HOSTLER_SHARED      references; default ../shared beside the repository
# HOSTLER_TIME_SCALE  multiplies every time limit (sanitizer builds)
# Exit code 77: skipped, because the packages could not be had.
set -euo pipefail
tests=$(cd "$(dirname "$0")" && pwd)
export HOSTLER_BINARY=${HOSTLER_BINARY:-$tests/../build/release/hostler}
venv=${HOSTLER_E2E_VENV:-$(dirname "$HOSTLER_BINARY")/e2e-venv}

skip() {
  echo "SKIPPED: end-to-end tests: $1" >&2
  exit 77
}

[[ -x $HOSTLER_BINARY ]] || { echo "$HOSTLER_BINARY is not built" >&2; exit 1; }

# Several of these may start at once; one of them makes the environment.
mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if ! cmp -s "$tests/requirements.txt" "$venv/installed.txt"; then
  rm -rf "$venv"
  python3 -m venv "$venv" >"$venv.log" 2>&1 || skip "no python3-venv (see $venv.log)"
  echo "Installing the test clients from PyPI into $venv"
  timeout 300 "$venv/bin/pip" install -q --disable-pip-version-check --retries 2 \
    -r "$tests/requirements.txt" >"$venv.log" 2>&1 ||
    skip "PyPI cannot be reached or lacks a package (see $venv.log)"
  cp "$tests/requirements.txt" "$venv/installed.txt"
fi
exec 9>&-

timeout=$(awk "BEGIN { print 120 * ${HOSTLER_TIME_SCALE:-1} }")
args=("$@")
[[ ${args[*]:-} == *.py* ]] || args+=("$tests/e2e")
cd "$tests/e2e"
exec "$venv/bin/python" -B -m pytest -q -rs --tb=short -p no:cacheprovider --timeout "$timeout" "${args[@]}"
