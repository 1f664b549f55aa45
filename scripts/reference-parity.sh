#!/usr/bin/env bash
# reference-parity.sh: compares the trainer's networks with the published implementations (transformers, FunASR) on small
# random configurations. Makes a Python environment of its own under target/parity (about 2 GB, PyPI only), writes inputs,
# weights and outputs there, and runs the comparing tests. `--fixture` writes the tiny ones that are committed instead.
#
# PyTorch's wheel for Linux needs several GB of CUDA libraries at import, though the comparison runs on the CPU: empty
# libraries of the same names take their place.
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
    $pip install --no-deps "torch==$torch_version" "funasr==1.2.6" >&2
    libs="$("$here/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/torch/lib"
    # Names that the wheel's libraries ask for and that are neither in it nor on this system.
    for library in "$libs"/*.so*; do
        readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
    done | sort -u | while read -r name; do
        [ -e "$libs/$name" ] || ldconfig -p | grep -qF "$name " \
            || gcc -shared -fPIC -x c /dev/null -o "$libs/$name" -Wl,-soname,"$name"
    done
    "$here/venv/bin/python" -c 'import torch; print("PyTorch", torch.__version__)' >&2
    touch "$here/ready"
fi

if [ "${1:-}" = --fixture ]; then
    exec "$here/venv/bin/python" trainer/parity/make_reference.py --tiny trainer/tests/reference
fi
"$here/venv/bin/python" trainer/parity/make_reference.py "$here/reference"
eval "$(scripts/fetch-libs.sh onnxruntime libtorch | sed 's/^/export /')"
ESR_REFERENCE="$here/reference" cargo test -p esr-trainer --test reference -- --ignored --nocapture
