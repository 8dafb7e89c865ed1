# Sourced by the scripts beside it: messages, and what they install on the system.
# shellcheck shell=bash

say() { printf '%s\n' "tools/$(basename "$0"): $*" >&2; }
die() {
    say "error: $*"
    exit 1
}

# Installs system packages; the package lists are refreshed only when they do not suffice.
apt_install() {
    command -v apt-get >/dev/null || die "no apt-get here; install by hand what stands in for Debian's: $*"
    local sudo=() install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends)
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            die "this needs root, and there is no sudo; as root, run: apt-get install $*"
        sudo=(sudo)
    fi
    say "installing with apt-get${sudo:+, through sudo}: $*"
    if ! "${sudo[@]}" "${install[@]}" "$@" >/dev/null 2>&1; then
        say "refreshing apt's package lists"
        "${sudo[@]}" apt-get update -qq >&2 || say "apt-get update failed; is there a network?"
        "${sudo[@]}" "${install[@]}" "$@" >&2 || die "could not install: $*"
    fi
}

# Is there a Vulkan loader?
system_loader() {
    local lib
    for lib in /usr/lib/*/libvulkan.so.1 /usr/lib/libvulkan.so.1 /usr/lib64/libvulkan.so.1 /usr/local/lib/libvulkan.so.1; do
        [ -e "$lib" ] && return 0
    done
    return 1
}

# What a build needs: cargo, and a C and C++ compiler (the linker, and the H.264 encoder's source).
need_build_tools() {
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    command -v cargo >/dev/null || die "there is no cargo; install Rust with rustup first"
    if ! command -v cc >/dev/null || ! command -v c++ >/dev/null; then
        apt_install build-essential
    fi
}
