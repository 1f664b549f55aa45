#!/usr/bin/env bash
# emulated-neon.sh: runs the tests of the kernels and of the index on AArch64, so that the NEON code runs where no such CPU is
# at hand. Opt-in: takes Debian's cross compiler and QEMU's user mode emulation (apt) and rustup's standard library for the
# target; slow, since every instruction is translated. Arguments go to `cargo test` (default: the two crates' tests).
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
scripts/setup.sh arm
rustup target list --installed | grep -qx "$target" || rustup target add "$target"

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
[ $# != 0 ] || set -- -p esr-vector -p esr-ivf
exec cargo test --target "$target" --no-fail-fast "$@"
