#!/usr/bin/env bash
# install.sh BUILD_DIR PKGLIBDIR SHAREDIR: copies what `make build` made into a PostgreSQL installation.
# BUILD_DIR is target/release or target/debug; the other two are what pg_config --pkglibdir and --sharedir print (a
# package build puts $DESTDIR before them). Files that are there are replaced one rename at a time, so that a running
# server keeps the ones it has open. Of the models, the default one; ESR_MODELS="default research" names others of models/.
set -euo pipefail
[ $# = 3 ] || { echo "usage: install.sh BUILD_DIR PKGLIBDIR SHAREDIR" >&2; exit 2; }
build="$1" libraries="$2" share="$3"
here="$(cd "$(dirname "$0")/.." && pwd)"

put() { # put MODE SOURCE DESTINATION
    mkdir -p "$(dirname "$3")"
    install -m "$1" "$2" "$3.new"
    mv -f "$3.new" "$3"
}

put 755 "$build/libesr.so" "$libraries/esr.so"
put 755 "$build/esr-embedder" "$libraries/esr/esr-embedder"
eval "$("$here/scripts/fetch-libs.sh" onnxruntime)"
put 755 "$ORT_DYLIB_PATH" "$libraries/esr/libonnxruntime.so"
put 644 "$here/extension/esr.control" "$share/extension/esr.control"
for script in "$here"/sql/esr--*.sql; do
    put 644 "$script" "$share/extension/$(basename "$script")"
done
for name in ${ESR_MODELS:-default}; do
    [ -e "$here/models/$name/manifest.toml" ] || { echo "install.sh: there is no model $here/models/$name" >&2; exit 1; }
    for file in "$here/models/$name"/*; do
        put 644 "$file" "$share/esr/models/$name/$(basename "$file")"
    done
done
