#!/bin/sh
# Installs what packaging/files lists, for `make install`: below DESTDIR, with PREFIX in the place of /usr. Settings and profiles that
# are there already are kept.
set -eu
cd "$(dirname "$0")/.."

: "${PREFIX:?} ${DESTDIR?} ${BIN:?} ${VERSION:?} ${SOURCE_DATE_EPOCH:?}"
prefix=$PREFIX
case $prefix in
/*) ;;
*)
    echo "gatewarden: PREFIX has to be an absolute path, and is \"$prefix\"" >&2
    exit 1
    ;;
esac
while [ "${prefix%/}" != "$prefix" ]; do prefix=${prefix%/}; done
date=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d)

# fill: what depends on the place and the version.
fill() {
    hook="s|^|&|"
    if [ "$prefix" != /usr ]; then
        hook="s|^# hook .*|hook = \"$prefix/libexec/gatewarden/gatewarden-hook\"|"
    fi
    sed -e "s|@DATE@|$date|; s|@VERSION@|$VERSION|; s|/usr/bin/gatewarden|$prefix/bin/gatewarden|" -e "$hook" "$1"
}

while read -r mode source target marks; do
    case $mode in '' | '#'*) continue ;; esac
    case ,$marks, in
    *,install,*) ;;
    *,deb,* | *,rpm,*) continue ;;
    esac
    case $target in /usr/*) target=$prefix${target#/usr} ;; esac
    at=${DESTDIR%/}$target
    case $source in
    -)
        install -d -m "$mode" "$at"
        continue
        ;;
    bin/*) source=$BIN/${source#bin/} ;;
    esac
    if [ ! -e "$source" ]; then
        echo "gatewarden: $source is missing: make build makes the programs" >&2
        exit 1
    fi
    case ,$marks, in
    *,config,*)
        if [ -e "$at" ]; then
            echo "kept: $at"
            continue
        fi
        ;;
    esac
    case $target in
    */man/* | *.service | */config.toml)
        install -d "$(dirname "$at")"
        fill "$source" >"$at.new"
        chmod "$mode" "$at.new"
        mv "$at.new" "$at"
        ;;
    *) # by a rename, so that running wardens keep their program
        install -D -m "$mode" "$source" "$at.new"
        mv "$at.new" "$at"
        ;;
    esac
done <packaging/files
