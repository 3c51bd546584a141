#!/usr/bin/env bash
# Two things that pip cannot bring, both optional: Chromium for the browser tests, and a video of real pedestrians
# (vtest.avi of Debian's opencv-doc) for the demo and the tests on photographs. Never fails; says what is missing.
set -u
cd "$(dirname "$0")/.."

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

has_apt() {
    command -v apt-get >/dev/null
}

updated=
update_once() {
    [ -n "$updated" ] || as_root apt-get update -qq >/dev/null 2>&1 </dev/null
    updated=yes
}

if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
    if has_apt && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
        echo "Installing Chromium for the browser tests ..."
        update_once
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 </dev/null
    fi
    if ! command -v chromium >/dev/null; then
        echo "*** NO CHROMIUM HERE, AND IT COULD NOT BE INSTALLED: THE BROWSER TESTS WILL BE SKIPPED."
        echo "*** On Debian: apt install chromium"
    fi
fi

if [ ! -f .host/vtest.avi ]; then
    echo "Fetching the video of pedestrians ..."
    scratch=$(mktemp -d)
    fetch() { (cd "$scratch" && apt-get download -qq opencv-doc >/dev/null 2>&1 </dev/null && dpkg-deb -x opencv-doc_*.deb .); }
    if has_apt && { fetch || { update_once; fetch; }; } &&
        video=$(find "$scratch/usr" -name vtest.avi -print -quit) && [ -n "$video" ]; then
        mkdir -p .host
        mv "$video" .host/vtest.avi
    else
        echo "Without a video of real people: Debian's opencv-doc, which holds vtest.avi, could not be fetched."
    fi
    rm -rf "$scratch"
fi
exit 0
