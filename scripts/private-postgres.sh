#!/usr/bin/env bash
# private-postgres.sh BUILD_DIR TREE: makes a private copy of this machine's PostgreSQL under TREE with esr installed
# in it, and prints its bin folder. Nothing is installed into the system, so neither root nor an existing cluster is
# involved. Relies on PostgreSQL finding its libraries and share files relative to its own executable when the tree has
# the configured shape (src/port/path.c, make_relative_path); programs are copied because it resolves symbolic links.
set -euo pipefail
[ $# = 2 ] || { echo "usage: private-postgres.sh BUILD_DIR TREE" >&2; exit 2; }
build="$1" tree="$(realpath -m "$2")"
here="$(cd "$(dirname "$0")/.." && pwd)"
config="${PG_CONFIG:-pg_config}"
bin="$("$config" --bindir)" libraries="$("$config" --pkglibdir)" share="$("$config" --sharedir)"

# Root's server runs as another user, who must be able to enter the tree.
if [ "$(id -u)" = 0 ]; then
    folder="$(realpath -m "$tree/..")"
    mkdir -p "$folder"
    while [ "$folder" != / ]; do
        if (($(stat -c %a "$folder") % 2 == 0)); then
            tree="/var/tmp/esr-$(printf %s "$tree" | sha256sum | cut -c1-12)"
            break
        fi
        folder="$(dirname "$folder")"
    done
fi

version="$("$config" --version)"
if [ "$(cat "$tree/version" 2>/dev/null)" != "$version" ]; then
    rm -rf "$tree"
    mkdir -p "$tree$bin" "$tree$libraries" "$tree$share/extension"
    cp -L "$bin"/* "$tree$bin/"
    echo "$version" >"$tree/version"
fi
# Every time, because an extension may have been installed or removed since.
find "$tree$libraries" "$tree$share" -xtype l -delete
link() { # link FOLDER: links what the system has in FOLDER, and the tree has not, into the tree
    find "$1" -mindepth 1 -maxdepth 1 ! -name 'esr*' | while read -r entry; do
        [ -e "$tree$entry" ] || ln -s "$entry" "$tree$entry"
    done
}
link "$libraries"
link "$share"
link "$share/extension"
"$here/scripts/install.sh" "$build" "$tree$libraries" "$tree$share"
echo "$tree$bin"
