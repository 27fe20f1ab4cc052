#!/bin/sh
# Installs calve @VERSION@ for you alone, without root: the command, its manual pages and its completions.
#
#   curl -fsSL https://github.com/calve-rs/calve/releases/latest/download/install.sh | sh
#   sh install.sh --uninstall
#
# CALVE_INSTALL_DIR   where bin/ and share/ are [default: ~/.local]
# CALVE_INSTALL_FROM  a folder with a release's files, to install without a network
set -eu

version=@VERSION@
prefix=${CALVE_INSTALL_DIR:-$HOME/.local}
share=$prefix/share

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

uninstall() {
    rm -f "$prefix/bin/calve" "$share/bash-completion/completions/calve" "$share/zsh/site-functions/_calve" \
        "$share/fish/vendor_completions.d/calve.fish" "$share/man/man1/calve.1" "$share/man/man1/calve-"*.1
    echo "calve is removed from $prefix; the stores of your projects stay"
}

target() {
    machine=$(uname -m)
    case $machine in
        amd64) machine=x86_64 ;;
        arm64) machine=aarch64 ;;
    esac
    case $(uname -s)-$machine in
        Linux-x86_64 | Linux-aarch64) echo "$machine-unknown-linux-musl" ;;
        Darwin-x86_64 | Darwin-aarch64) echo "$machine-apple-darwin" ;;
        *) fail "there is no build for $(uname -s) on $machine; with Rust: cargo install --locked calve-cli" ;;
    esac
}

get() { # NAME: a file of the release, into the folder $work
    if [ "${CALVE_INSTALL_FROM-}" ]; then
        cp "$CALVE_INSTALL_FROM/$1" "$work/$1"
        return
    fi
    url=https://github.com/calve-rs/calve/releases/download/v$version/$1
    if command -v curl >/dev/null; then
        curl --fail --silent --show-error --location --proto '=https' --output "$work/$1" "$url"
    elif command -v wget >/dev/null; then
        wget -q -O "$work/$1" "$url"
    else
        fail "needs curl or wget"
    fi
}

check_sum() { # NAME
    grep " [ *]*$1\$" "$work/SHA256SUMS" >"$work/sum" || fail "SHA256SUMS does not name $1"
    if command -v sha256sum >/dev/null; then
        (cd "$work" && sha256sum -c sum >/dev/null 2>&1)
    else
        (cd "$work" && shasum -a 256 -c sum >/dev/null 2>&1)
    fi || fail "$1 is damaged: it does not have the checksum of the release. Nothing was installed"
}

# A name is replaced at once, so a calve that runs meanwhile goes on.
put() { # FILE PATH MODE
    mkdir -p "${2%/*}"
    cp "$1" "$2.new"
    chmod "$3" "$2.new"
    mv -f "$2.new" "$2"
}

install_all() {
    of=$(target) || exit 1
    name=calve-$version-$of
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    get SHA256SUMS || fail "could not get SHA256SUMS of calve $version"
    get "$name.tar.gz" || fail "could not get $name.tar.gz"
    check_sum "$name.tar.gz"
    gzip -dc "$work/$name.tar.gz" | (cd "$work" && tar -xf -)
    put "$work/$name/calve" "$prefix/bin/calve" 755
    for page in "$work/$name/man/"*.1; do put "$page" "$share/man/man1/${page##*/}" 644; done
    put "$work/$name/completions/calve.bash" "$share/bash-completion/completions/calve" 644
    put "$work/$name/completions/_calve" "$share/zsh/site-functions/_calve" 644
    put "$work/$name/completions/calve.fish" "$share/fish/vendor_completions.d/calve.fish" 644
    "$prefix/bin/calve" --version
    echo "installed $prefix/bin/calve"
    case :$PATH: in
        *:"$prefix/bin":*) echo "next, in a project: calve doctor" ;;
        *) echo "next: put it on your PATH: export PATH=\"$prefix/bin:\$PATH\"" ;;
    esac
}

# All of it is read before any of it runs: a download that ends early does nothing.
case ${1-} in
    --uninstall) uninstall ;;
    '') install_all ;;
    *) fail "usage: install.sh [--uninstall]" ;;
esac
