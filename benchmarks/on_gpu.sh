#!/bin/bash
# Everything that only a machine with a GPU can show: gpu_probe.py, the tests marked gpu, the grids speedrun and
# cpu_vs_gpu with the equivalence gate on every cell. Needs torch and no network: what else of requirements/core.txt is
# missing there is carried as wheels. On any machine with a network, for the Python and system of the other:
#     pip download --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 --no-deps -d wheels \
#         pydantic pydantic-core annotated-types typing-inspection ruamel.yaml platformdirs
#
#     benchmarks/on_gpu.sh DATA WHEELS OUT
#
# DATA has MNIST/raw, WHEELS the wheels, and OUT receives at most 8 files: a .jsonl for each part of the probe,
# profiles.tar, records.tar (a results folder for each grid; bring them to results/reference/, then `sync` and `report`
# where everything is installed) and log.txt. What fails does not end the rest; what is most important comes first.
# PARTS="facts gates" makes these alone, DEVICE=cpu tries the script without a GPU. Limits: 6 minutes for the probe, 9
# for the rest.
set -uo pipefail
if (($# != 3)); then
    sed -n '2,18p' "$0" >&2
    exit 2
fi
mkdir -p "$3"
data=$(realpath "$1") wheels=$(realpath "$2") out=$(realpath "$3") failed=0
device=${DEVICE:-cuda} parts=${PARTS:-facts gates rates bare profile tests speedrun cpu_vs_gpu} python=${PYTHON:-python3}
cd "$(dirname "$0")/.."
export MNISTBENCH_DATA="$data" PYTHONPATH="$PWD" PYTHONUNBUFFERED=1
export MNISTBENCH_NO_SKIPS=1  # without its data a test fails
if [[ $device == cuda ]]; then
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
        echo "torch sees no CUDA device here" >&2
        exit 2
    }
    only_collect=
else
    only_collect=--collect-only # what is marked gpu cannot pass
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if compgen -G "$wheels/*.whl" >/dev/null; then # beside what is installed, and without their dependencies: torch stays
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$work/site" \
        "$wheels"/*.whl || exit 2
    export PYTHONPATH="$work/site:$PYTHONPATH"
fi
"$python" -m mnistbench plan speedrun || exit 2  # says what is missing, before minutes of the machine are spent

probe() { # PART SECONDS: a process that CUDA errors have spoilt is followed by another, which goes on behind it
    local status=75 until=$((SECONDS + $2)) left
    ln -sf "$out/$1.jsonl" "$work/$1.jsonl" # what is answered when the machine is taken away counts
    while ((status == 75 && SECONDS < until)); do
        left=$((until - SECONDS))
        OUT="$work" timeout -k 5 $((left + 20)) "$python" benchmarks/gpu_probe.py "$1" --device "$device" --seconds $left
        status=$?
    done
    if ((status == 124 || status == 137)) && [[ -s $out/$1.jsonl ]]; then # a question took longer than what was left
        echo "$1: stopped at its limit"
        status=0
    fi
    return $status
}

grid() { # NAME DEVICES SECONDS: no new round after them
    timeout -k 5 $(($3 + 60)) "$python" -m mnistbench run "$1" --set "devices=[$2]" --out "$work/records/$1" \
        --budget "$3s" --no-tracking
}

part() {
    case $1 in
    facts) probe facts 45 ;;
    gates) probe gates 130 ;;
    rates) probe rates 110 ;;
    bare) probe bare 30 ;;
    profile) probe profile 45 ;;
    tests) timeout -k 5 120 "$python" -m pytest -q -m gpu -p no:cacheprovider $only_collect tests/train/test_gpu.py ;;
    speedrun) grid speedrun "$device" 120 ;;
    cpu_vs_gpu) if [[ $device == cpu ]]; then grid cpu_vs_gpu cpu 300; else grid cpu_vs_gpu "cpu, $device" 300; fi ;;
    *) echo "there is no part $1" >&2; return 2 ;;
    esac
}

all_parts() {
    for name in $parts; do
        echo "== $name at ${SECONDS} s"
        part "$name" || { failed=1; echo "== $name failed"; }
        for kept in records profiles; do # after each part: what is there when the machine is taken away counts
            [[ -d $work/$kept ]] && tar -C "$work" -cf "$out/$kept.tar" "$kept"
        done
    done
    return $failed
}

all_parts 2>&1 | tee "$out/log.txt"
exit "${PIPESTATUS[0]}"
