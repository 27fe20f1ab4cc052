# For nixpkgs' callPackage. scripts/release fills it in. Not tried: no machine with nix has run it yet.
{ lib, stdenvNoCC, fetchurl }:
let
  version = "@VERSION@";
  builds = {
    x86_64-linux = { target = "x86_64-unknown-linux-musl"; sha256 = "@SHA256 x86_64-unknown-linux-musl@"; };
    aarch64-linux = { target = "aarch64-unknown-linux-musl"; sha256 = "@SHA256 aarch64-unknown-linux-musl@"; };
    x86_64-darwin = { target = "x86_64-apple-darwin"; sha256 = "@SHA256 x86_64-apple-darwin@"; };
    aarch64-darwin = { target = "aarch64-apple-darwin"; sha256 = "@SHA256 aarch64-apple-darwin@"; };
  };
  build = builds.${stdenvNoCC.hostPlatform.system};
in
stdenvNoCC.mkDerivation {
  pname = "calve";
  inherit version;
  src = fetchurl {
    url = "https://github.com/calve-rs/calve/releases/download/v${version}/calve-${version}-${build.target}.tar.gz";
    inherit (build) sha256;
  };
  installPhase = ''
    install -D calve $out/bin/calve
    install -Dm644 -t $out/share/man/man1 man/*.1
    install -Dm644 completions/calve.bash $out/share/bash-completion/completions/calve
    install -Dm644 -t $out/share/zsh/site-functions completions/_calve
    install -Dm644 -t $out/share/fish/vendor_completions.d completions/calve.fish
  '';
  meta = {
    description = "Worktrees with dependencies and build output, for almost no disk";
    homepage = "https://github.com/calve-rs/calve";
    license = with lib.licenses; [ mit asl20 ];
    platforms = builtins.attrNames builds;
    mainProgram = "calve";
  };
}
