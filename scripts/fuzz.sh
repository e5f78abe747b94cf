#!/usr/bin/env bash
# Builds the fuzz targets of tests/fuzz with Clang and runs them, one after
# another: fuzz.sh [SECONDS] [TARGET...]. 60 seconds each and all targets
# unless told. Fails at a finding, whose input it leaves in
# build/fuzz/findings. What it learns stays in build/fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
(($# == 0)) || shift
targets=("$@")
((${#targets[@]})) || targets=(gguf safetensors config tokenizer vocabulary template request http_head
                              upstream)

scripts/install_deps.sh clang libclang-rt-14-dev
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz -j "$(nproc)" --target "${targets[@]/%/_fuzz}"
python3 tests/fuzz/make_seeds.py build/fuzz/seeds
mkdir -p build/fuzz/findings

# The longest input that still says something new.
declare -A longest=([gguf]=8192 [safetensors]=4096 [config]=4096 [tokenizer]=8192
                    [vocabulary]=4096 [template]=2048 [request]=4096
                    [http_head]=2048 [upstream]=4096)
declare -A dictionary=([tokenizer]=tokenizer [template]=jinja [request]=request [upstream]=request)
for target in "${targets[@]}"; do
  mkdir -p "build/fuzz/corpus/$target"
  arguments=(-max_total_time="$seconds" -max_len="${longest[$target]}" -timeout=10
             -rss_limit_mb=2048 -malloc_limit_mb=1024 -print_final_stats=1 -verbosity=0
             -artifact_prefix="build/fuzz/findings/$target-")
  if [[ -n ${dictionary[$target]:-} ]]; then
    arguments+=(-dict="tests/fuzz/${dictionary[$target]}.dict")
  fi
  echo "fuzz: $target, $seconds s"
  "build/fuzz/${target}_fuzz" "${arguments[@]}" "build/fuzz/corpus/$target" "build/fuzz/seeds/$target"
done
