# Shared by the scripts of this folder: where the tree is, how steps are told, and how a missing thing ends.
# Sourced, never run. Needs bash.

set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"

# Cargo's own folder, where rustup and `cargo install` put programs.
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

say() { printf '\n== %s\n' "$*" >&2; }

# Ends the script: the environment lacks something (exit status 3, as the harness has it).
lack() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 3
}

in_ci() { [ "${CI:-}" = "true" ] || [ "${CI:-}" = "1" ]; }

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        lack "needs root for '$*': run scripts/setup once as root, or install sudo"
    fi
}

# Installs the Debian packages among these that are not there.
install_packages() {
    local package missing=() install
    if ! command -v dpkg-query >/dev/null; then
        say "not Debian: please see to $* yourself"
        return
    fi
    for package in "$@"; do
        if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
            missing+=("$package")
        fi
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    say "Debian packages: ${missing[*]}"
    # An index that is there may be old but good enough; without one, or if that fails, it is fetched.
    install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}")
    if ! as_root "${install[@]}"; then
        as_root apt-get update
        as_root "${install[@]}"
    fi
}

# The features that the binaries are built with: hwloc where its headers are.
features() {
    if pkg-config --exists 'hwloc >= 2.8' libudev 2>/dev/null; then
        printf 'hwloc'
    fi
}
