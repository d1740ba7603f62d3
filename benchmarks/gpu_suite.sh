#!/usr/bin/env bash
# Build from scratch, test and measure on this machine's CUDA GPU, within SECONDS; no network is
# needed.
#
#   benchmarks/gpu_suite.sh OUT_FOLDER SECONDS
#
# Needs torch >= 2.11 with CUDA, a toolkit with nvcc, pytest, hypothesis, setuptools, pybind11, ninja.
# PYTHON names the interpreter (default python3), HASHFAST_COMMIT what to record where there is no
# git. A step that fails or runs out of time leaves the results of the others alone; the exit status
# tells.
#
# 500 seconds are enough on an H200 with 16 CPU cores. What takes longer is run by itself:
# bench_search_gpu.py --set table3 and --set full.
#
# OUT_FOLDER receives: suite.log (steps and their output), build.log (with the kernels' registers),
# environment.json, gpu_verified.json, and rows of measurements: instructions.csv, search.csv,
# metrics.csv, bench.csv. Tests of kernels have logs of their own until they are done.
set -u

if [ $# -ne 2 ] || ! [[ $2 =~ ^[0-9]+$ ]]; then
    echo "usage: $0 OUT_FOLDER SECONDS" >&2
    exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
end=$((SECONDS + $2 - 15)) # the last seconds are for whoever collects the results
cd "$(dirname "$0")/.." || exit 2

python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
log=$out/suite.log
status=0
# What an earlier run left must not pass for a result of this one.
rm -f "$out"/{suite.log,build.log,environment.json,gpu_verified.json} "$out"/tests-*.log \
    "$out"/{instructions,search,metrics,bench}.csv
reports=$(mktemp -d) || exit 2
trap 'rm -rf "$reports"' EXIT
# An interpreter that is named by its path has its tools, such as ninja, beside it.
PATH="$(dirname "$(command -v "$python")"):$PATH"

say() { echo "[${SECONDS}s] $*" | tee -a "$log"; }
left() { echo $((end > SECONDS ? end - SECONDS : 0)); }
percent() { echo $(($(left) * $1 / 100)); } # of the time left

# step NAME LIMIT FILE COMMAND...: run for at most LIMIT seconds; output goes to FILE.
step() {
    local name=$1 limit=$2 file=$3 code
    shift 3
    if [ "$limit" -lt 5 ]; then
        say "$name: skipped, no time is left"
        status=1
        return 1
    fi
    say "$name (at most $limit s)"
    # An interrupt lets pytest say what failed and a benchmark keep its rows.
    timeout --signal=INT --kill-after=10 "$limit" "$@" >>"$file" 2>&1
    code=$?
    case $code in
        0) say "$name: done" ;;
        124 | 137) say "$name: out of time" && status=1 ;;
        *) say "$name: FAILED with $code" && status=1 ;;
    esac
    return $code
}

architecture=$("$python" benchmarks/_suite.py architecture 2>>"$log") || {
    say "this torch sees no CUDA GPU; the log says why"
    exit 1
}
say "GPU architecture $architecture"

# From scratch: a kernel is recorded as verified by its sources, so no older library may serve.
rm -rf build hashfast/_C.abi3.so hashfast/_C_cuda.abi3.so
build() { # NAME HASHFAST_CUDA
    step "$1" "$(percent 50)" "$out/build.log" env HASHFAST_CUDA="$2" \
        TORCH_CUDA_ARCH_LIST="$architecture" "$python" setup.py build_ext --inplace
}
if ! build build 1; then
    tail -n 40 "$out/build.log" | tee -a "$log"
    # One library that fails keeps the others back; Triton's kernels can still be tested.
    build "build for the CPU alone" 0
fi

step environment "$(percent 20)" "$log" sh -c '"$0" benchmarks/_suite.py environment >"$1"' \
    "$python" "$out/environment.json"
cat "$out/environment.json"

# Tests use the GPU little, so all sets run at once, and in processes of their own: an error on the
# GPU outlives whatever caused it. A set for each family of operations, as Triton compiles for long.
pytest=("$python" -m pytest -m "not slow" -p no:cacheprovider -o junit_family=xunit2)
share=$(percent 40)
running=()
tests() { # NAME ARGUMENTS...: of pytest
    local name=tests-$1
    shift
    {
        step "$name" "$share" "$out/$name.log" "${pytest[@]}" "$@" --junitxml="$reports/$name.xml"
        code=$?
        # 1: some tests failed, which the report names; with any other status it is not whole.
        [ $code -le 1 ] || rm -f "$reports/$name.xml"
        exit $code
    } &
    running+=($!)
}
operations=$("$python" benchmarks/_suite.py operations 2>>"$log")
for family in $(sed 's/_.*//' <<<"$operations" | sort -u); do
    tests "$family" tests/test_ops.py -k "cuda and $family"
done
tests sizes tests/test_hamming_cuda.py
tests triton tests/test_triton_hamming.py -k "gpu or graph"
for job in "${running[@]}"; do wait "$job" || status=1; done
cat "$out"/tests-*.log >>"$log" && rm -f "$out"/tests-*.log
step verify "$(percent 20)" "$log" "$python" benchmarks/verify_gpu.py --junit "$reports"/*.xml
cp tests/gpu_verified.json "$out/"

step "instruction rates" "$(percent 20)" "$log" \
    "$python" benchmarks/instruction_rates.py --out "$out/instructions.csv"

# Nothing new is started in the last third of a share, so few benchmarks are interrupted.
share=$(percent 30)
step "benchmark of searches" "$share" "$log" "$python" benchmarks/bench_search_gpu.py \
    --set bars --stop $((share * 2 / 3)) --out "$out/search.csv"
share=$(percent 20)
step "searches of paper 004" "$share" "$log" "$python" benchmarks/bench_search_gpu.py \
    --set table3 --queries 8 512 --stop $((share * 2 / 3)) --out "$out/search.csv"
step "benchmark of mAP" "$(percent 15)" "$log" \
    "$python" benchmarks/bench_metrics.py --device cuda --out "$out/metrics.csv"

reserve=$(percent 50) # for the sanitizer and the other tests
bench() { # SHARE NAME OPERATIONS...
    local share=$1 name=$2
    shift 2
    step "$name" "$share" "$log" "$python" benchmarks/bench_ops.py --device cuda --ops "$@" \
        --seconds $((share * 2 / 3)) --out "$out/bench.csv"
}
# shellcheck disable=SC2046 # names, a word each
bench $((($(left) - reserve) / 2)) "benchmark of hamming operations" \
    $(grep ^hamming <<<"$operations")
# shellcheck disable=SC2046
bench $(($(left) - reserve)) "benchmark of other operations" $(grep -v ^hamming <<<"$operations")

sanitizer=$(PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:/usr/local/cuda/compute-sanitizer" \
    command -v compute-sanitizer)
if [ -n "$sanitizer" ]; then
    for tool in memcheck racecheck; do
        step "$tool" "$(percent 30)" "$log" "$sanitizer" --tool "$tool" --error-exitcode 9 \
            "$python" benchmarks/_sanitized.py
    done
else
    say "memcheck, racecheck: skipped, there is no compute-sanitizer"
fi

# Named one by one: pytest sorts what a folder holds.
others=$("$python" benchmarks/_suite.py tests 2>>"$log")
# shellcheck disable=SC2086 # paths, a word each
step "other tests" "$(left)" "$log" "${pytest[@]}" $others --durations=5

grep -E '^(FAILED|ERROR|WRONG|MISSED|passed|note:|=+ (ERROR|RACECHECK))|(passed|failed).* in ' "$log" | tail -n 80
say "finished; results in $out"
exit $status
