#!/bin/sh
# Installs this bundle into PREFIX/<version>, makes PREFIX/current name it, and installs the service.  Needs a python3 of
# the right version and nothing else: no pip, no venv, no network.  The version before stays, to go back to.
set -eu
cd "$(dirname "$0")"
umask 022

prefix=/opt/edgeswarm
root=
python=
service=yes
stage=
force=

usage() {
  cat <<'TEXT'
usage: ./install.sh [options] [-- options of `edgeswarm daemon install`]
  --prefix DIR    where versions live (default: /opt/edgeswarm)
  --root DIR      install into the image whose file system lies there
  --python PATH   the interpreter, as the machine will call it (default: the first python3 that fits)
  --no-service    unpack and switch; install no service
  --stage         unpack only: `edgeswarm daemon upgrade` switches, and goes back by itself when it does not become healthy
  --force         replace this version where it is there with other content
after it: PREFIX/bin/edgeswarm is the program, PREFIX/current the version
TEXT
}
say() { printf 'install.sh: %s\n' "$*" >&2; }
fail() {
  say "$@"
  exit 1
}
value() { [ $# -ge 2 ] && [ -n "$2" ] || fail "$1: expected a value"; }

while [ $# -gt 0 ]; do
  case $1 in
  --prefix) value "$@"; prefix=$2; shift ;;
  --root) value "$@"; root=$2; shift ;;
  --python) value "$@"; python=$2; shift ;;
  --no-service) service= ;;
  --stage) stage=yes ;;
  --force) force=yes ;;
  -h | --help) usage; exit 0 ;;
  --) shift; break ;;
  *) usage >&2; fail "unknown option $1" ;;
  esac
  shift
done
case $prefix in /*) ;; *) fail "--prefix $prefix: expected an absolute path" ;; esac
case "$prefix$root" in *[!A-Za-z0-9._+/-]*) fail "paths: expected letters, digits and . _ + - /, found $root$prefix" ;; esac
case $root in
'' | /) root= ;;
*)
  [ -d "$root" ] || fail "--root $root: not a folder"
  root=$(cd "$root" && pwd -P)
  [ "$root" != / ] || root=
  ;;
esac

# --- the interpreter: the machine's own, as it will call it; an image's is only looked at
minor_of() { "$1" -IS -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
candidates() {
  for name in python3 python3.13 python3.12 python3.11; do # the system's first: the service sees nothing below /home
    printf '%s\n' "/usr/bin/$name" "/usr/local/bin/$name"
    command -v "$name" 2>/dev/null || true
  done
}
runs= # what unpacks, here and now
[ -n "$root" ] || runs=$python
if [ -z "$runs" ]; then
  for path in $(candidates); do
    [ -x "$path" ] && [ -n "$(minor_of "$path")" ] && { runs=$path; break; }
  done
fi
[ -n "$runs" ] || fail "no python3 here; install your distribution's python3 (3.11 or later)"
minor_of "$runs" >/dev/null || fail "--python $runs: does not run"
if [ -z "$root" ]; then
  if [ -z "$python" ]; then
    pythons=$("$runs" -IS -c 'import json; print(*json.load(open("bundle.json"))["pythons"])')
    for path in $(candidates); do
      case " $pythons " in *" $(minor_of "$path") "*) python=$path; break ;; esac
    done
    [ -n "$python" ] || fail "expected Python $pythons, found $("$runs" --version 2>&1); name another one with --python"
  fi
  runs=$python
  version_of_python=$(minor_of "$python")
else
  [ -n "$python" ] || python=/usr/bin/python3
  # python3 -> python3.11, within the image
  path=$python
  for _ in 1 2 3 4 5 6 7 8; do
    [ -L "$root$path" ] || break
    target=$(readlink "$root$path")
    case $target in /*) path=$target ;; *) path=${path%/*}/$target ;; esac
  done
  [ -f "$root$path" ] || fail "$root$python: no python3 in the image; name it with --python"
  version_of_python=${path##*/python}
fi
case $version_of_python in 3.[0-9]*) ;; *) fail "$python: expected a name such as python3.11, found ${path:-$python}" ;; esac

# --- this bundle, this machine
"$runs" -IS unpack.py check
"$runs" -IS unpack.py fits "$version_of_python" "${root:-/}"
version=$("$runs" -IS -c 'import json; print(json.load(open("bundle.json"))["version"])')
sums=$("$runs" -IS -c 'import hashlib; print(hashlib.sha256(open("SHA256SUMS", "rb").read()).hexdigest())')

# --- unpack beside, then into its place in one step
into="$root$prefix"
mkdir -p "$into/bin" 2>/dev/null || fail "$into: may not be written; run it as root, or name another --prefix"
[ -w "$into" ] || fail "$into: may not be written; run it as root, or name another --prefix"
if [ -e "$into/$version" ] && grep -q "\"sums\": \"$sums\"" "$into/$version/bundle.json" 2>/dev/null &&
  grep -q "\"unpacked_for\": \"$version_of_python\"" "$into/$version/bundle.json"; then
  say "$version is there already"
else
  if [ -e "$into/$version" ] && [ -z "$force" ]; then
    fail "$into/$version: is there with other content, or for another Python; --force replaces it"
  fi
  rm -rf "$into/.$version.new" "$into/.$version.old"
  mkdir "$into/.$version.new"
  "$runs" -IS unpack.py unpack "$version_of_python" "$into/.$version.new" "$prefix/$version"
  [ ! -e "$into/$version" ] || mv "$into/$version" "$into/.$version.old"
  mv "$into/.$version.new" "$into/$version"
  rm -rf "$into/.$version.old"
  say "unpacked $into/$version for Python $version_of_python"
fi

# --- the launcher belongs to no version; an interpreter's path is what differs
{
  printf '#!%s -IS\n' "$python"
  tail -n +2 launcher.py
} >"$into/bin/.edgeswarm.new"
chmod 755 "$into/bin/.edgeswarm.new"
mv -f "$into/bin/.edgeswarm.new" "$into/bin/edgeswarm"
[ -n "$stage" ] && {
  say "staged; switch with: $prefix/bin/edgeswarm daemon upgrade $version"
  exit 0
}

# --- the link, in one step; the version before stays
switch() { # name, target
  rm -f "$into/.$1.new"
  ln -s "$2" "$into/.$1.new"
  "$runs" -IS -c 'import os, sys; os.replace(*sys.argv[1:])' "$into/.$1.new" "$into/$1"
}
before=$(readlink "$into/current" 2>/dev/null || true)
if [ "$before" != "$version" ]; then
  [ -z "$before" ] || switch previous "$before"
  switch current "$version"
fi
# what is neither of the two is room for the next
for mark in "$into"/*/bundle.json; do
  name=${mark%/bundle.json}
  name=${name##*/}
  case $name in "$version" | "$(readlink "$into/previous" 2>/dev/null)" | current | previous) continue ;; esac
  [ -L "$into/$name" ] || rm -rf "${into:?}/$name"
done
sync
[ "$before" = "$version" ] || say "current is $version${before:+, before it was $before}"
[ -n "$service" ] || exit 0

# --- the service
if [ -n "$root" ]; then # no program of the image is run: it may be of another machine, and of another Python
  set -- "$into/$version/lib" daemon install --root "$root" --program "$prefix/bin/edgeswarm" "$@"
  exec "$runs" -IBS -c 'import sys; sys.path.insert(0, sys.argv.pop(1)); from edgeswarm.__main__ import main; main()' "$@"
fi
exec "$into/bin/edgeswarm" daemon install --program "$prefix/bin/edgeswarm" "$@"
