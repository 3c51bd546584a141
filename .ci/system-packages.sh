#!/usr/bin/env bash
# Two things that pip cannot bring, both optional: a video of real pedestrians (vtest.avi of Debian's opencv-doc) for
# the demo and the tests on photographs, and Chromium for the browser tests.
#
#     .ci/system-packages.sh [video] [chromium]
#
# Never fails; says what is missing. What failed is not tried again for an hour, or until `make clean`.
set -u
cd "$(dirname "$0")/.."
mkdir -p .host

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

updated=
update_once() {
    [ -n "$updated" ] || as_root apt-get update -qq >/dev/null 2>&1 </dev/null
    updated=yes
}

failed_lately() {
    [ -n "$(find .host -maxdepth 1 -name "no-$1" -mmin -60)" ]
}

has_chromium() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null
}

get_chromium() {
    if ! has_chromium && ! failed_lately chromium; then
        if may_install; then
            echo "Installing the system package chromium for the browser tests ..."
            update_once
            as_root env DEBIAN_FRONTEND=noninteractive \
                apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 </dev/null
        fi
        has_chromium || touch .host/no-chromium
    fi
    if ! has_chromium; then
        echo "*** NO CHROMIUM HERE, AND IT COULD NOT BE INSTALLED: THE BROWSER TESTS WILL BE SKIPPED."
        echo "*** On Debian: apt install chromium"
    fi
}

fetch() {
    (cd "$1" && apt-get download -qq opencv-doc >/dev/null 2>&1 </dev/null && dpkg-deb -x opencv-doc_*.deb .)
}

get_video() {
    local scratch found=
    if [ ! -f .host/vtest.avi ] && ! failed_lately video; then
        echo "Fetching the video of pedestrians ..."
        scratch=$(mktemp -d)
        if command -v apt-get >/dev/null && { fetch "$scratch" || { update_once; fetch "$scratch"; }; }; then
            found=$(find "$scratch/usr" -name vtest.avi -print -quit)
        fi
        if [ -n "$found" ]; then mv "$found" .host/vtest.avi; else touch .host/no-video; fi
        rm -rf "$scratch"
    fi
    if [ ! -f .host/vtest.avi ]; then
        echo "Without a video of real people: Debian's opencv-doc, which holds vtest.avi, could not be fetched."
    fi
}

for wanted in "$@"; do
    case $wanted in
        chromium | video) "get_$wanted" ;;
        *) echo "error: there is no $wanted to obtain: say video or chromium." >&2 ;;
    esac
done
exit 0
