#!/usr/bin/env bash
# setup.sh [demo|train|arm]...: installs the Debian packages that building, testing and the demo need, if any is missing.
# Works as root, or as an ordinary user with sudo; otherwise says what to install. Asks nothing and touches no cluster.
set -euo pipefail

packages=(postgresql-15 postgresql-client-15 postgresql-server-dev-15 libclang-dev gcc libc6-dev make python3 python3-pip unzip)
for extra in "$@"; do
    case "$extra" in
        # speech synthesisers: the demo's own clips, and the trainer's synthesised styles
        demo | train) packages+=(espeak-ng flite) ;;
        # cross compiler and emulator: the NEON kernels' tests on another CPU
        arm) packages+=(qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross) ;;
        *) echo "setup.sh: unknown part '$extra' (demo, train, arm)" >&2; exit 2 ;;
    esac
done

missing=()
for package in "${packages[@]}"; do
    # A tool that came some other way (a Python of one's own, say) is as good as the package.
    case "$package" in
        python3) command -v python3 >/dev/null && continue ;;
        python3-pip) python3 -m pip --version >/dev/null 2>&1 && continue ;;
        gcc | make | unzip | espeak-ng | flite) command -v "$package" >/dev/null && continue ;;
    esac
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done

if ((${#missing[@]})); then
    echo "installing: ${missing[*]}"
    if [ "$(id -u)" = 0 ]; then
        run=()
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        run=(sudo)
    else
        echo "setup.sh: not root and no password-less sudo; as root, run:" >&2
        echo "  apt-get install ${missing[*]}" >&2
        exit 1
    fi
    # A new server package must not start a cluster of its own.
    "${run[@]}" mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo 'create_main_cluster = false' | "${run[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
    "${run[@]}" apt-get update -q
    "${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

if ! command -v cargo >/dev/null; then
    echo "setup.sh: no cargo found; install Rust 1.95 or newer (https://rustup.rs), then run this again" >&2
    exit 1
fi
