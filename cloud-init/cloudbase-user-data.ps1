#ps1_sysnative
# Every ENI answers by itself from the first boot on: fetches the single file, has it set up what is there, and installs
# it. For images with cloudbase-init, which runs this once, as the system. Needs no internet, only a place that the VPC
# reaches: an OSS bucket's internal address, for instance. Fill in the first two values and paste it all as the
# instance's user data; the other two only where the image has no Python for all users (3.6 or newer).
#
# Ends with 0 or 1 only: to cloudbase-init 1001 to 1003 mean that it shall reboot.
$url = 'https://BUCKET.oss-cn-hangzhou-internal.aliyuncs.com/eni-bootstrap.pyz'
$sha256 = '0000000000000000000000000000000000000000000000000000000000000000'
$pythonUrl = 'https://BUCKET.oss-cn-hangzhou-internal.aliyuncs.com/python-3.12.10-embed-amd64.zip'
$pythonSha256 = '0000000000000000000000000000000000000000000000000000000000000000'

$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$folder = Join-Path $env:ProgramFiles 'eni-bootstrap'  # where only administrators may write

function Fetch($url, $sha256, $path) {
    [Net.ServicePointManager]::SecurityProtocol = [Net.SecurityProtocolType]::Tls12
    $client = New-Object Net.WebClient
    $client.Proxy = $null
    foreach ($attempt in 1..5) {
        try { $client.DownloadFile($url, $path); break } catch {
            if ($attempt -eq 5) { throw }
            Start-Sleep -Seconds 2
        }
    }
    $found = (Get-FileHash -LiteralPath $path -Algorithm SHA256).Hash
    if ($found -ne $sha256) {
        Remove-Item -LiteralPath $path
        throw "${url}: SHA-256 is $found"
    }
}

# A Python for all users, by the registry (PEP 514) or in Program Files, where only administrators may write; nothing
# where there is none.
function Find-Python {
    $known = @(Get-ChildItem 'HKLM:\SOFTWARE\Python\PythonCore' -ErrorAction SilentlyContinue | ForEach-Object {
        $key = Join-Path $_.PSPath 'InstallPath'
        $path = (Get-ItemProperty -LiteralPath $key -ErrorAction SilentlyContinue).'(default)'
        if ($path) { Join-Path $path 'python.exe' }
    })
    $known += @(Get-ChildItem (Join-Path $env:ProgramFiles 'Python3*\python.exe') -ErrorAction SilentlyContinue |
        ForEach-Object { $_.FullName })
    $good = @($known | Where-Object { (Test-Path -LiteralPath $_) -and $_ -like "$env:ProgramFiles\*" } | Where-Object {
        & $_ -c 'import sys; sys.exit(sys.version_info < (3, 6))'
        $LASTEXITCODE -eq 0
    })
    if ($good.Count -gt 0) { $good[-1] }
}

try {
    New-Item -ItemType Directory -Force $folder | Out-Null
    $python = Find-Python
    if (-not $python) {
        $python = Join-Path $folder 'python\python.exe'
        $zip = Join-Path $folder 'python.zip'
        Fetch $pythonUrl $pythonSha256 $zip
        Add-Type -AssemblyName System.IO.Compression.FileSystem  # Expand-Archive is younger than Server 2012 R2
        if (Test-Path -LiteralPath (Split-Path $python)) { Remove-Item -Recurse -Force (Split-Path $python) }
        [IO.Compression.ZipFile]::ExtractToDirectory($zip, (Split-Path $python))
        Remove-Item -LiteralPath $zip
    }
    $program = Join-Path $folder 'fetched.pyz'
    Fetch $url $sha256 $program
    & $python $program apply
    $applied = $LASTEXITCODE
    & $python $program install
    $installed = $LASTEXITCODE
    Remove-Item -LiteralPath $program
    if ($applied -ne 0 -or $installed -ne 0) { exit 1 }
    exit 0
} catch {
    Write-Output "eni-bootstrap: $($_.Exception.Message)"
    exit 1
}
