"""Writes a CycloneDX 1.5 list of what omlxd and omlxctl are built from, out of cargo's own metadata.

    python3 packaging/sbom.py [TARGET] > target/sbom.cdx.json

TARGET is a Rust target (aarch64-apple-darwin unless named): dependencies differ by system. MLX itself
is linked in by mlx-sys and is listed with the version that packaging/homebrew/sources.sh pins.
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ("omlxd", "omlxctl")


def metadata(target):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)


def reached(nodes, roots):
    """The packages that are linked in: no dev-dependency."""
    seen, waiting = set(), list(roots)
    while waiting:
        package = waiting.pop()
        if package in seen:
            continue
        seen.add(package)
        for dependency in nodes[package]["deps"]:
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    return seen


def component(package, checksums):
    purl = f"pkg:cargo/{package['name']}@{package['version']}"
    entry = {
        "type": "library",
        "bom-ref": purl,
        "name": package["name"],
        "version": package["version"],
        "purl": purl,
    }
    if package["license"]:
        # Older manifests write a slash for "or".
        entry["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}]
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return entry


def mlx():
    text = (ROOT / "packaging/homebrew/sources.sh").read_text()
    version = re.search(r"^MLX_VERSION=(\S+)$", text, re.MULTILINE).group(1)
    purl = f"pkg:github/ml-explore/mlx@v{version}"
    licence = [{"expression": "MIT"}]
    return {"type": "library", "bom-ref": purl, "name": "mlx", "version": version, "purl": purl,
            "licenses": licence}


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else "aarch64-apple-darwin"
    data = metadata(target)
    packages = {package["id"]: package for package in data["packages"]}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    roots = [p["id"] for p in data["packages"] if p["name"] in OURS and p["source"] is None]
    linked = [packages[package] for package in reached(nodes, roots)]
    libraries = sorted((p for p in linked if p["source"]), key=lambda p: (p["name"], p["version"]))
    version = next(p["version"] for p in linked if p["name"] == "omlxd")
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": "omlx", "name": "omlx", "version": version,
                          "licenses": [{"expression": "Apache-2.0"}]},
            "properties": [{"name": "omlx:target", "value": target}],
        },
        "components": [component(p, checksums) for p in libraries] + [mlx()],
    }
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


main()
