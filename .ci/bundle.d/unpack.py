"""Unpacks the wheels of a bundle for one Python; needs the standard library only.  Called by install.sh.

unpack.py check                       every file of SHA256SUMS, and no file beside them
unpack.py unpack PYTHON FOLDER FINAL  the wheels that fit that Python into FOLDER/lib, each file checked by its RECORD;
                                      FINAL: where FOLDER will lie on the machine
unpack.py fits ARCH PYTHON [ROOT]     refuse a machine that this bundle is not for
"""

import base64
import hashlib
import json
import os
import platform
import re
import shutil
import struct
import sys
import sysconfig
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
MACHINES = {62: "x86_64", 183: "aarch64", 40: "armv7l", 3: "i686", 243: "riscv64"}
FILE_BYTES_MAX = 256 << 20  # of one file in a wheel: libwasmtime.so has 20 MB
TAG = re.compile(r"-((?:cp|py)[0-9.a-z]+)-([a-z0-9_.]+)-([a-z0-9_.]+)\.whl$")


def fail(text):
    sys.stderr.write(f"install.sh: {text}\n")
    sys.exit(1)


def digest(path):
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            sha.update(piece)
    return sha.hexdigest()


def check():
    """Nothing changed, missing, or added."""
    listed = {}
    with open(os.path.join(HERE, "SHA256SUMS"), encoding="utf-8") as file:
        for line in file:
            value, _, name = line.rstrip("\n").partition("  ")
            listed[name] = value
    there = set()
    for top, _, names in os.walk(HERE):
        there |= {os.path.relpath(os.path.join(top, name), HERE) for name in names}
    there.discard("SHA256SUMS")
    wrong = [f"{name}: is not of this bundle" for name in sorted(there - set(listed))]
    for name, value in sorted(listed.items()):
        path = os.path.join(HERE, name)
        found = digest(path) if os.path.isfile(path) and not os.path.islink(path) else "nothing"
        if found != value:
            wrong.append(f"{name}: expected SHA-256 {value}, found {found}")
    if wrong:
        fail("this bundle is damaged or was changed:\n  " + "\n  ".join(wrong[:20]))


def described():
    with open(os.path.join(HERE, "bundle.json"), encoding="utf-8") as file:
        return json.load(file)


def machine_of(root):
    """Of this machine, or of an image: what its own programs were built for."""
    if root in ("", "/"):
        return platform.machine()
    for name in ("bin/sh", "usr/bin/env", "bin/busybox", "usr/bin/python3", "lib/systemd/systemd"):
        path = os.path.join(root, name)
        for _ in range(8):  # links of the image mean the image
            if os.path.islink(path):
                target = os.readlink(path)
                path = os.path.join(root, target.lstrip("/")) if target[0] == "/" else os.path.join(
                    os.path.dirname(path), target
                )  # fmt: skip
        try:
            with open(path, "rb") as file:
                head = file.read(20)
        except OSError:
            continue
        if head[:4] == b"\x7fELF":
            (number,) = struct.unpack("<H" if head[5] == 1 else ">H", head[18:20])
            return MACHINES.get(number, f"ELF machine {number}")
    return None


def fits(python, root):
    """Refuses with what was expected and what was found."""
    bundle = described()
    found = machine_of(root)
    if found is not None and found != bundle["arch"]:
        fail(f"expected a machine {bundle['arch']}, found {found}: take edgeswarm-{bundle['version']}-{found}.tar.gz")
    if python not in bundle["pythons"]:
        fail(f"expected Python {' or '.join(bundle['pythons'])}, found {python}; name another one with --python")
    if root in ("", "/") and "musl" in (sysconfig.get_config_var("SOABI") or ""):
        fail("expected a system with glibc, found musl (Alpine, OpenWrt): docs/install.md says what to do there")


def wanted(name, minor):
    """Whether a wheel is for Python 3.<minor>."""
    found = TAG.search(name)
    if found is None:
        fail(f"{name}: no name of a wheel")
    pythons, abis, _ = found.groups()
    for tag in pythons.split("."):
        if tag in ("py3", f"py3{minor}", f"cp3{minor}"):
            return True
        if "abi3" in abis.split(".") and re.fullmatch(r"cp3[0-9]+", tag) and int(tag[3:]) <= minor:
            return True
    return False


def place(name):
    """Where a member of a wheel goes below lib/; None: it is not needed.  Raises ValueError for one that climbs out."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or "" in parts[:-1]:
        raise ValueError(name)
    if parts[0].endswith(".data"):
        return "/".join(parts[2:]) if len(parts) > 2 and parts[1] in ("purelib", "platlib") else None
    return name


def unpack_wheel(path, lib):
    """Each file checked against the wheel's own RECORD."""
    with zipfile.ZipFile(path) as archive:
        (record,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", name))
        hashes = {}
        for row in archive.read(record).decode().splitlines():
            name, _, _size = row.rpartition(",")
            name, _, value = name.rpartition(",")
            hashes[name.strip('"')] = value
        for info in archive.infolist():
            target = place(info.filename)
            if info.is_dir() or target is None:
                continue
            if info.file_size > FILE_BYTES_MAX:
                fail(f"{path}: {info.filename}: {info.file_size} bytes, at most {FILE_BYTES_MAX}")
            data = archive.read(info)
            if info.filename != record:
                found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                if hashes.get(info.filename) != f"sha256={found}":
                    fail(f"{path}: {info.filename}: is not what RECORD says")
            out = os.path.join(lib, target)
            os.makedirs(os.path.dirname(out), exist_ok=True)
            with open(out, "wb") as file:
                file.write(data)
            os.chmod(out, 0o644)


def unpack(python, folder, final):
    minor = int(python.partition(".")[2])
    lib = os.path.join(folder, "lib")
    os.makedirs(lib)
    for name in sorted(os.listdir(os.path.join(HERE, "wheels"))):
        if wanted(name, minor):
            unpack_wheel(os.path.join(HERE, "wheels", name), lib)
    if python == f"{sys.version_info[0]}.{sys.version_info[1]}":  # the daemon may not write here: compiled now
        import compileall

        compileall.compile_dir(lib, quiet=2, stripdir=folder, prependdir=final)
    for name in ("SHA256SUMS", "start.py"):
        shutil.copy2(os.path.join(HERE, name), folder)
    bundle = described()
    bundle["unpacked_for"] = python
    bundle["sums"] = digest(os.path.join(HERE, "SHA256SUMS"))
    with open(os.path.join(folder, "bundle.json"), "w", encoding="utf-8") as file:
        json.dump(bundle, file, indent=1)
        file.write("\n")
    for top, _, _ in os.walk(folder):
        os.chmod(top, 0o755)
    os.sync()


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    try:
        if sys.argv[1:] == ["check"]:
            check()
        elif sys.argv[1] == "fits":
            fits(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "/")
        elif sys.argv[1] == "unpack":
            unpack(*sys.argv[2:5])
        else:
            fail(f"expected check, fits or unpack, found {sys.argv[1:]}")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        fail(f"{type(error).__name__}: {error}")
