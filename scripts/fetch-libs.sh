#!/usr/bin/env bash
# fetch-libs.sh onnxruntime|onnxruntime-gpu|libtorch...: puts third-party libraries into the cache, taken from wheels with
# pip, and prints one line of shell per library that says where it is:
#   ORT_DYLIB_PATH=.../libonnxruntime.so.1.32.0    ONNX Runtime, CPU (what the extension runs)
#   ORT_DYLIB_PATH=.../libonnxruntime.so.1.31.1    ONNX Runtime, CUDA 13 and CPU (x86-64; a 256 MB download, 0.3 GB kept); CUDA's
#                                                  and cuDNN 9's own libraries must be where the loader finds them
#   LIBTORCH=.../libtorch                          libtorch 2.11.0, CPU only (what the trainer runs; needs gcc)
# The cache is $ESR_CACHE, else $XDG_CACHE_HOME/esr, else ~/.cache/esr. A library that is there is not fetched again.
set -euo pipefail

ort_version=1.32.0
ort_gpu_version=1.31.1 # the newest on PyPI with CUDA
torch_version=2.11.0
cache="$(realpath -m "${ESR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/esr}")/libs"
mkdir -p "$cache"

work=""
trap '[ -z "$work" ] || rm -rf "$work"' EXIT

wheel() { # wheel NAME==VERSION...: downloads wheels for this platform, whatever Python runs pip
    local arguments=()
    for platform in manylinux_2_28 manylinux_2_27 manylinux_2_25 manylinux_2_17 manylinux2014; do
        arguments+=(--platform "${platform}_$(uname -m)")
    done
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --implementation cp --python-version 3.11 "${arguments[@]}" --dest "$work" "$@" >&2
}

fetch_onnxruntime() {
    local target="$cache/onnxruntime"
    if [ ! -e "$target/libonnxruntime.so.$ort_version" ]; then
        echo "fetching ONNX Runtime $ort_version" >&2
        work="$(mktemp -d)"
        wheel "onnxruntime==$ort_version"
        mkdir -p "$target"
        unzip -q -o -j "$work"/onnxruntime-*.whl 'onnxruntime/LICENSE' 'onnxruntime/ThirdPartyNotices.txt' \
            'onnxruntime/capi/libonnxruntime.so.*' -d "$target"
        rm -rf "$work"
    fi
    # The name by which programs find it when nobody tells them a path.
    [ "$target/libonnxruntime.so" -ef "$target/libonnxruntime.so.$ort_version" ] ||
        ln -sfn "libonnxruntime.so.$ort_version" "$target/libonnxruntime.so"
    echo "ORT_DYLIB_PATH=$target/libonnxruntime.so.$ort_version"
}

fetch_onnxruntime_gpu() {
    local target="$cache/onnxruntime-gpu"
    if [ ! -e "$target/libonnxruntime.so.$ort_gpu_version" ]; then
        echo "fetching ONNX Runtime $ort_gpu_version for CUDA 13 (a 256 MB download, 0.3 GB kept)" >&2
        work="$(mktemp -d)"
        wheel "onnxruntime-gpu==$ort_gpu_version"
        mkdir -p "$target"
        # ONNX Runtime looks for its providers beside itself; TensorRT's is left out.
        unzip -q -o -j "$work"/onnxruntime_gpu-*.whl 'onnxruntime/LICENSE' 'onnxruntime/ThirdPartyNotices.txt' \
            'onnxruntime/capi/libonnxruntime_providers_shared.so' 'onnxruntime/capi/libonnxruntime_providers_cuda.so' -d "$target"
        # Last: marks the folder as whole.
        unzip -q -o -j "$work"/onnxruntime_gpu-*.whl "onnxruntime/capi/libonnxruntime.so.$ort_gpu_version" -d "$target"
        rm -rf "$work"
    fi
    echo "ORT_DYLIB_PATH=$target/libonnxruntime.so.$ort_gpu_version"
}

fetch_libtorch() {
    local target="$cache/libtorch"
    if [ ! -e "$target/build-version" ]; then
        echo "fetching libtorch $torch_version (a 530 MB download, 0.5 GB kept)" >&2
        work="$(mktemp -d)"
        wheel "torch==$torch_version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85
        rm -rf "$target"
        mkdir -p "$target/lib"
        unzip -q -o "$work"/torch-*.whl 'torch/include/*' 'torch/lib/libtorch_cpu.so' 'torch/lib/libc10.so' \
            'torch/lib/libgomp.so.1' -d "$work"
        mv "$work"/torch/lib/* "$target/lib/"
        mv "$work/torch/include" "$target/include"
        # libtorch_cpu.so of this wheel asks for these two at load, though nothing here calls them
        unzip -q -o -j "$work"/nvidia_cuda_runtime-*.whl '*/lib/libcudart.so.13' -d "$target/lib"
        unzip -q -o -j "$work"/nvidia_cuda_cupti-*.whl '*/lib/libcupti.so.13' -d "$target/lib"
        # The wheel's own libtorch.so depends on the CUDA half; an empty one that depends on the CPU half links as well.
        gcc -shared -fPIC -x c /dev/null -o "$target/lib/libtorch.so" -Wl,-soname,libtorch.so -L"$target/lib" \
            -Wl,--no-as-needed -ltorch_cpu -Wl,--allow-shlib-undefined -Wl,-rpath,'$ORIGIN'
        echo "$torch_version" >"$target/build-version" # last: marks the folder as whole
        rm -rf "$work"
    fi
    echo "LIBTORCH=$target"
}

[ $# -gt 0 ] || { echo "usage: fetch-libs.sh onnxruntime|onnxruntime-gpu|libtorch..." >&2; exit 2; }
for library in "$@"; do
    case "$library" in
        onnxruntime) fetch_onnxruntime ;;
        onnxruntime-gpu) fetch_onnxruntime_gpu ;;
        libtorch) fetch_libtorch ;;
        *) echo "fetch-libs.sh: unknown library '$library' (onnxruntime, onnxruntime-gpu, libtorch)" >&2; exit 2 ;;
    esac
done
