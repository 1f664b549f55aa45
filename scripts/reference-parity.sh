#!/usr/bin/env bash
# reference-parity.sh: compares the trainer's networks with the published implementations (transformers, FunASR) on small
# random configurations. Makes a Python environment of its own under target/parity (about 2 GB, PyPI only), writes inputs,
# weights and outputs there, and runs the comparing tests. `--fixture` writes the tiny ones that are committed instead.
#
# PyTorch's wheel for Linux needs several GB of CUDA libraries at import, though the comparison runs on the CPU: empty
# libraries of the same names take their place, and one that is loaded first has the names of the functions they lack.
set -euo pipefail
cd "$(dirname "$0")/.."
here="$(pwd)/target/parity"
torch_version=2.11.0
mkdir -p "$here"

if [ ! -e "$here/ready" ]; then
    python3 -m venv "$here/venv"
    pip="$here/venv/bin/python -m pip --disable-pip-version-check --quiet"
    $pip install "transformers==4.57.3" "numpy<2.4" safetensors sentencepiece protobuf "omegaconf==2.3.0" \
        sympy networkx jinja2 fsspec setuptools >&2
    $pip install --no-deps "torch==$torch_version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 "funasr==1.2.6" >&2
    site="$("$here/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
    libs="$site/torch/lib"
    # These two are called at import.
    find "$site/nvidia" \( -name 'libcudart.so.13' -o -name 'libcupti.so.13' \) -exec cp {} "$libs/" \;
    # Names that the wheel's libraries ask for and that are neither in it nor on this system.
    for library in "$libs"/*.so*; do
        readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
    done | sort -u | while read -r name; do
        [ -e "$libs/$name" ] || ldconfig -p | grep -qF "$name " \
            || gcc -shared -fPIC -x c /dev/null -o "$libs/$name" -Wl,-soname,"$name"
    done
    symbols() { for library in "$libs"/*.so*; do nm -D "$1" "$library" 2>/dev/null; done | awk '{print $NF}' | sed 's/@.*//' | sort -u; }
    comm -23 <(symbols --undefined-only) <(symbols --defined-only) | grep -E '^(cu|nv|nccl|__nv)[A-Za-z0-9_]*$' \
        | sed 's/.*/void &(void) {}/' >"$here/absent.c"
    gcc -w -shared -fPIC -o "$here/libabsent.so" "$here/absent.c"
    touch "$here/ready"
fi

export OMP_NUM_THREADS=1
if [ "${1:-}" = --fixture ]; then
    LD_PRELOAD="$here/libabsent.so" exec "$here/venv/bin/python" trainer/parity/make_reference.py --tiny trainer/tests/reference
fi
LD_PRELOAD="$here/libabsent.so" "$here/venv/bin/python" trainer/parity/make_reference.py "$here/reference"
eval "$(scripts/fetch-libs.sh onnxruntime libtorch | sed 's/^/export /')"
ESR_REFERENCE="$here/reference" cargo test -p esr-trainer --test reference -- --ignored --nocapture
