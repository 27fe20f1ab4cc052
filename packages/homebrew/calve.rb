# Homebrew's formula. scripts/release fills it in. Not tried: no machine with Homebrew has run it yet.
class Calve < Formula
  desc "Worktrees with dependencies and build output, for almost no disk"
  homepage "https://github.com/calve-rs/calve"
  version "@VERSION@"
  license any_of: ["MIT", "Apache-2.0"]

  on_macos do
    on_arm do
      url "https://github.com/calve-rs/calve/releases/download/v@VERSION@/calve-@VERSION@-aarch64-apple-darwin.tar.gz"
      sha256 "@SHA256 aarch64-apple-darwin@"
    end
    on_intel do
      url "https://github.com/calve-rs/calve/releases/download/v@VERSION@/calve-@VERSION@-x86_64-apple-darwin.tar.gz"
      sha256 "@SHA256 x86_64-apple-darwin@"
    end
  end

  on_linux do
    on_arm do
      url "https://github.com/calve-rs/calve/releases/download/v@VERSION@/calve-@VERSION@-aarch64-unknown-linux-musl.tar.gz"
      sha256 "@SHA256 aarch64-unknown-linux-musl@"
    end
    on_intel do
      url "https://github.com/calve-rs/calve/releases/download/v@VERSION@/calve-@VERSION@-x86_64-unknown-linux-musl.tar.gz"
      sha256 "@SHA256 x86_64-unknown-linux-musl@"
    end
  end

  def install
    bin.install "calve"
    man1.install Dir["man/*.1"]
    bash_completion.install "completions/calve.bash" => "calve"
    zsh_completion.install "completions/_calve"
    fish_completion.install "completions/calve.fish"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/calve --version")
  end
end
