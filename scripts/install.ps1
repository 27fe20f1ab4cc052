# Installs calve @VERSION@ for you alone, without an administrator. On Windows calve is 'clone' and 'doctor'; there are no worktrees yet.
#
#   irm https://github.com/calve-rs/calve/releases/latest/download/install.ps1 | iex
#   powershell -ExecutionPolicy Bypass -File install.ps1 -Uninstall      # Windows lets no script of a file run by default
#
# CALVE_INSTALL_DIR   where calve.exe goes [default: %LOCALAPPDATA%\Programs\calve]
# CALVE_INSTALL_FROM  a folder with a release's files, to install without a network
param([switch]$Uninstall)

function Set-UserPath($folders) {
    Set-ItemProperty 'HKCU:\Environment' -Name Path -Value ($folders -join ';') -Type ExpandString
    # No running program hears of that. This function tells them, so that new shells have the path.
    [Environment]::SetEnvironmentVariable('CALVE_INSTALLED', '1', 'User')
    [Environment]::SetEnvironmentVariable('CALVE_INSTALLED', [NullString]::Value, 'User')
}

# A function, so that a download that ends early does nothing, and the settings of the shell that reads this stay.
function Install-Calve([switch]$Uninstall) {
    $ErrorActionPreference = 'Stop'
    # Windows' own PowerShell takes minutes to draw the progress of a download.
    $ProgressPreference = 'SilentlyContinue'
    $version = '@VERSION@'
    $name = "calve-$version-x86_64-pc-windows-msvc"
    $to = if ($env:CALVE_INSTALL_DIR) { $env:CALVE_INSTALL_DIR } else { Join-Path $env:LOCALAPPDATA 'Programs\calve' }
    # As it is written: the environment's own function would replace each %NAME% in it by what that means now.
    $path = @((Get-Item 'HKCU:\Environment').GetValue('Path', '', 'DoNotExpandEnvironmentNames') -split ';' | Where-Object { $_ })
    if ($Uninstall) {
        foreach ($file in "$to\calve.exe", "$to\calve.old.exe") {
            if (Test-Path -LiteralPath $file) { Remove-Item -Force -LiteralPath $file }
        }
        if ($path -contains $to) { Set-UserPath ($path | Where-Object { $_ -ne $to }) }
        return "calve is removed from $to"
    }
    if (-not [Environment]::Is64BitOperatingSystem) {
        throw 'install.ps1: there is no build for a Windows of 32 bits; with Rust: cargo install --locked calve-cli'
    }
    $work = Join-Path ([IO.Path]::GetTempPath()) ([IO.Path]::GetRandomFileName())
    New-Item -ItemType Directory $work | Out-Null
    try {
        foreach ($file in 'SHA256SUMS', "$name.tar.gz") {
            if ($env:CALVE_INSTALL_FROM) {
                Copy-Item -LiteralPath (Join-Path $env:CALVE_INSTALL_FROM $file) "$work\$file"
            } else {
                $url = "https://github.com/calve-rs/calve/releases/download/v$version/$file"
                Invoke-WebRequest -UseBasicParsing -Uri $url -OutFile "$work\$file"
            }
        }
        $line = Select-String -LiteralPath "$work\SHA256SUMS" -Pattern "^([0-9a-f]{64}) [ *]$([regex]::Escape($name))\.tar\.gz$"
        if (-not $line) { throw "install.ps1: SHA256SUMS does not name $name.tar.gz" }
        $sum = (Get-FileHash -Algorithm SHA256 -LiteralPath "$work\$name.tar.gz").Hash
        if ($sum -ne $line.Matches[0].Groups[1].Value) {
            throw "install.ps1: $name.tar.gz is damaged: it does not have the checksum of the release. Nothing was installed"
        }
        # Not the tar of git, which takes C: for a machine.
        & "$env:SystemRoot\System32\tar.exe" -xzf "$work\$name.tar.gz" -C $work
        if ($LASTEXITCODE) { throw "install.ps1: could not unpack $name.tar.gz" }
        New-Item -ItemType Directory -Force $to | Out-Null
        # A program that runs can be renamed, and not replaced.
        if (Test-Path -LiteralPath "$to\calve.exe") { Move-Item -Force -LiteralPath "$to\calve.exe" "$to\calve.old.exe" }
        Copy-Item -LiteralPath "$work\$name\calve.exe" "$to\calve.exe"
    } finally {
        Remove-Item -Recurse -Force -LiteralPath $work
    }
    & "$to\calve.exe" --version
    "installed $to\calve.exe"
    if ($path -notcontains $to) {
        Set-UserPath ($path + $to)
        "next: open a new shell, which has $to on its PATH"
    }
}

Install-Calve -Uninstall:$Uninstall
