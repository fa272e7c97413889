#!/bin/bash
# Everything that only a machine with a GPU can show, in one call under 8 minutes: tests marked gpu, the GPU targets,
# cpu_vs_gpu and speedrun, with the equivalence gate on every cell. Needs torch, no network, neither mlflow nor pydantic:
# the grids were resolved beforehand, on any machine, by
#     for grid in cpu_vs_gpu speedrun; do python -m mnistbench plan $grid --resolved gpu/$grid.json; done
#
#     benchmarks/on_gpu.sh DATA RESOLVED OUT
#
# DATA has MNIST/raw, RESOLVED the resolved grids, and OUT receives the results folders; bring them back to
# results/reference/, and mirror and report them where everything is installed (`sync`, `report`).
set -uo pipefail
cd "$(dirname "$0")/.."
if (($# != 3)); then
    sed -n '2,12p' "$0" >&2
    exit 2
fi
export MNISTBENCH_DATA="$1"
export MNISTBENCH_NO_SKIPS=1  # without its data a test fails
resolved=$2 out=$3 failed=0
for grid in speedrun cpu_vs_gpu; do
    python3 - "$resolved/$grid.json" <<'PYTHON' || exit 2
import json, sys
cells = json.load(open(sys.argv[1]))["cells"]
if not any(cell["device"].startswith("cuda") for cell in cells):
    sys.exit(f"{sys.argv[1]} has no cell for a GPU: make it with `plan --device cuda`")
PYTHON
done
mkdir -p "$out"
python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "torch sees no CUDA device here" >&2
    exit 2
}
timeout 120 python3 -m pytest -q -m gpu -p no:cacheprovider tests/test_gpu.py || failed=1
for grid in speedrun cpu_vs_gpu; do
    timeout 150 python3 -m mnistbench run "$resolved/$grid.json" --out "$out/$grid" --no-tracking || failed=1
done
exit $failed
