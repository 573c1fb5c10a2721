"""The one line that makes a bare host a part of the mesh (pure).

    echo <token> | python3 -I -c '<fetch>' <url> <sha256 of manifest.json> <options>

It needs Python and nothing else; of Python its own modules, and none that lie where the line is pasted (`-I`): whoever
may write there would be root. It fetches the manifest, checks its hash, takes the installer's hash from it, fetches
the installer, checks that, and runs it in the same process. TLS is not verified on the way, and need not be: nothing
is sent but two paths, and nothing that comes back is used before its hash was found right. The token goes through a
pipe from the shell's own `echo`, so no process list shows it, and not to the network at all before the installer has
found the mesh's pinned root (docs/security.md).
"""

import shlex
from collections.abc import Sequence

FETCH = (
    "import sys,ssl,json,hashlib as h,urllib.request as r;"
    "u,m=sys.argv[1:3];"
    'sys.excepthook=lambda *e:print("holdfast: nothing was installed from",u+":",e[1],file=sys.stderr);'
    'sys.version_info<(3,11)and sys.exit("holdfast: Python 3.11 or newer is needed, and this is "+sys.version[:6]);'
    "o=r.build_opener(r.ProxyHandler({}),r.HTTPSHandler(context=ssl._create_unverified_context()));"
    'g=lambda p,s:(lambda b:b if h.sha256(b).hexdigest()==s else sys.exit("holdfast: "+p+" from "+u+" is not '
    'what this line was made for; nothing was run. Was the folder made anew? Then make a new line"))'
    '(o.open(u+"/v1/dist/"+p,timeout=30).read(9**7));'
    'f=json.loads(g("manifest.json",m))["files"];'
    'exec(compile(g("install.py",*[x["sha256"]for x in f if x["path"]=="install.py"]),"install.py","exec"))'
)
"""No single quote in it: it stands in single quotes in the line."""


def line(
    *,
    token: str,
    url: str,
    manifest_sha256: str,
    node: str,
    services: Sequence[str] = (),
    identities: Sequence[str] = (),
    gateway: bool = False,
    address: str = "",
    bind: str = "",
) -> str:
    """For a shell, as root."""
    options = ["--node", node, *(["--gateway"] if gateway else [])]
    options += [word for name, value in (("--address", address), ("--bind", bind)) if value for word in (name, value)]
    options += [word for identity in identities for word in ("--identity", identity)]
    options += [word for service in services for word in ("--service", service)]
    return f"echo {token} | python3 -I -c '{FETCH}' {shlex.join([url, manifest_sha256, *options])}"
