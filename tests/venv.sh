# Sourced: makes the Python environment that tests run in and sets $venv, where
# it lies. Exits with 77, "skipped", when its packages cannot be had.
# HOSTLER_E2E_VENV: its place; default $1
venv=${HOSTLER_E2E_VENV:-$1}
requirements=$(dirname "${BASH_SOURCE[0]}")/requirements.txt

skip() {
  echo "SKIPPED: $1" >&2
  exit 77
}

# Several tests may start at once; one of them makes the environment.
mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if ! cmp -s "$requirements" "$venv/installed.txt"; then
  rm -rf "$venv"
  python3 -m venv "$venv" >"$venv.log" 2>&1 || skip "no python3-venv (see $venv.log)"
  echo "Installing the tests' Python packages from PyPI into $venv"
  timeout 300 "$venv/bin/pip" install -q --disable-pip-version-check --retries 2 \
    -r "$requirements" >"$venv.log" 2>&1 ||
    skip "PyPI cannot be reached or lacks a package (see $venv.log)"
  cp "$requirements" "$venv/installed.txt"
fi
exec 9>&-
