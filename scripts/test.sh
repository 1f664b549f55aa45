#!/usr/bin/env bash
# test.sh: lint, then every test. Goes on after a failure so that one run tells all, prints how many tests ran, and ends
# non-zero if any failed or if none ran.
set -uo pipefail
cd "$(dirname "$0")/.."
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
failed=()

part() { # part NAME COMMAND...
    local name="$1" start=$SECONDS
    shift
    echo "== $name"
    "$@" 2>&1 | tee -a "$log"
    local code=${PIPESTATUS[0]}
    [ "$code" = 0 ] || failed+=("$name")
    echo "== $name: $([ "$code" = 0 ] && echo ok || echo FAILED) after $((SECONDS - start)) s"
}

part lint make --no-print-directory lint
part tests make --no-print-directory test-all

read -r passed broken ignored < <(
    awk '/^test result: /{p += $4; f += $6; i += $8} END {print p + 0, f + 0, i + 0}' "$log"
)
echo
[ ${#failed[@]} = 0 ] || echo "failed parts: ${failed[*]}"
[ ${#failed[@]} != 0 ] && [ "$broken" = 0 ] && broken=1
echo "esr: $passed passed, $broken failed, $ignored skipped"
[ ${#failed[@]} = 0 ] && [ "$passed" -gt 0 ]
