#!/bin/sh
# Builds the release VERSION into dist/: a binary for each target, the source, an SBOM, and SHA256SUMS.
# Usage: ./release.sh VERSION    (such as v1.2.3: of the tag, or of HEAD where there is no such tag yet)
#        TARGETS="linux/amd64 linux/arm64" ./release.sh VERSION    (only these)
#
# Needs Go, git, gzip and sha256sum; the network only if another Go toolchain is installed than the one below.
# Nothing but the module's own files, the toolchain and these settings goes into a binary. So anybody gets the
# same bytes from the same version, on any machine and in any folder, also by
#
#	CGO_ENABLED=0 GOTOOLCHAIN=go1.26.8 go install -trimpath github.com/mcp-redial/mcp-redial@VERSION
set -eu

toolchain=go1.26.8
targets=${TARGETS:-'linux/amd64 linux/arm64 linux/arm darwin/amd64 darwin/arm64 windows/amd64 windows/arm64'}

[ $# = 1 ] || { echo "usage: $0 VERSION" >&2; exit 2; }
version=$1
cd "$(dirname "$0")"

# Whatever is set on this machine does not count, but for where modules and toolchains come from.
unset $(git rev-parse --local-env-vars) $(env | sed -n 's/^\(GO[A-Z0-9]*\)=.*/\1/p' | grep -vxE 'GOCACHE|GOPROXY|GOSUMDB')
export CGO_ENABLED=0 GOAMD64=v1 GOARM=7 GOARM64=v8.0 GODEBUG= GOENV=off GOFIPS140=off GOFLAGS= GOTOOLCHAIN=$toolchain GOWORK=off

module=$(sed -n 's/^module //p' go.mod)
commit=$(git rev-parse -q --verify "refs/tags/$version^{commit}" || git rev-parse HEAD)
[ -z "$(git status --porcelain)" ] || { echo "$0: there are changes that are not committed" >&2; exit 1; }

work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
rm -rf dist
mkdir dist

export GONOSUMDB="$module" GOPATH="$work/go"

# Go itself makes the module zip, from a clone that has the tag, and its download cache is a module proxy.
git clone -q --bare . "$work/repo"
git -C "$work/repo" tag -f "$version" "$commit" >/dev/null
GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=url.file://$work/repo.insteadOf GIT_CONFIG_VALUE_0=https://$module \
	GOMODCACHE="$work/zip" GOPROXY=direct go mod download "$module@$version"
export GOPROXY="file://$work/zip/cache/download,$(go env GOPROXY)"

for target in $targets; do
	os=${target%/*} arch=${target#*/} exe=
	[ "$os" = windows ] && exe=.exe
	GOOS=$os GOARCH=$arch go install -trimpath "$module@$version"
	built=$work/go/bin/${os}_$arch/mcp-redial$exe
	[ -f "$built" ] || built=$work/go/bin/mcp-redial$exe # this machine's own
	mv "$built" "dist/mcp-redial_${version}_${os}_$arch$exe"
done

git archive --format=tar --prefix="mcp-redial-$version/" "$commit" | gzip -9n >"dist/mcp-redial-$version.tar.gz"

sum=$(go version -m dist/mcp-redial_* | awk '$1 == "mod" { print $4; exit }')
cat >"dist/mcp-redial-$version.cdx.json" <<SBOM
{
  "bomFormat": "CycloneDX",
  "specVersion": "1.6",
  "version": 1,
  "metadata": {
    "component": {
      "type": "application", "bom-ref": "mcp-redial", "name": "mcp-redial", "version": "$version",
      "purl": "pkg:golang/$module@$version",
      "licenses": [{"license": {"id": "MIT"}}],
      "properties": [{"name": "go:h1", "value": "$sum"}, {"name": "git:commit", "value": "$commit"}]
    }
  },
  "components": [
    {
      "type": "library", "bom-ref": "stdlib", "name": "stdlib", "version": "${toolchain#go}",
      "purl": "pkg:golang/stdlib@${toolchain#go}",
      "description": "the Go toolchain and its standard library",
      "licenses": [{"license": {"id": "BSD-3-Clause"}}]
    }
  ],
  "dependencies": [{"ref": "mcp-redial", "dependsOn": ["stdlib"]}, {"ref": "stdlib"}]
}
SBOM

cd dist
sha256sum mcp-redial* >SHA256SUMS
cat SHA256SUMS
