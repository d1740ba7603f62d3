#!/usr/bin/env bash
# Build from scratch, test and measure on this machine's CUDA GPU, within SECONDS; no network is
# needed.
#
#   benchmarks/gpu_suite.sh OUT_FOLDER SECONDS
#
# Needs torch >= 2.11 with CUDA, a toolkit with nvcc, pytest, setuptools, ninja. PYTHON names the
# interpreter (default python3), HASHFAST_COMMIT what to record where there is no git. A step that
# fails or runs out of time leaves the results of the others alone; the exit status tells.
#
# 500 seconds are enough on an H200 with 16 CPU cores. What takes longer is run by itself:
# bench_search_gpu.py --set table3 and --set full.
#
# OUT_FOLDER receives: suite.log (steps and their output), build.log (with the kernels' registers),
# environment.json, junit-kernels.xml, junit-rest.xml, gpu_verified.json, and rows of measurements:
# instructions.csv, search.csv, metrics.csv, bench.csv.
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
rm -f "$out"/{suite.log,build.log,environment.json,junit-kernels.xml,junit-rest.xml} \
    "$out"/{instructions,search,metrics,bench}.csv

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
    # An interrupt lets pytest write its report and a benchmark keep its rows.
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
step build "$(percent 50)" "$out/build.log" env HASHFAST_CUDA=1 TORCH_CUDA_ARCH_LIST="$architecture" \
    "$python" setup.py build_ext --inplace || tail -n 40 "$out/build.log" | tee -a "$log"

step environment "$(percent 20)" "$log" sh -c '"$0" benchmarks/_suite.py environment >"$1"' \
    "$python" "$out/environment.json"
cat "$out/environment.json"

pytest=("$python" -m pytest -m "not slow" -p no:cacheprovider -o junit_family=xunit2)
step kernels "$(percent 40)" "$log" "${pytest[@]}" tests/test_ops.py -k cuda \
    --junitxml="$out/junit-kernels.xml"
# 1: some tests failed, which the report names; with any other status it is not whole.
[ $? -le 1 ] && step verify "$(percent 20)" "$log" \
    "$python" benchmarks/verify_gpu.py --junit "$out/junit-kernels.xml"
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

# An operation a process: an error on the GPU outlives whatever caused it.
mapfile -t operations < <("$python" benchmarks/_suite.py operations 2>>"$log")
if [ ${#operations[@]} -eq 0 ]; then
    say "no operation could be listed: nothing is measured"
    status=1
fi
reserve=$(percent 50) # for the sanitizer and the other tests
for i in "${!operations[@]}"; do
    share=$((($(left) - reserve) / (${#operations[@]} - i)))
    step "benchmark of ${operations[i]}" "$share" "$log" \
        "$python" benchmarks/bench_ops.py --device cuda --ops "${operations[i]}" \
        --seconds $((share * 2 / 3)) --out "$out/bench.csv"
done

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

ignored=(--ignore=tests/test_ops.py)
while read -r file; do ignored+=("--ignore=$file"); done \
    < <("$python" benchmarks/_suite.py unrunnable 2>>"$log")
# Those of the searches first: time may run out.
first=(tests/test_hamming*.py tests/test_index*.py tests/test_metrics*.py)
step "other tests" "$(left)" "$log" "${pytest[@]}" "${first[@]}" tests "${ignored[@]}" --durations=5 \
    --junitxml="$out/junit-rest.xml"

grep -E '^(FAILED|ERROR|WRONG|MISSED|passed|note:|=+ (ERROR|RACECHECK))|(passed|failed).* in ' "$log"
say "finished; results in $out"
exit $status
